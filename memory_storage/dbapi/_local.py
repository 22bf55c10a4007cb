"""The transport for files and in-memory databases: statements over a local engine."""

from __future__ import annotations

import gc
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from urllib.parse import unquote, urlsplit

from ._batch import BatchStep, Result, RowCountError, Value
from ._encryption import EncryptionKey, with_path
from ._engines import AUTO, LIBSQL, NativeConnection, engine_named
from ._errors import BUSY_CODES, DatabaseError, Error, InterfaceError, NotSupportedError, OperationalError
from ._fork import register_after_fork
from ._open_files import File, check_header, check_same_engine, header_of, open_files, page_size
from ._sql import Kind, attached_file, parse

_INTERRUPT_INTERVAL = 0.03  # seconds between two looks at whether a waiting call was interrupted
_BoundStatement = tuple[
    Kind, str, tuple[Value, ...], int | None
]  # kind, SQL, values, and the number of rows it must change


class MemoryDatabase:
    """One in-memory database for all connections of an engine. Its transactions run one at a time.

    The first connection decides which local engine holds it.
    """

    def __init__(self) -> None:
        self._native: NativeConnection | None = None
        self._opening = threading.Lock()
        self._lock = threading.Lock()
        self.interrupting = threading.RLock()  # held while a statement is interrupted: the next one is another caller's
        self._holder: tuple[LocalTransport, int] | None = None  # the transport in a transaction, and its thread
        register_after_fork(self)

    def native(self, local_engine: str) -> NativeConnection:
        """Return the native connection. DatabaseError (OTHER_ENGINE) if another engine holds the database."""
        with self._opening:
            if self._native is None:
                self._native = engine_named(local_engine).connect(":memory:")
        check_same_engine("the database in memory", self._native.engine, local_engine)
        return self._native

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
        if not transport.wait_for(self._lock, time.monotonic() + timeout):
            raise OperationalError("database is locked", "SQLITE_BUSY")
        self._holder = (transport, threading.get_ident())

    def release(self) -> None:
        """Release the database for the next transaction."""
        with self.interrupting:
            self._holder = None
            self._lock.release()

    def is_held_by(self, transport: LocalTransport) -> bool:
        """Return whether `transport` holds the database."""
        holder = self._holder
        return holder is not None and holder[0] is transport

    def after_fork_in_child(self) -> None:
        """Release the lock, and roll back: both may be of threads of the parent process."""
        self._opening, self._lock, self._holder = threading.Lock(), threading.Lock(), None
        self.interrupting = threading.RLock()
        if self._native is not None:
            _roll_back(self._native)


