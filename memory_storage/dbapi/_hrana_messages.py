"""Hrana 3 messages: statements to JSON, and JSON to results. Does no I/O.

The protocol is written down in libsql's docs/HRANA_3_SPEC.md; "spec" below is that text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from ._batch import Result, RowCountError
from ._errors import DataError, Error, OperationalError, from_server
from ._json import expect, integer, number, unsigned
from ._parameters import Value
from ._sql import Kind, Statement

Json = dict[str, Any]

_MESSAGE_LENGTH = 5_000  # characters of an error's text: it may quote a statement
_CODE_LENGTH = 100

IN_TRANSACTION: Json = {"type": "not", "cond": {"type": "is_autocommit"}}
"""The condition of every step within a transaction: the server may have ended it, and must not go on without."""

CLOSE: Json = {"type": "close"}
GET_AUTOCOMMIT: Json = {"type": "get_autocommit"}

# changes() is that of the step before. The error is one that no other step can give.
_CHECK_ROWS = "SELECT CASE WHEN changes() = ? THEN 1 ELSE json('ROW_COUNT') END"


def step_succeeded(step: int) -> Json:
    """The condition that a step of the batch ran, and did not fail (spec: "Conditions")."""
    return {"type": "ok", "step": step}


def negate(condition: Json) -> Json:
    """The condition that another does not hold."""
    return {"type": "not", "cond": condition}


def all_of(*conditions: Json) -> Json:
    """The condition that several hold."""
    return {"type": "and", "conds": list(conditions)} if len(conditions) > 1 else conditions[0]


class BatchMessage:
    """A batch of which every step runs only if the one before it did; and within a transaction, only if that is open.

    `in_transaction`: whether one is open already.
    """

    def __init__(self, *, in_transaction: bool) -> None:
        self._in_transaction = in_transaction
        self._steps: list[Json] = []
        self._chained_indexes: list[int] = []  # the places of the steps that must have run
        self._statement_indexes: list[tuple[int, Kind]] = []  # the places of the caller's steps
        self._row_checks: dict[int, tuple[int, int]] = {}  # the place of a check: the number of the step, its rows

    def chain(self, sql: str) -> int:
        """A step without values that runs if the one before it did; its place."""
        return self._append_chained({"sql": sql, "want_rows": False})

    def always(self, sql: str, *conditions: Json) -> int:
        """A step that runs, whatever happened before, if the transaction is still open and `conditions` hold."""
        return self._append({"sql": sql, "want_rows": False}, [IN_TRANSACTION, *conditions])

    def begin(self, mode: str) -> None:
        """Open a transaction."""
        self.chain(f"BEGIN {mode}")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it, or roll it back if a step failed."""
        self.chain("COMMIT")
        self.always("ROLLBACK")

    def add_statement(self, number: int, statement: Statement, values: Sequence[Value], rows: int | None) -> None:
        """A step of the caller's, that has to change `rows` rows if that is given; `number` is for its error."""
        sql: Json = {"sql": statement.sql, "want_rows": True}
        if values:
            sql["args"] = [encode(value) for value in values]
        self._statement_indexes.append((self._append_chained(sql), statement.kind))
        if rows is not None:
            check = {"sql": _CHECK_ROWS, "args": [encode(rows)], "want_rows": False}
            self._row_checks[self._append_chained(check)] = (number, rows)

    def savepoint(self) -> None:
        """Open a savepoint, for `release` or `undo`."""
        self.chain("SAVEPOINT batch")

    def rollback_to_savepoint(self) -> None:
        """Undo what was done since the savepoint, and close it."""
        self.chain("ROLLBACK TO batch")
        self.chain("RELEASE batch")

    def release(self) -> None:
        """Keep what was done since the savepoint, or undo it, if a step failed."""
        released = self.chain("RELEASE batch")
        undone = self.always("ROLLBACK TO batch", negate(step_succeeded(released)))
        self.always("RELEASE batch", step_succeeded(undone))

    def as_json(self) -> Json:
        """The batch as the protocol has it (spec: "Batch")."""
        return {"steps": self._steps}

    def results(self, reply: Json) -> list[Result]:
        """The results of the caller's steps. Raises the first error, or that the transaction was lost meanwhile."""
        answers: list[Json | None] = expect(reply["step_results"], list)
        errors: list[Json | None] = expect(reply["step_errors"], list)
        if not len(answers) == len(errors) == len(self._steps):
            raise ValueError("results of other steps than were sent")
        for index, error in enumerate(errors):
            if error is not None:
                raise self._error(index, error, answers)
        if any(answers[index] is None for index in self._chained_indexes):
            raise transaction_lost()
        return [_result(answers[index] or {}, kind) for index, kind in self._statement_indexes]

    def _error(self, index: int, error: Json, answers: list[Json | None]) -> Error:
        if index in self._row_checks:
            number, expected = self._row_checks[index]
            changed = answers[index - 1] or {}
            return RowCountError(number, expected, unsigned(changed.get("affected_row_count", 0)))
        return as_error(error)

    def _append_chained(self, statement: Json) -> int:
        before = [step_succeeded(len(self._steps) - 1)] if self._steps else []
        self._chained_indexes.append(
            self._append(statement, [*before, IN_TRANSACTION] if self._in_transaction else before)
        )
        return self._chained_indexes[-1]

    def _append(self, statement: Json, conditions: list[Json]) -> int:
        step: Json = {"stmt": statement}
        if conditions:
            step["condition"] = all_of(*conditions)
        self._steps.append(step)
        return len(self._steps) - 1


