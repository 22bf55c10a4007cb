"""The transport for files and in-memory databases: statements over the native driver."""

from __future__ import annotations

import gc
import os
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import libsql_experimental

from ._batch import BatchStep, Result, RowCountError, Value, bind
from ._encryption import EncryptionKey, file_error
from ._errors import BUSY_CODES, DatabaseError, Error, InterfaceError, OperationalError, from_message
from ._fork import register_after_fork
from ._open_files import File, check_header, header_of, open_files, page_size
from ._sql import Kind, parse

_BoundStatement = tuple[
    Kind, str, tuple[Value, ...], int | None
]  # kind, SQL, values, and the number of rows it must change
_Fetched = tuple[Any, list[tuple[Value, ...]], int, int | None]  # description, rows, rowcount, lastrowid


class _NativeConnection:
    """A connection of the native driver that closes its handle once."""

    # Dropped by itself, the driver's connection closes its handle twice; the second time it reads freed memory, and the
    # process crashes if the page is unmapped by then. Whatever reused the memory may be damaged. A statement that is
    # dropped after the connection closes the handle, once: https://github.com/tursodatabase/libsql/issues/2264

    __slots__ = ("_connection", "_last_owner", "execute")

    def __init__(self, connection: Any, statement: Any) -> None:
        self._connection, self._last_owner = connection, statement
        self.execute = connection.execute

    def __del__(self) -> None:
        del self.execute, self._connection
        del self._last_owner

    @property
    def in_transaction(self) -> bool:
        in_transaction: bool = self._connection.in_transaction
        return in_transaction


class MemoryDatabase:
    """One in-memory database for all connections of an engine. Its transactions run one at a time."""

    def __init__(self) -> None:
        self.native = _open(":memory:")
        self._lock = threading.Lock()
        self._holder: tuple[LocalTransport, int] | None = None  # the transport in a transaction, and its thread
        register_after_fork(self)

    def acquire(self, transport: LocalTransport, timeout: float) -> None:
        """Acquire the database for a transaction, unless `transport` holds it already.

        Args:
            transport: The connection.
            timeout: The longest wait, in seconds.

        Raises:
            OperationalError: another transaction holds it (SQLITE_BUSY), or one of this thread does (THREAD_BUSY).
        """
        holder, thread = self._holder or (None, None)
        if holder is transport:
            return
        if thread == threading.get_ident():
            gc.collect()  # the holder may be garbage: its finalizer releases the database
            holder, thread = self._holder or (None, None)
        if thread == threading.get_ident():
            raise OperationalError(
                "database is locked: this thread already has an open transaction on this in-memory database; "
                "nothing was done; do this work inside the transaction, or end it first",
                "THREAD_BUSY",
            )
        if not self._lock.acquire(timeout=timeout):
            raise OperationalError("database is locked", "SQLITE_BUSY")
        self._holder = (transport, threading.get_ident())

    def release(self) -> None:
        """Release the database for the next transaction."""
        self._holder = None
        self._lock.release()

    def is_held_by(self, transport: LocalTransport) -> bool:
        """Return whether `transport` holds the database."""
        holder = self._holder
        return holder is not None and holder[0] is transport

    def after_fork_in_child(self) -> None:
        """Release the lock, and roll back: both may be of threads of the parent process."""
        self._lock, self._holder = threading.Lock(), None
        if self.native.in_transaction:
            self.native.execute("ROLLBACK")