class LocalTransport:
    """One native connection. Waits for locks in Python: there it can be interrupted, and other threads run."""

    is_remote = False
    deadline: float | None = None
    keep_alive: bool = False  # nothing expires

    def __init__(
        self,
        database: str | MemoryDatabase,
        *,
        busy_timeout: float,
        encryption_key: EncryptionKey | None = None,
        local_engine: str = AUTO,
    ) -> None:
        self._memory: MemoryDatabase | None = None
        self._file: File | None = None
        self._path = ""
        self._native: NativeConnection | None = None
        self._running: NativeConnection | None = None
        self._is_interrupted = False
        self._is_waiting = False  # for the lock of the in-memory database
        self._key = encryption_key
        self._busy_timeout = busy_timeout
        self._broken = ""
        self._may_have_written = False  # in the open transaction
        self._attached: list[tuple[File, str]] = []
        if isinstance(database, MemoryDatabase):
            self._memory, self._native = database, database.native(local_engine)
        else:
            register_after_fork(self)
            self._path = os.path.abspath(database)  # noqa: PTH100 - as the engine does, without following links
            self._native, self._file = open_files.open(
                self._path, encryption_key, local_engine, probe=self._probe, connect=self._connect
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
        return self._native is not None and self._native.in_transaction

    @property
    def local_engine(self) -> str | None:
        """The engine of this connection: "sqlite" or "libsql"; None if it is closed."""
        return None if self._native is None else self._native.engine

    def interrupt(self) -> bool:
        """Stop the call that runs on this connection, from another thread. Return whether there is one."""
        with self._memory.interrupting if self._memory is not None else nullcontext():
            native = self._running
            if native is None and not self._is_waiting:
                return False
            self._is_interrupted = True
            if native is not None:
                native.interrupt()
            return True

    def wait_for(self, lock: threading.Lock, deadline: float) -> bool:
        """Acquire the lock of the in-memory database before the deadline.

        Raises:
            OperationalError: the call was interrupted (SQLITE_INTERRUPT).
        """
        if lock.acquire(blocking=False):
            return True
        self._is_interrupted, self._is_waiting = False, True
        try:
            is_acquired = self._acquire(lock, deadline)
        finally:
            self._is_waiting = False
        if not is_acquired and self._is_interrupted:
            raise OperationalError("the call was interrupted while it waited", "SQLITE_INTERRUPT")
        return is_acquired

    def run(
        self, steps: Sequence[BatchStep], *, begin: str | None = None, savepoint: bool = False, commit: bool = False
    ) -> list[Result]:
        """See `Transport`."""
        native = self._native
        if self._broken or native is None:
            raise InterfaceError(self._broken)
        if self._memory is None:
            if self._file is not None and not (steps and steps[0].sql == "ROLLBACK"):
                self._file.check(self._path)
            return self._run(native, steps, begin, savepoint, commit)
        self._memory.acquire(self, self._busy_timeout)
        try:
            return self._run(native, steps, begin, savepoint, commit)
        finally:
            if not native.in_transaction:
                self._memory.release()

    def read(self, step: BatchStep) -> list[tuple[Value, ...]]:
        """Return the rows of one SELECT outside of a transaction: as `run`, in fewer calls, which cost more than it."""
        native = self._native
        if self._broken or native is None or self._file is None or native.in_transaction:
            return self.run([step])[0].rows
        self._file.check(self._path)
        kind, sql, values, _ = _bind_step(native, step)
        native.deadline, self._is_interrupted, self._running = self.deadline, False, native
        try:
            return self._retry_while_busy(sql, values, kind).rows
        finally:
            native.deadline, self._running = None, None

    def back_up(self, target: LocalTransport, pages: int, progress: Callable[[int, int], None] | None) -> None:
        """See `Connection.backup`."""
        if self._native is None or target._native is None:
            raise InterfaceError(self._broken or target._broken)
        self._native.back_up(target._native, pages, progress)

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
        native, self._native, self._running = self._native, None, None
        if native is not None and self._may_have_written and not self._broken and native.in_transaction:
            _inherited_writers.append(native)
        elif native is not None:
            native.close()
        self._broken = "the connection belongs to the parent process: open another one after fork"
        self._file = None

    def _run(
        self,
        native: NativeConnection,
        steps: Sequence[BatchStep],
        begin: str | None,
        savepoint: bool,
        commit: bool,
    ) -> list[Result]:
        # Check all values before anything is locked.
        statements = [_bind_step(native, step) for step in steps]
        native.deadline, self._is_interrupted, self._running = self.deadline, False, native
        try:
            return self._run_bound(native, statements, begin, savepoint, commit)
        finally:
            native.deadline, self._running = None, None

    def _run_bound(
        self,
        native: NativeConnection,
        statements: Sequence[_BoundStatement],
        begin: str | None,
        savepoint: bool,
        commit: bool,
    ) -> list[Result]:
        is_open = native.in_transaction
        if begin is None and not is_open and len(statements) == 1 and statements[0][0] is Kind.SCHEMA:
            begin, commit = "IMMEDIATE", True  # so that a rollback undoes also what is executed while it is prepared
        # Wait for a lock only while holding none: else two transactions could wait for each other.
        first = begin == "DEFERRED" or (begin is None and not is_open)
        rest = first and begin is None
        if begin:
            self._begin(f"BEGIN {begin}")
            self._may_have_written = begin != "DEFERRED"
        try:
            if savepoint:
                self._execute("SAVEPOINT batch")
            results = [self._execute_step(n, step, rest if n > 1 else first) for n, step in enumerate(statements, 1)]
            if savepoint:
                self._execute("RELEASE batch")
            if commit:
                self._retry_while_busy("COMMIT")
            return results
        except BaseException:
            native.deadline, self._is_interrupted = None, False
            self._roll_back_statement_scope(_rollback_statements(savepoint=savepoint, commit=commit))
            raise

    def _roll_back_statement_scope(self, statements: Sequence[str]) -> None:
        # Some errors roll the whole transaction back by themselves, and an interrupt may arrive after the scope was
        # closed: then there is nothing to roll back.
        if not self._broken and self._native is not None and self._native.in_transaction:
            with suppress(Error):
                for sql in statements:
                    self._execute(sql)

    def _execute_step(self, number: int, step: _BoundStatement, retries: bool) -> Result:
        kind, sql, values, expected = step
        if kind is not Kind.READ:
            self._may_have_written = True
        if kind is Kind.SCHEMA and self._memory is None:
            self._load_schema()
        if kind is Kind.OUTSIDE and (attached := attached_file(sql)) is not None:
            return self._attach(attached, sql, values)
        execute = self._retry_while_busy if retries else self._execute
        result = execute(sql, values, kind)
        if expected is not None and result.rowcount != expected:
            raise RowCountError(number, expected, result.rowcount)
        return result

    def _attach(self, attached: str, sql: str, values: tuple[Value, ...]) -> Result:
        """Run an ATTACH: the registry counts the file as open until this connection is closed."""
        native, select = self._native, f"SELECT CAST({attached} AS TEXT)"
        name = self._execute(select, values[: parse(select).parameter_count], Kind.READ).rows[0][0]
        path = str(name or "").partition("\0")[0]  # the engine, too, reads up to a NUL
        if native is None or path in {"", ":memory:"}:
            return self._execute(sql, values, Kind.OUTSIDE)
        if path.startswith("file:"):
            path = unquote(urlsplit(path).path)
        path = os.path.abspath(path)  # noqa: PTH100 - as the engine does, without following links
        run = partial(self._execute, sql, values, Kind.OUTSIDE)
        result, file = open_files.attach(path, self._key, native.engine, run)
        if file is not None:
            self._attached.append((file, path))
        return result

    def _load_schema(self) -> None:
        """Read the schema again if another connection has changed it.

        libSQL executes a part of CREATE INDEX and DROP INDEX on vectors while it prepares them. With a schema from
        before another connection's VACUUM it mixes up the pages of tables, or crashes.
        """
        if self._native is not None and self._native.prepares_with_effects and self._native.in_transaction:
            self._execute("SELECT 1 FROM sqlite_master LIMIT 1")

    def _execute(self, sql: str, values: tuple[Value, ...] = (), kind: Kind = Kind.CONTROL) -> Result:
        native = self._native
        if native is None:  # closed by another thread
            raise InterfaceError(self._broken)
        if self._is_interrupted:
            raise OperationalError("the call was interrupted between two statements", "SQLITE_INTERRUPT")
        try:
            return native.execute(sql, values, kind)
        except Error as error:
            if error.code == "PANIC":
                self._broken = str(error)
            if self._is_interrupted and error.code == "SQLITE_ERROR":  # the parser gives up with any message
                raise OperationalError("the statement was interrupted", "SQLITE_INTERRUPT") from error
            named = with_path(error, self._path)
            if named is error:
                raise
            raise named from error.__cause__

    def _close(self, *, blocking: bool) -> None:
        native, self._native = self._native, None
        if self._memory and native is not None and self._memory.is_held_by(self):
            _roll_back(native)
            self._memory.release()
        elif self._memory is None and not self._broken and native is not None:
            _roll_back(native)  # a traceback may keep the native connection, and its lock, alive
        self._broken = self._broken or "the connection is closed"
        file, self._file = self._file, None
        if file is not None and native is not None:
            for one, path in ((file, self._path), *self._attached):
                open_files.close(one, path, native, blocking=blocking)

    def _connect(self, path: str, local_engine: str) -> NativeConnection:
        native = self._open(path, local_engine)
        if local_engine != AUTO or not native.has_vector_index():
            return native
        native.close()
        try:
            return self._open(path, LIBSQL)
        except NotSupportedError as error:
            raise NotSupportedError(
                f"{self._path}: it has a DiskANN index, which only libSQL's engine keeps up to date, and that is not "
                "installed; nothing was changed; pip install 'memory-storage[libsql]', or drop the index by "
                f"`memory-storage index use hnsw`",
                error.code,
            ) from error

    def _open(self, path: str, local_engine: str) -> NativeConnection:
        native: NativeConnection | None = None
        try:
            native = engine_named(local_engine).connect(path, self._key)
            native.execute("PRAGMA schema_version", (), Kind.READ)
        except Error as error:
            if native is not None and error.code in BUSY_CODES:
                return native
            if native is not None:
                native.close()
            native = None  # a traceback would keep the file open
            raise with_path(error, self._path) from error.__cause__
        return native

    def _probe(self, path: str, descriptor: int | None, local_engine: str) -> None:
        """Raise for a wrong key before the engine sees the file.

        With a wrong key the engine takes over the log of a killed process. On close it would write that log into the
        file through the wrong cipher, and no key would open the file again.
        """
        header = header_of(path, descriptor)
        check_header(self._path, header, self._key)
        if self._key is None or not header:
            return  # there is nothing to decrypt
        decrypts = engine_named(local_engine).decrypts
        if descriptor is None:
            opens = decrypts(path, self._key)
        else:  # closing another descriptor of the file would drop the locks of this process
            with tempfile.TemporaryDirectory() as directory:
                copy = os.path.join(directory, "page")  # noqa: PTH118
                with open(copy, "xb") as page:  # noqa: PTH123 - as encrypted as the file is
                    page.write(header_of(path, descriptor, page_size(header)))
                opens = decrypts(copy, self._key)
        if not opens:
            raise DatabaseError(f"{self._path}: it is encrypted with another key", "WRONG_KEY")

    def _begin(self, sql: str) -> None:
        """Begin a transaction. Of the threads of a process, one polls for the write lock; the others wait for it."""
        try:
            self._execute(sql)
        except OperationalError as error:
            if error.code not in BUSY_CODES:
                raise
            deadline = self._busy_deadline()
            begin_lock = self._file.begin_lock if self._file is not None else threading.Lock()
            if not self._acquire(begin_lock, deadline):
                raise
            try:
                self._retry_while_busy(sql, deadline=deadline)
            finally:
                begin_lock.release()

    def _acquire(self, lock: threading.Lock, deadline: float) -> bool:
        """Acquire a lock before the deadline; return early, without it, if the call is interrupted."""
        while not self._is_interrupted:
            seconds = deadline - time.monotonic()
            if lock.acquire(timeout=max(0.0, min(seconds, _INTERRUPT_INTERVAL))):
                return True
            if seconds <= _INTERRUPT_INTERVAL:
                return False
        return False

    def _busy_deadline(self) -> float:
        deadline = time.monotonic() + self._busy_timeout
        return deadline if self.deadline is None else min(deadline, self.deadline)

    def _retry_while_busy(
        self, sql: str, values: tuple[Value, ...] = (), kind: Kind = Kind.CONTROL, *, deadline: float = 0.0
    ) -> Result:
        """Retry `_execute` on SQLITE_BUSY until `busy_timeout` expires."""
        pause = 0.0005
        while True:
            try:
                return self._execute(sql, values, kind)
            except OperationalError as error:
                deadline = deadline or self._busy_deadline()
                if error.code not in BUSY_CODES or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 0.005)


def _roll_back(native: NativeConnection) -> None:
    if native.in_transaction:
        native.execute("ROLLBACK")


def _rollback_statements(*, savepoint: bool, commit: bool) -> Sequence[str]:
    if commit:
        return ("ROLLBACK",)
    return ("ROLLBACK TO batch", "RELEASE batch") if savepoint else ()


def _bind_step(native: NativeConnection, step: BatchStep) -> _BoundStatement:
    statement = parse(step.sql)
    return statement.kind, *native.bind(statement, step.parameters), step.rows


_inherited_writers: list[object] = []  # native connections that were writing at the fork
