"""Checks of documents that cannot be decoded, and of columns that differ from their document."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.doctor.findings import Finding, about_rows, seqs_of
from memory_storage.doctor.pages import pages
from memory_storage.doctor.quarantine import quarantine_rows
from memory_storage.errors import CorruptDataError
from memory_storage.models import PATTERN, Complexity, RecallReceipt, SpatiotemporalEntry, TaskType
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.repositories.relationships.rows import decode_metadata
from memory_storage.repositories.spatiotemporal import sql as spatiotemporal_sql
from memory_storage.sql.documents import decode_value
from memory_storage.sql.episode_rows import read_episode_document, read_step_document
from memory_storage.sql.statement import micros

_PAGE = 500  # numbers, not documents
_MOMENTS = "BETWEEN -62135596800000000 AND 253402300799999999"  # the years that datetime knows

_HEX = "[0-9a-f]"
_UUID = "-".join(_HEX * size for size in (8, 4, 4, 4, 12))


def _is_id(column: str) -> str:
    return f"{column} GLOB '{_UUID}'"


def _is_moment(column: str) -> str:
    return f"{column} {_MOMENTS} AND typeof({column}) = 'integer'"


def _is_moment_or_null(column: str) -> str:
    return f"({column} IS NULL OR ({_is_moment(column)}))"


def _is_one_of(column: str, kind: type[Enum]) -> str:
    return f"{column} IN ({', '.join(repr(str(one)) for one in kind)})"


def _read_value(document: bytes) -> Any:
    return decode_value(document, "", "")


# How a document is decoded, and the condition that the other columns have to meet for the row to be readable.
_READ: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "episodes": (
        read_episode_document,
        " AND ".join(
            [
                _is_id("id"),
                "typeof(version) = 'integer' AND typeof(domain) = 'text'",
                "typeof(language) IN ('text', 'null') AND typeof(framework) IN ('text', 'null')",
                _is_one_of("task_type", TaskType),
                _is_one_of("complexity", Complexity),
                *map(_is_moment, ("started_at", "created_at", "updated_at")),
                *map(_is_moment_or_null, ("completed_at", "archived_at")),
            ]
        ),
    ),
    "steps": (
        read_step_document,
        " AND ".join(
            [
                _is_id("id"),
                "typeof(step_number) = 'integer' AND typeof(tool) = 'text' AND typeof(latency_ms) = 'integer'",
                "typeof(output) IN ('text', 'null') AND typeof(tokens_used) IN ('integer', 'null')",
                "(status IS NULL OR status IN ('ok', 'error', 'timeout'))",
                _is_moment("started_at"),
            ]
        ),
    ),
    "patterns": (
        PATTERN.validate_json,
        " AND ".join(
            [
                "typeof(version) = 'integer'",
                *map(_is_moment, ("created_at", "updated_at")),
                _is_moment_or_null("last_used_at"),
            ]
        ),
    ),
    "spatiotemporal_index": (SpatiotemporalEntry.model_validate_json, _is_moment("created_at")),
    "relationships": (
        partial(decode_metadata, key=""),
        " AND ".join(
            [
                *map(_is_id, ("id", "from_id", "to_id")),
                "typeof(kind) = 'text' AND typeof(weight) IN ('real', 'null')",
                _is_moment("created_at"),
            ]
        ),
    ),
    "checkpoints": (
        _read_value,
        " AND ".join(
            [
                *map(_is_id, ("id", "episode_id")),
                "typeof(step_number) = 'integer' AND typeof(label) = 'text'",
                _is_moment("created_at"),
            ]
        ),
    ),
    "items": (
        _read_value,
        " AND ".join(
            [
                "typeof(path) = 'text' AND typeof(\"key\") = 'text' AND typeof(version) = 'integer'",
                "(path = '' OR substr(path, -1) = char(1))",
                *map(_is_moment, ("created_at", "updated_at")),
                _is_moment_or_null("expires_at"),
                "typeof(ttl) IN ('integer', 'null')",
            ]
        ),
    ),
    "logs": (
        _read_value,
        "typeof(log) = 'text' AND typeof(number) = 'integer' AND number > 0 AND typeof(id) IN ('text', 'null') AND "
        + _is_moment("created_at"),
    ),
}
_COMPUTED = {"until_at"}  # from several fields
_REAL = {"reward", "success_rate", "latitude", "longitude"}


def _repeated(expressions: dict[str, str], value: str, *others: str) -> dict[str, str]:
    left_out = {"namespace", "document", "created_at", "updated_at", "version", *others}
    found = {name: sql.replace(value, "document") for name, sql in expressions.items() if name not in left_out}
    return {name: sql for name, sql in found.items() if "document" in sql}


def _path(sql: str) -> str:
    """Return the path in the document that an expression reads first."""
    return "$." + sql.partition("'$.")[2].partition("'")[0]


# The expressions of the repositories themselves, so that both always agree.
_EXPRESSIONS = {
    # What older versions repeated of the other columns is not read any more.
    "episodes": {
        "outcome": "document ->> '$.outcome.kind'",
        "reward": "document ->> '$.reward.total'",
        "started_at": micros("(document ->> '$.started_at')"),
        "completed_at": micros("(document ->> '$.completed_at')"),
    },
    "steps": {"started_at": micros("(document ->> '$.started_at')")},
    "patterns": _repeated(patterns_sql.CONTENT_COLUMNS, "given.value"),
    "spatiotemporal_index": {
        **_repeated(spatiotemporal_sql.columns_of("episode"), spatiotemporal_sql.DOCUMENT),
        "owner_type": "document ->> '$.owner_type'",
        "owner_id": "document ->> '$.owner_id'",
    },
}
_COLUMNS = {
    table: {name: sql for name, sql in columns.items() if name not in _REAL} for table, columns in _EXPRESSIONS.items()
}
_NUMBERS = [
    (table, name, _path(sql))
    for table, columns in _EXPRESSIONS.items()
    for name, sql in columns.items()
    if name in _REAL
]
_Correction = tuple[str, float | None, int, str | None]  # SQL and its values: the number, the row, the number's text


def undecodable_rows(connection: Connection) -> list[Finding]:
    """Find rows that cannot be decoded."""
    found: list[Finding] = []
    for table, (read, condition) in _READ.items():
        documents = pages(connection, table, ["document"])
        unreadable = [seq for seq, (document,) in documents if not _can(read, document)]
        of_wrong_kind = seqs_of(connection, f"SELECT seq FROM {table} WHERE NOT ({condition})")
        seqs = sorted({*unreadable, *of_wrong_kind})
        problem, remedy = "rows that cannot be decoded", f"move them, with everything they own, to quarantined_{table}"
        repair = partial(quarantine_rows, table=table, seqs=seqs, reason="it cannot be decoded")
        found += about_rows(f"undecodable.{table}", table, seqs, problem, remedy, repair)
    return found


def _can(read: Callable[[bytes], Any], document: bytes) -> bool:
    try:
        read(document)
    except (ValueError, KeyError, TypeError, CorruptDataError):
        return False
    return b"\0" not in document


def unreadable_recalls(connection: Connection) -> list[Finding]:
    """Find kept receipts of recalls that cannot be decoded."""

    def read(document: bytes) -> RecallReceipt:
        return RecallReceipt(id=UUID(int=0), items=decode_value(document, "", "")["items"])

    def delete(connection: Connection) -> None:
        chosen = json.dumps(seqs)
        connection.exec_driver_sql("DELETE FROM recalls WHERE seq IN (SELECT value FROM json_each(?))", (chosen,))

    seqs = [seq for seq, (document,) in pages(connection, "recalls", ["document"]) if not _can(read, document)]
    problem, remedy = "kept receipts of recalls that cannot be decoded", "delete them: no episode has them"
    return about_rows("undecodable.recalls", "recalls", seqs, problem, remedy, delete)


def columns_that_disagree(connection: Connection) -> list[Finding]:
    """Find rows whose columns differ from their document.

    Another program has changed one of them; or an older version of this package let the engine parse numbers in JSON,
    which it reads as a neighbouring float in some cases.
    """
    found: list[Finding] = []
    for table, columns in _COLUMNS.items():
        differ = " OR ".join(f"({name} IS NOT {_taken(name, sql)})" for name, sql in columns.items())
        condition = f"CASE WHEN json_valid(document) THEN {differ} ELSE false END"
        corrections = list(_wrong_numbers(connection, table))
        others = seqs_of(connection, f"SELECT seq FROM {table} WHERE {condition}")
        change = ", ".join(f"{name} = {_taken(name, sql)}" for name, sql in columns.items())
        repair = partial(_take, sql=f"UPDATE {table} SET {change} WHERE {condition}", corrections=corrections)
        problem = "rows whose columns differ from their document: another program or an older version wrote them"
        seqs = sorted({*others, *(seq for _, _, seq, _ in corrections)})
        found += about_rows(f"columns.{table}", table, seqs, problem, "restore them from the document", repair)
    return found


def _wrong_numbers(connection: Connection, table: str) -> Iterator[_Correction]:
    """Yield a correction for each number that differs from its document.

    The number is parsed in Python from its text in the document: the engine would misread it again.
    """
    for name, path in (found[1:] for found in _NUMBERS if found[0] == table):
        text_of = f"iif(json_type(document, '{path}') IN ('integer', 'real'), document -> '{path}', NULL)"
        change = f"UPDATE {table} SET {name} = ? WHERE seq = ? AND {text_of} IS ?"
        page = f"""SELECT seq, iif(typeof({name}) IN ('text', 'blob'), 'no number', {name}), {text_of} FROM {table}
        WHERE seq > ? AND iif(json_valid(document), json_type(document, '{_field(path)}') IS NOT NULL, false)
        ORDER BY seq LIMIT {_PAGE}"""
        last = -(2**63)
        while rows := connection.exec_driver_sql(page, (last,)).all():
            last = rows[-1][0]
            for seq, stored, text in rows:
                number = None if text is None else float(text)
                if stored != number and (number is None or math.isfinite(number)):
                    yield change, number, seq, text


def _taken(name: str, sql: str) -> str:
    if name in _COMPUTED:
        return sql
    # A document that is older than the field does not have it; the column then keeps its value.
    return f"iif(json_type(document, '{_field(_path(sql))}') IS NULL, {name}, {sql})"


def _field(path: str) -> str:
    """Return the path of the top-level field that contains this path."""
    return ".".join(path.split(".")[:2])


def _take(connection: Connection, *, sql: str, corrections: Sequence[_Correction]) -> None:
    connection.exec_driver_sql(sql)
    if corrections:
        connection.exec_driver_sql(Batch([BatchStep(change, values) for change, *values in corrections]))
