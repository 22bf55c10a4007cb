"""Checks of pages and secondary indexes by the engine's own integrity check."""

from __future__ import annotations

import re
from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.doctor.findings import Finding, seqs_of

_INDEX = re.compile(r"(?:missing from|entries in|entry in|out of order in) index (\S+)")
_TABLES = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
_UNREADABLE = {"SQLITE_CORRUPT", "SQLITE_ERROR"}
_CHECKED_ELSEWHERE = ("FTS5 table", "rtree", "libsql_vector_meta_shadow", "RTree")  # other checks cover them


def damaged_pages(connection: Connection) -> list[Finding]:
    """Find what the integrity check reports, except for virtual tables."""
    found = _complaints(connection)
    lines = [line for line in found if line != "ok" and not any(word in line for word in _CHECKED_ELSEWHERE)]
    indexes = sorted({match[1] for line in lines if (match := _INDEX.search(line))})
    rest = [line for line in lines if not _INDEX.search(line)]
    return _wrong_indexes(indexes) + _damage(rest)


def _complaints(connection: Connection) -> list[str]:
    try:
        return [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    except exc.DatabaseError as error:
        if getattr(error.orig, "code", "") not in _UNREADABLE:
            raise
    return [line for table in map(str, seqs_of(connection, _TABLES)) for line in _complaints_of(connection, table)]


def _complaints_of(connection: Connection, table: str) -> list[str]:
    """Check one table: a damaged virtual table stops the engine from checking all of them at once."""
    try:
        found = connection.exec_driver_sql("SELECT integrity_check FROM pragma_integrity_check(?)", (table,))
        return [str(row[0]) for row in found]
    except exc.DatabaseError as error:
        if getattr(error.orig, "code", "") not in _UNREADABLE:
            raise
        return [f"{table}: {error.orig}"]


def _wrong_indexes(indexes: list[str]) -> list[Finding]:
    if not indexes:
        return []
    problem = f"the indexes {', '.join(indexes)} differ from their tables"
    return [Finding("file.index", "", len(indexes), problem, "rebuild them", repair=partial(_rebuild, indexes=indexes))]


def _rebuild(connection: Connection, *, indexes: list[str]) -> None:
    for index in indexes:
        connection.exec_driver_sql('REINDEX "' + index.replace('"', '""') + '"')


def _damage(lines: list[str]) -> list[Finding]:
    if not lines:
        return []
    shown = "; ".join(" ".join(line.split())[:120] for line in lines[:3])
    advice = "restore a backup; `memory-storage export` may first save the rows that can still be read"
    return [Finding("file.damaged", "", len(lines), f"the file is damaged: {shown}", advice)]