class LocalTransport:
    """One native connection. Waits for locks in Python: the native driver holds the GIL while it waits."""

    is_remote = False
    deadline: float | None = None  # sends no requests
    keep_alive: bool = False  # nothing expires

    def __init__(
        self, database: str | MemoryDatabase, *, busy_timeout: float, encryption_key: EncryptionKey | None = None
    ) -> None:
        self._memory: MemoryDatabase | None = None
        self._file: File | None = None
        self._path = ""
        self._native: Any = None
        self._key = encryption_key
        self._busy_timeout = busy_timeout
        self._broken = ""
        self._may_have_written = False  # in the open transaction
        if isinstance(database, MemoryDatabase):
            self._memory, self._native = database, database.native
        else:
            register_after_fork(self)
            self._path = os.path.abspath(database)  # noqa: PTH100 - as the engine does, without following links
            self._native, self._file = open_files.open(
                self._path, encryption_key, probe=self._probe, connect=self._connect
            )

    @property
    def usable(self) -> bool:
        """Whether statements can still be run, in this process."""
        return not self._broken

    @property
    def in_transaction(self) -> bool:
        """Whether the engine has a transaction open for this connection."""
        if self._broken or (self._memory and not self._memory.is_held_by(self)):
            return False
        in_transaction: bool = self._native.in_transaction
        return in_transaction

    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        """See `Transport`."""
        if self._broken:
            raise InterfaceError(self._broken)
        if self._memory is None:
            if self._file is not None and not (steps and steps[0].sql == "ROLLBACK"):
                self._file.check(self._path)
            return self._run(steps, begin, savepoint, commit)
        self._memory.acquire(self, self._busy_timeout)
        try:
            return self._run(steps, begin, savepoint, commit)
        finally:
            if not self._native.in_transaction:
                self._memory.release()

    def close(self) -> None:
        """Roll an open transaction back, and release the file or the in-memory database."""
        self._close(blocking=True)

    def discard(self) -> None:
        """See `Transport`."""
        self._close(blocking=False)

    def after_fork_in_child(self) -> None:
        """Give up the parent's file.

        While an inherited connection is open here, SQLite believes that this process holds its locks, and a new
        connection would write without any: the parent could then remove the log with this process's commits. Closing
        the inherited one is harmless, unless it is writing; then it is kept, which prevents this process from writing.
        """
        if self._native is not None and self._may_have_written and self.in_transaction:
            _inherited_writers.append(self._native)
        self._native, self._broken = None, "the connection belongs to the parent process: open another one after fork"
        self._file = None

    def _run(self, steps: Sequence[BatchStep], begin: str | None, savepoint: bool, commit: bool) -> list[Result]:
        # Check all values before anything is locked.
        statements = [_bind_step(step) for step in steps]
        if (
            begin is None
            and len(statements) == 1
            and statements[0][0] is Kind.SCHEMA
            and not self._native.in_transaction
        ):
            begin, commit = (
                "IMMEDIATE",
                True,
            )  # the engine changes things while it prepares, which a rollback must undo too
        # Wait for a lock only while holding none: else two transactions could wait for each other.
        first = begin == "DEFERRED" or (begin is None and not self._native.in_transaction)
        rest = first and begin is None
        if begin:
            self._begin(f"BEGIN {begin}")
            self._may_have_written = begin != "DEFERRED"
        try:
            if savepoint:
                self._native_execute("SAVEPOINT batch")
            results = [self._execute_step(n, step, rest if n > 1 else first) for n, step in enumerate(statements, 1)]
            if savepoint:
                self._native_execute("RELEASE batch")
            if commit:
                self._retry_while_busy("COMMIT")
            return results
        except BaseException:
            self._roll_back_statement_scope(_rollback_statements(savepoint=savepoint, commit=commit))
            raise

    def _roll_back_statement_scope(self, statements: Sequence[str]) -> None:
        # Some errors roll the whole transaction back by themselves, and an interrupt may arrive after the scope was
        # closed: then there is nothing to roll back.
        if not self._broken and self._native.in_transaction:
            with suppress(Error):
                for sql in statements:
                    self._native_execute(sql)

    def _roll_back(self) -> None:
        if self._native.in_transaction:
            self._native.execute("ROLLBACK")

    def _execute_step(self, number: int, step: _BoundStatement, retries: bool) -> Result:
        kind, sql, values, expected = step
        if kind is not Kind.READ:
            self._may_have_written = True
        if kind is Kind.SCHEMA and self._memory is None:
            self._load_schema()
        execute = self._retry_while_busy if retries else self._native_execute
        description, rows, rowcount, lastrowid = execute(sql, values)
        counts = kind is Kind.WRITE
        if not description:
            result = Result(None, rows, rowcount if counts else -1, lastrowid)
        else:
            columns = tuple([column[0] for column in description])
            result = Result(columns, rows, len(rows) if counts else -1, lastrowid)
        if expected is not None and result.rowcount != expected:
            raise RowCountError(number, expected, result.rowcount)
        return result

    def _load_schema(self) -> None:
        """Read the schema again if another connection has changed it.

        The engine executes a part of CREATE INDEX and DROP INDEX on vectors while it prepares them. With a schema from
        before another connection's VACUUM it mixes up the pages of tables, or crashes.
        """
        if self._native.in_transaction:
            self._native_execute("SELECT 1 FROM sqlite_master LIMIT 1")

    def _native_execute(self, sql: str, values: tuple[Value, ...] = ()) -> _Fetched:
        """Execute, and fetch all rows at once: a native cursor that is read later may run its statement again."""
        cursor = None
        try:
            cursor = self._native.execute(sql, values)
            description = cursor.description
            return description, cursor.fetchall() if description else [], cursor.rowcount, cursor.lastrowid
        except ValueError as error:
            raise self._engine_error(str(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # it cannot be imported, and is not an Exception
                raise
            self._roll_back()
            self._broken = f"the native driver panicked: {error}"
            raise InterfaceError(self._broken) from error
        finally:
            cursor = None  # else a traceback would keep the file open

    def _close(self, *, blocking: bool) -> None:
        if self._memory and self._memory.is_held_by(self):
            self._roll_back()
            self._memory.release()
        elif self._memory is None and not self._broken:
            self._roll_back()  # a traceback may keep the native connection, and its lock, alive
        native, self._native = [self._native], None
        self._broken = self._broken or "the connection is closed"
        file, self._file = self._file, None
        if file is not None:
            open_files.close(file, self._path, native, blocking=blocking)

    def _connect(self, path: str) -> Any:
        try:
            native: _NativeConnection | None = _open(path, self._key)
        except ValueError as error:
            raise self._engine_error(str(error)) from error
        problem = _open_error(native)
        if problem:
            native = None  # a traceback would keep the file open
            raise self._engine_error(problem)
        return native

    def _probe(self, path: str, descriptor: int | None) -> None:
        """Raise for a wrong key before the engine sees the file.

        With a wrong key the engine takes over the log of a killed process. On close it would write that log into the
        file through the wrong cipher, and no key would open the file again.
        """
        header = header_of(path, descriptor)
        check_header(self._path, header, self._key)
        if self._key is None or not header:
            return  # there is nothing to decrypt
        if descriptor is None:
            opens = _key_decrypts(path, self._key)
        else:  # closing another descriptor of the file would drop the locks of this process
            with tempfile.TemporaryDirectory() as directory:
                copy = os.path.join(directory, "page")  # noqa: PTH118
                with open(copy, "xb") as page:  # noqa: PTH123 - as encrypted as the file is
                    page.write(header_of(path, descriptor, page_size(header)))
                opens = _key_decrypts(copy, self._key)
        if not opens:
            raise DatabaseError(f"{self._path}: it is encrypted with another key", "WRONG_KEY")

    def _engine_error(self, message: str) -> Error:
        return file_error(self._path, message) if self._path else from_message(message)

    def _begin(self, sql: str) -> None:
        """Begin a transaction. Of the threads of a process, one polls for the write lock; the others wait for it."""
        try:
            self._native_execute(sql)
        except OperationalError as error:
            deadline = time.monotonic() + self._busy_timeout
            begin_lock = self._file.begin_lock if self._file is not None else threading.Lock()
            if error.code not in BUSY_CODES or not begin_lock.acquire(timeout=self._busy_timeout):
                raise
            try:
                self._retry_while_busy(sql, deadline=deadline)
            finally:
                begin_lock.release()

    def _retry_while_busy(self, sql: str, values: tuple[Value, ...] = (), *, deadline: float = 0.0) -> _Fetched:
        """Retry `_native_execute` on SQLITE_BUSY until `busy_timeout` expires."""
        pause = 0.0005
        while True:
            try:
                return self._native_execute(sql, values)
            except OperationalError as error:
                deadline = deadline or time.monotonic() + self._busy_timeout
                if error.code not in BUSY_CODES or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 0.005)


def _rollback_statements(*, savepoint: bool, commit: bool) -> Sequence[str]:
    if commit:
        return ("ROLLBACK",)
    return ("ROLLBACK TO batch", "RELEASE batch") if savepoint else ()


def _bind_step(step: BatchStep) -> _BoundStatement:
    statement = parse(step.sql)
    return statement.kind, *bind(statement, step.parameters), step.rows


def _open(database: str, key: EncryptionKey | None = None) -> _NativeConnection:
    connection = libsql_experimental.connect(
        database,
        isolation_level=None,
        check_same_thread=False,
        **({} if key is None else key.as_option()),  # not bound to a name: a traceback may show it
    )
    statement = connection.execute("PRAGMA busy_timeout = 0")
    statement.fetchall()
    native = _NativeConnection(connection, statement)
    if key is not None:
        # The engine encrypts the database and its log only. Keep in memory what sorting, VACUUM and statement journals
        # would write to temporary files in plain.
        native.execute("PRAGMA temp_store = MEMORY").fetchall()
    return native


def _key_decrypts(path: str, key: EncryptionKey | None) -> bool:
    """Return whether the key decrypts the first page. Reads no log, takes no lock, and writes nothing."""
    try:
        _open(f"file:{quote(path)}?immutable=1", key).execute("PRAGMA schema_version").fetchall()
    except ValueError as error:
        return from_message(str(error)).code != "SQLITE_NOTADB"  # any other problem is reported when the file is opened
    return True


def _open_error(native: Any) -> str:
    """Return the engine's message for a file that is not a database, or encrypted with another key; else ""."""
    try:
        native.execute("PRAGMA schema_version").fetchall()
    except ValueError as error:
        message = str(error)
        return "" if from_message(message).code in BUSY_CODES else message
    return ""


_inherited_writers: list[object] = []  # native connections that were writing at the fork
