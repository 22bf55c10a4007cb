"""Appends many steps to an episode, in one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import Step
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.episode_rows import STEP_COLUMNS, bytes_of_step, encode_steps, steps_of_values
from memory_storage.sql.session import SessionProtocol, ids_as_json
from memory_storage.sql.statement import SqlTemplate
from memory_storage.sql.validation import check_step, check_value, to_list

from .sql import COMPARED

_MOST_ROWS = 64  # of one statement: a text is compiled for each number of rows
_Row = tuple[Any, ...]

_STORED, _VALUES = (", ".join(f"{table}.{name}" for name in COMPARED) for table in ("stored", "given"))
_GIVEN = "WITH given (place, {columns}) AS (VALUES {rows})"
_SAME = f"stored.namespace = given.namespace AND stored.id = given.id AND ({_STORED}) IS ({_VALUES})"
_NUMBER = "last.number + row_number() OVER (ORDER BY given.place)"
_NUMBERED = ", ".join(_NUMBER if name == "step_number" else f"given.{name}" for name in STEP_COLUMNS)
# The number is assigned under the write lock. A step that is stored as it is given is left out, so that a repetition
# appends nothing twice; constraints refuse a step of another content, or of a missing episode.
_APPEND = f"""{_GIVEN}
INSERT INTO steps ({{columns}})
SELECT {_NUMBERED}
FROM given CROSS JOIN (SELECT coalesce(max(step_number), 0) AS number FROM steps
    WHERE namespace = ? AND episode_id = ?) AS last
WHERE NOT EXISTS (SELECT 1 FROM steps AS stored WHERE {_SAME})
ORDER BY given.place"""

# After a refused append: the steps whose IDs other steps have.
_CONFLICTING = f"""{_GIVEN}
SELECT given.place, given.id FROM given CROSS JOIN steps AS taken
    ON taken.namespace = given.namespace AND taken.id = given.id
WHERE NOT EXISTS (SELECT 1 FROM steps AS stored WHERE {_SAME}) ORDER BY given.place"""

# Changes no row, unless a number exceeds the limit: then the changed row count rolls the append back.
_CHECK_LIMIT = SqlTemplate("""
UPDATE steps SET step_number = step_number
WHERE namespace = :namespace AND episode_id = :episode_id AND step_number > :limit
""")

# The last statement only reads: after a lost acknowledgement it answers again.
_NUMBERS = SqlTemplate("""
SELECT id, step_number FROM steps
WHERE namespace = :namespace AND episode_id = :episode_id AND id IN (SELECT value FROM json_each(:ids))
""")

_EPISODE = SqlTemplate("SELECT 1 FROM episodes WHERE namespace = :namespace AND id = :episode_id")


def append_steps(session: SessionProtocol, episode_id: str, steps: Sequence[Step]) -> list[Step]:
    """Append steps atomically, and return them with their numbers.

    Args:
        session: Of the episode's namespace.
        episode_id: The ID of the episode.
        steps: The steps, without numbers.
    """
    rows = encode_appended(session, to_list(steps, "steps"))
    if not rows:
        return []
    key = {"namespace": session.namespace, "episode_id": episode_id}
    full = [(place, session.namespace, episode_id, *row) for place, row in enumerate(rows)]
    numbers = _NUMBERS.bind(ids=ids_as_json([row[1] for row in rows]), **key)
    limit = session.limits.steps_per_episode
    changes = [*_statements(_APPEND, full, session.namespace, episode_id), _CHECK_LIMIT.bind(0, limit=limit, **key)]
    stored: dict[str, int]
    try:
        stored = dict(session.write([*changes, numbers]))
    except (ConflictError, RowCountError) as error:
        stored = dict(session.read(numbers))
        if len(stored) < len(rows):
            raise _explained(session, episode_id, full, error) from error
    if len(stored) < len(rows):  # another client has removed steps between the unacknowledged write and the read
        raise NotFoundError("step", next(UUID(row[1]) for row in rows if row[1] not in stored))
    return steps_of_values(rows, [stored[row[1]] for row in rows])


def encode_appended(session: SessionProtocol, steps: Sequence[Step]) -> list[_Row]:
    """Return the rows of the steps, from the number on; ValidationError if one cannot be appended."""
    for place, step in enumerate(steps):
        if getattr(step, "step_number", None) is not None:
            field = f"steps.{place}.step_number" if len(steps) > 1 else "step_number"
            raise ValidationError(field, "is given by the store; leave it out", step.step_number)
    rows = encode_steps(steps, "steps")
    for place, (step, row) in enumerate(zip(steps, rows, strict=True)):
        field = f"steps.{place}" if len(steps) > 1 else ""
        check_step(step, found := bytes_of_step(row), session.limits, field)
        check_value(field, found, session.max_value_bytes)
    return rows


def _explained(session: SessionProtocol, episode_id: str, rows: list[_Row], error: Exception) -> Exception:
    """Return the error for the caller after a refused append."""
    if not session.read(_EPISODE.bind(namespace=session.namespace, episode_id=episode_id)):
        return NotFoundError("episode", episode_id)
    for found in session.read_all(list(_statements(_CONFLICTING, rows))):
        if found:
            detail = "another step has this id"
            return ConflictError("step", UUID(found[0][1]), expected=0, actual=None, detail=detail)
    if isinstance(error, RowCountError):
        limit = session.limits.steps_per_episode
        return ValidationError("steps", f"at most {limit:,} steps", limit + 1, setting="limits.steps_per_episode")
    return error  # its cause no longer exists: another client has removed it


def _statements(sql: str, rows: Sequence[_Row], *others: str) -> Iterator[BatchStep]:
    # A character has at most four bytes: to count them exactly would encode each text.
    for group in chunked(
        rows,
        lambda row: 4 * sum(len(value) for value in row if type(value) is str),
        most_bytes=CHUNK_BYTES,
        most=_MOST_ROWS,
    ):
        yield BatchStep(_sql_of(sql, len(group)), (*chain.from_iterable(group), *others))


@lru_cache(maxsize=4 * _MOST_ROWS)
def _sql_of(sql: str, rows: int) -> str:
    row = f"({', '.join('?' * (1 + len(STEP_COLUMNS)))})"
    return sql.format(columns=", ".join(STEP_COLUMNS), rows=", ".join([row] * rows))
