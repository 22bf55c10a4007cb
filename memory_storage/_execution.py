"""Runs batches of statements on connections of the pool, through the guard: each as a transaction, or all in one.

A transaction passes the guard once, when it begins: first the circuit breaker, then the pool. If the acknowledgement of
its commit is lost, its receipt says whether it was committed (`_commit_status.py`).
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from time import monotonic, perf_counter
from typing import Any
from weakref import WeakValueDictionary, finalize

from sqlalchemy import Connection, Engine

from . import dbapi
from ._commit_status import NEVER_COMMITTED, CommitResolver, Receipt
from ._exception_mapping import FOREIGN_ERRORS, map_exceptions, raise_mapped
from ._files import MaintenanceLock
from .errors import CommitUnknownError, ConfigurationError, MemoryStorageError, UnavailableError
from .monitoring import AuditRecord, Meter, current, log_slow_query
from .pool import CountingPool
from .resilience import NOT_STORED, Guard, is_outage, is_retryable_read, was_not_committed
from .sql.indexing import BATCH, INDEX_STEP, INDEX_STEPS, RECENT, RECENT_STEPS
from .sql.session import Row

_log = logging.getLogger(__name__)

SHRINK = dbapi.BatchStep("PRAGMA shrink_memory")

Response = tuple[Sequence[Row], Sequence[dbapi.Result]]
"""The rows of the last statement that returns any, and the result of each statement."""


class Indexer:
    """Decides which write of a storage indexes the changed episodes.

    Args:
        at_once: Each write does: on a server, whose connections have no temporary index.
    """

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._changes = BATCH - 1  # the first write indexes what earlier processes have left

    def steps(self, changed: int) -> Sequence[dbapi.BatchStep]:
        """Return the statements that end a write.

        Args:
            changed: How many episodes it changes.
        """
        if not changed:
            return ()
        self._changes += changed  # without a lock: a change that is not counted is indexed a little later
        if self._changes >= BATCH:
            self._changes = 0
            return INDEX_STEPS
        return (INDEX_STEP,) if self._at_once else ()


class Executor(dbapi.Unpicklable):
    """Runs each batch as a transaction of its own, and retries it where that cannot apply a write twice.

    Args:
        engine: Whose pool the connections are taken from.
        guard: Its circuit breaker admits each attempt; its settings limit the retries.
        meter: Where slow batches are logged from.
        request_timeout: Seconds after which no further attempt of a call begins, and a statement in a file is stopped.
    """

    is_transaction = False

    def __init__(self, engine: Engine, guard: Guard, meter: Meter, request_timeout: float) -> None:
        self.engine, self.guard, self.meter, self.request_timeout = engine, guard, meter, request_timeout
        self.is_remote = bool(engine.url.host)
        self.indexer = Indexer(at_once=self.is_remote)
        self.opening: bytes | None = None
        """Identity of this opening of a replica, under which it counts: a copy of the file counts under another one."""

    def read(self, step: dbapi.BatchStep, *, shrinks: bool = False) -> Sequence[Row]:
        """Return the rows of one SELECT. See `SessionProtocol.read`."""
        is_single = self.is_remote or not (shrinks or RECENT in step.sql)
        batch = dbapi.Batch([step] if is_single else read_steps(step, shrinks=shrinks), reads_only=True)
        try:
            return self._run(batch)[0]
        except UnavailableError as error:
            return self._retry(batch, error)

    def read_all(self, steps: Sequence[dbapi.BatchStep]) -> list[Sequence[Row]]:
        """Return the rows of each SELECT. See `SessionProtocol.read_all`."""
        if self.is_remote:
            return self.exchange(steps, reads_only=True)
        return [self.read(step) for step in steps]  # a file: there is no round trip to save

    def write(
        self, steps: Sequence[dbapi.BatchStep], *, again: dbapi.BatchStep | None = None, changed: int = 0
    ) -> Sequence[Row]:
        """Run all statements or none. See `SessionProtocol.write`."""
        if id(self.engine) in open_write_transactions():
            refuse_nested_write(self.engine)
        if self.is_remote:
            return self._write_with_receipt(steps, again, changed)
        batch = dbapi.Batch([*steps, *self.indexer.steps(changed)])
        try:
            return self._run(batch)[0]
        except UnavailableError as error:
            return self._retry(batch, error)

    def exchange(self, steps: Sequence[dbapi.BatchStep], *, reads_only: bool = False) -> list[Sequence[Row]]:
        """Run statements that may be repeated, as one transaction, and return the rows of each.

        Args:
            steps: The statements. Those that write must have the same effect once and twice.
            reads_only: Whether none of them writes.

        Raises:
            UnavailableError: They may have been run, or not.
        """
        batch = dbapi.Batch(steps, reads_only=reads_only)

        def once() -> list[Sequence[Row]]:
            try:
                rows, results = self._run(batch)
                return [one.rows for one in results[: len(steps)]] if results else [rows]
            except CommitUnknownError as error:
                raise UnavailableError(f"the response was lost; repeat it: {error}", code="RESPONSE_LOST") from error

        return self.guard.run(once, is_retryable=is_retryable_read, on_retry=_count_retry)

    def probe(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]:
        """Return the rows of a reading batch, in one attempt.

        Args:
            batch: The statements.
            deadline: When a server has to have answered, by `time.monotonic`.
        """
        return self._run(batch, deadline=deadline)[0]

    def indexing(self, maintenance: MaintenanceLock) -> AbstractContextManager[bool]:
        """See `SessionProtocol.indexing`."""
        return maintenance.shared()

    def log(self, record: AuditRecord, *, is_known: bool) -> None:
        """Log a write at once: it is committed, or its outcome is unknown."""
        record.log("stored" if is_known else "unknown")

    def _write_with_receipt(
        self, steps: Sequence[dbapi.BatchStep], again: dbapi.BatchStep | None, changed: int
    ) -> Sequence[Row]:
        # On a server the acknowledgement of a commit can be lost. The receipt says then whether it was committed.
        since, retry = perf_counter(), self.guard.retry_settings
        for attempt in range(max(2, retry.max_attempts)):
            if attempt > 1 and perf_counter() - since > retry.deadline:
                break
            receipt = Receipt()
            batch = dbapi.Batch([*steps, *receipt.steps(), *self.indexer.steps(changed)])
            try:
                try:
                    return self._run(batch)[0]
                except UnavailableError as error:
                    return self._retry(batch, error)
            except CommitUnknownError as error:
                resolver = CommitResolver(error, self.run_early)
                changed_rows = resolver.resolve(receipt)
            if changed_rows != NEVER_COMMITTED:
                again = again or (steps[-1] if dbapi.reads_only(steps[-1].sql) else None)
                return resolver.reread(dbapi.Batch([again], reads_only=True)) if again else [()] * changed_rows
            _log.info("a write did not reach the server (attempt %d)", attempt + 1)
        raise UnavailableError(
            "the connection failed before the write was committed; nothing was stored; try again", code=NOT_STORED
        )

    def _retry(self, batch: dbapi.Batch, error: UnavailableError) -> Sequence[Row]:
        return self.guard.retry(
            error,
            lambda: self._run(batch)[0],
            since=current.operation.since if current.operation is not None else perf_counter(),
            seconds=self.request_timeout,  # a lock, or a server, may have been waited for that long already
            is_retryable=is_retryable_read if batch.reads_only else was_not_committed,
            on_retry=_count_retry,
        )

    def _run(self, batch: dbapi.Batch, *, deadline: float | None = None) -> Response:
        # Every call of a storage passes here: while nothing is wrong, the guard's attributes are read, and no more.
        guard, operation = self.guard, current.operation
        breaker = guard.breaker
        ticket = breaker.generation  # first: as in `CircuitBreaker.acquire`
        if not breaker.is_idle:
            ticket = guard.acquire() if deadline is None else breaker.acquire(may_probe=False, max_wait=0)
        since = perf_counter() if self.meter.times_queries else 0.0
        try:
            rows, results = self._respond(batch, ticket, deadline)
        except BaseException as error:
            if operation is not None:
                operation.record_sent(batch)
            guard.record(ticket, error)
            raise
        if not breaker.is_idle or guard.budget.is_spent:
            guard.record(ticket)
        if operation is not None:
            operation.record_response(batch, results, len(rows))
        if since and (seconds := perf_counter() - since) >= self.meter.slow_after:
            log_slow_query(batch, self._query_plan, seconds=seconds, rows=len(rows))
        return rows, results

    def run_early(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]:
        """Run a batch that resolves the outcome of a commit: while the circuit is open, some of these are admitted."""
        with self.guard.attempt(early=True) as ticket, map_exceptions(self.engine):
            return execute_raw(self.engine, batch, self.guard, ticket, deadline=deadline)[0]

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Yield a connection on which each statement takes effect at once, as VACUUM and checkpoints need it.

        The block is one call for the circuit breaker, and is not retried.
        """
        with self.guard.attempt():
            try:
                with self.guard.admitted_checkout():
                    connection = self.engine.connect()
                driver: Any = connection.connection.dbapi_connection
                with connection:
                    driver.autocommit = True
                    try:
                        yield connection
                    finally:
                        driver.autocommit = False
            except FOREIGN_ERRORS as error:
                raise_mapped(error, self.engine)
                raise

    def _respond(self, batch: dbapi.Batch, ticket: int, deadline: float | None) -> Response:
        if deadline is None and not self.is_remote:
            deadline = monotonic() + self.request_timeout
        try:
            if not has_listeners(self.engine):
                return execute_raw(self.engine, batch, self.guard, ticket, deadline=deadline)
            with self.guard.admitted_checkout():
                connection = self.engine.connect()
            with connection.execution_options(libsql_begin=""):
                self.guard.recheck(ticket)
                return execute_with_events(connection, batch, deadline=deadline)
        except FOREIGN_ERRORS as error:  # no `with map_exceptions()`: it would cost each call another frame
            raise_mapped(error, self.engine)
            raise

    def _query_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        try:
            return execute_raw(self.engine, dbapi.Batch(read_steps(batch.steps[0], shrinks=False), reads_only=True))[0]
        except FOREIGN_ERRORS as error:
            raise_mapped(error, self.engine)
            raise


