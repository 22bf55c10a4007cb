"""The unit of work: owns the transaction, hands out the repositories, finds out about lost answers.

Each call, or a transaction as a whole, goes through the guard: first the circuit breaker, then the pool.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary, finalize

from sqlalchemy import Connection, Engine
from typing_extensions import Self

from . import dbapi
from ._files import MaintenanceLock
from .errors import CircuitOpenError, CommitUnknownError, ConfigurationError, MemoryStorageError, UnavailableError
from .monitoring import Call, Entry, Meter, counted, explain, here, metered
from .receipts import NEVER_DONE, Receipt, changed
from .repositories import (
    AnalyticsRepository,
    EmbeddingRepository,
    EpisodeRepository,
    PatternRepository,
    RetentionRepository,
    SpatiotemporalRepository,
    StepRepository,
)
from .repositories._session import Row
from .repositories._spaces import KnownSpaces
from .repositories.memory_index import MemoryIndexes
from .resilience import NOT_STORED, Guard, is_outage, nothing_happened, only_read
from .settings import Limits
from .translation import translated

_Answer = tuple[Sequence[Row], Sequence[dbapi.Result]]  # the rows that count, and what each step gave

_log = logging.getLogger(__name__)

_SETTLING_SECONDS = 7.0  # a server takes five until it takes a lock from a stream that was left alone
_FIRST_PAUSE = 0.05  # seconds until it is asked again what became of a write
_SHRINK = dbapi.Step("PRAGMA shrink_memory")
_SERVER_VALUE_BYTES = 4_900_000  # sqld takes 5,000,000, which a row's other columns are part of


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


@dataclass(frozen=True)
class Ground:
    """What all scopes on one database share."""

    engine: Engine
    limits: Limits
    request_timeout: float
    now: Callable[[], datetime]
    guard: Guard
    meter: Meter
    vector_index: str = "diskann"
    memory: MemoryIndexes | None = None
    spaces: KnownSpaces = field(default_factory=KnownSpaces)
    maintenance: MaintenanceLock = field(default_factory=partial(MaintenanceLock, None))


class Scope(dbapi.Unpicklable):
    """A session in which every call is a transaction of its own, on a connection of the pool."""

    is_transaction = False
    began: float | None = None

    def __init__(self, ground: Ground, namespace: str, actor: str = "") -> None:
        self._engine, self._guard, self._patience = ground.engine, ground.guard, ground.request_timeout
        self._is_remote = bool(self._engine.url.host)
        self.value_bytes = _SERVER_VALUE_BYTES if self._is_remote else None
        self.namespace, self.actor = namespace, actor
        self.limits, self.now, self.meter = ground.limits, ground.now, ground.meter
        self.vector_index, self.memory, self.spaces = ground.vector_index, ground.memory, ground.spaces
        self._maintenance = ground.maintenance

    def indexing(self) -> AbstractContextManager[bool]:
        """See `Session`."""
        return self._maintenance.shared()

    def read(self, step: dbapi.Step, *, shrinks: bool = False) -> Sequence[Row]:
        """The rows of one SELECT. It is done again if the line broke. `shrinks`: see `Session`."""
        batch = dbapi.Batch([_SHRINK, step] if shrinks and not self._is_remote else [step], reads_only=True)
        try:
            return self._run(batch)
        except UnavailableError as error:
            return self._again(batch, error)

    def write(self, steps: Sequence[dbapi.Step], *, again: dbapi.Step | None = None) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any. `again`: reads those rows, if they were lost."""
        _refuse_to_wait_for_itself(self._engine)
        if not self._is_remote:
            return self._run_again(dbapi.Batch(steps))
        return self._write_for_certain(steps, again)

    def _write_for_certain(self, steps: Sequence[dbapi.Step], again: dbapi.Step | None) -> Sequence[Row]:
        since = perf_counter()
        for attempt in range(max(2, self._guard.retry.max_attempts)):
            if attempt > 1 and perf_counter() - since > self._guard.retry.deadline:
                break
            receipt = Receipt()
            try:
                return self._run_again(dbapi.Batch([*steps, *receipt.steps()]))
            except CommitUnknownError as error:
                ask = _Asking(self._engine, self._guard, error)
                found = ask.about(receipt)
            if found != NEVER_DONE:
                again = again or (steps[-1] if dbapi.reads_only(steps[-1].sql) else None)
                return ask.rows(dbapi.Batch([again], reads_only=True)) if again else [()] * found
            _log.info("a write was lost on its way (attempt %d)", attempt + 1)
        raise UnavailableError("the line broke before the write was done: nothing was stored", code=NOT_STORED)

    def look(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]:
        """The rows of a reading batch; once, and by that moment (of `time.monotonic`) if it goes over a network."""
        return self._run(batch, deadline=deadline)

    def audit(self, name: str, call: Call, things: object, *, is_known: bool) -> None:
        """Log at once what a call has written: it is a transaction of its own."""
        self._entry(name, call, things).write("stored" if is_known else "unknown")

    def _entry(self, name: str, call: Call, things: object) -> Entry:
        sql = (step.sql for batch in call.batches or () for step in batch.steps)
        return Entry.of(self.actor, self.namespace, name, sql, call.changed, things)

    def _run_again(self, batch: dbapi.Batch) -> Sequence[Row]:
        try:
            return self._run(batch)
        except UnavailableError as error:
            return self._again(batch, error)

    def _again(self, batch: dbapi.Batch, error: UnavailableError) -> Sequence[Row]:
        return self._guard.again(
            error,
            partial(self._run, batch),
            since=here.call.since if here.call is not None else perf_counter(),
            seconds=self._patience,  # a lock, or a server, may have been waited for that long already
            is_safe=only_read if batch.reads_only else nothing_happened,
            on_repeat=_count_repeat,
        )

    def _run(self, batch: dbapi.Batch, *, deadline: float | None = None) -> Sequence[Row]:
        # Every microsecond here is one of every call: where nothing is wrong, the guard is only looked at.
        guard, call = self._guard, here.call
        breaker = guard.breaker
        ticket = breaker.epoch  # first: as in `CircuitBreaker.enter`
        if not breaker.quiet:
            ticket = guard.enter() if deadline is None else breaker.enter(probes=False, patience=0)
        since = perf_counter() if self.meter.times_queries else 0.0
        try:
            with translated(self._engine):
                if _is_watched(self._engine):
                    rows, results = self._sent(batch, ticket)
                else:
                    rows, results = _straight(self._engine, batch, guard, ticket, deadline=deadline)
        except BaseException as error:
            if call is not None:
                call.sent(batch)
            guard.leave(ticket, error)
            raise
        if not breaker.quiet or guard.budget.is_spent:
            guard.leave(ticket)
        if call is not None:
            call.received(batch, results, len(rows))
        if since:
            self._look_at(batch, perf_counter() - since, len(rows))
        return rows

    def _sent(self, batch: dbapi.Batch, ticket: int) -> _Answer:
        with self._guard.taking_connection():
            connection = self._engine.connect()
        with connection.execution_options(libsql_begin=""):
            self._guard.confirm(ticket)
            return _answer(connection, batch)

    def _look_at(self, batch: dbapi.Batch, seconds: float, rows: int) -> None:
        if seconds >= self.meter.slow_after:
            explain(batch, self._asked_for_a_plan, seconds=seconds, rows=rows)

    def _asked_for_a_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            return _straight(self._engine, batch)[0]


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
        self._ticket, self._asked, self._entries = self._guard.enter(), False, []
        begin = "DEFERRED" if self._read_only else "IMMEDIATE"
        try:
            options = {"libsql_begin": begin} | ({"libsql_keep_alive": True} if self._is_remote else {})
            with translated(self._engine), self._guard.taking_connection():
                connection = self._engine.connect().execution_options(**options)
            self._connection = connection
            _refuse_autocommit(connection)
            self._guard.confirm(self._ticket)
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
            self._guard.leave(ticket, error, asked=self._asked)

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


