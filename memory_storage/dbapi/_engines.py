"""The local engines: SQLite, by apsw, and libSQL, by its native driver. Each is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from ._batch import Result, Value
from ._encryption import EncryptionKey
from ._errors import NotSupportedError, ProgrammingError
from ._sql import Kind, Statement

AUTO, SQLITE, LIBSQL = "auto", "sqlite", "libsql"
LOCAL_ENGINES = (AUTO, SQLITE, LIBSQL)
DEFAULT = SQLITE  # what "auto" is for new files, and for files without a DiskANN index

_MODULES = {SQLITE: "_sqlite", LIBSQL: "_libsql"}
_MISSING = {
    SQLITE: "SQLite's driver is missing: pip install apsw-sqlite3mc",
    LIBSQL: "libSQL's driver is missing: pip install 'memory-storage[libsql]', where it has a wheel",
}


class NativeConnection(Protocol):
    """A connection of a local engine, for one thread at a time."""

    engine: str
    """The engine's name."""
    prepares_with_effects: bool
    """Whether the engine executes parts of a statement while it prepares it."""
    deadline: float | None
    """When the engine gives a running statement up, by `time.monotonic`; some engines cannot."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def bind(self, statement: Statement, parameters: Sequence[object]) -> tuple[str, tuple[Value, ...]]:
        """Return the SQL and the values to execute. DataError or ProgrammingError for what cannot be bound."""
        ...

    def execute(self, sql: str, values: tuple[Value, ...] = (), kind: Kind = Kind.CONTROL) -> Result:
        """Execute one statement, and fetch all of its rows."""
        ...

    def has_vector_index(self) -> bool:
        """Return whether the database has a DiskANN index; False if it cannot be read."""
        ...

    def interrupt(self) -> None:
        """Stop the running statement, from any thread; some engines cannot."""
        ...

    def back_up(self, target: NativeConnection, pages: int, progress: Callable[[int, int], None] | None) -> None:
        """See `Connection.backup`."""
        ...

    def close(self) -> None:
        """Close the connection. Never raises."""
        ...


class LocalEngine(Protocol):
    """A module that opens databases with one engine."""

    @staticmethod
    def connect(path: str, key: EncryptionKey | None = None) -> NativeConnection:
        """Open a database, and create its file if there is none. Nothing of the file is read."""
        ...

    @staticmethod
    def decrypts(path: str, key: EncryptionKey) -> bool:
        """Return whether the key decrypts the first page. Reads no log, takes no lock, and writes nothing."""
        ...


def engine_named(name: str) -> LocalEngine:
    """Return the engine of a name: "sqlite" or "libsql"; of "auto", the one for new files.

    Raises:
        NotSupportedError: its driver is not installed (code NO_DRIVER).
        ProgrammingError: there is no such engine.
    """
    if name not in LOCAL_ENGINES:
        raise ProgrammingError(f"local_engine must be one of {', '.join(LOCAL_ENGINES)}, not {name!r}")
    name = DEFAULT if name == AUTO else name
    try:
        return cast("LocalEngine", import_module(f".{_MODULES[name]}", __package__))
    except ImportError as error:
        raise NotSupportedError(_MISSING[name], "NO_DRIVER") from error
