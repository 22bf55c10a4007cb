"""Maps SQLAlchemy and driver exceptions to this package's exception hierarchy."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, exc

from . import dbapi, pool
from .errors import (
    CommitUnknownError,
    ConfigurationError,
    ConflictError,
    CorruptDataError,
    CredentialError,
    InsecureConnectionError,
    MemoryStorageError,
    PoolTimeoutError,
    RequestTimeoutError,
    ResponseTooLargeError,
    SchemaError,
    TokenExpiredError,
    UnavailableError,
    ValidationError,
)

FOREIGN_ERRORS = (dbapi.Error, exc.SQLAlchemyError)


def map_exceptions(engine: Engine | None = None) -> _ExceptionMapper:
    """Return a context manager that raises this package's error for a foreign one, chained to its cause.

    Args:
        engine: Whose connections are taken in the block; an exhausted pool is reported with their holders.
    """
    return _ExceptionMapper(engine)


class _ExceptionMapper:
    # A class: a generator with @contextmanager takes three times as long.
    __slots__ = ("_engine",)

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, FOREIGN_ERRORS):
            raise_mapped(error, self._engine)


def raise_mapped(error: dbapi.Error | exc.SQLAlchemyError, engine: Engine | None) -> None:
    """Raise the error of this package for a foreign one; return if a repository handles the foreign one itself."""
    if isinstance(error, dbapi.RowCountError):
        return  # a repository handles it
    if isinstance(error, dbapi.Error):
        raise as_storage_error(error) from error
    if isinstance(error, exc.DBAPIError):
        if isinstance(error.orig, dbapi.RowCountError):
            raise error.orig from None
        raise as_storage_error(error.orig) from error
    if isinstance(error, exc.PendingRollbackError):
        lost = "the connection of the transaction was lost; nothing of it was stored; begin it again"
        raise UnavailableError(lost, code="TRANSACTION_LOST") from error
    if isinstance(error, exc.TimeoutError):
        raise _pool_timeout(error, engine) from error
    if isinstance(error, exc.ArgumentError):
        raise ConfigurationError(str(error)) from error


def _pool_timeout(error: exc.TimeoutError, engine: Engine | None) -> PoolTimeoutError:
    advice = "end transactions sooner, or raise pool.max_connections or pool.connect_timeout"
    holders = pool.holders(engine) if engine is not None else []
    held = "; ".join(map(str, holders)) or error.args[0]
    return PoolTimeoutError(f"no connection was free within pool.connect_timeout; {advice} ({held})", holders=holders)


def as_storage_error(error: BaseException | None) -> MemoryStorageError:
    """Return the error of this package for an error of the driver."""
    code = getattr(error, "code", "")
    if isinstance(error, dbapi.OutcomeUnknownError):
        return CommitUnknownError(str(error))
    if isinstance(error, dbapi.ResponseTooLargeError):
        too_large = ResponseTooLargeError(
            str(error), code=error.code, limit=error.limit, value=error.value, setting=error.setting or None
        )
        return _with_endpoint(too_large, error)
    if code in _BY_CODE:
        return _with_endpoint(_BY_CODE[code](str(error), code), error)
    if isinstance(error, dbapi.IntegrityError):
        return _conflict(str(error))
    if isinstance(error, dbapi.DataError):
        return ValidationError("input", str(error), "a value that cannot be stored")
    if isinstance(error, dbapi.OperationalError) and str(error).startswith(("no such table", "no such column")):
        return SchemaError(f"the schema is not what this version knows ({error}): run `memory-storage upgrade`")
    if isinstance(error, dbapi.InterfaceError):
        return UnavailableError(f"the connection was lost: {error}", code=code)
    return MemoryStorageError(f"the database reported an error: {error}")


def _with_endpoint(ours: MemoryStorageError, error: BaseException | None) -> MemoryStorageError:
    if isinstance(ours, UnavailableError) and isinstance(error, dbapi.LineError):
        ours.host, ours.port, ours.cause = error.host, error.port, error.cause
    return ours


def _conflict(message: str) -> ConflictError:
    if "steps." in message:
        detail = "another step has one of these ids or step numbers"
        advice = "load the episode again; to renumber steps, save all of the episode's steps together"
        return ConflictError("step", None, expected=0, actual=None, detail=detail, advice=advice)
    return ConflictError("row", None, expected=0, actual=None, detail=message)


def _unavailable(advice: str) -> Callable[[str, str], MemoryStorageError]:
    return lambda message, code: UnavailableError(f"{message}: {advice}", code=code)


def _corrupt(message: str, code: str) -> MemoryStorageError:  # noqa: ARG001
    return CorruptDataError(f"{message}: the file is damaged, or is not a database; restore it from a backup")


_BY_CODE: dict[str, Callable[[str, str], MemoryStorageError]] = {
    "SQLITE_BUSY": _unavailable("another writer has held it for too long (setting: request_timeout)"),
    "SQLITE_LOCKED": _unavailable("another connection is using the table"),
    "THREAD_BUSY": lambda message, code: UnavailableError(message, code=code),
    "TRANSACTION_LOST": lambda message, code: UnavailableError(message, code=code),
    "SQLITE_FULL": _unavailable("the disk is full; nothing of this call was stored; free some space"),
    "SQLITE_READONLY": _unavailable("nothing of this call was stored; make the file and its directory writable"),
    "SQLITE_IOERR": _unavailable("an I/O error of the disk; nothing of this call was stored"),
    "SQLITE_CANTOPEN": lambda message, _: ConfigurationError(message),
    "SQLITE_CORRUPT": _corrupt,
    "SQLITE_NOTADB": _corrupt,
    "NOT_UTF8": lambda message, _: CorruptDataError(f"{message}: a row is damaged; run `memory-storage doctor`"),
    "WRONG_KEY": lambda message, _: CredentialError(f"{message}; set the right one (setting: encryption_key)"),
    "OTHER_KEY": lambda message, _: CredentialError(
        f"{message}; set the same one, or close the storage that has the file open (setting: encryption_key)"
    ),
    "DISKANN_INDEX": lambda message, _: ConfigurationError(message),
    "OTHER_ENGINE": lambda message, _: ConfigurationError(message),
    "NO_DRIVER": lambda message, _: ConfigurationError(f"local_engine: {message}"),
    "NO_CIPHER": lambda message, _: ConfigurationError(message),
    "STATEMENT_TIMEOUT": lambda message, code: RequestTimeoutError(
        f"{message}; nothing of this call was stored (setting: request_timeout)", code=code
    ),
    "SQLITE_INTERRUPT": lambda message, code: UnavailableError(
        f"{message}; nothing of this call was stored", code=code
    ),
    "NOT_ENCRYPTED": lambda message, _: ConfigurationError(
        f"{message}: leave out the setting encryption_key, or make an encrypted copy: back it up, and restore that"
    ),
    "FILE_GONE": _unavailable("nothing of this call was stored; close the storage, and open it again"),
    "VECTOR_INDEX": lambda message, _: CorruptDataError(
        f"{message}: the vector index is damaged, the vectors are not; run `memory-storage index rebuild`"
    ),
    "TRANSACTION_TIMEOUT": _unavailable(
        "the server rolled it back: it was open for too long while another writer waited; nothing of it was stored"
    ),
    "TRANSACTION_BUSY": _unavailable("another writer was waiting; nothing of it was stored"),
    "CONNECTION_FAILED": _unavailable("the server cannot be reached; nothing was sent"),
    "CONNECTION_LOST": _unavailable("the connection failed"),
    "SERVER_BUSY": _unavailable("the server has too many requests; nothing was stored"),
    "SERVER_ERROR": _unavailable("the server failed"),
    "PROTOCOL": _unavailable("the response is not a libSQL server's; check the URL"),
    "BLOCKED": _unavailable("the server has blocked this database"),
    "REQUEST_TIMEOUT": lambda message, code: RequestTimeoutError(f"{message} (setting: request_timeout)", code=code),
    "INSECURE": lambda message, _: InsecureConnectionError(message),
    "BAD_CA": lambda message, _: ConfigurationError(message),
    "BAD_TOKEN": lambda message, _: CredentialError(message),
    "UNAUTHORIZED": lambda message, _: CredentialError(f"{message}: check auth_token"),
    "TOKEN_EXPIRED": lambda message, _: TokenExpiredError(f"{message}; get a new token"),
    "FORBIDDEN": lambda message, _: CredentialError(f"{message}: the token does not allow this"),
    "NO_SUCH_DATABASE": lambda message, _: ConfigurationError(f"{message}: check the URL, and what the token is for"),
}
