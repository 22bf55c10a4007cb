"""The transport for files and memory: statements over the native driver. Knows no cursors, no SQLAlchemy."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import libsql_experimental

from ._batch import Result, RowCountError, Step
from ._errors import BUSY_CODES, Error, InterfaceError, OperationalError, from_message
from ._sql import Kind, parse
from ._values import Value, bind, inline_wide_integers

T = TypeVar("T")

_abandoned: list[object] = []  # native handles of a parent process: closing them here would touch the parent's files


class MemoryDatabase:
    """One in-memory database for all the connections of an engine; their transactions take turns."""

    def __init__(self) -> None:
        self.native = _open(":memory:")
        self._turn = threading.Lock()
        self._holder: tuple[LocalTransport, int] | None = None
        self._pid = os.getpid()

    def enter(self, transport: LocalTransport, timeout: float) -> None:
        """Take the turn, unless `transport` has it already. OperationalError once `timeout` seconds have passed."""
        if self._pid != os.getpid():
            self._start_over_after_fork()
        if self._holder and self._holder[0] is transport:
            return
        if self._holder and self._holder[1] == threading.get_ident():
            raise OperationalError(
                "database is locked: this thread has a transaction open on this in-memory database; "
                "do this work inside of it, or end it first",
                "SQLITE_BUSY",
            )
        if not self._turn.acquire(timeout=timeout):
            raise OperationalError("database is locked", "SQLITE_BUSY")
        self._holder = (transport, threading.get_ident())

    def leave(self, transport: LocalTransport) -> None:
        """Give the turn to the next transaction."""
        if self._holder and self._holder[0] is transport:
            self._holder = None
            self._turn.release()

    def _start_over_after_fork(self) -> None:
        # The copy may hold another thread's open transaction and a lock that nobody will release.
        self._pid, self._turn, self._holder = os.getpid(), threading.Lock(), None
        if self.native.in_transaction:
            self.native.execute("ROLLBACK")


class LocalTransport:
    """One native connection. It waits for locks in Python: the native driver would wait with the GIL held."""

    def __init__(self, database: str | MemoryDatabase, *, busy_timeout: float, encryption_key: str | None = None) -> None:
        self._memory = database if isinstance(database, MemoryDatabase) else None
        self._busy_timeout = busy_timeout
        self._pid = os.getpid()
        self._broken = ""
        self._native = self._memory.native if self._memory else _open(str(database), encryption_key)

    @property
    def usable(self) -> bool:
        """Whether anything can still be run on it, in this process."""
        return not self._broken and (self._memory is not None or self._pid == os.getpid())

    @property
    def in_transaction(self) -> bool:
        """Whether the engine has a transaction open for this connection."""
        if not self.usable or self._memory and not self._memory_is_mine():
            return False
        return bool(self._native.in_transaction)

    def run(self, steps: Sequence[Step], *, begin: str | None = None, commit: bool = False) -> list[Result]:
        """Run `steps` one after another, after BEGIN if `begin` says which, with COMMIT after them if `commit`.

        With `commit` it is all or nothing. Without, a failing step leaves the transaction open and undoes only itself.
        """
        self._check_usable()
        if self._memory:
            self._memory.enter(self, self._busy_timeout)
        try:
            return self._run(steps, begin, commit)
        finally:
            if self._memory and not self._native.in_transaction:
                self._memory.leave(self)

    def close(self) -> None:
        """Release the file. An open transaction is rolled back by the engine."""
        if self._memory:
            self._leave_memory()
        elif self._pid != os.getpid():
            _abandoned.append(self._native)
        self._native, self._broken = None, self._broken or "the connection is closed"

    def _run(self, steps: Sequence[Step], begin: str | None, commit: bool) -> list[Result]:
        if begin:
            self._patiently(lambda: self._native_execute(f"BEGIN {begin}"))
        try:
            # Before its first statement a deferred transaction holds no lock: waiting for one is safe.
            patient = begin == "DEFERRED" or not self._native.in_transaction
            results = [self._step(number, step, patient) for number, step in enumerate(steps, 1)]
            if commit:
                self._patiently(lambda: self._native_execute("COMMIT"))
            return results
        except BaseException:
            if commit and not self._broken and self._native.in_transaction:
                self._native_execute("ROLLBACK")
            raise

    def _step(self, number: int, step: Step, patient: bool) -> Result:
        result = self._patiently(lambda: self._execute(step)) if patient else self._execute(step)
        if step.rows is not None and result.rowcount != step.rows:
            raise RowCountError(number, step.rows, result.rowcount)
        return result

    def _execute(self, step: Step) -> Result:
        statement = parse(step.sql)
        sql, values = inline_wide_integers(statement, bind(statement, step.parameters))
        cursor, rows = self._native_execute(sql, values)
        if rows is None:
            changes = statement.kind is Kind.WRITE and not _is_ddl(statement.sql)
            return Result(None, [], cursor.rowcount if changes else -1, cursor.lastrowid)
        columns = tuple(column[0] for column in cursor.description)
        return Result(columns, rows, len(rows) if statement.kind is Kind.WRITE else -1, cursor.lastrowid)

    def _native_execute(self, sql: str, values: tuple[Value, ...] = ()) -> tuple[Any, list[tuple[Value, ...]] | None]:
        """Execute and fetch to the end at once: a driver cursor that is read later may run its statement again."""
        try:
            cursor = self._native.execute(sql, values)
            return cursor, cursor.fetchall() if cursor.description else None
        except ValueError as error:
            raise from_message(str(error)) from error
        except (KeyboardInterrupt, SystemExit, Error):
            raise
        except BaseException as error:
            raise self._panicked(error) from error

    def _panicked(self, error: BaseException) -> BaseException:
        if type(error).__name__ != "PanicException":
            return error
        self._broken = f"the native driver panicked: {error}"
        return InterfaceError(self._broken)

    def _patiently(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._busy_timeout
        pause = 0.0005
        while True:
            try:
                return work()
            except OperationalError as error:
                if error.code not in BUSY_CODES or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 0.02)

    def _check_usable(self) -> None:
        if self._broken:
            raise InterfaceError(self._broken)
        if not self.usable:
            raise InterfaceError(f"the connection belongs to process {self._pid}: open another one after fork")

    def _memory_is_mine(self) -> bool:
        holder = self._memory and self._memory._holder
        return holder is not None and holder[0] is self

    def _leave_memory(self) -> None:
        assert self._memory is not None
        if self.in_transaction:
            self._native_execute("ROLLBACK")
        self._memory.leave(self)


def _open(database: str, encryption_key: str | None = None) -> Any:
    options = {"encryption_key": encryption_key} if encryption_key else {}
    try:
        native = libsql_experimental.connect(database, isolation_level=None, check_same_thread=False, **options)
        native.execute("PRAGMA busy_timeout = 0").fetchall()
    except ValueError as error:
        raise from_message(str(error)) from error
    return native


def _is_ddl(sql: str) -> bool:
    return sql.lstrip()[:6].upper() in {"CREATE", "DROP  ", "ALTER ", "ANALYZ", "REINDE"} or sql.lstrip()[:5].upper() == "DROP "