class TransactionExecutor(dbapi.Unpicklable):
    """Runs the statements of one transaction on its connection, and resolves the outcome of its commit."""

    is_transaction = True

    def __init__(self, executor: Executor, *, read_only: bool) -> None:
        self._executor = executor  # runs the statements outside of the transaction that resolve its commit
        self._engine, self._guard, self._meter = executor.engine, executor.guard, executor.meter
        self._is_remote = executor.is_remote
        self._read_only, self._name = read_only, "snapshot" if read_only else "transaction"
        self._connection: Connection | None = None
        self._receipt: Receipt | None = None
        self._ticket: int | None = None  # until its outcome is recorded by the guard
        self._contacted = False  # whether the database has responded
        self._records: list[AuditRecord] = []  # logged once the outcome is known
        # The write transactions of the thread that opened this one.
        self._registered: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._held = ExitStack()  # the lock against maintenance, if the transaction changes vector indexes
        self._may_index: bool | None = None

    def begin(self) -> None:
        """Take a connection; the first statement begins the transaction."""
        if self._connection is not None:
            raise MemoryStorageError("the transaction is already open; use it in one `with` block at a time")
        if not self._read_only:
            refuse_nested_write(self._engine)
        self._connect()
        if not self._read_only:
            self._registered = open_write_transactions()
            self._registered[id(self._engine)] = self
        # Rolls an abandoned transaction back at once: SQLAlchemy's connection lies in a cycle, and would wait for the
        # garbage collector with the write lock held.
        self._abandoned = finalize(self, _discard, self._open_connection())
        self._abandoned.atexit = False
        self._since, self._operation = perf_counter(), self._meter.begin(self._name)

    def end(self, error: BaseException | None) -> None:
        """Commit, or roll back after an error of the block, and return the connection to the pool."""
        connection, self._connection = self._open_connection(), None
        self._abandoned.detach()
        self._registered.pop(id(self._engine), None)
        try:
            if error is None:
                self._commit(connection)
            else:
                _discard(connection)
        except BaseException as failure:
            self._finish(failure)
            raise
        self._finish(error)

    def read(self, step: dbapi.BatchStep, *, shrinks: bool = False) -> Sequence[Row]:
        """Return the rows of one SELECT. It is not retried: the transaction may be lost."""
        return self._run(dbapi.Batch(read_steps(step, shrinks=shrinks and not self._is_remote), reads_only=True))[0]

    def read_all(self, steps: Sequence[dbapi.BatchStep]) -> list[Sequence[Row]]:
        """Return the rows of each SELECT."""
        return [self.read(step) for step in steps]

    def write(
        self,
        steps: Sequence[dbapi.BatchStep],
        *,
        again: dbapi.BatchStep | None = None,  # noqa: ARG002 - what was lost is lost with the transaction
        changed: int = 0,
    ) -> Sequence[Row]:
        """Run all statements or none, within the transaction; the rows of the last one that returns any."""
        batch, receipt = self._write_batch(steps, changed)
        rows, _ = self._run(batch)
        self._receipt = receipt
        return rows

    def probe(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]:  # noqa: ARG002 - the connection has its own
        """Return the rows of a reading batch."""
        return self._run(batch)[0]

    def execute(self, steps: Sequence[dbapi.BatchStep]) -> list[list[Row]]:
        """Return the rows of each statement."""
        if not steps:
            return []
        reads_only = all(dbapi.reads_only(step.sql) for step in steps)
        # The caller's own statements may change texts, which a server has no temporary index for.
        batch, receipt = (
            (dbapi.Batch(steps, reads_only=True), self._receipt)
            if reads_only
            else self._write_batch(steps, changed=int(self._is_remote))
        )
        _, results = self._run(batch)
        self._receipt = receipt
        return [one.rows for one in results[: len(steps)]]

    def indexing(self, maintenance: MaintenanceLock) -> AbstractContextManager[bool]:
        """See `SessionProtocol.indexing`."""
        if self._may_index is None:
            self._may_index = self._held.enter_context(maintenance.shared())
            finalize(self, self._held.close).atexit = False  # if it is abandoned
        return nullcontext(self._may_index)

    def log(self, record: AuditRecord, *, is_known: bool) -> None:  # noqa: ARG002 - the commit decides
        """Keep a write for the audit log until the transaction is committed."""
        self._records.append(record)

    def _connect(self) -> None:
        self._ticket, self._contacted, self._records = self._guard.acquire(), False, []
        try:
            connection = self._connection = self._checkout()
            driver: Any = connection.connection.dbapi_connection
            _refuse_autocommit(driver)
            # Not by execution options, a detour of five calls: the pool resets both when the connection is returned.
            driver.begin_mode, driver.keep_alive = "DEFERRED" if self._read_only else "IMMEDIATE", self._is_remote
            self._guard.recheck(self._ticket)
        except BaseException as error:
            self._record_outcome(error)
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
            raise

    def _checkout(self) -> Connection:
        try:
            with self._guard.admitted_checkout():
                return self._engine.connect()
        except FOREIGN_ERRORS as error:
            raise_mapped(error, self._engine)
            raise

    def _commit(self, connection: Connection) -> None:
        self._operation.round_trips += self._contacted
        try:
            try:
                with connection:
                    connection.commit()
            except FOREIGN_ERRORS as error:
                raise_mapped(error, self._engine)
                raise
        except CommitUnknownError as unknown:
            if self._receipt is None:
                return  # it wrote nothing
            if CommitResolver(unknown, self._executor.run_early).resolve(self._receipt) == NEVER_COMMITTED:
                lost = "the connection failed before the commit; nothing of the transaction was stored"
                raise UnavailableError(lost, code=NOT_STORED) from unknown

    def _finish(self, error: BaseException | None) -> None:
        self._held.close()
        self._may_index = None
        self._record_outcome(error)
        self._meter.end(self._name, self._operation, perf_counter() - self._since, error)
        if error is None or isinstance(error, CommitUnknownError):
            for record in self._records:
                record.log("unknown" if error else "stored")

    def _record_outcome(self, error: BaseException | None) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._guard.record(ticket, error, contacted=self._contacted)

    def _write_batch(self, steps: Sequence[dbapi.BatchStep], changed: int = 0) -> tuple[dbapi.Batch, Receipt | None]:
        if self._read_only:
            raise MemoryStorageError(
                "a snapshot is read-only; nothing was stored; write with the storage, or in a transaction"
            )
        index = self._executor.indexer.steps(changed)
        if not self._is_remote or self._receipt is not None:
            return dbapi.Batch([*steps, *index]), self._receipt
        receipt = Receipt()  # with the first write, since that takes no round trip more; if it fails, with the next
        return dbapi.Batch([*steps, *receipt.steps(), *index]), receipt

    def _run(self, batch: dbapi.Batch) -> Response:
        connection, operation, since = self._open_connection(), current.operation, perf_counter()
        try:
            rows, results = self._respond(connection, batch)
        except BaseException as error:
            if operation is not None:
                operation.record_sent(batch)
            if is_outage(error):  # at once: the next caller need not wait for the end of this transaction
                self._record_outcome(error)
            raise
        self._contacted = True
        if operation is not None:
            operation.record_response(batch, results, len(rows))
        if (seconds := perf_counter() - since) >= self._meter.slow_after:
            log_slow_query(batch, self._query_plan, seconds=seconds, rows=len(rows))
        return rows, results

    def _respond(self, connection: Connection, batch: dbapi.Batch) -> Response:
        deadline = None if self._is_remote else monotonic() + self._executor.request_timeout
        try:
            return execute_with_events(connection, batch, deadline=deadline)
        except FOREIGN_ERRORS as error:
            raise_mapped(error, self._engine)
            raise

    def _query_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        return self._respond(self._open_connection(), batch)[0]

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise MemoryStorageError("the transaction is not open; use it inside its `with` block")
        return self._connection


