"""SQL templates with named values, compiled once, and what several repositories share: SQL idioms, and times as values.

The statements are text, not Core expressions: most of what they do (JSON, upserts, splicing) Core can only quote.
No text here holds anything that came from outside; values are always bound.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from memory_storage.dbapi import BatchStep
from memory_storage.errors import ValidationError

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class SqlTemplate:
    """A statement that is compiled at its first use; `bind` fills in its `:names`."""

    # Compiled lazily: the modules hold some hundred templates, a process uses few of them, and importing SQLAlchemy's
    # compiler takes longer than most commands.
    def __init__(self, sql: str) -> None:
        self._text = sql

    def bind(self, rows: int | None = None, /, **values: Any) -> BatchStep:
        """Return the statement with its values bound.

        Args:
            rows: The number of rows that it must change; any other number rolls the batch back. Default: any number.
            values: A value for each `:name`.
        """
        # `rows` is positional, so that a statement may have a value of that name.
        sql, names = self._compiled
        return BatchStep(sql, tuple(values[name] for name in names), rows)

    @cached_property
    def _compiled(self) -> tuple[str, list[str]]:
        from sqlalchemy import text
        from sqlalchemy.dialects import sqlite

        compiled: Any = text(self._text).compile(dialect=sqlite.dialect(paramstyle="qmark"))
        return str(compiled), compiled.positiontup or []


def to_micros(moment: datetime) -> int:
    """Return exact microseconds since the epoch; ValidationError for a naive datetime, as a clock may return."""
    # Not timestamp(): a float has no digits for the microseconds of distant years.
    try:
        since = moment - EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    except TypeError as error:
        raise ValidationError("now", "the clock must give aware moments", moment) from error


def from_micros(micros: int | None) -> datetime | None:
    """Return an aware datetime in UTC."""
    return None if micros is None else EPOCH + timedelta(0, 0, micros)


def micros(iso: str) -> str:
    """Return SQL that converts an ISO 8601 string, as pydantic writes it, to microseconds since the epoch."""
    # unixepoch() accepts no offset beyond 14:59 and no time beyond the year 9999 in UTC: the offset is applied here.
    offset = f"substr({iso}, -6, 3) * 3600 + (substr({iso}, -6, 1) || substr({iso}, -2)) * 60"
    seconds = f"unixepoch(substr({iso}, 1, 19)) - CASE WHEN {iso} LIKE '%Z' THEN 0 ELSE {offset} END"
    # pydantic writes six digits of a second, or none.
    fraction = f"CASE WHEN substr({iso}, 20, 1) = '.' THEN CAST(substr({iso}, 21, 6) AS INTEGER) ELSE 0 END"
    return f"(({seconds}) * 1000000 + {fraction})"


def bytes_of_episode(row: str) -> str:
    """Return SQL for the bytes of an episode's document and of its steps."""
    # octet_length() of a bare column reads the length of a large value from its header, not the value.
    return f"""(octet_length({row}.document) + coalesce((SELECT
    sum({bytes_of_step("s")}) FROM steps AS s
    WHERE s.namespace = {row}.namespace AND s.episode_id = {row}.id), 0))"""


def bytes_of_step(row: str) -> str:
    """Return SQL for the bytes of a step's document and of its output."""
    return f"octet_length({row}.document) + coalesce(octet_length({row}.output), 0)"


def was_saved_before(table: str) -> str:
    """Return SQL for whether the row of `given.value` is stored, and is not a later row that reuses its id.

    The version does not tell the two apart: both count from 1. If the caller's copy has no `created_at`, only the id is
    compared.
    """
    # Ids are chosen by clients: after a delete, another client may have created a new row under the same id.
    created_at = micros("(given.value ->> '$.created_at')")
    return f"""EXISTS (SELECT 1 FROM {table} AS present
        WHERE present.namespace = :namespace AND present.id = given.value ->> '$.id'
            AND coalesce({created_at}, present.created_at) = present.created_at)"""


def columns(expressions: dict[str, str]) -> str:
    """Return the column list of an INSERT."""
    return ", ".join(expressions)


def values(expressions: dict[str, str]) -> str:
    """Return the select list of an INSERT ... SELECT."""
    return ",\n    ".join(expressions.values())


def upsert_assignments(names: dict[str, str], *kept: str) -> str:
    """Return the assignments of an upsert for all columns but those to keep."""
    return ", ".join(f"{name} = excluded.{name}" for name in names if name not in kept)
