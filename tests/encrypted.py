"""One more backend for the tests of repositories and of the SQL below them: an encrypted file.

A conftest or a module takes it by `from tests.encrypted import encrypted_template, target`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import memory_storage as ms

KEY = "the key of these tests"


@pytest.fixture(scope="session")
def encrypted_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encrypted file that has the schema, and nothing else."""
    path = tmp_path_factory.mktemp("template") / "memory.db"
    ms.MemoryStorage.open(ms.Settings(database=str(path), encryption_key=KEY)).close()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path


@pytest.fixture(params=["memory", "file", "encrypted", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    """What a storage is opened with, on each backend: a database of this test's own."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "encrypted":
        path = shutil.copyfile(request.getfixturevalue("encrypted_template"), request.getfixturevalue("database"))
        return ms.Settings(database=str(path), encryption_key=KEY)
    if request.param == "file":
        return str(request.getfixturevalue("migrated_file"))
    return request.getfixturevalue("server_target")
