"""The unit of work: owns the transaction, hands out the repositories, finds out about lost answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine
from typing_extensions import Self

from . import dbapi
from .errors import CommitUnknownError, MemoryStorageError, UnavailableError
from .receipts import NEVER_DONE, Receipt, changed
from .repositories import (
    AnalyticsRepository,
    EmbeddingRepository,
    EpisodeRepository,
    PatternRepository,
    SpatiotemporalRepository,
    StepRepository,
)
from .repositories._session import Row
from .repositories.memory_index import MemoryIndexes
from .settings import Limits
from .translation import translated

_log = logging.getLogger(__name__)

NOT_STORED = "NOT_STORED"
"""The code of an error after which it is certain that nothing was stored, and nothing will be."""

_SETTLING_SECONDS = 7.0  # a server takes five until it takes a lock from a stream that was left alone
_SERVER_VALUE_BYTES = 4_900_000  # sqld takes 5,000,000, which a row's other columns are part of


class Repositories:
    """The repositories of one namespace, over one session."""

    def __init__(self, session: Scope) -> None:
        self.episodes = EpisodeRepository(session)
        self.steps = StepRepository(session)
        self.patterns = PatternRepository(session)
        self.embeddings = EmbeddingRepository(session)
        self.spatiotemporal = SpatiotemporalRepository(session)
        self.analytics = AnalyticsRepository(session)


class Scope:
    """A session in which every call is a transaction of its own, on a connection of the pool."""

    is_transaction = False
    began: float | None = None

    def __init__(
        self,
        engine: Engine,
        namespace: str,
        limits: Limits,
        now: Callable[[], datetime],
        *,
        vector_index: str = "diskann",
        memory: MemoryIndexes | None = None,
    ) -> None:
        self._engine = engine
        self._is_remote = bool(engine.url.host)
        self.value_bytes = _SERVER_VALUE_BYTES if self._is_remote else None
        self.namespace = namespace
        self.limits = limits
        self.now = now
        self.vector_index = vector_index
        self.memory = memory

    def read(self, step: dbapi.Step) -> Sequence[Row]:
        """The rows of one SELECT."""
        return self._run(dbapi.Batch([step], reads_only=True))

    def write(self, steps: Sequence[dbapi.Step], *, again: dbapi.Step | None = None) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any. `again`: reads those rows, if they were lost."""
        _refuse_to_wait_for_itself(self._engine)
        if not self._is_remote:
            return self._run(dbapi.Batch(steps))
        return self._write_for_certain(steps, again)

    def _write_for_certain(self, steps: Sequence[dbapi.Step], again: dbapi.Step | None) -> Sequence[Row]:
        for attempt in (1, 2):
            receipt = Receipt()
            try:
                return self._run(dbapi.Batch([*steps, *receipt.steps()]))
            except CommitUnknownError as error:
                ask = _Asking(self._engine, error)
                found = ask.about(receipt)
            if found != NEVER_DONE:
                again = again or (steps[-1] if dbapi.reads_only(steps[-1].sql) else None)
                return ask.rows(dbapi.Batch([again], reads_only=True)) if again else [()] * found
            _log.info("a write was lost on its way (attempt %d)", attempt)
        raise UnavailableError("the line broke before the write was done: nothing was stored", code=NOT_STORED)

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            if _is_watched(self._engine):
                with self._engine.connect().execution_options(libsql_begin="") as connection:
                    return _rows(connection, batch)
            return _straight(self._engine, batch)