def _refuse_autocommit(driver: Any) -> None:
    if driver.autocommit:  # set by a listener of the caller's, so that the engine does not show it
        raise ConfigurationError(
            "engine: its connections are in AUTOCOMMIT, so a transaction could not be rolled back; leave that out"
        )


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The caller gets the error that ended the block: this one must not replace it.
        _log.exception("a rollback failed")


def read_steps(step: dbapi.BatchStep, *, shrinks: bool) -> Sequence[dbapi.BatchStep]:
    """Return the statements that run for one SELECT, the SELECT last."""
    first = (SHRINK,) if shrinks else ()
    return (*first, *RECENT_STEPS, step) if RECENT in step.sql else (*first, step)


def has_listeners(engine: Engine) -> bool:
    """Return whether the engine echoes statements, or has a caller's listeners for them."""
    return bool(engine.echo or engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute)


def _read_lent(engine: Engine, batch: dbapi.Batch, deadline: float | None) -> Response | None:
    """Return the rows of one SELECT on an idle connection of the pool; None if it has none to lend."""
    pool: Any = engine.pool
    record = pool.lend() if isinstance(pool, CountingPool) else None
    if record is None:
        return None
    driver = record.dbapi_connection
    driver.deadline = deadline
    try:
        return driver.read(batch.steps[0]), ()
    finally:
        driver.deadline = None
        pool.take_back(record)


