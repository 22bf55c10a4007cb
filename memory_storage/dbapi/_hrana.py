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

from ._batch import BatchStep, Result, portions
from ._client import Client
from ._errors import BUSY_CODES, DataError, Error, InterfaceError, OperationalError
from ._fork import register_after_fork
from ._hrana_messages import CLOSE, GET_AUTOCOMMIT, BatchMessage, Json, as_error
from ._hrana_stream import RequestEffect, Stream, StreamExpired, malformed_response
from ._http import Deadline
from ._json import MALFORMED_RESPONSE
from ._keep_alive import KEEP_ALIVE
from ._parameters import Value, check_parameters
from ._sql import Kind, Statement, parse

_log = logging.getLogger(__name__)

_MAX_STEPS = 1_000
_MAX_BYTES = 16_000_000
_CONTENTION_CODES = BUSY_CODES | {
    "TRANSACTION_TIMEOUT",
    "TRANSACTION_BUSY",
}  # another writer was first; nothing was done
_FOREIGN_KEYS = re.compile(r"\s*PRAGMA\s+foreign_keys\s*[=(]\s*'?(\w+)", re.IGNORECASE)
_ON = {"1", "on", "true", "yes"}  # as every new stream has them
_COMMIT = re.compile(r"\s*(COMMIT|END)\b", re.IGNORECASE)
_ROLLBACK = re.compile(r"\s*ROLLBACK\b(?!.*\bTO\b)", re.IGNORECASE | re.DOTALL)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)


class _BoundStatement(NamedTuple):
    """A step that was checked: only the server can still find something wrong with it."""

    number: int
    statement: Statement
    values: tuple[Value, ...]
    rows: int | None


@dataclass(frozen=True)
class _Framing:
    """What a batch opens before its steps, and closes after them."""

    begin: str | None = None
    savepoint: bool = False
    release: bool = False
    commit: bool = False

    def for_part(self, *, is_first: bool, is_last: bool) -> _Framing:
        """What the first part opens, and the last one closes."""
        return _Framing(
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
        self._keep_stream_open = False  # whether the stream is to stay open for the next statement
        self._broken = ""
        self._lock = threading.RLock()  # of the thread that uses the connection, or of the one that keeps it alive
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
        """Whether anything can still be run on it, in this process."""
        return not self._broken

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open for this connection, as far as it has told."""
        with self._lock:  # while a request is on its way it is not known
            return self._stream.in_transaction

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
        """Whether a transaction is open that the server may soon end."""
        return self._stream.expires_soon()

    def refresh(self) -> None:
        """Send a request, so that the transaction does not expire. If that fails, its next statement says so."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._keep_alive and self._stream.expires_soon():
                self._run_batch([_bind_step(1, BatchStep("SELECT 1"))], _Framing())
        except (Error, *MALFORMED_RESPONSE) as error:
            _log.info("a transaction could not be kept alive: %s", error)
        finally:
            self._lock.release()

    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        """See `Transport`. Beyond a thousand steps, or 16 megabytes, it takes several round trips."""
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
        if not (framing.begin or self.in_transaction) and any(map(_is_write_returning, statements)):
            framing = replace(framing, begin="IMMEDIATE", commit=True)  # if it is too much to send, it must not stay
        parts = list(portions(statements, _encoded_size, most_bytes=_MAX_BYTES, most=_MAX_STEPS)) or [[]]
        return self._run_in_parts(parts, framing) if self.in_transaction else self._run_within_deadline(parts, framing)

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
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
        self._lock = threading.RLock()
        self._broken = "the connection belongs to the parent process: open another one after fork"
        self._stream.disconnect()

    def _run_within_deadline(self, parts: list[list[_BoundStatement]], framing: _Framing) -> list[Result]:
        """Run them, again while another writer holds the lock: the server itself waits for a tenth of a second only."""
        deadline = self._stream.new_deadline()
        limit = self._stream.deadline
        if len(parts) == 1:  # to wait for a place and for the answer: each within what is left
            self._stream.deadline = time.monotonic() + deadline.remaining()
        try:
            return self._retry_while_busy(parts, framing, deadline)
        finally:
            self._stream.deadline = limit

    def _retry_while_busy(
        self, parts: list[list[_BoundStatement]], framing: _Framing, deadline: Deadline
    ) -> list[Result]:
        pause = 0.005
        reads_only = framing.begin != "IMMEDIATE" and all(step.statement.kind is Kind.READ for step in parts[0])
        while True:
            try:
                with nullcontext() if reads_only else self._writes.slot(deadline.remaining()):
                    return self._run_in_parts(parts, framing)
            except OperationalError as error:  # nothing of it was done
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
                self._stream.abandon()  # some of it is done, and must not stay
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
            if ends and self.in_transaction:  # what was to end it has failed
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
            message = self._message(steps, framing)  # a new stream has to be told more
            outcome = self._stream.exchange(message.as_json(), after, effect)
        if outcome["type"] == "ok":
            return message.results(outcome["response"]["result"])
        self._raise_unless_too_large(outcome, effect, framing)
        if self.in_transaction:  # it was begun, and only the rest is to be done again
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
        """Raise the error that a batch as a whole gave, unless its results can be read in another way."""
        error = as_error(outcome["error"])
        if error.code != "RESPONSE_TOO_LARGE":
            raise error
        if effect.reads_only:
            return
        # The server has left the rest undone, and what closes the batch is in the rest.
        if self.in_transaction and framing.savepoint:
            rollback = BatchMessage(in_transaction=True)
            rollback.rollback_to_savepoint()
            self._stream.exchange(rollback.as_json(), GET_AUTOCOMMIT, effect)
        else:
            self._stream.abandon()
        raise DataError(f"{error}; nothing of it was stored: return fewer rows", error.code)

    def _track_foreign_keys(self, steps: list[_BoundStatement]) -> None:
        # It belongs to the stream, as to a connection, but a stream does not last as long as one.
        for step in steps:
            if not self.in_transaction and (found := _FOREIGN_KEYS.match(step.statement.sql)):
                self._foreign_keys = None if found.group(1).lower() in _ON else step.statement.sql


def _bind_step(number: int, step: BatchStep) -> _BoundStatement:
    statement = parse(step.sql)
    return _BoundStatement(number, statement, check_parameters(statement, step.parameters), step.rows)


def _encoded_size(step: _BoundStatement) -> int:
    """About how many bytes it takes on the line."""
    return 200 + len(step.statement.sql) + sum(len(v) for v in step.values if isinstance(v, str | bytes))


def _is_single(pattern: re.Pattern[str], steps: list[_BoundStatement]) -> bool:
    return len(steps) == 1 and steps[0].statement.kind is Kind.CONTROL and bool(pattern.match(steps[0].statement.sql))


def _is_write_returning(step: _BoundStatement) -> bool:
    return step.statement.kind is Kind.WRITE and bool(_RETURNING.search(step.statement.sql))
