"""PEP 249's Connection and Cursor over a transport. How a statement travels is the transport's affair."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Protocol

from . import _errors
from ._batch import Batch, BatchStep, Result
from ._errors import InterfaceError, OperationalError, ProgrammingError
from ._fork import Unpicklable
from ._parameters import Value
from ._sql import Kind, parse, split_script

Row = tuple[Value, ...]
Description = tuple[tuple[str, None, None, None, None, None, None], ...]

_NO_RESULT = Result(None, [], -1, None)


class Transport(Protocol):
    """What carries statements to an engine; `run` is the unit of cost: one call, one round trip.

    `run` runs the steps one after another, in the transaction that `begin` opens ("DEFERRED" or "IMMEDIATE"), or in the
    one that is open. A failing step undoes only itself, and the rest is not run; with `savepoint` it undoes all of the
    steps, and with `commit`, which closes what `begin` opened, the transaction.
    """

    is_remote: bool
    deadline: float | None
    """The moment (of `time.monotonic`) by which a request has to be over, if that is before its own timeout."""
    keep_alive: bool
    """Whether an open transaction is kept from expiring at the server while it is idle, from another thread."""

    @property
    def usable(self) -> bool: ...
    @property
    def in_transaction(self) -> bool: ...
    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]: ...
    def close(self) -> None:
        """Undo what is open, and release everything. Never raises."""
        ...

    def discard(self) -> None:
        """The same for a connection that was forgotten: it may be any thread's turn, so it waits for nobody."""
        ...


class Gate(Protocol):
    """What a connection asks before it asks the database, and tells how that went."""

    def admit(self, *, in_transaction: bool) -> object:
        """Admit a call, and return what `record` is told. It raises an error of its own where it refuses."""
        ...

    def record(self, ticket: object, error: BaseException | None) -> None:
        """Learn how the call ended."""
        ...


