"""Storages as pytest fixtures, for the tests of programs that use memory_storage. In a conftest.py:

    pytest_plugins = ["memory_storage.testing.fixtures"]

`memory` is an empty storage in memory, `file_memory` one in a file, `encrypted_memory` one in an encrypted file and
`server_memory` one on a real server, which is started once for all tests. `fake_clock` is the clock of all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from ._clock import FakeClock
from ._sqld import Sqld


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until the test advances it."""
    return FakeClock()


@pytest.fixture
def memory(fake_clock: FakeClock) -> Iterator[MemoryStorage]:
    """An empty storage in memory."""
    with MemoryStorage.open(":memory:", now=fake_clock.now) as storage:
        yield storage


@pytest.fixture
def file_memory(tmp_path: Path, fake_clock: FakeClock) -> Iterator[MemoryStorage]:
    """An empty storage in a file for this test only."""
    with MemoryStorage.open(tmp_path / "memory.db", now=fake_clock.now) as storage:
        yield storage


@pytest.fixture
def encrypted_memory(tmp_path: Path, fake_clock: FakeClock) -> Iterator[MemoryStorage]:
    """An empty storage in an encrypted file for this test only, with a random key."""
    settings = Settings(database=str(tmp_path / "encrypted.db"), encryption_key=secrets.token_urlsafe(24))
    with MemoryStorage.open(settings, now=fake_clock.now) as storage:
        yield storage


@pytest.fixture(scope="session")
def libsql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqld]:
    """A real server, shared by all tests, which may create databases on it. Do not stop it: start another."""
    with Sqld(directory=tmp_path_factory.mktemp("libsql-server"), namespaces=True) as server:
        yield server


@pytest.fixture
def server_memory(libsql_server: Sqld, fake_clock: FakeClock) -> Iterator[MemoryStorage]:
    """An empty storage on the server, in a database for this test only."""
    name = f"test-{uuid4().hex}"
    libsql_server.create_namespace(name)
    with MemoryStorage.open(libsql_server.url_of(name), now=fake_clock.now) as storage:
        yield storage
    libsql_server.delete_namespace(name)
