"""The exact scan: SQLite's engine with each implementation of the cosine distance, against libSQL's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from statistics import median
from typing import Any

import apsw
import libsql_experimental

from memory_storage.dbapi import _vector_functions as functions

from ._measure import Times, Work, interleaved, ratios
from ._report import Line, Report, milliseconds
from ._vectors import Data, load

REQUIRED = 0.95  # of sqlite-vec; 1.1 to 1.2 is usual
_SCAN = "SELECT seq, vector_distance_cos(vector, ?) AS distance FROM v ORDER BY distance LIMIT 10"
_NOTES = (
    "ratio: the time of libSQL's engine with its own function by that of SQLite's engine; 1.2 is 1.2 times as fast.",
    "Databases are in memory. Without the extra `vec`, numpy computes the distances, and Python where it is missing.",
)

_LIBSQL = "libSQL"

_Scan = Callable[[bytes], list[Any]]


def run(*, short: bool) -> Report:
    """Scan the same vectors with each implementation, in turns."""
    data = load().first(5_000 if short else 20_000)
    times = _measured(data, rounds=7 if short else 15)
    lines = [
        _line(times, side, at_least=REQUIRED if side == "sqlite-vec" else None) for side in times if side != _LIBSQL
    ]
    return Report("Distances", lines, [f"{len(data.base):,} of {data.source}", *_NOTES])


def _measured(data: Data, rounds: int) -> Times:
    libsql = _LibSQL(data)
    with closing(_sqlite(data)) as native, closing(_sqlite(data)) as by_numpy, closing(_sqlite(data)) as by_python:
        by_numpy.create_scalar_function("vector_distance_cos", functions.cosine_by_numpy(), 2)
        by_python.create_scalar_function("vector_distance_cos", functions.cosine_by_python(), 2)
        translated = functions.prepare(native, _SCAN)
        assert translated != _SCAN, "sqlite-vec is not installed"
        scans: dict[str, _Scan] = {
            _LIBSQL: libsql.scan,
            "sqlite-vec": lambda query: native.execute(translated, (query,)).fetchall(),
            "numpy": lambda query: by_numpy.execute(_SCAN, (query,)).fetchall(),
            "plain Python": lambda query: by_python.execute(_SCAN, (query,)).fetchall(),
        }
        _check(scans, data.queries[0].tobytes())

        def prepare(number: int) -> dict[str, Work]:
            return {side: partial(scan, data.queries[number].tobytes()) for side, scan in scans.items()}

        return interleaved(prepare, rounds)


def _check(scans: dict[str, _Scan], query: bytes) -> None:
    """Check that all find the same distances."""
    expected = [distance for _, distance in scans[_LIBSQL](query)]
    for side, scan in scans.items():
        found = [distance for _, distance in scan(query)]
        assert all(abs(a - b) < 1e-6 for a, b in zip(found, expected, strict=True)), f"{side}: {found}, not {expected}"


class _LibSQL:
    """A connection of the native driver."""

    def __init__(self, data: Data) -> None:
        self._connection = libsql_experimental.connect(":memory:", isolation_level=None)
        # Dropped after the connection, it closes the handle once; the connection alone closes it twice, and may crash.
        self._last_owner: Any = self._connection.execute("SELECT 1")
        self._last_owner.fetchall()
        _fill(self._connection, data)

    def scan(self, query: bytes) -> list[Any]:
        """Return the ten nearest."""
        rows: list[Any] = self._connection.execute(_SCAN, (query,)).fetchall()
        return rows


def _sqlite(data: Data) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    functions.add_vector_functions(connection)
    _fill(connection, data)
    return connection


def _fill(connection: Any, data: Data) -> None:
    connection.execute("CREATE TABLE v (seq INTEGER PRIMARY KEY, vector BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO v (vector) VALUES (?)", [(vector.tobytes(),) for vector in data.base])
    connection.execute("COMMIT")


def _line(times: Times, side: str, at_least: float | None) -> Line:
    detail = f"{milliseconds(median(times[side]))}, libSQL {milliseconds(median(times[_LIBSQL]))}"
    return Line(f"exact scan by {side}", *ratios(times[_LIBSQL], times[side]), detail, at_least=at_least)
