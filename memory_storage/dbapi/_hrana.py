"""The transport for servers: statements over Hrana 3 (libsql's docs/HRANA_3_SPEC.md).

A stream stays open during a transaction, and between statements in quick succession: opening one costs the server as
much as a read, but an idle one occupies one of its few slots until it expires after ten seconds. The server may end a
transaction by itself. So every statement in one is conditional on the open transaction, and every response says whether
it is still open.
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

from ._batch import BatchStep, Result, Value, check_parameters, chunked
from ._client import Client
from ._errors import BUSY_CODES, DataError, Error, InterfaceError, OperationalError
from ._fork import register_after_fork
from ._hrana_messages import CLOSE, GET_AUTOCOMMIT, BatchMessage, Json, as_error
from ._hrana_stream import RequestEffect, Stream, StreamExpired, malformed_response
from ._http import Deadline
from ._json import MALFORMED_RESPONSE
from ._keep_alive import KEEP_ALIVE
from ._sql import Kind, Statement, parse

_log = logging.getLogger(__name__)

_MAX_STEPS = 1_000
_MAX_BYTES = 16_000_000
_CONTENTION_CODES = BUSY_CODES | {
    "TRANSACTION_TIMEOUT",
    "TRANSACTION_BUSY",
}  # another writer was first; nothing was done
_FOREIGN_KEYS = re.compile(r"\s*PRAGMA\s+foreign_keys\s*[=(]\s*'?(\w+)", re.IGNORECASE)
_ON = {"1", "on", "true", "yes"}  # the default of a new stream
_COMMIT = re.compile(r"\s*(COMMIT|END)\b", re.IGNORECASE)
_ROLLBACK = re.compile(r"\s*ROLLBACK\b(?!.*\bTO\b)", re.IGNORECASE | re.DOTALL)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)


class _BoundStatement(NamedTuple):
    """A parsed step with checked values."""

    number: int
    statement: Statement
    values: tuple[Value, ...]
    rows: int | None


@dataclass(frozen=True)
class _Framing:
    """The transaction and savepoint statements around a batch."""

    begin: str | None = None
    savepoint: bool = False
    release: bool = False
    commit: bool = False

    def for_part(self, *, is_first: bool, is_last: bool) -> _Framing:
        """Return the framing of one part: the first part opens, and the last one closes."""
        return _Framing(
            begin=self.begin if is_first else None,
            savepoint=self.savepoint and is_first,
            release=self.release and is_last,
            commit=self.commit and is_last,
        )


class HranaTransport:
    """One connection to a server. A broken HTTP connection is replaced; only an open transaction is lost with it."""

    is_remote = True
    local_engine: str | None = None

    def __init__(self, client: Client) -> None:
        self._stream = Stream(client)
        self._writes = client.writes
        self._credentials = client.credentials
        self._foreign_keys: str | None = None  # the pragma, which each new stream needs again
        self._keep_stream_open = False  # for the next statement
        self._broken = ""
        self._lock = threading.RLock()  # held by the thread that uses the connection, or the one that keeps it alive
        self._keep_alive = False
        register_after_fork(self)

    @property
    def deadline(self) -> float | None:
        """See `Transport`."""
        return self._stream.deadline

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        self._stream.deadline = moment

    @property
    def usable(self) -> bool:
        """Whether statements can still be run, in this process."""
        return not self._broken

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open for this connection, as of its last response."""
        with self._lock:  # unknown while a request is in flight
            return self._stream.in_transaction

    def interrupt(self) -> bool:
        """See `Transport`."""
        return False

    @property
    def keep_alive(self) -> bool:
        """See `Transport`."""
        return self._keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        if value != self._keep_alive:
            self._keep_alive = value
            (KEEP_ALIVE.add if value else KEEP_ALIVE.remove)(self)

    def expires_soon(self) -> bool:
        """Return whether a transaction is open that the server may soon end."""
        return self._stream.expires_soon()

    def refresh(self) -> None:
        """Send a request, so that the transaction does not expire. After a failure, the next statement raises."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._keep_alive and self._stream.expires_soon():
                self._run_batch([_bind_step(1, BatchStep("SELECT 1"))], _Framing())
        except (Error, *MALFORMED_RESPONSE) as error:
            _log.info("cannot keep a transaction alive: %s", error)
        finally:
            self._lock.release()

    def read(self, step: BatchStep) -> list[tuple[Value, ...]]:
        """See `Transport`."""
        return self.run([step])[0].rows

    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        """See `Transport`. More than 1,000 steps or 16 MB take several round trips."""
        if self._broken:
            raise InterfaceError(self._broken)
        statements = [_bind_step(number, step) for number, step in enumerate(steps, 1)]
        with self._lock:
            return self._run_locked(statements, _Framing(begin, savepoint, release=savepoint, commit=commit))

    def _run_locked(self, statements: list[_BoundStatement], framing: _Framing) -> list[Result]:
        if self._stream.is_open and _is_single(_ROLLBACK, statements):
            self._stream.abandon()
            return [Result(None, [], -1, None)]
        self._keep_stream_open = self._stream.was_just_used()
        try:
            return self._run_prepared(statements, framing)
        finally:
            if not (self._keep_stream_open or self.in_transaction):
                self._stream.abandon()

    def _run_prepared(self, statements: list[_BoundStatement], framing: _Framing) -> list[Result]:
        if not (framing.begin or self.in_transaction) and any(
            step.statement.kind is Kind.WRITE and _RETURNING.search(step.statement.sql) for step in statements
        ):
            framing = replace(framing, begin="IMMEDIATE", commit=True)  # as several round trips it would not be atomic
        parts = list(chunked(statements, _encoded_size, most_bytes=_MAX_BYTES, most=_MAX_STEPS)) or [[]]
        return self._run_in_parts(parts, framing) if self.in_transaction else self._run_within_deadline(parts, framing)

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            if not self._broken:
                self._stream.abandon()
            self.discard()

    def discard(self) -> None:
        """See `Transport`. The server rolls an open transaction back when the stream expires."""
        self.keep_alive = False
        self._stream.disconnect()
        self._broken = self._broken or "the connection is closed"

    def after_fork_in_child(self) -> None:
        """Give up the connection and the stream: they belong to the parent process."""
        self._lock = threading.RLock()
        self._broken = "the connection belongs to the parent process: open another one after fork"
        self._stream.disconnect()

    def _run_within_deadline(self, parts: list[list[_BoundStatement]], framing: _Framing) -> list[Result]:
        """Run the parts within one timeout, waits for a slot and for locks included."""
        deadline = self._stream.new_deadline()
        limit = self._stream.deadline
        if len(parts) == 1:  # several parts have a timeout for each request
            self._stream.deadline = time.monotonic() + deadline.remaining()
        try:
            return self._retry_while_busy(parts, framing, deadline)
        finally:
            self._stream.deadline = limit

    def _retry_while_busy(
        self, parts: list[list[_BoundStatement]], framing: _Framing, deadline: Deadline
    ) -> list[Result]:
        # The server itself waits for a lock for 0.1 s only.
        pause = 0.005
        reads_only = framing.begin != "IMMEDIATE" and all(step.statement.kind is Kind.READ for step in parts[0])
        while True:
            try:
                with nullcontext() if reads_only else self._writes.slot(deadline.remaining()):
                    return self._run_in_parts(parts, framing)
            except OperationalError as error:
                if error.code not in _CONTENTION_CODES or self.in_transaction or not deadline.allows(pause):
                    raise
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 0.1)

    def _run_in_parts(self, parts: list[list[_BoundStatement]], framing: _Framing) -> list[Result]:
        results: list[Result] = []
        try:
            for index, part in enumerate(parts):
                results += self._run_batch(part, framing.for_part(is_first=not index, is_last=index == len(parts) - 1))
        except BaseException:
            if len(parts) > 1 and framing.release | framing.commit:
                self._stream.abandon()  # rolls back the parts that were executed
            raise
        return results

    def _run_batch(self, steps: list[_BoundStatement], framing: _Framing) -> list[Result]:
        kinds = {step.statement.kind for step in steps}
        opens = bool(framing.begin or kinds & {Kind.CONTROL, Kind.SAVEPOINT})
        ends = framing.commit or not (self.in_transaction or opens) or _is_single(_COMMIT, steps)
        effect = RequestEffect(reads_only=kinds <= {Kind.READ}, commits=ends or Kind.CONTROL in kinds)
        try:
            results = self._exchange(
                steps, framing, CLOSE if ends and not self._keep_stream_open else GET_AUTOCOMMIT, effect
            )
        except Error as error:
            self._credentials.redact_error(error)
            raise
        except MALFORMED_RESPONSE as error:
            raise malformed_response(error, effect) from error
        finally:
            if ends and self.in_transaction:  # the statement that should have ended it failed
                self._stream.abandon()
        self._track_foreign_keys(steps)
        return results

    def _exchange(
        self, steps: list[_BoundStatement], framing: _Framing, after: Json, effect: RequestEffect
    ) -> list[Result]:
        message = self._message(steps, framing)
        try:
            outcome = self._stream.exchange(message.as_json(), after, effect)
        except StreamExpired:
            message = self._message(steps, framing)  # with the pragma for a new stream
            outcome = self._stream.exchange(message.as_json(), after, effect)
        if outcome["type"] == "ok":
            return message.results(outcome["response"]["result"])
        self._raise_unless_too_large(outcome, effect, framing)
        if self.in_transaction:  # BEGIN was executed already
            message = self._message(steps, replace(framing, begin=None))
        return message.results(self._stream.read_large(message.as_json()))

    def _message(self, steps: list[_BoundStatement], framing: _Framing) -> BatchMessage:
        message = BatchMessage(in_transaction=self.in_transaction)
        if self._foreign_keys and not self._stream.is_open:
            message.chain(self._foreign_keys)
        if framing.begin:
            message.begin(framing.begin)
        if framing.savepoint:
            message.savepoint()
        for step in steps:
            message.add_statement(*step)
        if framing.release:
            message.release()
        if framing.commit:
            message.commit()
        return message

    def _raise_unless_too_large(self, outcome: Json, effect: RequestEffect, framing: _Framing) -> None:
        """Raise the error of a batch, unless it only reads and its result is too large for one response."""
        error = as_error(outcome["error"])
        if error.code != "RESPONSE_TOO_LARGE":
            raise error
        if effect.reads_only:
            return
        # The server stopped at the large result, so the statements that close the batch did not run.
        if self.in_transaction and framing.savepoint:
            rollback = BatchMessage(in_transaction=True)
            rollback.rollback_to_savepoint()
            self._stream.exchange(rollback.as_json(), GET_AUTOCOMMIT, effect)
        else:
            self._stream.abandon()
        raise DataError(f"{error}; nothing of it was stored: return fewer rows", error.code)

    def _track_foreign_keys(self, steps: list[_BoundStatement]) -> None:
        # The pragma is a setting of the stream, but callers set it for the connection, which outlives streams.
        for step in steps:
            if not self.in_transaction and (found := _FOREIGN_KEYS.match(step.statement.sql)):
                self._foreign_keys = None if found.group(1).lower() in _ON else step.statement.sql


def _bind_step(number: int, step: BatchStep) -> _BoundStatement:
    statement = parse(step.sql)
    return _BoundStatement(number, statement, check_parameters(statement, step.parameters), step.rows)


def _encoded_size(step: _BoundStatement) -> int:
    """Estimate the size of a step in a request, in bytes."""
    return 200 + len(step.statement.sql) + sum(len(v) for v in step.values if isinstance(v, str | bytes))


def _is_single(pattern: re.Pattern[str], steps: list[_BoundStatement]) -> bool:
    return len(steps) == 1 and steps[0].statement.kind is Kind.CONTROL and bool(pattern.match(steps[0].statement.sql))
