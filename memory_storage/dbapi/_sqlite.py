"""The local engine of SQLite, by apsw: it keeps prepared statements, and releases the GIL while one runs."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import apsw

from ._batch import Result, Value, check_parameters
from ._encryption import EncryptionKey
from ._engines import NativeConnection
from ._errors import (
    DataError,
    Error,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    from_result,
)
from ._fork import statement_barrier
from ._json_quote import json_quote, translate
from ._sql import Kind, Statement
from ._vector_functions import add_vector_functions, is_native_error, prepare

_STATEMENTS = 300  # prepared statements that a connection keeps; a storage has about 200 that are in frequent use
_FIRST_STEPS, _MOST_STEPS = 5_000, 320_000  # instructions of the engine between two calls of `_Watch`
_INTERVAL = 0.005  # seconds between two calls; a call waits for the GIL
_MAY_HAVE_COLUMNS = frozenset({Kind.READ, Kind.WRITE, Kind.OUTSIDE})
_VECTOR_INDEX = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%' LIMIT 1"
# As in libSQL: foreign keys are enforced, a misspelled column in double quotes is an error, not a text, and a number as
# text has 15 digits.
_OPTIONS = (
    (apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1),
    (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
    (apsw.SQLITE_DBCONFIG_FP_DIGITS, 15),
    # Else each new value that is bound may have the statement compiled again, also those that FTS5 reads its texts by.
    (apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1),
)


def _without_memory_statistics() -> None:
    """Have the engine keep no statistics of its memory: it takes a lock of the process for each allocation for them.

    Threads that search then run at the same time; with the statistics, two are no faster than one. The option is the
    library's, and can only be set while no connection is open.
    """
    if apsw.connections():
        return
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    apsw.initialize()


_without_memory_statistics()


class SqliteConnection:
    """A connection of apsw. See `NativeConnection`."""

    engine = "sqlite"
    prepares_with_effects = False

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._watch = _Watch(connection)
        self._lock = threading.RLock()  # held while a statement runs, so that a fork can wait for it
        self._interrupting = threading.RLock()  # the engine must not free what another thread interrupts
        self._is_closed = False
        statement_barrier.add(self)

    @property
    def deadline(self) -> float | None:
        """See `NativeConnection`."""
        return self._watch.deadline

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        self._watch.deadline = moment

    @property
    def in_transaction(self) -> bool:
        """See `NativeConnection`."""
        try:
            return bool(self._connection.in_transaction)
        except apsw.ConnectionClosedError:
            return False

    def bind(self, statement: Statement, parameters: Sequence[object]) -> tuple[str, tuple[Value, ...]]:
        """See `NativeConnection`. All integers of 64 bits, and text with NUL, are bound as they are."""
        return statement.sql, check_parameters(statement, parameters, keeps_nul=True)

    def execute(self, sql: str, values: tuple[Value, ...] = (), kind: Kind = Kind.CONTROL) -> Result:
        """See `NativeConnection`."""
        with self._lock:
            self._watch.begin()
            prepared = sql = translate(sql)
            if "vector_distance_" in sql:
                prepared = prepare(self._connection, sql)
            try:
                return self._execute(prepared, values, kind)
            except apsw.SQLError as error:
                if prepared == sql or not is_native_error(str(error)):
                    raise self._as_driver_error(error) from error
            except (apsw.Error, UnicodeDecodeError) as error:
                raise self._as_driver_error(error) from error
            try:
                return self._execute(sql, values, kind)
            except apsw.Error as error:
                raise self._as_driver_error(error) from error

    def _execute(self, sql: str, values: tuple[Value, ...], kind: Kind) -> Result:
        cursor = None
        try:
            cursor = self._connection.execute(sql, values)
            if kind is Kind.WRITE and not _returns_rows(sql):
                return Result(None, [], self._connection.changes(), self._connection.last_insert_rowid())
            columns = self._columns(cursor)
            rows = cursor.fetchall()
            if columns is None and kind in _MAY_HAVE_COLUMNS:
                cursor = None  # apsw never frees two cursors that have executed the same statement at a time
                columns = self._columns_of(sql, values)
            return Result(columns, rows, len(rows) if kind is Kind.WRITE else -1, self._connection.last_insert_rowid())
        finally:
            cursor = None  # a traceback would keep the statement, and its lock

    def has_vector_index(self) -> bool:
        """See `NativeConnection`."""
        try:
            return bool(self.execute(_VECTOR_INDEX, (), Kind.READ).rows)
        except Error:  # locked, or damaged, which the call that meets the damage reports
            return False

    def interrupt(self) -> None:
        """See `NativeConnection`."""
        with self._interrupting:
            if not self._is_closed:
                self._connection.interrupt()

    def back_up(self, target: NativeConnection, pages: int, progress: Callable[[int, int], None] | None) -> None:
        """See `NativeConnection`."""
        if not isinstance(target, SqliteConnection):
            raise NotSupportedError("the target of a backup must be open with the engine sqlite too", "NO_BACKUP")
        with self._lock, target._lock:
            try:
                with target._connection.backup("main", self._connection, "main") as copy:
                    while not copy.done:
                        copy.step(pages)
                        if progress is not None:
                            progress(copy.page_count - copy.remaining, copy.page_count)
            except apsw.Error as error:
                raise self._as_driver_error(error) from error

    def close(self) -> None:
        """See `NativeConnection`."""
        with self._interrupting:
            self._is_closed = True
        with self._lock, suppress(apsw.Error):
            self._connection.close(True)

    def acquire(self) -> None:
        """See `Statements`."""
        self._lock.acquire()
        self._interrupting.acquire()

    def release(self) -> None:
        """See `Statements`."""
        self._interrupting.release()
        self._lock.release()

    @staticmethod
    def _columns(cursor: apsw.Cursor) -> tuple[str, ...] | None:
        try:
            return tuple([column[0] for column in cursor.get_description()]) or None
        except apsw.ExecutionCompleteError:  # there are no rows
            return None

    def _columns_of(self, sql: str, values: tuple[Value, ...]) -> tuple[str, ...] | None:
        """Return the columns of a statement that has returned no rows, without running it."""
        found: list[str] = []

        def describe(cursor: apsw.Cursor, *_: object) -> bool:
            found.extend(column[0] for column in cursor.get_description())
            return False

        cursor = self._connection.cursor()
        cursor.exec_trace = describe
        with suppress(apsw.ExecTraceAbort):
            cursor.execute(sql, values)
        return tuple(found) or None

    def _as_driver_error(self, error: apsw.Error | UnicodeDecodeError) -> Error:
        if isinstance(error, UnicodeDecodeError):
            return DataError(f"a text of the result is not UTF-8: {error.reason}", "NOT_UTF8")
        if isinstance(error, apsw.InterruptError):
            return self._watch.reason()
        code = getattr(error, "extendedresult", 0)
        return from_result(code, str(error)) if code else InterfaceError(str(error), "SQLITE_MISUSE")


class _Watch:
    """Called by the engine every few milliseconds of a statement: hears Ctrl-C, and stops what exceeds its deadline."""

    __slots__ = ("_connection", "_last", "_steps", "deadline", "has_expired")

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = weakref.ref(connection)
        self.deadline: float | None = None
        self.has_expired = False
        self._last = 0.0
        self._set_steps(_FIRST_STEPS)

    def begin(self) -> None:
        """Begin to watch a statement."""
        self.has_expired = False
        self._last = 0.0
        if self._steps != _FIRST_STEPS:
            self._set_steps(_FIRST_STEPS)

    def __call__(self) -> bool:
        """Return whether to stop the statement. Python handles signals here."""
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.has_expired = True
            return True
        # An instruction takes ten nanoseconds, or one millisecond where it parses a document: so the number between two
        # calls starts low, and grows while the calls follow each other fast.
        if self._last and now - self._last < _INTERVAL / 2 and self._steps < _MOST_STEPS:
            self._set_steps(self._steps * 2)
        self._last = now
        return False

    def reason(self) -> OperationalError:
        """Return the error of a statement that was stopped."""
        if self.has_expired:
            return OperationalError("the statement was stopped: it took too long", "STATEMENT_TIMEOUT")
        return OperationalError("the statement was interrupted", "SQLITE_INTERRUPT")

    def _set_steps(self, steps: int) -> None:
        self._steps = steps
        connection = self._connection()
        if connection is not None:
            connection.set_progress_handler(self, steps)


def connect(path: str, key: EncryptionKey | None = None) -> SqliteConnection:
    """See `LocalEngine`."""
    return _connect(path, key, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)


def decrypts(path: str, key: EncryptionKey) -> bool:
    """See `LocalEngine`."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        native = _connect(f"file:{quote(path)}?immutable=1", key, flags)
    except NotSupportedError:
        raise
    except Error:
        return True  # reported when the file is opened
    try:
        native.execute("PRAGMA schema_version", (), Kind.READ)
    except Error as error:
        return error.code != "SQLITE_NOTADB"  # any other problem is reported when the file is opened
    finally:
        native.close()
    return True