def as_error(error: Json) -> Error:
    """The exception for an error of the protocol (spec: "Errors")."""
    return from_server(truncate(str(error.get("message", ""))), str(error.get("code") or "")[:_CODE_LENGTH])


def truncate(text: str, most: int = _MESSAGE_LENGTH) -> str:
    """Return a server's text as an error shows it: the first `most` characters, and how many there are."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def transaction_lost() -> OperationalError:
    """What to raise when the server has ended a transaction that we thought was open."""
    lost = "the transaction was lost: the server ended it, and nothing of it is stored"
    return OperationalError(lost, "TRANSACTION_LOST")


def encode(value: Value) -> Json:
    """A value (spec: "Values"). An integer goes as text, since a number in JSON is a float to many."""
    match value:
        case None:
            return {"type": "null"}
        case int():
            return {"type": "integer", "value": str(value)}
        case float():
            return {"type": "float", "value": _finite(value)}
        case str():
            return {"type": "text", "value": value}
    return {"type": "blob", "base64": base64.b64encode(value).decode()}


def _finite(value: float) -> float:
    if value in (float("inf"), float("-inf")):
        raise DataError("infinity cannot be sent to a server: JSON has no number for it")
    return value


def _blob(value: Json) -> bytes:
    text = value["base64"]
    return base64.b64decode(text + "=" * (-len(text) % 4))  # the server leaves the padding out


def _float(value: Json) -> float:
    if value["value"] is None:
        raise DataError("the server sent an infinite number without its sign: it cannot be read back equal")
    return number(value["value"])


_DECODERS: dict[str, Callable[[Json], Value]] = {
    "null": lambda value: None,  # noqa: ARG005 - as the others
    "integer": lambda value: integer(value["value"]),
    "float": _float,
    "text": lambda value: expect(value["value"], str),
    "blob": _blob,
}


def rows_of(rows: list[list[Json]], width: int) -> list[tuple[Value, ...]]:
    """Rows as tuples of `width` values. ValueError if one has another number of them."""
    decoders = _DECODERS
    decoded = [tuple([decoders[value["type"]](value) for value in row]) for row in rows]
    if any(len(row) != width for row in decoded):
        raise ValueError("a row has another number of values than there are columns")
    return decoded


def _result(answer: Json, kind: Kind) -> Result:
    columns = tuple([expect(column["name"] or "", str) for column in expect(answer["cols"], list)])
    rows = rows_of(expect(answer["rows"], list), len(columns))
    changed = (len(rows) if columns else unsigned(answer["affected_row_count"])) if kind is Kind.WRITE else -1
    rowid = answer.get("last_insert_rowid")
    return Result(columns or None, rows, changed, None if rowid is None else integer(rowid))
