"""Connections of libSQL's driver are closed once: see `LibSQLConnection`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from memory_storage import dbapi

libsql_experimental = pytest.importorskip("libsql_experimental", reason="libSQL's driver has no wheel here")

from memory_storage.dbapi import _libsql  # noqa: E402 - imports the driver


class _Counted:
    """Notes its name when it is dropped."""

    def __init__(self, name: str, dropped: list[str]) -> None:
        self.name, self.dropped = name, dropped

    def __del__(self) -> None:
        self.dropped.append(self.name)

    def execute(self, sql: str) -> _Counted:
        return _Counted(sql, self.dropped)

    def fetchall(self) -> list[object]:
        return []


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_a_statement_is_dropped_after_its_connection(monkeypatch, is_in_a_cycle):
    dropped: list[str] = []
    monkeypatch.setattr(libsql_experimental, "connect", lambda *_, **__: _Counted("connection", dropped))
    native = _libsql.connect(":memory:")
    if is_in_a_cycle:
        cycle: list[object] = [native]
        cycle.append(cycle)
        del cycle
    del native
    gc.collect()
    assert dropped == ["connection", "PRAGMA busy_timeout = 0"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux: it lists the open files")
def test_the_last_statement_closes_the_file(tmp_path):
    # What `_NativeConnection` relies on: the driver closes a file with the last of its statements.
    path = tmp_path / "memory.db"
    connection = libsql_experimental.connect(str(path), isolation_level=None)
    statement = connection.execute("PRAGMA busy_timeout = 0")
    statement.fetchall()
    connection.execute("CREATE TABLE t (a)")
    del connection
    assert _is_open(path)
    del statement
    assert not _is_open(path)


@pytest.mark.parametrize("local_engine", ["sqlite", "libsql"])
def test_a_closed_connection_leaves_no_open_file(tmp_path, local_engine):
    path = tmp_path / "memory.db"
    connection = dbapi.connect(str(path), local_engine=local_engine)
    connection.execute("CREATE TABLE t (a)")
    connection.commit()
    assert _is_open(path)
    connection.close()
    assert not _is_open(path)


def _is_open(path: Path) -> bool:
    return any(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())
