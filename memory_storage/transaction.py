"""The unit of work: owns the transaction, hands out the repositories, finds out about lost answers.

Each call, or a transaction as a whole, goes through the guard: first the circuit breaker, then the pool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary, finalize

from sqlalchemy import Connection
from typing_extensions import Self

from . import dbapi
from ._commit_status import NEVER_DONE, Receipt, _Asking
from ._exception_mapping import translated
from ._execution import _Answer, _answer
from .errors import CommitUnknownError, ConfigurationError, MemoryStorageError, UnavailableError
from .monitoring import Call, Entry, counted, here, metered
from .repositories import (
    AnalyticsRepository,
    EmbeddingRepository,
    EpisodeRepository,
    PatternRepository,
    RetentionRepository,
    SpatiotemporalRepository,
    StepRepository,
)
from .resilience import NOT_STORED, is_outage
from .session import Ground, Scope, _Marks, _refuse_to_wait_for_itself, _writing
from .sql.session import Row

_log = logging.getLogger(__name__)


class Repositories(dbapi.Unpicklable):
    """The repositories of one namespace, over one session."""

    def __init__(self, session: Scope) -> None:
        self.episodes = metered(EpisodeRepository)(session)
        self.steps = metered(StepRepository)(session)
        self.patterns = metered(PatternRepository)(session)
        self.embeddings = metered(EmbeddingRepository)(session)
        self.spatiotemporal = metered(SpatiotemporalRepository)(session)
        self.analytics = metered(AnalyticsRepository)(session)
        self.retention = metered(RetentionRepository)(session)


class Transaction(Repositories, Scope):
    """All or nothing: a clean exit of the block commits, an exception rolls back. Not for several threads.

    It takes the write lock at its first statement, so that what it reads cannot change before it writes. With
    `read_only` it takes none: it sees the database as it was at its first statement, while others go on writing.

    On a server it is kept alive until the block ends: a thread sends a request when it was idle for five seconds, since
    the server ends one after ten. But the server takes the write lock from one that has had it for five seconds when
    another writer waits: then all of it is undone, and the next call raises UnavailableError.
    """

    is_transaction = True

    def __init__(self, ground: Ground, namespace: str, actor: str = "", *, read_only: bool = False) -> None:
        Scope.__init__(self, ground, namespace, actor)
        Repositories.__init__(self, self)
        self._read_only, self._name = read_only, "snapshot" if read_only else "transaction"
        self._connection: Connection | None = None
        self._receipt: Receipt | None = None
        self._ticket: int | None = None  # until the guard was told how it went
        self._asked = False  # whether the database has answered anything
        self._entries: list[Entry] = []  # for the log, once it is certain
        self._marks: _Marks = WeakValueDictionary()  # of the thread that opened it
        self._held = ExitStack()  # the lock against maintenance, if the transaction changes vector indexes
        self._may_index: bool | None = None

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise MemoryStorageError("this transaction is open already")
        if not self._read_only:
            _refuse_to_wait_for_itself(self._engine)
        self.began = time.monotonic()
        self._connect()
        if not self._read_only:
            self._marks = _writing()
            self._marks[id(self._engine)] = self
        self._since, self._whole = perf_counter(), self.meter.begin(self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._open_connection(), None
        self._marks.pop(id(self._engine), None)
        try:
            if error is None:
                self._commit(connection)
            else:
                _discard(connection)
        except BaseException as failure:
            self._end(failure)
            raise
        self._end(error)

    def indexing(self) -> AbstractContextManager[bool]:
        """See `Session`."""
        if self._may_index is None:
            self._may_index = self._held.enter_context(self._maintenance.shared())
            finalize(self, self._held.close).atexit = False  # if it is abandoned
        return nullcontext(self._may_index)

    def _connect(self) -> None:
        self._ticket, self._asked, self._entries = self._guard.acquire(), False, []
        begin = "DEFERRED" if self._read_only else "IMMEDIATE"
        try:
            options = {"libsql_begin": begin} | ({"libsql_keep_alive": True} if self._is_remote else {})
            with translated(self._engine), self._guard.admitted_checkout():
                connection = self._engine.connect().execution_options(**options)
            self._connection = connection
            _refuse_autocommit(connection)
            self._guard.recheck(self._ticket)
        except BaseException as error:
            self._leave(error)
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
            raise

    def _commit(self, connection: Connection) -> None:
        self._whole.round_trips += self._asked
        try:
            with translated(self._engine), connection:
                connection.commit()
        except CommitUnknownError as unknown:
            self._settle(unknown)

    def _end(self, error: BaseException | None) -> None:
        self._held.close()
        self._may_index = None
        self._leave(error)
        self.meter.end(self._name, self._whole, perf_counter() - self._since, error)
        if error is None or isinstance(error, CommitUnknownError):
            for entry in self._entries:
                entry.write("unknown" if error else "stored")

    def _leave(self, error: BaseException | None) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._guard.record(ticket, error, contacted=self._asked)

    def audit(self, name: str, call: Call, things: object, *, is_known: bool) -> None:  # noqa: ARG002 - the commit says
        """Keep for the log what a call has written, until the transaction is committed."""
        self._entries.append(self._entry(name, call, things))

    def write(self, steps: Sequence[dbapi.Step], *, again: dbapi.Step | None = None) -> Sequence[Row]:  # noqa: ARG002
        """Run all or nothing, within the transaction; the rows of the last step that has any."""
        batch, receipt = self._writing_batch(steps)
        rows = self._run(batch)
        self._receipt = receipt
        return rows

    @counted("transaction.execute")
    def execute(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[list[Row]]:
        """Run SQL of your own, all of it in one round trip, and all or nothing: the rows of each statement.

        A statement is its text, with `?` for each value, and the values. The namespace is for you to mind.
        """
        steps = [dbapi.Step(sql, parameters) for sql, parameters in statements]
        if not steps:
            return []
        reads_only = all(dbapi.reads_only(step.sql) for step in steps)
        batch, receipt = (
            (dbapi.Batch(steps, reads_only=True), self._receipt) if reads_only else self._writing_batch(steps)
        )
        _, results = self._exchanged(batch)
        self._receipt = receipt
        return [one.rows for one in results[: len(steps)]]

    def _writing_batch(self, steps: Sequence[dbapi.Step]) -> tuple[dbapi.Batch, Receipt | None]:
        if self._read_only:
            raise MemoryStorageError("this is a snapshot, it only reads: write with the storage, or in a transaction")
        if not self._is_remote or self._receipt is not None:
            return dbapi.Batch(steps), self._receipt
        receipt = Receipt()  # with the first write, since that takes no round trip more; if it fails, with the next
        return dbapi.Batch([*steps, *receipt.steps()]), receipt

    def _run(self, batch: dbapi.Batch, *, deadline: float | None = None) -> Sequence[Row]:  # noqa: ARG002 - its own
        return self._exchanged(batch)[0]

    def _again(self, batch: dbapi.Batch, error: UnavailableError) -> Sequence[Row]:  # noqa: ARG002
        raise error  # a part of a transaction is not repeated: it may be gone

    def _exchanged(self, batch: dbapi.Batch) -> _Answer:
        connection, call, since = self._open_connection(), here.call, perf_counter()
        try:
            with translated(self._engine):
                rows, results = _answer(connection, batch)
        except BaseException as error:
            if call is not None:
                call.sent(batch)
            if is_outage(error):  # at once: who comes next need not wait for the end of this one
                self._leave(error)
            raise
        self._asked = True
        if call is not None:
            call.received(batch, results, len(rows))
        self._look_at(batch, perf_counter() - since, len(rows))
        return rows, results

    def _asked_for_a_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            return _answer(self._open_connection(), batch)[0]

    def _settle(self, unknown: CommitUnknownError) -> None:
        if self._receipt is None:
            return  # it wrote nothing
        if _Asking(self._engine, self._guard, unknown).about(self._receipt) == NEVER_DONE:
            lost = "the line broke before the commit was done: nothing of the transaction was stored"
            raise UnavailableError(lost, code=NOT_STORED) from unknown

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise MemoryStorageError("this transaction is not open: use it inside of its `with` block")
        return self._connection


def _refuse_autocommit(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit:  # set by a listener of the caller's, so that the engine does not show it
        raise ConfigurationError("engine: its connections are in AUTOCOMMIT: a transaction could not be rolled back")


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The error that ended the block is on its way to the caller: this one must not hide it.
        _log.exception("a rollback failed")