def execute_raw(
    engine: Engine,
    batch: dbapi.Batch,
    guard: Guard | None = None,
    ticket: int = 0,
    *,
    deadline: float | None = None,
) -> Response:
    """Run a batch on a connection of the pool, past SQLAlchemy's Connection, which costs as much as a small read.

    Args:
        engine: Whose pool it is.
        batch: The statements.
        guard: Rechecked if the circuit has changed while the call waited for a connection.
        ticket: What the guard gave when it admitted the call.
        deadline: When the database has to have answered, by `time.monotonic`.
    """
    if batch.reads_only and len(batch.steps) == 1 and not engine.url.host:
        response = _read_lent(engine, batch, deadline)
        if response is not None:
            return response
    connection = engine.raw_connection()
    driver: Any = connection.dbapi_connection
    driver.gate = None  # the call was admitted before it took the connection
    try:
        if guard is not None and guard.breaker.generation != ticket:
            guard.recheck(ticket)
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


def execute_with_events(connection: Connection, batch: dbapi.Batch, *, deadline: float | None = None) -> Response:
    """Run a batch through SQLAlchemy's Connection, so that the engine's listeners hear of it.

    Args:
        connection: The connection.
        batch: The statements.
        deadline: When a file has to have answered, by `time.monotonic`.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.deadline = deadline
    try:
        result = connection.exec_driver_sql(batch)
    finally:
        driver.deadline = None
    results = result.context.cursor.results
    return (result.fetchall() if result.returns_rows else []), results


_thread = threading.local()


def open_write_transactions() -> WeakValueDictionary[int, Any]:
    """Return the write transactions that this thread has open, by the id of their engine; they keep no engine alive."""
    open_ones: WeakValueDictionary[int, Any] | None = getattr(_thread, "open_ones", None)
    if open_ones is None:
        open_ones = _thread.open_ones = WeakValueDictionary()
    return open_ones


def refuse_nested_write(engine: Engine) -> None:
    """Raise UnavailableError if this thread has a write transaction open on the same engine."""
    if id(engine) not in open_write_transactions():
        return
    gc.collect()  # a transaction that was abandoned, in a cycle of the caller's, is rolled back by this
    if id(engine) in open_write_transactions():
        raise UnavailableError(
            "nested write: this thread already has an open transaction on this database; nothing was stored; "
            "write with the transaction's repositories, or end it first"
        )


def _count_retry() -> None:
    if current.operation is not None:
        current.operation.retries += 1
