"""A real libSQL server, behind a network that a test controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import trustme

import memory_storage as ms
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.server.tokens import Key, token


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sqld]:
    """A server of this test's own, which it may kill."""
    with Sqld(directory=tmp_path / "server") as started:
        yield started


@pytest.fixture
def namespace(sqld: Sqld) -> Iterator[str]:
    """The name of an empty database of this test's own on the shared server."""
    name = f"test-{uuid4().hex}"
    sqld.create_namespace(name)
    yield name
    sqld.delete_namespace(name)


@pytest.fixture
def empty_server_url(sqld: Sqld, namespace: str) -> str:
    """The URL of an empty database of this test's own on the shared server."""
    return sqld.url_of(namespace)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Makes proxies, and closes them; see `Proxy` for their settings."""
    with ExitStack() as opened:

        def make(target_port: int, **options: object) -> Proxy:
            return opened.enter_context(Proxy(target_port, **options))

        yield make


@pytest.fixture(scope="session")
def key() -> Key:
    """The key of every server that asks for tokens."""
    return Key()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who issues the certificates that are to be trusted."""
    return trustme.CA()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Sqld]:
    """A server that asks for tokens, whose database has the schema."""
    with Sqld(directory=tmp_path_factory.mktemp("guarded"), jwt_public_key=key.public_pem) as server:
        ms.MemoryStorage.open(server.url, auth_token=token(key=key)).close()
        yield server


@pytest.fixture
def front(guarded: Sqld) -> Iterator[Proxy]:
    """The way to that server, which counts."""
    with Proxy(guarded.port) as proxy:
        yield proxy
