"""The unit of work: owns the transaction, hands out the repositories, and lets only this package's errors out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType

from sqlalchemy import Connection, Engine, exc
from typing_extensions import Self

from . import dbapi
from .errors import (
    ConfigurationError,
    ConflictError,
    CorruptDataError,
    MemoryStorageError,
    PoolTimeoutError,
    SchemaError,
    UnavailableError,
    ValidationError,
)
from .repositories import (
    AnalyticsRepository,
    EmbeddingRepository,
    EpisodeRepository,
    PatternRepository,
    SpatiotemporalRepository,
    StepRepository,
)
from .repositories._session import Row
from .settings import Limits

_log = logging.getLogger(__name__)


class Repositories:
    """The repositories of one namespace, over one session."""

    def __init__(self, session: Scope) -> None:
        self.episodes = EpisodeRepository(session)
        self.steps = StepRepository(session)
        self.patterns = PatternRepository(session)
        self.embeddings = EmbeddingRepository(session)
        self.spatiotemporal = SpatiotemporalRepository(session)
        self.analytics = AnalyticsRepository(session)


class Scope:
    """A session in which every call is a transaction of its own, on a connection of the pool."""

    def __init__(self, engine: Engine, namespace: str, limits: Limits, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self.namespace = namespace
        self.limits = limits
        self.now = now

    def read(self, step: dbapi.Step) -> Sequence[Row]:
        """The rows of one SELECT."""
        return self._run(dbapi.Batch([step], reads_only=True))

    def write(self, steps: Sequence[dbapi.Step]) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any."""
        _refuse_to_wait_for_itself(self._engine)
        return self._run(dbapi.Batch(steps))

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated():
            if _is_watched(self._engine):
                with self._engine.connect().execution_options(libsql_begin="") as connection:
                    return _rows(connection, batch)
            return _straight(self._engine, batch)


