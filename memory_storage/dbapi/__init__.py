"""A PEP 249 driver for libSQL: files, in-memory databases, and servers over Hrana."""

from __future__ import annotations

from collections.abc import Iterable

from ._address import LOCAL_URL, Server, checked_authority, redacted
from ._batch import Batch, BatchStep, Result, RowCountError, chunked
from ._client import RESPONSE_BYTES, Client, Limits
from ._connection import Connection, Cursor, Gate, commit_or_roll_back
from ._credentials import Credentials, Secret, TokenProvider
from ._encryption import EncryptionKey
from ._engines import LOCAL_ENGINES
from ._errors import (
    BUSY_CODES,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    LineError,
    NotSupportedError,
    OperationalError,
    OutcomeUnknownError,
    ProgrammingError,
    ResponseTooLargeError,
    Warning,  # noqa: A004 - the name is PEP 249's
)
from ._fork import Unpicklable, register_after_fork
from ._local import LocalTransport, MemoryDatabase
from ._open_files import engine_of, is_open_here
from ._sql import reads_only, tables_written
from ._traffic import traffic
from ._write_limiter import CONCURRENT_WRITES

__all__ = [
    "BUSY_CODES",
    "CONCURRENT_WRITES",
    "LOCAL_ENGINES",
    "LOCAL_URL",
    "RESPONSE_BYTES",
    "Batch",
    "BatchStep",
    "Binary",
    "Connection",
    "Credentials",
    "Cursor",
    "DataError",
    "DatabaseError",
    "EncryptionKey",
    "Error",
    "Gate",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "LineError",
    "MemoryDatabase",
    "NotSupportedError",
    "OperationalError",
    "OutcomeUnknownError",
    "ProgrammingError",
    "ResponseTooLargeError",
    "Result",
    "RowCountError",
    "Server",
    "TokenProvider",
    "Unpicklable",
    "Warning",
    "apilevel",
    "checked_authority",
    "chunked",
    "commit_or_roll_back",
    "connect",
    "engine_of",
    "is_open_here",
    "paramstyle",
    "reads_only",
    "redacted",
    "register_after_fork",
    "sqlite_version",
    "sqlite_version_info",
    "tables_written",
    "threadsafety",
    "traffic",
]

apilevel = "2.0"
paramstyle = "qmark"
threadsafety = 1  # threads may share the module, not a connection
sqlite_version_info = (3, 45, 1)  # of libSQL, here and on servers; the local engine of SQLite is newer
sqlite_version = ".".join(map(str, sqlite_version_info))

Binary = bytes

_RENAMED = {"Step": "BatchStep", "portions": "chunked", "tell_in_child": "register_after_fork"}


def __getattr__(name: str) -> object:
    """Resolve names from before 0.1.0, with a DeprecationWarning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    warnings.warn(f"{__name__}.{name} is deprecated: use {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]


_PRAGMAS = (
    "journal_mode = WAL",
    "foreign_keys = ON",
    "cache_size = -32000",  # KB, allocated on use: comparing vectors reads all of them
)
_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}


def connect(
    database: str | MemoryDatabase | Server,
    *,
    durability: str = "full",
    busy_timeout: float = 30.0,
    encryption_key: str | Secret | EncryptionKey | None = None,
    local_engine: str = "auto",
    configure: bool = True,
    auth_token: str | TokenProvider | Credentials | None = None,
    ca_file: str | None = None,
    timeout: float = 30.0,
    max_response_bytes: int = RESPONSE_BYTES,
    base_url_hosts: Iterable[str] = (),
    max_concurrent_writes: int = CONCURRENT_WRITES,
) -> Connection:
    """Open a connection to a local database or to a server.

    Files get write-ahead logging; foreign keys are enforced. To a server, nothing is sent before the first statement.

    Args:
        database: A path, ":memory:", a `MemoryDatabase` for several connections, a `libsql://` URL, or a `Server`.
        durability: Local: "full" survives a power failure after every commit; "normal" may lose the last commits, never
            the file.
        busy_timeout: Local: seconds to wait for another writer.
        encryption_key: Local: the key of an encrypted file, 1 to 32 bytes; a new file is encrypted with it.
        local_engine: Local: "sqlite", "libsql", or "auto": libSQL's for a file with a DiskANN index, else SQLite's. A
            process opens a file with one engine at a time.
        auth_token: Server: a token, or a callable that returns one, which is called again when the server rejects one.
        ca_file: Server: a PEM file of the authorities to trust instead of the system's.
        timeout: Server: seconds for one request with its response.
        max_response_bytes: Server: the largest response, decompressed.
        base_url_hosts: Server: `host` or `host:port` to which the server may redirect the rest of a stream, and the
            token with it.
        max_concurrent_writes: Server: writes in flight at a time, for all connections of one engine or `Server`.

    Returns:
        The connection, for one thread at a time.

    Raises:
        ProgrammingError: an argument is invalid, or the URL is not encrypted.
        DatabaseError: the file is not a database, is encrypted with another key, or is open here with another engine.
        NotSupportedError: the driver of the local engine is not installed.
        OperationalError: the file cannot be opened.
    """
    # Wrap the secrets first: a traceback may show this frame.
    database = redacted(database)
    if auth_token is not None:
        auth_token = Credentials.of(auth_token)
    if encryption_key is not None:
        encryption_key = EncryptionKey.of(encryption_key)
    if isinstance(database, str) and "://" in database:
        database = Server.parse(database)
    if isinstance(database, Server):
        from ._hrana import HranaTransport  # and with it urllib3, which files do without

        limits = Limits.checked(ca_file, timeout, max_response_bytes, base_url_hosts, max_concurrent_writes)
        return Connection(HranaTransport(Client.of(database, Credentials.of(auth_token), limits)))
    if durability not in _SYNCHRONOUS:
        raise ProgrammingError(f"durability must be 'full' or 'normal', not {durability!r}")
    pragmas = (*_PRAGMAS, f"synchronous = {_SYNCHRONOUS[durability]}") if configure else ()
    return _open_local(database, busy_timeout, encryption_key, local_engine, pragmas)


def _open_local(
    database: str | MemoryDatabase,
    busy_timeout: float,
    encryption_key: EncryptionKey | None,
    local_engine: str,
    pragmas: Iterable[str],
) -> Connection:
    transport = LocalTransport(
        MemoryDatabase() if database == ":memory:" else database,
        busy_timeout=busy_timeout,
        encryption_key=encryption_key,
        local_engine=local_engine,
    )
    try:
        for pragma in pragmas:
            transport.run([BatchStep(f"PRAGMA {pragma}")])
    except BaseException:
        transport.close()
        raise
    return Connection(transport)