class Transaction(Repositories, Scope):
    """All or nothing: a clean exit of the block commits, an exception rolls back. Not for several threads.

    It takes the write lock at its first statement, so that what it reads cannot change before it writes. With
    `read_only` it takes none: it sees the database as it was at its first statement, while others go on writing.
    """

    is_transaction = True

    def __init__(
        self,
        engine: Engine,
        namespace: str,
        limits: Limits,
        now: Callable[[], datetime],
        *,
        read_only: bool = False,
        vector_index: str = "diskann",
        memory: MemoryIndexes | None = None,
    ) -> None:
        Scope.__init__(self, engine, namespace, limits, now, vector_index=vector_index, memory=memory)
        Repositories.__init__(self, self)
        self._read_only = read_only
        self._connection: Connection | None = None
        self._receipt: Receipt | None = None
        self._marks: set[Engine] = set()  # of the thread that opened it

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise MemoryStorageError("this transaction is open already")
        if not self._read_only:
            _refuse_to_wait_for_itself(self._engine)
        self.began = time.monotonic()
        begin = "DEFERRED" if self._read_only else "IMMEDIATE"
        with translated(self._engine):
            self._connection = self._engine.connect().execution_options(libsql_begin=begin)
        if not self._read_only:
            self._marks = _writing()
            self._marks.add(self._engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._open_connection(), None
        self._marks.discard(self._engine)
        if error is not None:
            _discard(connection)
            return
        try:
            with translated(self._engine), connection:
                connection.commit()
        except CommitUnknownError as unknown:
            self._settle(unknown)

    def write(self, steps: Sequence[dbapi.Step], *, again: dbapi.Step | None = None) -> Sequence[Row]:  # noqa: ARG002
        """Run all or nothing, within the transaction; the rows of the last step that has any."""
        batch, receipt = self._writing_batch(steps)
        rows = self._run(batch)
        self._receipt = receipt
        return rows

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
        with translated(self._engine):
            result = self._open_connection().exec_driver_sql(batch)
            self._receipt = receipt
            return [one.rows for one in result.context.cursor.results[: len(steps)]]

    def _writing_batch(self, steps: Sequence[dbapi.Step]) -> tuple[dbapi.Batch, Receipt | None]:
        if self._read_only:
            raise MemoryStorageError("this is a snapshot, it only reads: write with the storage, or in a transaction")
        if not self._is_remote or self._receipt is not None:
            return dbapi.Batch(steps), self._receipt
        receipt = Receipt()  # with the first write, since that takes no round trip more; if it fails, with the next
        return dbapi.Batch([*steps, *receipt.steps()]), receipt

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            return _rows(self._open_connection(), batch)

    def _settle(self, unknown: CommitUnknownError) -> None:
        if self._receipt is None:
            return  # it wrote nothing
        if _Asking(self._engine, unknown).about(self._receipt) == NEVER_DONE:
            lost = "the line broke before the commit was done: nothing of the transaction was stored"
            raise UnavailableError(lost, code=NOT_STORED) from unknown

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise MemoryStorageError("this transaction is not open: use it inside of its `with` block")
        return self._connection


class _Asking:
    """Asks, for some seconds, what became of a write whose answer was lost. If that is in vain, its error is raised."""

    def __init__(self, engine: Engine, unknown: CommitUnknownError) -> None:
        self._engine = engine
        self._unknown = unknown
        self._deadline = time.monotonic() + _SETTLING_SECONDS

    def about(self, receipt: Receipt) -> int:
        """How many rows the write has changed; NEVER_DONE if it was not done, and now never will be."""
        return changed(self.rows(dbapi.Batch(receipt.fence())))

    def rows(self, batch: dbapi.Batch) -> Sequence[Row]:
        """The rows of a batch that does no harm when it is run twice."""
        pause = 0.05
        while True:
            try:
                return self._run(batch)
            except MemoryStorageError as error:
                pause *= 2
                passes = isinstance(error, UnavailableError | CommitUnknownError)
                if not passes or time.monotonic() + pause > self._deadline:
                    raise self._unknown from error
            time.sleep(pause)

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated(self._engine):
            return _straight(self._engine, batch, deadline=self._deadline)


_thread = threading.local()


def _writing() -> set[Engine]:
    """The engines on which this thread has a transaction open."""
    engines: set[Engine] = _thread.__dict__.setdefault("engines", set())
    return engines


def _refuse_to_wait_for_itself(engine: Engine) -> None:
    if engine in _writing():
        raise UnavailableError(
            "this thread has a transaction open on this database, and would wait for itself: "
            "write with the transaction's own repositories, or end it first"
        )


def _is_watched(engine: Engine) -> bool:
    return bool(engine.echo or engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute)


def _straight(engine: Engine, batch: dbapi.Batch, *, deadline: float | None = None) -> Sequence[Row]:
    # From the pool to the driver: SQLAlchemy's Connection takes as long as a small read itself, and is for listeners.
    connection = engine.raw_connection()
    driver: Any = connection.dbapi_connection
    try:
        if deadline is not None:
            driver.deadline = deadline
        rows: Sequence[Row] = connection.cursor().execute(batch).fetchall()
        return rows
    except dbapi.InterfaceError as error:
        connection.invalidate(error)
        raise
    finally:
        if deadline is not None:
            driver.deadline = None
        connection.close()


def _rows(connection: Connection, batch: dbapi.Batch) -> Sequence[Row]:
    result = connection.exec_driver_sql(batch)
    return result.fetchall() if result.returns_rows else []


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The error that ended the block is on its way to the caller: this one must not hide it.
        _log.exception("a rollback failed")
