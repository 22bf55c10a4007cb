"""Sessions: each call of a repository as one transaction, through the guard, on a connection of the pool."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import Engine

from . import dbapi
from ._commit_status import NEVER_DONE, CommitResolver, Receipt
from ._exception_mapping import translated
from ._execution import Response, execute_raw, execute_with_events, has_listeners
from ._files import MaintenanceLock
from .errors import CommitUnknownError, UnavailableError
from .monitoring import AuditRecord, Meter, Operation, current, log_slow_query
from .resilience import NOT_STORED, Guard, is_retryable_read, was_not_committed
from .search.hnsw.index import HnswIndexes
from .search.known_spaces import KnownSpaces
from .settings import Limits
from .sql.session import Row

_log = logging.getLogger(__name__)

_SHRINK = dbapi.BatchStep("PRAGMA shrink_memory")
_SERVER_VALUE_BYTES = 4_900_000  # sqld takes 5,000,000, which a row's other columns are part of


@dataclass(frozen=True)
class StorageContext:
    """What all sessions on one database share."""

    engine: Engine
    limits: Limits
    request_timeout: float
    now: Callable[[], datetime]
    guard: Guard
    meter: Meter
    vector_index: str = "diskann"
    memory: HnswIndexes | None = None
    spaces: KnownSpaces = field(default_factory=KnownSpaces)
    maintenance: MaintenanceLock = field(default_factory=partial(MaintenanceLock, None))


class Session(dbapi.Unpicklable):
    """A session in which every call is a transaction of its own, on a connection of the pool."""

    is_transaction = False
    started_at_monotonic: float | None = None

    def __init__(self, context: StorageContext, namespace: str, actor: str = "") -> None:
        self._engine, self._guard, self._request_timeout = context.engine, context.guard, context.request_timeout
        self._is_remote = bool(self._engine.url.host)
        self.max_value_bytes = _SERVER_VALUE_BYTES if self._is_remote else None
        self.namespace, self.actor = namespace, actor
        self.limits, self.now, self.meter = context.limits, context.now, context.meter
        self.vector_index, self.memory, self.spaces = context.vector_index, context.memory, context.spaces
        self._maintenance = context.maintenance

    def indexing(self) -> AbstractContextManager[bool]:
        """See `SessionProtocol`."""
        return self._maintenance.shared()

    def read(self, step: dbapi.BatchStep, *, shrinks: bool = False) -> Sequence[Row]:
        """The rows of one SELECT. It is done again if the line broke. `shrinks`: see `SessionProtocol`."""
        batch = dbapi.Batch([_SHRINK, step] if shrinks and not self._is_remote else [step], reads_only=True)
        try:
            return self._run(batch)
        except UnavailableError as error:
            return self._again(batch, error)

    def write(self, steps: Sequence[dbapi.BatchStep], *, again: dbapi.BatchStep | None = None) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any. `again`: reads those rows, if they were lost."""
        refuse_nested_write(self._engine)
        if not self._is_remote:
            return self._run_again(dbapi.Batch(steps))
        return self._write_with_receipt(steps, again)

    def _write_with_receipt(self, steps: Sequence[dbapi.BatchStep], again: dbapi.BatchStep | None) -> Sequence[Row]:
        since = perf_counter()
        for attempt in range(max(2, self._guard.retry_settings.max_attempts)):
            if attempt > 1 and perf_counter() - since > self._guard.retry_settings.deadline:
                break
            receipt = Receipt()
            try:
                return self._run_again(dbapi.Batch([*steps, *receipt.steps()]))
            except CommitUnknownError as error:
                resolver = CommitResolver(self._engine, self._guard, error)
                found = resolver.resolve(receipt)
            if found != NEVER_DONE:
                again = again or (steps[-1] if dbapi.reads_only(steps[-1].sql) else None)
                return resolver.reread(dbapi.Batch([again], reads_only=True)) if again else [()] * found
            _log.info("a write was lost on its way (attempt %d)", attempt + 1)
        raise UnavailableError("the line broke before the write was done: nothing was stored", code=NOT_STORED)

    def probe(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]:
        """The rows of a reading batch; once, and by that moment (of `time.monotonic`) if it goes over a network."""
        return self._run(batch, deadline=deadline)

    def audit(self, name: str, operation: Operation, subjects: object, *, is_known: bool) -> None:
        """Log at once what a call has written: it is a transaction of its own."""
        self._audit_record(name, operation, subjects).log("stored" if is_known else "unknown")

    def _audit_record(self, name: str, operation: Operation, subjects: object) -> AuditRecord:
        sql = (step.sql for batch in operation.batches or () for step in batch.steps)
        return AuditRecord.of(self.actor, self.namespace, name, sql, operation.changed, subjects)

    def _run_again(self, batch: dbapi.Batch) -> Sequence[Row]:
        try:
            return self._run(batch)
        except UnavailableError as error:
            return self._again(batch, error)

    def _again(self, batch: dbapi.Batch, error: UnavailableError) -> Sequence[Row]:
        return self._guard.retry(
            error,
            partial(self._run, batch),
            since=current.operation.since if current.operation is not None else perf_counter(),
            seconds=self._request_timeout,  # a lock, or a server, may have been waited for that long already
            is_retryable=is_retryable_read if batch.reads_only else was_not_committed,
            on_retry=_count_repeat,
        )

    def _run(self, batch: dbapi.Batch, *, deadline: float | None = None) -> Sequence[Row]:
        # Every microsecond here is one of every call: where nothing is wrong, the guard is only looked at.
        guard, call = self._guard, current.operation
        breaker = guard.breaker
        ticket = breaker.generation  # first: as in `CircuitBreaker.acquire`
        if not breaker.is_idle:
            ticket = guard.acquire() if deadline is None else breaker.acquire(may_probe=False, max_wait=0)
        since = perf_counter() if self.meter.times_queries else 0.0
        try:
            with translated(self._engine):
                if has_listeners(self._engine):
                    rows, results = self._execute_with_events(batch, ticket)
                else:
                    rows, results = execute_raw(self._engine, batch, guard, ticket, deadline=deadline)
        except BaseException as error:
            if call is not None:
                call.record_sent(batch)
            guard.record(ticket, error)
            raise
        if not breaker.is_idle or guard.budget.is_spent:
            guard.record(ticket)
        if call is not None:
            call.record_response(batch, results, len(rows))
        if since:
            self._log_if_slow(batch, perf_counter() - since, len(rows))
        return rows

    def _execute_with_events(self, batch: dbapi.Batch, ticket: int) -> Response:
        with self._guard.admitted_checkout():
            connection = self._engine.connect()
        with connection.execution_options(libsql_begin=""):
            self._guard.recheck(ticket)
            return execute_with_events(connection, batch)

    def _log_if_slow(self, batch: dbapi.Batch, seconds: float, rows: int) -> None:
        if seconds >= self.meter.slow_after:
            log_slow_query(batch, self._query_plan, seconds=seconds, rows=rows)

    def _query_plan(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            return execute_raw(self._engine, batch)[0]


OpenTransactions = WeakValueDictionary[int, Any]
_thread = threading.local()


def open_write_transactions() -> OpenTransactions:
    """The transactions that this thread has open, by the id of the engine: no engine is kept by it."""
    open_ones: OpenTransactions | None = getattr(_thread, "open_ones", None)  # every write looks here
    if open_ones is None:
        open_ones = _thread.open_ones = WeakValueDictionary()
    return open_ones


def refuse_nested_write(engine: Engine) -> None:
    """Raise UnavailableError if this thread has a write transaction open on the same engine."""
    if id(engine) not in open_write_transactions():
        return
    gc.collect()  # a transaction that was abandoned is rolled back by this: it is in a cycle with its repositories
    if id(engine) in open_write_transactions():
        raise UnavailableError(
            "this thread has a transaction open on this database, and would wait for itself: "
            "write with the transaction's own repositories, or end it first"
        )


def _count_repeat() -> None:
    if current.operation is not None:
        current.operation.retries += 1
