"""Backups of a file: the time of `back_up` by what SQLite itself takes to copy the same file and to check the copy.

`back_up` copies rows, hashes them, rebuilds all indexes, reads the copy back and checks it; VACUUM INTO copies the
entries of tables and indexes. All write to the same disk, and sync the copy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median

import apsw

import memory_storage as ms
from memory_storage.backup import back_up

from . import _workload
from ._measure import Times, Work, interleaved, ratios
from ._report import Line, Report, milliseconds

_BATCH = 500
_STEPS = 2
_OURS, _SMALLER = "back_up", "a quarter of the rows"
_COPY, _CHECKED, _ROWS = "VACUUM INTO", "VACUUM INTO, checked", "INSERT .. SELECT"
_REQUIRED = 0.08  # of VACUUM INTO and a check; measured from 0.12 on, 0.06 where pages were found by a scan
_LINEAR = 0.5  # of the rate of a quarter of the rows; a page that is read by a scan makes it 0.25
_NOTES = (
    "ratio: the other time / the time of `back_up` in the same round; rate: the rows per second, by those of a backup "
    "of a quarter of the episodes.",
    "checked: with PRAGMA integrity_check of the copy, as `back_up` does. INSERT .. SELECT: all rows into tables "
    "without their secondary indexes, full text and triggers, by one statement a table, unverified.",
)


def run(*, short: bool) -> Report:
    """Measure a file of 20,000 episodes; of 2,000 if short."""
    count, rounds = (2_000, 3) if short else (20_000, 5)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with _stored(directory / "all.db", count) as storage, _stored(directory / "quarter.db", count // 4) as smaller:
            target = directory / "copy.db"
            rows, fewer = (back_up(each, target, overwrite=True).rows for each in (storage, smaller))
            times = interleaved(partial(_sides, directory, storage, smaller, target), rounds)
    lines = [*_lines(times, rows), _linear(times, rows / fewer)]
    return Report("Backup", lines, [*_NOTES, f"{count:,} episodes of {_STEPS} steps, {rows:,} rows, {rounds} rounds."])


def _stored(path: Path, count: int) -> ms.MemoryStorage:
    storage = ms.MemoryStorage.open(path)
    for first in range(0, count, _BATCH):
        batch = range(first, min(first + _BATCH, count))
        storage.episodes.save_many([_workload.episode(number, _STEPS) for number in batch])
    return storage


def _sides(
    directory: Path, storage: ms.MemoryStorage, smaller: ms.MemoryStorage, target: Path, _: int
) -> Mapping[str, Work]:
    source = directory / "all.db"
    return {
        _OURS: partial(back_up, storage, target, overwrite=True),
        _COPY: partial(_vacuum, source, target, checks=False),
        _CHECKED: partial(_vacuum, source, target, checks=True),
        _ROWS: partial(_insert_select, source, target),
        _SMALLER: partial(back_up, smaller, target, overwrite=True),
    }


def _vacuum(source: Path, target: Path, *, checks: bool) -> None:
    target.unlink(missing_ok=True)
    with closing(apsw.Connection(str(source))) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    _sync(target)
    if checks:
        with closing(apsw.Connection(str(target))) as connection:
            assert connection.execute("PRAGMA integrity_check").get == "ok"


def _insert_select(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with closing(apsw.Connection(str(target))) as connection:
        connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
        connection.execute("ATTACH ? AS source", (str(source),))
        tables = """SELECT m.name, m.sql FROM source.sqlite_master AS m
            JOIN pragma_table_list AS t ON t.schema = 'source' AND t.name = m.name
            WHERE t.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"""
        with connection:
            for name, sql in connection.execute(tables).fetchall():
                connection.execute(str(sql))
                connection.execute(f"INSERT INTO main.{name} SELECT * FROM source.{name}")
    _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb") as file, suppress(OSError):  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def _lines(times: Times, rows: int) -> list[Line]:
    ours = median(times[_OURS])
    lines = []
    for side, at_least in ((_CHECKED, _REQUIRED), (_COPY, None), (_ROWS, None)):
        theirs = median(times[side])
        detail = f"{milliseconds(ours)}, {rows / ours:,.0f} rows/s; {side} {milliseconds(theirs)}"
        lines.append(Line(side, *ratios(times[side], times[_OURS]), detail, at_least=at_least))
    return lines


def _linear(times: Times, more: float) -> Line:
    rates = ratios([seconds * more for seconds in times[_SMALLER]], times[_OURS])
    return Line("rate, by that of a quarter", *rates, at_least=_LINEAR)
