"""The unit of work: one transaction on one connection, with the repositories of a namespace.

A transaction passes the guard once, when it begins: first the circuit breaker, then the pool. If the acknowledgement of
its commit is lost, its receipt says whether it was committed (`_commit_status.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import datetime
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary, finalize

from sqlalchemy import Connection
from typing_extensions import Self

from . import dbapi
from ._commit_status import NEVER_COMMITTED, CommitResolver, Receipt
from ._exception_mapping import FOREIGN_ERRORS, raise_mapped
from ._execution import (
    SHRINK,
    Executor,
    Response,
    execute_with_events,
    open_write_transactions,
    refuse_nested_write,
)
from ._files import MaintenanceLock
from .errors import CommitUnknownError, ConfigurationError, MemoryStorageError, UnavailableError
from .monitoring import AuditRecord, current, log_slow_query, named_operation
from .resilience import NOT_STORED, is_outage
from .session import Repositories, Session, StorageContext
from .sql.session import Row

_log = logging.getLogger(__name__)


class Transaction(Repositories):
    """A transaction: a clean exit of the block commits, an exception rolls back. Not thread-safe.

    It takes the write lock at its first statement, so that what it reads cannot change before it writes. A snapshot
    takes no lock: it sees the database as it was at its first statement, while other clients write.

    On a server it is kept alive until the block ends: a thread sends a request after five idle seconds, since the
    server ends an idle transaction after ten. When another writer waits, the server rolls back a transaction that has
    held the write lock for five seconds; the next call then raises UnavailableError.
    """

    def __init__(self, context: StorageContext, namespace: str, actor: str = "", *, read_only: bool = False) -> None:
        self._executor = _TransactionExecutor(context.executor, read_only=read_only)
        super().__init__(Session(context, namespace, actor, self._executor))

    @property
    def namespace(self) -> str:
        """The namespace whose rows it reads and writes."""
        return self._session.namespace

    @property
    def actor(self) -> str:
        """Whom the audit log names."""
        return self._session.actor

    def now(self) -> datetime:
        """Return the current time by the storage's clock, aware."""
        return self._session.now()

    def __enter__(self) -> Self:
        self._session.started_at_monotonic = time.monotonic()
        self._executor.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.end(error)

    @named_operation("transaction.execute")
    def execute(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[list[Row]]:
        """Run your own SQL, all statements or none, in one round trip.

        The statements are not restricted to the namespace.

        Args:
            statements: Pairs of SQL, with `?` for each value, and the values.

        Returns:
            The rows of each statement.
        """
        return self._executor.execute([dbapi.BatchStep(sql, parameters) for sql, parameters in statements])


class _TransactionExecutor(dbapi.Unpicklable):
    """Runs the statements of one transaction on its connection, and resolves the outcome of its commit."""

    is_transaction = True

    def __init__(self, executor: Executor, *, read_only: bool) -> None:
        self._executor = executor  # for what is run outside of the transaction: it resolves the commit
        self._engine, self._guard, self._meter = executor.engine, executor.guard, executor.meter
        self._is_remote = executor.is_remote
        self._read_only, self._name = read_only, "snapshot" if read_only else "transaction"
        self._connection: Connection | None = None
        self._receipt: Receipt | None = None
        self._ticket: int | None = None  # until its outcome is recorded by the guard
        self._contacted = False  # whether the database has responded
        self._records: list[AuditRecord] = []  # logged once the outcome is known
        self._registered: WeakValueDictionary[int, Any] = WeakValueDictionary()  # those of the thread that opened it
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
        """Commit, or roll back after an error of the block, and give the connection back."""
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
        return self._run(dbapi.Batch([SHRINK, step] if shrinks and not self._is_remote else [step], reads_only=True))[0]

    def write(
        self,
        steps: Sequence[dbapi.BatchStep],
        *,
        again: dbapi.BatchStep | None = None,  # noqa: ARG002 - what was lost is lost with the transaction
    ) -> Sequence[Row]:
        """Run all statements or none, within the transaction; the rows of the last one that returns any."""
        batch, receipt = self._write_batch(steps)
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
        batch, receipt = (
            (dbapi.Batch(steps, reads_only=True), self._receipt) if reads_only else self._write_batch(steps)
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
        begin = "DEFERRED" if self._read_only else "IMMEDIATE"
        try:
            options = {"libsql_begin": begin} | ({"libsql_keep_alive": True} if self._is_remote else {})
            connection = self._connection = self._checkout(options)
            _refuse_autocommit(connection)
            self._guard.recheck(self._ticket)
        except BaseException as error:
            self._record_outcome(error)
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
            raise

    def _checkout(self, options: dict[str, Any]) -> Connection:
        try:
            with self._guard.admitted_checkout():
                return self._engine.connect().execution_options(**options)
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

    def _write_batch(self, steps: Sequence[dbapi.BatchStep]) -> tuple[dbapi.Batch, Receipt | None]:
        if self._read_only:
            raise MemoryStorageError(
                "a snapshot is read-only; nothing was stored; write with the storage, or in a transaction"
            )
        if not self._is_remote or self._receipt is not None:
            return dbapi.Batch(steps), self._receipt
        receipt = Receipt()  # with the first write, since that takes no round trip more; if it fails, with the next
        return dbapi.Batch([*steps, *receipt.steps()]), receipt

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
        try:
            return execute_with_events(connection, batch)
        except FOREIGN_ERRORS as error:
            raise_mapped(error, self._engine)
            raise

    def _query_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        return self._respond(self._open_connection(), batch)[0]

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise MemoryStorageError("the transaction is not open; use it inside its `with` block")
        return self._connection


def _refuse_autocommit(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit:  # set by a listener of the caller's, so that the engine does not show it
        raise ConfigurationError(
            "engine: its connections are in AUTOCOMMIT, so a transaction could not be rolled back; leave that out"
        )


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The error that ended the block is on its way to the caller: this one must not hide it.
        _log.exception("a rollback failed")
