"""Connections: to a file, to memory, and to either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_storage import dbapi


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the database file of this test is, or will be."""
    return str(tmp_path / "test.db")


@pytest.fixture(params=["sqlite", "libsql"])
def local_engine(request: pytest.FixtureRequest) -> str:
    """Each of the local engines."""
    name: str = request.param
    return name


@pytest.fixture
def connect(path: str, local_engine: str) -> Iterator[Callable[..., dbapi.Connection]]:
    """Opens the file, as often as one likes."""
    opened: list[dbapi.Connection] = []

    def open_one(**options: object) -> dbapi.Connection:
        opened.append(dbapi.connect(path, **{"local_engine": local_engine, **options}))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture(params=["file", "memory"])
def connection(request: pytest.FixtureRequest, path: str, local_engine: str) -> Iterator[dbapi.Connection]:
    """A connection whose database has the empty table t (id INTEGER PRIMARY KEY, v)."""
    connection = dbapi.connect(path if request.param == "file" else ":memory:", local_engine=local_engine)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    connection.commit()
    yield connection
    connection.close()


@pytest.fixture
def cursor(connection: dbapi.Connection) -> dbapi.Cursor:
    """A cursor of `connection`."""
    return connection.cursor()
