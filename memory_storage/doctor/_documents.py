"""Documents that cannot be read, and columns that say something else than their document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Connection

from memory_storage.models import PATTERN, Episode, SpatiotemporalEntry, Step
from memory_storage.repositories import _episode_sql, _pattern_sql, _place_sql

from ._findings import Finding, about_rows, seqs_of
from ._quarantine import set_aside

_PAGE = 500
_MOMENTS = "BETWEEN -62135596800000000 AND 253402300799999999"  # the years that datetime knows

# The columns that are not in the document: what they have to be for a row to be read.
_READ: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "episodes": (
        Episode.model_validate_json,
        f"""typeof(version) = 'integer' AND created_at {_MOMENTS} AND typeof(created_at) = 'integer'
        AND updated_at {_MOMENTS} AND typeof(updated_at) = 'integer'
        AND (archived_at IS NULL OR (archived_at {_MOMENTS} AND typeof(archived_at) = 'integer'))""",
    ),
    "steps": (Step.model_validate_json, "(output IS NULL OR typeof(output) = 'text')"),
    "patterns": (
        PATTERN.validate_json,
        f"""typeof(version) = 'integer' AND created_at {_MOMENTS} AND typeof(created_at) = 'integer'
        AND updated_at {_MOMENTS} AND typeof(updated_at) = 'integer'
        AND (last_used_at IS NULL OR (last_used_at {_MOMENTS} AND typeof(last_used_at) = 'integer'))""",
    ),
    "spatiotemporal_index": (
        SpatiotemporalEntry.model_validate_json,
        f"created_at {_MOMENTS} AND typeof(created_at) = 'integer'",
    ),
}
_REAL = {"reward", "success_rate", "latitude", "longitude"}


def _repeated(expressions: dict[str, str], value: str, *others: str) -> dict[str, str]:
    left_out = {"namespace", "document", "created_at", "updated_at", "version", *others}
    found = {name: sql.replace(value, "document") for name, sql in expressions.items() if name not in left_out}
    return {name: sql for name, sql in found.items() if "document" in sql}


# As the repositories write them: so this cannot say anything else.
_COLUMNS = {
    "episodes": _repeated(_episode_sql._HEAD, "given.value"),
    "steps": _repeated(_episode_sql._STEPS, "step.value", "episode_id", "output"),
    "patterns": _repeated(_pattern_sql._CONTENT, "given.value"),
    "spatiotemporal_index": {
        **_repeated(_place_sql._columns("episode"), _place_sql._DOCUMENT),
        "owner_type": "document ->> '$.owner_type'",
        "owner_id": "document ->> '$.owner_id'",
    },
}


def undecodable_rows(connection: Connection) -> list[Finding]:
    """Rows that the models cannot be made of."""
    found: list[Finding] = []
    for table, (read, condition) in _READ.items():
        seqs = sorted({*_unreadable(connection, table, read), *_wrong_kind(connection, table, condition)})
        problem, remedy = "rows that cannot be decoded", f"move them, and what is theirs, to quarantined_{table}"
        repair = partial(set_aside, table=table, seqs=seqs, reason="it cannot be decoded")
        found += about_rows(f"undecodable.{table}", table, seqs, problem, remedy, repair)
    return found


def _unreadable(connection: Connection, table: str, read: Callable[[bytes], Any]) -> Iterator[int]:
    # As bytes: the driver would stumble over a text that is no UTF-8.
    page = f"SELECT seq, CAST(document AS BLOB) FROM {table} WHERE seq > ? ORDER BY seq LIMIT {_PAGE}"
    last = -(2**63)
    while rows := connection.exec_driver_sql(page, (last,)).all():
        last = rows[-1][0]
        yield from (seq for seq, document in rows if not _can(read, document))


def _can(read: Callable[[bytes], Any], document: bytes) -> bool:
    try:
        read(document)
    except ValueError:
        return False
    return b"\0" not in document


def _wrong_kind(connection: Connection, table: str, condition: str) -> list[int]:
    return seqs_of(connection, f"SELECT seq FROM {table} WHERE NOT ({condition})")


def columns_that_disagree(connection: Connection) -> list[Finding]:
    """Rows whose columns another program has changed, or did not change with the document."""
    found: list[Finding] = []
    for table, columns in _COLUMNS.items():
        differ = " OR ".join(_differs(name, sql) for name, sql in columns.items())
        condition = f"CASE WHEN json_valid(document) THEN {differ} ELSE false END"
        seqs = seqs_of(connection, f"SELECT seq FROM {table} WHERE {condition} ORDER BY seq")
        change = ", ".join(f"{name} = {_taken(name, sql)}" for name, sql in columns.items())
        repair = partial(_run, sql=f"UPDATE {table} SET {change} WHERE {condition}")
        problem = "rows whose columns are not what their document says: another program has written them"
        found += about_rows(f"columns.{table}", table, seqs, problem, "take them from the document", repair)
    return found


def _differs(name: str, sql: str) -> str:
    if name not in _REAL:
        return f"({name} IS NOT {_taken(name, sql)})"
    # A number in JSON may be read as its neighbour.
    far = f"abs({name} - ({sql})) > 1e-9 * abs({name}) + 1e-300"
    return (
        f"(({name} IS NULL) IS NOT (({sql}) IS NULL) OR typeof({name}) IN ('text', 'blob') OR coalesce({far}, false))"
    )


def _taken(name: str, sql: str) -> str:
    # A document that was written before there was such a field has none, and the column keeps what it has.
    field = sql.partition("'$.")[2].partition("'")[0].partition(".")[0]
    return f"iif(json_type(document, '$.{field}') IS NULL, {name}, {sql})"


def _run(connection: Connection, *, sql: str) -> None:
    connection.exec_driver_sql(sql)
