"""PEP 249's Connection and Cursor over a transport."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

from . import _errors
from ._batch import Batch, BatchStep, Result, Value
from ._errors import InterfaceError, NotSupportedError, OperationalError, ProgrammingError
from ._fork import Unpicklable
from ._sql import Kind, parse, split_script

Row = tuple[Value, ...]
Description = tuple[tuple[str, None, None, None, None, None, None], ...]

_NO_RESULT = Result(None, [], -1, None)


class Transport(Protocol):
    """Sends statements to an engine. One call of `run` is one round trip.

    `run` executes the steps in order, in the transaction that `begin` opens ("DEFERRED" or "IMMEDIATE"), or in the open
    one. A failing step rolls back only itself, and the rest is not executed. With `savepoint` all are rolled back;
    with `commit`, which ends the transaction that `begin` opened, the whole transaction is.
    """

    is_remote: bool
    deadline: float | None
    """When a call has to end (of `time.monotonic`), if that is before its own timeout."""
    keep_alive: bool
    """Whether an open transaction is kept from expiring at the server while it is idle, from another thread."""

    @property
    def local_engine(self) -> str | None: ...
    @property
    def usable(self) -> bool: ...
    @property
    def in_transaction(self) -> bool: ...
    def interrupt(self) -> bool: ...
    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]: ...
    def read(self, step: BatchStep) -> list[Row]:
        """Return the rows of one SELECT outside of a transaction."""
        ...

    def close(self) -> None:
        """Roll back, and release all resources. Never raises."""
        ...

    def discard(self) -> None:
        """Close a connection that was garbage collected. May run in any thread at any point, so it never waits."""
        ...


@runtime_checkable
class _CanBackUp(Protocol):
    def back_up(self, target: Any, pages: int, progress: Callable[[int, int], None] | None) -> None: ...


class Gate(Protocol):
    """Admits the calls of a connection, and records their outcomes."""

    def admit(self, *, in_transaction: bool) -> object:
        """Admit a call, and return a ticket for `record`; or raise an error of its own."""
        ...

    def record(self, ticket: object, error: BaseException | None) -> None:
        """Record the outcome of a call."""
        ...


class Connection(Unpicklable):
    """A connection. The first statement begins a transaction: deferred if it reads, immediate if it writes.

    Attributes:
        autocommit: Whether every statement is a transaction of its own.
        begin_mode: "" to decide by the first statement, or "DEFERRED" or "IMMEDIATE" for all transactions. One that
            reads and then writes must be immediate from the start: another writer may commit in between.
    """

    Warning = _errors.Warning
    Error = _errors.Error
    InterfaceError = _errors.InterfaceError
    DatabaseError = _errors.DatabaseError
    DataError = _errors.DataError
    OperationalError = _errors.OperationalError
    IntegrityError = _errors.IntegrityError
    InternalError = _errors.InternalError
    ProgrammingError = _errors.ProgrammingError
    NotSupportedError = _errors.NotSupportedError

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._closed = False
        self._has_begun = False  # whether a transaction was begun, and not ended by a call
        self.autocommit = False
        self.begin_mode = ""
        self.last_statement = ""
        self.gate: Gate | None = None
        """Admits the statements and commits of this connection; a rollback and `close` always pass."""
        # A connection that is garbage collected without close() must release an in-memory database.
        self._finalizer = weakref.finalize(self, transport.discard)
        self._finalizer.atexit = False

    @property
    def usable(self) -> bool:
        """Whether statements can still be run: not closed, not broken, and not opened by another process."""
        return not self._closed and self._transport.usable

    @property
    def deadline(self) -> float | None:
        """When a call has to end (of `time.monotonic`); None for no limit, and a server's own timeout."""
        return self._transport.deadline

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        self._transport.deadline = moment

    @property
    def keep_alive(self) -> bool:
        """Whether an idle transaction on a server is kept open by a request every few seconds.

        By default a server ends a transaction that had no request for ten seconds.
        """
        return self._transport.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self._transport.keep_alive = value

    @property
    def is_remote(self) -> bool:
        """Whether the database is on a server."""
        return self._transport.is_remote

    @property
    def local_engine(self) -> str | None:
        """The engine of a local database: "sqlite" or "libsql"; None on a server."""
        return self._transport.local_engine

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open in the engine."""
        return not self._closed and self._transport.in_transaction

    def cursor(self) -> Cursor:
        """Return a new cursor. The cursors of one connection share its transaction."""
        self._check_open()
        return Cursor(self)

    def read(self, step: BatchStep) -> list[Row]:
        """Return the rows of one SELECT, as a batch of it that only reads would. On a file it takes fewer calls."""
        transport = self._transport
        if self._closed or self._has_begun or self.begin_mode or self.gate is not None or transport.is_remote:
            return self.cursor().execute(Batch([step], reads_only=True)).fetchall()
        self.last_statement = step.sql
        return transport.read(step)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run one statement with a new cursor, and return the cursor; as in `sqlite3`."""
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        """Commit the open transaction. Without one, nothing is sent."""
        self._check_open()
        if self._has_begun or not self._transport.usable:  # a lost transaction must raise here
            self._run([BatchStep("COMMIT")])

    def rollback(self) -> None:
        """Roll the open transaction back. Without one, nothing is sent."""
        self._check_open()
        # Before the request: also where that fails nothing of the transaction is left, and the next one may begin.
        self._has_begun = False
        if self._transport.in_transaction:
            self._transport.run([BatchStep("ROLLBACK")])

    def interrupt(self) -> bool:
        """Stop the call that another thread runs on this connection; it raises OperationalError (SQLITE_INTERRUPT).

        Returns:
            Whether there is one that can be stopped. A request to a server cannot.
        """
        return self._transport.interrupt()

    def backup(
        self, target: Connection, *, pages: int = 1_000, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy the database into another one, page by page, with SQLite's online backup; as in `sqlite3`.

        Other connections may read and write concurrently; a write of another connection restarts the copy. Deleted
        content is copied too: `memory_storage.backup` copies rows, and verifies them.

        Args:
            target: A connection to the database that is replaced.
            pages: How many pages are copied between two calls of `progress`.
            progress: Called with the number of copied pages, and of all.

        Raises:
            NotSupportedError: one of them is on a server, or open with libSQL's engine.
            OperationalError: one of the databases is locked, or the disk is full.
        """
        self._check_open()
        target._check_open()
        if not isinstance(self._transport, _CanBackUp) or not isinstance(target._transport, _CanBackUp):
            raise NotSupportedError("a server has no online backup: use `memory-storage backup`", "NO_BACKUP")
        self._transport.back_up(target._transport, pages, progress)

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back. Closing twice is a no-op."""
        if not self._closed:
            self._closed = True
            self._finalizer.detach()
            self._transport.close()

    def discard(self) -> None:
        """Close without a request to the server, which expires the stream by itself; for an idle connection."""
        if not self._closed:
            self._closed = True
            self._finalizer()

    def _execute(self, step: BatchStep) -> Result:
        return self._run([step], begin=self._begin_for(step.sql))[0]

    # An executemany() in autocommit mode is one transaction, so that a failure leaves no part of it behind.
    def _execute_many(self, steps: Sequence[BatchStep]) -> list[Result]:
        if self.autocommit and not self._transport.in_transaction:
            return self._run(steps, begin="IMMEDIATE", commit=True)
        return self._run(steps, begin=self._begin_for(steps[0].sql))

    def _execute_batch(self, batch: Batch) -> list[Result]:
        # With a `begin_mode`, a caller wants a transaction that lasts: the batch begins it, and does not commit.
        begin = None if self.autocommit or self._transport.in_transaction else self.begin_mode or None
        if begin or self._transport.in_transaction:  # the batch is a part of a transaction
            return self._run(batch.steps, begin=begin, savepoint=not batch.reads_only)
        if batch.reads_only and len(batch.steps) == 1:
            return self._run(batch.steps)  # a SELECT sees one snapshot anyway
        # Several reads need a transaction to see one: a commit in between would make them contradict each other.
        return self._run(batch.steps, begin="DEFERRED" if batch.reads_only else "IMMEDIATE", commit=True)

    def _run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        if self._has_begun and not self._transport.in_transaction and self._transport.usable:
            # Some errors roll the whole transaction back. To continue would commit its second half without the first.
            raise OperationalError(
                "an error rolled the transaction back; nothing of it is stored; call rollback()", "TRANSACTION_LOST"
            )
        try:
            run = self._transport.run if self.gate is None else partial(self._run_admitted, self.gate)
            results = run(steps, begin=begin, savepoint=savepoint, commit=commit)
        except _errors.Error:
            self._has_begun = self._has_begun or self._transport.in_transaction
            raise
        self._has_begun = self._transport.in_transaction
        return results

    def _run_admitted(
        self,
        gate: Gate,
        steps: Sequence[BatchStep],
        *,
        begin: str | None = None,
        savepoint: bool = False,
        commit: bool = False,
    ) -> list[Result]:
        ticket = gate.admit(in_transaction=self._transport.in_transaction)
        try:
            results = self._transport.run(steps, begin=begin, savepoint=savepoint, commit=commit)
        except BaseException as error:  # an interrupt too: the gate may count the calls whose outcome it awaits
            gate.record(ticket, error)
            raise
        gate.record(ticket, None)
        return results

    def _begin_for(self, sql: str) -> str | None:
        if self.autocommit or self._transport.in_transaction:
            return None
        kind = parse(sql).kind
        # The engine refuses BEGIN and VACUUM within a transaction, and ignores some pragmas there.
        if kind is Kind.CONTROL or kind is Kind.OUTSIDE:
            return None
        return self.begin_mode or ("DEFERRED" if kind is Kind.READ else "IMMEDIATE")

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("the connection is closed")


def commit_or_roll_back(connection: Any) -> None:
    """Commit; roll back if that fails, since SQLAlchemy then returns the connection to the pool as it is."""
    try:
        connection.commit()
    except _errors.Error:
        with suppress(_errors.Error):
            connection.rollback()
        raise


class Cursor:
    """A cursor. `execute` fetches all rows before it returns, so that reading them executes nothing."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._closed = False
        self._result = _NO_RESULT
        self._rows: Iterator[Row] = iter(())
        self.results: list[Result] = []
        """The results of the steps of the last `Batch`."""

    @property
    def description(self) -> Description | None:
        """A 7-tuple for each column, of which only the name is known; None for a statement without rows."""
        columns = self._result.columns
        return None if columns is None else _describe(columns)

    @property
    def rowcount(self) -> int:
        """Rows changed by the last statement; -1 for one that changes none."""
        return self._result.rowcount

    @property
    def lastrowid(self) -> int | None:
        """The rowid of the last row inserted on this connection."""
        return self._result.lastrowid

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run one statement, or a `Batch`.

        Args:
            sql: One statement, with `?` for each value; or a `Batch`.
            parameters: The values, in order.

        Returns:
            The cursor itself, as in `sqlite3`.

        Raises:
            IntegrityError: a constraint was violated, or a step of a batch changed another number of rows.
            OperationalError: locked, unreachable, or another condition of the database.
            ProgrammingError: no statement, several, or the wrong number of values.
        """
        self._check_open()
        self._set_result(_NO_RESULT)
        self.connection.last_statement = str(sql)  # of a batch, the SQL without the values
        if isinstance(sql, Batch):
            self.results = results = self.connection._execute_batch(sql)
            self._set_result(next((r for r in reversed(results) if r.columns is not None), results[-1]))
        else:
            self._set_result(self.connection._execute(BatchStep(sql, parameters)))
        return self

    def executemany(self, sql: str, parameters: Iterable[Sequence[object]]) -> Cursor:
        """Run one statement with each set of values, in one round trip; `rowcount` is the sum.

        Args:
            sql: A statement that changes rows.
            parameters: The sets of values.

        Raises:
            ProgrammingError: the statement does not change rows.
        """
        self._check_open()
        self._set_result(_NO_RESULT)
        # PEP 249 leaves executemany() of a statement with rows undefined.
        if parse(sql).kind is not Kind.WRITE:
            raise ProgrammingError("executemany() is for statements that change rows")
        steps = [BatchStep(sql, values) for values in parameters]
        if steps:
            results = self.connection._execute_many(steps)
            self._set_result(Result(None, [], sum(r.rowcount for r in results), results[-1].lastrowid))
        return self

    def executescript(self, script: str) -> Cursor:
        """Run the statements of a script in order, in the transaction of this connection."""
        self._check_open()
        for sql in split_script(script):
            self.execute(sql)
        return self

    def fetchone(self) -> Row | None:
        """Return the next row, or None."""
        return next(self._remaining(), None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """Return up to `size` rows (default `arraysize`)."""
        rows = self._remaining()
        # The range comes first: at its end zip() would already have taken a row, and would drop it.
        return [row for _, row in zip(range(self.arraysize if size is None else size), rows, strict=False)]

    def fetchall(self) -> list[Row]:
        """Return all remaining rows."""
        return list(self._remaining())

    def __iter__(self) -> Iterator[Row]:
        return self._remaining()

    def close(self) -> None:
        """Close the cursor and drop its rows. `rowcount` and `lastrowid` stay, as in `sqlite3`."""
        self._closed = True
        # SQLAlchemy's results are reference cycles: they keep the cursor, whose rows may be large, until collected.
        self._set_result(self._result.without_rows())
        self.results = [result.without_rows() for result in self.results]

    def setinputsizes(self, sizes: Sequence[object]) -> None:
        """Nothing to do (PEP 249)."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Nothing to do (PEP 249)."""

    def _set_result(self, result: Result) -> None:
        self._result = result
        self._rows = iter(result.rows)

    def _remaining(self) -> Iterator[Row]:
        self._check_open()
        return self._rows

    def _check_open(self) -> None:
        if self._closed:
            raise ProgrammingError("the cursor is closed")
        if self.connection._closed:
            raise InterfaceError("the connection is closed")


@lru_cache(maxsize=256)
def _describe(columns: tuple[str, ...]) -> Description:
    return tuple((name, None, None, None, None, None, None) for name in columns)
