"""The transport for servers: statements over Hrana 3 (libsql's docs/HRANA_3_SPEC.md). Knows no cursors, no SQLAlchemy.

A stream is open while a transaction is, or while one statement follows the other: to open one takes a server as long
as a read does, but an idle one takes one of its few places until it expires, after ten seconds. The server may also end
a transaction by itself, so every statement in one says that it must not run without, and every answer says whether it
is still open.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

from ._batch import Result, Step, portions
from ._client import Client
from ._errors import DataError, Error, InterfaceError, OperationalError
from ._fork import tell_in_child
from ._hrana_messages import CLOSE, GET_AUTOCOMMIT, BatchMessage, Json, as_error
from ._hrana_stream import Risk, Stream, StreamGone, garbled
from ._http import Deadline
from ._json import GARBLED
from ._keep_alive import PULSE
from ._parameters import Value, checked
from ._sql import Kind, Statement, parse
from ._write_limiter import HELD_UP

_log = logging.getLogger(__name__)

_STEPS_AT_ONCE = 1_000
_BYTES_AT_ONCE = 16_000_000
_FOREIGN_KEYS = re.compile(r"\s*PRAGMA\s+foreign_keys\s*[=(]\s*'?(\w+)", re.IGNORECASE)
_ON = {"1", "on", "true", "yes"}  # as every new stream has them
_COMMIT = re.compile(r"\s*(COMMIT|END)\b", re.IGNORECASE)
_ROLLBACK = re.compile(r"\s*ROLLBACK\b(?!.*\bTO\b)", re.IGNORECASE | re.DOTALL)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)


class _Prepared(NamedTuple):
    """A step that was checked: only the server can still find something wrong with it."""

    number: int
    statement: Statement
    values: tuple[Value, ...]
    rows: int | None


@dataclass(frozen=True)
class _Scope:
    """What a batch opens before its steps, and closes after them."""

    begin: str | None = None
    savepoint: bool = False
    release: bool = False
    commit: bool = False

    def of_part(self, *, is_first: bool, is_last: bool) -> _Scope:
        """What the first part opens, and the last one closes."""
        return _Scope(
            begin=self.begin if is_first else None,
            savepoint=self.savepoint and is_first,
            release=self.release and is_last,
            commit=self.commit and is_last,
        )


class HranaTransport:
    """One connection to a server. A line that was cut is replaced; only a transaction is lost with it."""

    is_remote = True

    def __init__(self, client: Client) -> None:
        self._stream = Stream(client)
        self._writes = client.writes
        self._credentials = client.credentials
        self._foreign_keys: str | None = None  # a new stream has to be told
        self._keeps = False  # whether the stream is to stay open for the next statement
        self._broken = ""
        self._turn = threading.RLock()  # of the thread that uses the connection, or of the one that keeps it alive
        self._keep_alive = False
        tell_in_child(self)

    @property
    def deadline(self) -> float | None:
        """See `Transport`."""
        return self._stream.deadline

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        self._stream.deadline = moment

    @property
    def usable(self) -> bool:
        """Whether anything can still be run on it, in this process."""
        return not self._broken

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open for this connection, as far as it has told."""
        with self._turn:  # while a request is on its way it is not known
            return self._stream.in_transaction

    @property
    def keep_alive(self) -> bool:
        """See `Transport`."""
        return self._keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        if value != self._keep_alive:
            self._keep_alive = value
            (PULSE.watch if value else PULSE.forget)(self)

    def expires_soon(self) -> bool:
        """Whether a transaction is open that the server may soon end."""
        return self._stream.expires_soon()

    def refresh(self) -> None:
        """Send a request, so that the transaction does not expire. If that fails, its next statement says so."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if self._keep_alive and self._stream.expires_soon():
                self._run_batch([_prepare(1, Step("SELECT 1"))], _Scope())
        except (Error, *GARBLED) as error:
            _log.info("a transaction could not be kept alive: %s", error)
        finally:
            self._turn.release()

    def run(
        self, steps: Sequence[Step], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        """See `Transport`. Beyond a thousand steps, or 16 megabytes, it takes several round trips."""
        if self._broken:
            raise InterfaceError(self._broken)
        prepared = [_prepare(number, step) for number, step in enumerate(steps, 1)]
        with self._turn:
            return self._run_in_turn(prepared, _Scope(begin, savepoint, release=savepoint, commit=commit))

    def _run_in_turn(self, prepared: list[_Prepared], scope: _Scope) -> list[Result]:
        if self._stream.is_open and _is(_ROLLBACK, prepared):
            self._stream.abandon()
            return [Result(None, [], -1, None)]
        self._keeps = self._stream.is_in_demand()
        try:
            return self._run_prepared(prepared, scope)
        finally:
            if not (self._keeps or self.in_transaction):
                self._stream.abandon()

    def _run_prepared(self, prepared: list[_Prepared], scope: _Scope) -> list[Result]:
        if not (scope.begin or self.in_transaction) and any(map(_returns_what_it_writes, prepared)):
            scope = replace(scope, begin="IMMEDIATE", commit=True)  # if it is too much to send, it must not stay
        parts = list(portions(prepared, _size, most_bytes=_BYTES_AT_ONCE, most=_STEPS_AT_ONCE)) or [[]]
        return self._run_in_parts(parts, scope) if self.in_transaction else self._patiently(parts, scope)

    def close(self) -> None:
        """See `Transport`."""
        with self._turn:
            if not self._broken:
                self._stream.abandon()
            self.discard()

    def discard(self) -> None:
        """See `Transport`. The server undoes what was not committed when the stream expires."""
        self.keep_alive = False
        self._stream.disconnect()
        self._broken = self._broken or "the connection is closed"

    def after_fork_in_child(self) -> None:
        """Let go of the parent's line and stream."""
        self._turn = threading.RLock()
        self._broken = "the connection belongs to the parent process: open another one after fork"
        self._stream.disconnect()

    def _patiently(self, parts: list[list[_Prepared]], scope: _Scope) -> list[Result]:
        """Run them, again while another writer holds the lock: the server itself waits for a tenth of a second only."""
        deadline = self._stream.new_deadline()
        limit = self._stream.deadline
        if len(parts) == 1:  # to wait for a place and for the answer: each within what is left
            self._stream.deadline = time.monotonic() + deadline.remaining()
        try:
            return self._in_turn(parts, scope, deadline)
        finally:
            self._stream.deadline = limit

    def _in_turn(self, parts: list[list[_Prepared]], scope: _Scope, deadline: Deadline) -> list[Result]:
        pause = 0.005
        reads_only = scope.begin != "IMMEDIATE" and all(step.statement.kind is Kind.READ for step in parts[0])
        while True:
            try:
                with nullcontext() if reads_only else self._writes.place(deadline.remaining()):
                    return self._run_in_parts(parts, scope)
            except OperationalError as error:  # nothing of it was done
                if error.code not in HELD_UP or self.in_transaction or not deadline.allows(pause):
                    raise
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 0.1)

    def _run_in_parts(self, parts: list[list[_Prepared]], scope: _Scope) -> list[Result]:
        results: list[Result] = []
        try:
            for place, part in enumerate(parts):
                results += self._run_batch(part, scope.of_part(is_first=not place, is_last=place == len(parts) - 1))
        except BaseException:
            if len(parts) > 1 and scope.release | scope.commit:
                self._stream.abandon()  # some of it is done, and must not stay
            raise
        return results

    def _run_batch(self, steps: list[_Prepared], scope: _Scope) -> list[Result]:
        kinds = {step.statement.kind for step in steps}
        opens = bool(scope.begin or kinds & {Kind.CONTROL, Kind.SAVEPOINT})
        ends = scope.commit or not (self.in_transaction or opens) or _is(_COMMIT, steps)
        risk = Risk(reads_only=kinds <= {Kind.READ}, commits=ends or Kind.CONTROL in kinds)
        try:
            results = self._exchanged(steps, scope, CLOSE if ends and not self._keeps else GET_AUTOCOMMIT, risk)
        except Error as error:
            self._credentials.redact_error(error)
            raise
        except GARBLED as error:
            raise garbled(error, risk) from error
        finally:
            if ends and self.in_transaction:  # what was to end it has failed
                self._stream.abandon()
        self._remember(steps)
        return results

    def _exchanged(self, steps: list[_Prepared], scope: _Scope, after: Json, risk: Risk) -> list[Result]:
        message = self._message(steps, scope)
        try:
            outcome = self._stream.exchange(message.as_json(), after, risk)
        except StreamGone:
            message = self._message(steps, scope)  # a new stream has to be told more
            outcome = self._stream.exchange(message.as_json(), after, risk)
        if outcome["type"] == "ok":
            return message.results(outcome["response"]["result"])
        self._explain(outcome, risk, scope)
        if self.in_transaction:  # it was begun, and only the rest is to be done again
            message = self._message(steps, replace(scope, begin=None))
        return message.results(self._stream.read_large(message.as_json()))

    def _message(self, steps: list[_Prepared], scope: _Scope) -> BatchMessage:
        message = BatchMessage(in_transaction=self.in_transaction)
        if self._foreign_keys and not self._stream.is_open:
            message.go_on(self._foreign_keys)
        if scope.begin:
            message.begin(scope.begin)
        if scope.savepoint:
            message.savepoint()
        for step in steps:
            message.ask(*step)
        if scope.release:
            message.release()
        if scope.commit:
            message.commit()
        return message

    def _explain(self, outcome: Json, risk: Risk, scope: _Scope) -> None:
        """Raise the error that a batch as a whole gave, unless its results can be read in another way."""
        error = as_error(outcome["error"])
        if error.code != "RESPONSE_TOO_LARGE":
            raise error
        if risk.reads_only:
            return
        # The server has left the rest undone, and what closes the batch is in the rest.
        if self.in_transaction and scope.savepoint:
            undoing = BatchMessage(in_transaction=True)
            undoing.undo()
            self._stream.exchange(undoing.as_json(), GET_AUTOCOMMIT, risk)
        else:
            self._stream.abandon()
        raise DataError(f"{error}; nothing of it was stored: return fewer rows", error.code)

    def _remember(self, steps: list[_Prepared]) -> None:
        # It belongs to the stream, as to a connection, but a stream does not last as long as one.
        for step in steps:
            if not self.in_transaction and (found := _FOREIGN_KEYS.match(step.statement.sql)):
                self._foreign_keys = None if found.group(1).lower() in _ON else step.statement.sql


def _prepare(number: int, step: Step) -> _Prepared:
    statement = parse(step.sql)
    return _Prepared(number, statement, checked(statement, step.parameters), step.rows)


def _size(step: _Prepared) -> int:
    """About how many bytes it takes on the line."""
    return 200 + len(step.statement.sql) + sum(len(v) for v in step.values if isinstance(v, str | bytes))


def _is(pattern: re.Pattern[str], steps: list[_Prepared]) -> bool:
    return len(steps) == 1 and steps[0].statement.kind is Kind.CONTROL and bool(pattern.match(steps[0].statement.sql))


def _returns_what_it_writes(step: _Prepared) -> bool:
    return step.statement.kind is Kind.WRITE and bool(_RETURNING.search(step.statement.sql))
