"""PEP 249 for libSQL. Stands on its own: it imports nothing else of this package."""

from __future__ import annotations

from ._batch import Batch, Result, RowCountError, Step
from ._connection import Connection, Cursor
from ._errors import (
    BUSY_CODES,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,  # noqa: A004 - the name is PEP 249's
)
from ._local import LocalTransport, MemoryDatabase

__all__ = [
    "BUSY_CODES",
    "Batch",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "MemoryDatabase",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Result",
    "RowCountError",
    "Step",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]

apilevel = "2.0"
paramstyle = "qmark"
threadsafety = 1  # threads may share the module, not a connection
sqlite_version_info = (3, 45, 1)  # of the engine in the native driver; a test asks the engine itself
sqlite_version = ".".join(map(str, sqlite_version_info))

Binary = bytes

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}


def connect(
    database: str | MemoryDatabase,
    *,
    durability: str = "full",
    busy_timeout: float = 30.0,
    encryption_key: str | None = None,
) -> Connection:
    """Open a local database: a file's path, ":memory:", or a `MemoryDatabase` that several connections share.

    `durability`: "full" survives a power cut after every commit, "normal" may lose the last commits then (never the
    file). `busy_timeout`: seconds to wait for another writer. Files get write-ahead logging; foreign keys are enforced.
    """
    if durability not in _SYNCHRONOUS:
        raise ProgrammingError(f"durability must be 'full' or 'normal', not {durability!r}")
    transport = LocalTransport(
        MemoryDatabase() if database == ":memory:" else database,
        busy_timeout=busy_timeout,
        encryption_key=encryption_key,
    )
    for pragma in ("journal_mode = WAL", f"synchronous = {_SYNCHRONOUS[durability]}", "foreign_keys = ON"):
        transport.run([Step(f"PRAGMA {pragma}")])
    return Connection(transport)
