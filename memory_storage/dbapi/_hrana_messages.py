"""Hrana 3 messages: encodes statements as JSON, and decodes JSON to results.

The protocol is specified in libsql's docs/HRANA_3_SPEC.md, called "spec" below.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from ._batch import Result, RowCountError, Value
from ._errors import DataError, Error, OperationalError, from_server
from ._json import expect, integer, number, unsigned
from ._sql import Kind, Statement

Json = dict[str, Any]

_MESSAGE_LENGTH = 5_000  # characters of an error message, which may quote a statement
_CODE_LENGTH = 100

IN_TRANSACTION: Json = {"type": "not", "cond": {"type": "is_autocommit"}}
"""The condition of every step in a transaction: if the server has ended it, the step must not run outside of one."""

CLOSE: Json = {"type": "close"}
GET_AUTOCOMMIT: Json = {"type": "get_autocommit"}

# changes() is that of the preceding step. The error of json() is one that no step of a caller can raise.
_CHECK_ROWS = "SELECT CASE WHEN changes() = ? THEN 1 ELSE json('ROW_COUNT') END"


def step_succeeded(step: int) -> Json:
    """Return the condition that a step ran and succeeded (spec: "Conditions")."""
    return {"type": "ok", "step": step}


def negate(condition: Json) -> Json:
    """Return the negation of a condition."""
    return {"type": "not", "cond": condition}


def all_of(*conditions: Json) -> Json:
    """Return the conjunction of conditions."""
    return {"type": "and", "conds": list(conditions)} if len(conditions) > 1 else conditions[0]


class BatchMessage:
    """A batch in which each step is conditional on the preceding one, and in a transaction on the open transaction.

    `in_transaction`: whether a transaction is open before the batch.
    """

    def __init__(self, *, in_transaction: bool) -> None:
        self._in_transaction = in_transaction
        self._steps: list[Json] = []
        self._chained_indexes: list[int] = []  # the places of the steps that must have run
        self._statement_indexes: list[tuple[int, Kind]] = []  # the places of the caller's steps
        self._row_checks: dict[int, tuple[int, int]] = {}  # the place of a check: the number of the step, its rows

    def chain(self, sql: str) -> int:
        """Add a statement without values that runs if the preceding step succeeded. Returns its index."""
        return self._append_chained({"sql": sql, "want_rows": False})

    def always(self, sql: str, *conditions: Json) -> int:
        """Add a statement that runs if the transaction is still open and `conditions` hold, also after a failure."""
        return self._append({"sql": sql, "want_rows": False}, [IN_TRANSACTION, *conditions])

    def begin(self, mode: str) -> None:
        """Begin a transaction."""
        self.chain(f"BEGIN {mode}")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit the transaction, or roll it back if a step failed."""
        self.chain("COMMIT")
        self.always("ROLLBACK")  # not after the COMMIT: no transaction is open then

    def add_statement(self, number: int, statement: Statement, values: Sequence[Value], rows: int | None) -> None:
        """Add a caller's statement.

        Args:
            number: Its number in the caller's batch, for its error.
            statement: The parsed SQL.
            values: Its checked values.
            rows: How many rows it must change; None for any number.
        """
        sql: Json = {"sql": statement.sql, "want_rows": True}
        if values:
            sql["args"] = [encode(value) for value in values]
        self._statement_indexes.append((self._append_chained(sql), statement.kind))
        if rows is not None:
            check = {"sql": _CHECK_ROWS, "args": [encode(rows)], "want_rows": False}
            self._row_checks[self._append_chained(check)] = (number, rows)

    def savepoint(self) -> None:
        """Open a savepoint, for `release` or `rollback_to_savepoint`."""
        self.chain("SAVEPOINT batch")

    def rollback_to_savepoint(self) -> None:
        """Roll back to the savepoint, and release it."""
        self.chain("ROLLBACK TO batch")  # leaves the savepoint open
        self.chain("RELEASE batch")

    def release(self) -> None:
        """Release the savepoint, or roll back to it if a step failed."""
        released = self.chain("RELEASE batch")
        undone = self.always("ROLLBACK TO batch", negate(step_succeeded(released)))
        self.always("RELEASE batch", step_succeeded(undone))

    def as_json(self) -> Json:
        """Return the batch as JSON (spec: "Batch")."""
        return {"steps": self._steps}

    def results(self, reply: Json) -> list[Result]:
        """Return the results of the caller's statements; or raise the first error, or that the transaction was lost."""
        answers: list[Json | None] = expect(reply["step_results"], list)
        errors: list[Json | None] = expect(reply["step_errors"], list)
        if not len(answers) == len(errors) == len(self._steps):
            raise ValueError("results of other steps than were sent")
        for index, error in enumerate(errors):
            if error is not None:
                raise self._error(index, error, answers)
        # Skipped without an error: its condition did not hold, so the server has ended the transaction.
        if any(answers[index] is None for index in self._chained_indexes):
            raise transaction_lost()
        return [_result(answers[index] or {}, kind) for index, kind in self._statement_indexes]

    def _error(self, index: int, error: Json, answers: list[Json | None]) -> Error:
        # The check itself failed: the step before it changed another number of rows.
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
    """Return the exception for an error object (spec: "Errors")."""
    return from_server(truncate(str(error.get("message", ""))), str(error.get("code") or "")[:_CODE_LENGTH])


def truncate(text: str, most: int = _MESSAGE_LENGTH) -> str:
    """Return the first `most` characters of a server's message, with the full length if it is longer."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def transaction_lost() -> OperationalError:
    """Return the error for a transaction that the server ended by itself."""
    lost = "the transaction was lost: the server ended it, and nothing of it is stored"
    return OperationalError(lost, "TRANSACTION_LOST")


def encode(value: Value) -> Json:
    """Encode a value (spec: "Values"). An integer is a string: many JSON readers turn numbers into floats."""
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
    return base64.b64decode(text + "=" * (-len(text) % 4))  # the server omits the padding


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
    """Decode rows as tuples of `width` values. ValueError if a row has another number of values."""
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