def _connect(path: str, key: EncryptionKey | None, flags: int) -> SqliteConnection:
    try:
        connection = apsw.Connection(path, flags=flags, statementcachesize=_STATEMENTS)
    except apsw.Error as error:
        raise from_result(getattr(error, "extendedresult", 0), str(error)) from error
    connection.set_busy_timeout(0)
    for option, value in _OPTIONS:
        connection.config(option, value)
    add_vector_functions(connection)
    connection.create_scalar_function("json_quote", json_quote, 1, deterministic=True)
    connection.create_scalar_function("regexp", _regexp, 2, deterministic=True)
    native = SqliteConnection(connection)
    if key is not None:
        _set_key(connection, key)
        # VACUUM, sorting and statement journals would write to temporary files in plain.
        native.execute("PRAGMA temp_store = MEMORY")
    native.execute("PRAGMA secure_delete = OFF")  # as in libSQL; `scrub` removes what was deleted
    return native


def _set_key(connection: apsw.Connection, key: EncryptionKey) -> None:
    if not hasattr(apsw, "mc_version"):
        raise NotSupportedError(
            "encryption_key: this build of apsw cannot encrypt; nothing was opened; install apsw-sqlite3mc instead",
            "NO_CIPHER",
        )
    connection.execute("PRAGMA cipher = 'aes256cbc'")  # libSQL's: a file made by either engine opens in the other
    for value in key.as_option().values():
        connection.execute(f"PRAGMA key = {apsw.format_sql_value(value)}", can_cache=False)


@lru_cache(maxsize=1024)
def _returns_rows(sql: str) -> bool:
    return re.search(r"\bRETURNING\b", sql, re.IGNORECASE) is not None


def _regexp(*arguments: Any) -> int | None:
    """Return whether a regular expression is found in a value, as `sqlite3`'s dialect of SQLAlchemy defines it."""
    pattern, value = arguments
    try:
        return None if pattern is None or value is None else int(re.search(str(pattern), str(value)) is not None)
    except re.error as error:
        raise OperationalError(f"the regular expression {pattern!r} is invalid: {error}", "SQLITE_ERROR") from error
