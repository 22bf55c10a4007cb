"""The repositories keep their promises on an encrypted file too: one more backend, for these tests only."""

from __future__ import annotations

import pytest

import memory_storage as ms


@pytest.fixture(params=["memory", "file", "encrypted", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    """What a storage is opened with, on each backend: a database of this test's own."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "encrypted":
        path = str(request.getfixturevalue("database"))
        return ms.Settings(database=path, encryption_key="the key of these tests")
    if request.param == "file":
        return str(request.getfixturevalue("database"))
    return request.getfixturevalue("server_target")