class Transaction(Repositories, Scope):
    """All or nothing: a clean exit of the block commits, an exception rolls back. Not for several threads.

    It takes the write lock at its first statement, so that what it reads cannot change before it writes. With
    `read_only` it takes none: it sees the database as it was at its first statement, while others go on writing.
    """

    def __init__(
        self,
        engine: Engine,
        namespace: str,
        limits: Limits,
        now: Callable[[], datetime],
        *,
        read_only: bool = False,
    ) -> None:
        Scope.__init__(self, engine, namespace, limits, now)
        Repositories.__init__(self, self)
        self._read_only = read_only
        self._connection: Connection | None = None
        self._marks: set[Engine] = set()  # of the thread that opened it

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise MemoryStorageError("this transaction is open already")
        if not self._read_only:
            _refuse_to_wait_for_itself(self._engine)
        begin = "DEFERRED" if self._read_only else "IMMEDIATE"
        with translated():
            self._connection = self._engine.connect().execution_options(libsql_begin=begin)
        if not self._read_only:
            self._marks = _writing()
            self._marks.add(self._engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._open_connection(), None
        self._marks.discard(self._engine)
        if error is None:
            with translated(), connection:
                connection.commit()
        else:
            _discard(connection)

    def write(self, steps: Sequence[dbapi.Step]) -> Sequence[Row]:
        """Run all or nothing, within the transaction; the rows of the last step that has any."""
        if self._read_only:
            raise MemoryStorageError("this is a snapshot, it only reads: write with the storage, or in a transaction")
        return self._run(dbapi.Batch(steps))

    def _run(self, batch: dbapi.Batch) -> Sequence[Row]:
        with translated():
            return _rows(self._open_connection(), batch)

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise MemoryStorageError("this transaction is not open: use it inside of its `with` block")
        return self._connection


_thread = threading.local()


def _writing() -> set[Engine]:
    """The engines on which this thread has a transaction open."""
    engines: set[Engine] = _thread.__dict__.setdefault("engines", set())
    return engines


def _refuse_to_wait_for_itself(engine: Engine) -> None:
    if engine in _writing():
        raise UnavailableError(
            "this thread has a transaction open on this database, and would wait for itself: "
            "write with the transaction's own repositories, or end it first"
        )


@contextmanager
def translated() -> Iterator[None]:
    """The one door for foreign errors: SQLAlchemy's and the driver's become ours, with the cause chained."""
    try:
        yield
    except dbapi.RowCountError:
        raise  # what a repository asked to be told: it knows what it means
    except dbapi.Error as error:
        raise as_storage_error(error) from error
    except exc.DBAPIError as error:
        if isinstance(error.orig, dbapi.RowCountError):
            raise error.orig from None
        raise as_storage_error(error.orig) from error
    except exc.PendingRollbackError as error:
        lost = "the transaction was lost with its connection: begin it again"
        raise UnavailableError(lost, code="TRANSACTION_LOST") from error
    except exc.TimeoutError as error:
        advice = "end transactions sooner, or raise pool.max_connections or pool.connect_timeout"
        raise PoolTimeoutError(f"no connection came free in time: {advice} ({error.args[0]})") from error
    except exc.ArgumentError as error:
        raise ConfigurationError(str(error)) from error


def as_storage_error(error: BaseException | None) -> MemoryStorageError:
    """What a driver's error means to a caller."""
    code = getattr(error, "code", "")
    if code in _BY_CODE:
        return _BY_CODE[code](str(error), code)
    if isinstance(error, dbapi.IntegrityError):
        return _conflict(str(error))
    if isinstance(error, dbapi.DataError):
        return ValidationError("input", str(error), "a value that cannot be stored")
    if isinstance(error, dbapi.OperationalError) and str(error).startswith(("no such table", "no such column")):
        return SchemaError(f"the schema is not what this version knows ({error}): run `memory-storage upgrade`")
    if isinstance(error, dbapi.InterfaceError):
        return UnavailableError(f"the connection is lost: {error}", code=code)
    return MemoryStorageError(f"the database refused: {error}")


def _conflict(message: str) -> ConflictError:
    if "steps." in message:
        detail = "another step has one of these ids or numbers"
        return ConflictError("step", None, expected=0, actual=None, detail=detail)
    return ConflictError("row", None, expected=0, actual=None, detail=message)


def _unavailable(advice: str) -> Callable[[str, str], MemoryStorageError]:
    return lambda message, code: UnavailableError(f"{message}: {advice}", code=code)


def _corrupt(message: str, code: str) -> MemoryStorageError:  # noqa: ARG001
    return CorruptDataError(f"{message}: the file is damaged or no database; restore it from a backup")


_BY_CODE: dict[str, Callable[[str, str], MemoryStorageError]] = {
    "SQLITE_BUSY": _unavailable("another writer has held it for too long (setting: request_timeout)"),
    "SQLITE_LOCKED": _unavailable("another connection is using the table"),
    "THREAD_BUSY": lambda message, code: UnavailableError(message, code=code),
    "TRANSACTION_LOST": lambda message, code: UnavailableError(message, code=code),
    "SQLITE_FULL": _unavailable("make room on the disk; nothing of this call was stored"),
    "SQLITE_READONLY": _unavailable("make the file and its directory writable"),
    "SQLITE_IOERR": _unavailable("the disk failed; nothing of this call was stored"),
    "SQLITE_CANTOPEN": lambda message, _: ConfigurationError(f"{message}: check the path and its permissions"),
    "SQLITE_CORRUPT": _corrupt,
    "SQLITE_NOTADB": _corrupt,
}


def _is_watched(engine: Engine) -> bool:
    return bool(engine.echo or engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute)


def _straight(engine: Engine, batch: dbapi.Batch) -> Sequence[Row]:
    # From the pool to the driver: SQLAlchemy's Connection takes as long as a small read itself, and is for listeners.
    connection = engine.raw_connection()
    try:
        rows: Sequence[Row] = connection.cursor().execute(batch).fetchall()
        return rows
    except dbapi.InterfaceError as error:
        connection.invalidate(error)
        raise
    finally:
        connection.close()


def _rows(connection: Connection, batch: dbapi.Batch) -> Sequence[Row]:
    result = connection.exec_driver_sql(batch)
    return result.fetchall() if result.returns_rows else []


def _discard(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # The error that ended the block is on its way to the caller: this one must not hide it.
        _log.exception("a rollback failed")
