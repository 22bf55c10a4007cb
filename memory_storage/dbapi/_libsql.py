"""The local engine of libSQL, which keeps DiskANN indexes. Its native driver holds the GIL while a statement runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import libsql_experimental

from ._batch import Result, Value, bind
from ._encryption import EncryptionKey
from ._engines import NativeConnection
from ._errors import Error, InterfaceError, NotSupportedError, from_message
from ._sql import Kind, Statement


class LibSQLConnection:
    """A connection of the native driver that closes its handle once. See `NativeConnection`."""

    # Dropped by itself, the driver's connection closes its handle twice; the second time it reads freed memory, and the
    # process crashes if the page is unmapped by then. Whatever reused the memory may be damaged. A statement that is
    # dropped after the connection closes the handle, once: https://github.com/tursodatabase/libsql/issues/2264

    engine = "libsql"
    prepares_with_effects = True  # of CREATE INDEX and DROP INDEX on vectors
    deadline: float | None = None

    def __init__(self, connection: Any, statement: Any) -> None:
        self._connection, self._last_owner = connection, statement
        self._execute = connection.execute

    def __del__(self) -> None:
        self.close()

    @property
    def in_transaction(self) -> bool:
        """See `NativeConnection`."""
        return self._connection is not None and bool(self._connection.in_transaction)

    def bind(self, statement: Statement, parameters: Sequence[object]) -> tuple[str, tuple[Value, ...]]:
        """See `NativeConnection`."""
        return bind(statement, parameters)

    def execute(self, sql: str, values: tuple[Value, ...] = (), kind: Kind = Kind.CONTROL) -> Result:
        """See `NativeConnection`. Fetches at once: a native cursor that is read later may run its statement again."""
        cursor = None
        try:
            cursor = self._execute(sql, values)
            description = cursor.description
            rows = cursor.fetchall() if description else []
            counts = kind is Kind.WRITE
            if not description:
                return Result(None, rows, cursor.rowcount if counts else -1, cursor.lastrowid)
            columns = tuple([column[0] for column in description])
            return Result(columns, rows, len(rows) if counts else -1, cursor.lastrowid)
        except ValueError as error:
            raise from_message(str(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # it cannot be imported, and is not an Exception
                raise
            if self.in_transaction:
                self._execute("ROLLBACK")
            raise InterfaceError(f"the native driver panicked: {error}", "PANIC") from error
        finally:
            cursor = None  # else a traceback would keep the file open

    def has_vector_index(self) -> bool:
        """See `NativeConnection`. This engine can open any file, so that it does not look."""
        return False

    def interrupt(self) -> None:
        """See `NativeConnection`. The driver offers none."""

    def back_up(
        self,
        target: NativeConnection,  # noqa: ARG002 - the protocol's signature, as are the others
        pages: int,  # noqa: ARG002
        progress: Callable[[int, int], None] | None,  # noqa: ARG002
    ) -> None:
        """See `NativeConnection`. The driver offers none."""
        raise NotSupportedError("libSQL's driver has no online backup: use `memory-storage backup`", "NO_BACKUP")

    def close(self) -> None:
        """See `NativeConnection`."""
        self._execute = self._connection = None
        self._last_owner = None


def connect(path: str, key: EncryptionKey | None = None) -> LibSQLConnection:
    """See `LocalEngine`."""
    try:
        connection = libsql_experimental.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            **({} if key is None else key.as_option()),  # not bound to a name: a traceback may show it
        )
        statement = connection.execute("PRAGMA busy_timeout = 0")
        statement.fetchall()
    except ValueError as error:
        raise from_message(str(error)) from error
    native = LibSQLConnection(connection, statement)
    if key is not None:
        # The engine encrypts the database and its log only. Keep in memory what sorting, VACUUM and statement journals
        # would write to temporary files in plain.
        native.execute("PRAGMA temp_store = MEMORY")
    return native


def decrypts(path: str, key: EncryptionKey) -> bool:
    """See `LocalEngine`."""
    try:
        connect(f"file:{quote(path)}?immutable=1", key).execute("PRAGMA schema_version")
    except Error as error:
        return error.code != "SQLITE_NOTADB"  # any other problem is reported when the file is opened
    return True