class Connection(Unpicklable):
    """A connection. A transaction begins with its first statement: deferred if that reads, immediate if it writes.

    `autocommit`: every statement is a transaction of its own. `begin_mode`: "" to decide by the first statement, or
    "DEFERRED" or "IMMEDIATE" for all: a transaction that will read and then write must be immediate from the start,
    since another writer may come between.
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
        self._has_begun = False  # whether a transaction was begun, and not ended by us
        self.autocommit = False
        self.begin_mode = ""
        self.last_statement = ""
        self.gate: Gate | None = None
        """What admits the statements and commits of this connection; a rollback and `close` always pass."""
        # A connection that is dropped without close() must not keep an in-memory database's turn.
        self._finalizer = weakref.finalize(self, transport.discard)
        self._finalizer.atexit = False

    @property
    def usable(self) -> bool:
        """Whether statements can still be run: not closed, not broken, not another process's."""
        return not self._closed and self._transport.usable

    @property
    def deadline(self) -> float | None:
        """The moment (of `time.monotonic`) by which a request to a server has to be over, if it is set."""
        return self._transport.deadline

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        self._transport.deadline = moment

    @property
    def keep_alive(self) -> bool:
        """Whether a transaction on a server is kept open by a request every few seconds while it is idle.

        A server ends one that had no request for ten seconds, and that is so by default.
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
    def in_transaction(self) -> bool:
        """Whether a transaction is open in the engine."""
        return not self._closed and self._transport.in_transaction

    def cursor(self) -> Cursor:
        """A new cursor. Cursors of one connection share its transaction."""
        self._check_open()
        return Cursor(self)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run one statement with a new cursor, and give that back; as in `sqlite3`."""
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        """Commit the open transaction. Without one it does nothing, and costs nothing."""
        self._check_open()
        if self._has_begun or not self._transport.usable:  # one that was lost is no success
            self._run([BatchStep("COMMIT")])

    def rollback(self) -> None:
        """Undo the open transaction. Without one it does nothing, and costs nothing."""
        self._check_open()
        self._has_begun = False
        if self._transport.in_transaction:
            self._transport.run([BatchStep("ROLLBACK")])

    def close(self) -> None:
        """Close, and undo what was not committed. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._finalizer.detach()
            self._transport.close()

    def discard(self) -> None:
        """Close without a word to a server, which finds out by itself; for a connection that is idle."""
        if not self._closed:
            self._closed = True
            self._finalizer()

    def _execute(self, step: BatchStep) -> Result:
        return self._run([step], begin=self._begin_for(step.sql))[0]

    def _execute_many(self, steps: Sequence[BatchStep]) -> list[Result]:
        if self.autocommit and not self._transport.in_transaction:
            return self._run(steps, begin="IMMEDIATE", commit=True)
        return self._run(steps, begin=self._begin_for(steps[0].sql))

    def _execute_batch(self, batch: Batch) -> list[Result]:
        begin = None if self.autocommit or self._transport.in_transaction else self.begin_mode or None
        if begin or self._transport.in_transaction:  # it is a part of a transaction, not all of it
            return self._run(batch.steps, begin=begin, savepoint=not batch.reads_only)
        if batch.reads_only and len(batch.steps) == 1:
            return self._run(batch.steps)
        return self._run(batch.steps, begin="DEFERRED" if batch.reads_only else "IMMEDIATE", commit=True)

    def _run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        if self._has_begun and not self._transport.in_transaction and self._transport.usable:
            # Some errors undo all of it. To go on would commit the second half without the first.
            raise OperationalError("the transaction was undone by an error in it: roll back", "TRANSACTION_LOST")
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
        except BaseException as error:
            gate.record(ticket, error)
            raise
        gate.record(ticket, None)
        return results

    def _begin_for(self, sql: str) -> str | None:
        if self.autocommit or self._transport.in_transaction:
            return None
        kind = parse(sql).kind
        if kind is Kind.CONTROL or kind is Kind.OUTSIDE:
            return None
        return self.begin_mode or ("DEFERRED" if kind is Kind.READ else "IMMEDIATE")

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("the connection is closed")


class Cursor:
    """A cursor. Every row is fetched before `execute` returns, so that reading it later can run nothing again."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._closed = False
        self._result = _NO_RESULT
        self._rows: Iterator[Row] = iter(())
        self.results: list[Result] = []
        """Of the last `Batch`: what each of its steps gave."""

    @property
    def description(self) -> Description | None:
        """One 7-tuple a column, of which only the name is known; None for a statement without rows."""
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
        """Run one statement, or a `Batch`; as in `sqlite3` the cursor itself is given back."""
        self._check_open()
        self._set_result(_NO_RESULT)
        self.connection.last_statement = str(sql)  # of a batch the text, and not the values
        if isinstance(sql, Batch):
            self.results = results = self.connection._execute_batch(sql)
            self._set_result(next((r for r in reversed(results) if r.columns is not None), results[-1]))
        else:
            self._set_result(self.connection._execute(BatchStep(sql, parameters)))
        return self

    def executemany(self, sql: str, parameters: Iterable[Sequence[object]]) -> Cursor:
        """Run one statement with each set of parameters, together; `rowcount` is the sum."""
        self._check_open()
        self._set_result(_NO_RESULT)
        if parse(sql).kind is not Kind.WRITE:
            raise ProgrammingError("executemany() is for statements that change rows")
        steps = [BatchStep(sql, values) for values in parameters]
        if steps:
            results = self.connection._execute_many(steps)
            self._set_result(Result(None, [], sum(r.rowcount for r in results), results[-1].lastrowid))
        return self

    def executescript(self, script: str) -> Cursor:
        """Run the statements of a script one after another, in the transaction of this connection."""
        self._check_open()
        for sql in split_script(script):
            self.execute(sql)
        return self

    def fetchone(self) -> Row | None:
        """The next row, or None."""
        return next(self._remaining(), None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """Up to `size` rows (default `arraysize`)."""
        rows = self._remaining()
        return [row for _, row in zip(range(self.arraysize if size is None else size), rows, strict=False)]

    def fetchall(self) -> list[Row]:
        """All the rows that are left."""
        return list(self._remaining())

    def __iter__(self) -> Iterator[Row]:
        return self._remaining()

    def close(self) -> None:
        """Forget the rows; the cursor cannot run anything again. `rowcount` and `lastrowid` stay, as in `sqlite3`."""
        self._closed = True
        # SQLAlchemy's results are in cycles, and keep a cursor until the garbage is collected: its rows may be large.
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