class _Asking:
    """Asks, for some seconds, what became of a write whose answer was lost. If that is in vain, its error is raised."""

    def __init__(self, engine: Engine, guard: Guard, unknown: CommitUnknownError) -> None:
        self._engine, self._guard = engine, guard
        self._unknown = unknown
        self._deadline = time.monotonic() + _SETTLING_SECONDS

    def about(self, receipt: Receipt) -> int:
        """How many rows the write has changed; NEVER_DONE if it was not done, and now never will be."""
        return changed(self.rows(dbapi.Batch(receipt.fence())))

    def rows(self, batch: dbapi.Batch) -> Sequence[Row]:
        """The rows of a batch that does no harm when it is run twice."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._run(batch)
            except MemoryStorageError as error:
                if not isinstance(error, CircuitOpenError):
                    pause *= 2
                passes = isinstance(error, UnavailableError | CommitUnknownError)
                if not passes or time.monotonic() + pause > self._deadline:
                    raise self._unknown from error
            time.sleep(pause)

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        # The breaker may stay open for longer than anybody waits here: so some of those who ask need not wait for it.
        ticket = self._guard.enter(early=True)
        try:
            with translated(self._engine):
                rows = _straight(self._engine, batch, self._guard, ticket, deadline=self._deadline)[0]
        except BaseException as error:
            self._guard.leave(ticket, error)
            raise
        self._guard.leave(ticket)
        return rows


_Marks = WeakValueDictionary[int, Transaction]
_thread = threading.local()


def _writing() -> _Marks:
    """The transactions that this thread has open, by the id of the engine: no engine is kept by it."""
    marks: _Marks | None = getattr(_thread, "marks", None)  # every write looks here
    if marks is None:
        marks = _thread.marks = WeakValueDictionary()
    return marks


def _refuse_to_wait_for_itself(engine: Engine) -> None:
    if id(engine) not in _writing():
        return
    gc.collect()  # a transaction that was abandoned is rolled back by this: it is in a cycle with its repositories
    if id(engine) in _writing():
        raise UnavailableError(
            "this thread has a transaction open on this database, and would wait for itself: "
            "write with the transaction's own repositories, or end it first"
        )


def _refuse_autocommit(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit:  # set by a listener of the caller's, so that the engine does not show it
        raise ConfigurationError("engine: its connections are in AUTOCOMMIT: a transaction could not be rolled back")


def _is_watched(engine: Engine) -> bool:
    return bool(engine.echo or engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute)


def _straight(
    engine: Engine,
    batch: dbapi.Batch,
    guard: Guard | None = None,
    ticket: int = 0,
    *,
    deadline: float | None = None,
) -> _Answer:
    # From the pool to the driver: SQLAlchemy's Connection takes as long as a small read itself, and is for listeners.
    connection = engine.raw_connection()
    driver: Any = connection.dbapi_connection
    driver.gate = None  # the call was admitted before it took the connection
    try:
        if guard is not None and guard.breaker.epoch != ticket:
            guard.confirm(ticket)
        if deadline is not None:
            driver.deadline = deadline
        cursor: Any = connection.cursor().execute(batch)
        return cursor.fetchall(), cursor.results
    except dbapi.InterfaceError as error:
        connection.invalidate(error)
        raise
    finally:
        if deadline is not None:
            driver.deadline = None
        connection.close()


def _answer(connection: Connection, batch: dbapi.Batch) -> _Answer:
    result = connection.exec_driver_sql(batch)
    results = result.context.cursor.results
    return (result.fetchall() if result.returns_rows else []), results


def _count_repeat() -> None:
    if here.call is not None:
        here.call.retries += 1


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The error that ended the block is on its way to the caller: this one must not hide it.
        _log.exception("a rollback failed")
