"""MemoryStorage: the facade. It opens, migrates and closes, and hands out repositories; the work is theirs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Engine, event
from typing_extensions import Self

from . import health, migrate, models, pool
from ._exception_mapping import map_exceptions
from ._execution import Executor
from ._files import MaintenanceLock
from ._signature_errors import explain_misuse
from .dbapi import redacted
from .engine import guard_engine, make_directory, make_engine
from .erasure import Eraser
from .errors import CommitUnknownError, ConfigurationError, UnavailableError, ValidationError
from .monitoring import Meter
from .resilience import CircuitBreaker, Guard, is_retryable_read, was_not_committed
from .search.hnsw import is_installed
from .search.hnsw.index import HnswIndexes
from .search.vector_index import VectorIndex
from .session import Repositories, Session, StorageContext
from .settings import Settings, hidden_token
from .sql.arguments import aware
from .transaction import Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)
_NAMESPACE_LENGTH = 200
_OPEN = 'MemoryStorage.open("memory.db"), or MemoryStorage.open("libsql://...", auth_token=...)'


class MemoryStorage(Repositories):
    """An agent's memory in one namespace of one database. Threads may share it."""

    @explain_misuse(f"it takes an engine and its settings; most callers write {_OPEN}")
    def __init__(self, engine: Engine, settings: Settings, *, now: Callable[[], datetime] = models.utc_now) -> None:
        """For an engine of your own, which stays yours to dispose of; its schema must be there. Most want `open`."""
        _check_construction(engine, settings, now)
        _check_engine(engine)
        self.engine = engine
        self.settings = settings
        self.namespace = _check_namespace(settings.namespace)
        self._owns_engine = False
        self.vector_index = _candidate_source(settings)
        """Where searches get their candidates: "hnsw", "diskann" or "exact"."""
        self._context = self._make_context(now)
        self._owns_memory = True
        self._actor = ""
        super().__init__(Session(self._context, self.namespace))

    @classmethod
    @explain_misuse(f"write {_OPEN}; other settings: MemoryStorage.open(Settings(database=..., ...))")
    def open(
        cls,
        database: str | os.PathLike[str] | Settings | None = None,
        *,
        auth_token: str | SecretStr | Callable[[], str | SecretStr] | None = None,
        namespace: str | None = None,
        now: Callable[[], datetime] = models.utc_now,
    ) -> Self:
        """Open a database, create it if need be, and bring its schema up to date.

        `database` is a path, ":memory:", a URL, or all the settings; without it the environment decides.

        Raises:
            ConfigurationError: the path or a setting cannot work; a CredentialError if it is the key of the file.
            SchemaError: the schema is newer than this package, or another program's. Nothing is touched.
            UnavailableError: the server cannot be reached, also when it was tried again as the settings under `retry`
                say. `code` is "CONNECTION_FAILED"; `host`, `port`, `cause` and `attempts` say the rest.
        """
        auth_token, database = hidden_token(auth_token), redacted(database)  # a traceback may show this frame
        settings = _settings(database, auth_token, namespace)
        if not callable(now):
            raise ConfigurationError(f"now: must be a function that returns an aware moment, not {now!r}")
        _candidate_source(settings), _check_namespace(settings.namespace)  # before there is a file
        make_directory(settings)
        with map_exceptions():
            engine = make_engine(settings)
        try:
            storage = cls(engine, settings, now=now)
            storage._ensure_schema()
            guard_engine(engine, storage._context.guard)
        except BaseException:
            engine.dispose()
            raise
        storage._owns_engine = True
        if settings.path is not None:
            storage._repair_indexes()
        with map_exceptions(engine):
            pool.fill(engine, settings.pool.min_idle)
        return storage

    def _ensure_schema(self) -> None:
        """Bring the schema up to date; again, as a call is done again, while the server cannot be reached."""
        guard, call, since = self._context.guard, self.meter.begin("open"), perf_counter()

        def ensure() -> None:
            with map_exceptions(self.engine):
                migrate.ensure(self.engine, self.settings.path, self.settings.key)

        def once() -> None:
            ticket = guard.acquire()
            try:
                try:
                    ensure()
                except CommitUnknownError:
                    ensure()  # the revisions are one transaction: the schema says whether it was committed
            except BaseException as error:
                guard.record(ticket, error)
                raise
            guard.record(ticket)

        def count() -> None:
            call.retries += 1

        try:
            once()
        except UnavailableError as error:
            patience = self.settings.request_timeout
            guard.retry(error, once, since=since, seconds=patience, is_retryable=is_retryable_read, on_retry=count)
            self.meter.end("open", call, perf_counter() - since)

    def _make_context(self, now: Callable[[], datetime]) -> StorageContext:
        settings = self.settings
        now = partial(aware, now)
        breaker = CircuitBreaker(settings.circuit_breaker, now=now)
        guard = Guard(breaker, settings.retry, max_wait=settings.request_timeout)
        executor = Executor(self.engine, guard, Meter(settings.logging), settings.request_timeout)
        index_path = settings.path if settings.encryption_key is None else None  # a file of vectors is not encrypted
        maintenance = MaintenanceLock(settings.path)
        return StorageContext(
            executor=executor,
            limits=settings.limits,
            now=now,
            vector_index=self.vector_index,
            memory=HnswIndexes(executor.read, index_path, settings.hnsw_max_bytes, maintenance),
            maintenance=maintenance,
        )

    def _repair_indexes(self) -> None:
        try:
            for model in VectorIndex(self._session).repair_missing():
                _log.warning("the vector index of %r was lost: searches are slow until it is rebuilt", model)
        except UnavailableError as error:  # read-only, locked or full: searches are right without it
            _log.warning("a vector index was lost, and cannot be made now: %s", error)

    def in_namespace(self, namespace: str) -> Self:
        """Another namespace of the same database, on the same engine; to close it closes nothing."""
        return self._view(_check_namespace(namespace), self._actor)

    def acting_as(self, actor: str) -> Self:
        """Return a view of the same memory for an actor, whom the audit log names. Closing it closes nothing."""
        if not isinstance(actor, str):
            raise ValidationError("actor", "must be a text", actor)
        return self._view(self.namespace, actor)

    def _view(self, namespace: str, actor: str) -> Self:
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        view.settings = self.settings.model_copy(update={"namespace": namespace})
        view.namespace, view._actor, view._owns_engine = namespace, actor, False
        view._owns_memory = False
        view._use(Session(self._context, namespace, actor))
        return view

    def transaction(self) -> Transaction:
        """A unit of work: `with storage.transaction() as tx: tx.episodes.save(...)`. All or nothing."""
        return Transaction(self._context, self.namespace, self._actor)

    def snapshot(self) -> Transaction:
        """The memory as it is now, for reading: `with storage.snapshot() as view: view.episodes.iterate()`.

        Other clients may write; this view does not see it. On a server it is kept alive until the block ends, however
        long the caller pauses between two calls.
        """
        return Transaction(self._context, self.namespace, self._actor, read_only=True)

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Do `work(tx)` in a transaction, and again from its start where a lock or the line took it back as a whole.

        The settings under `retry` say how often. It is not done again after it may have been committed
        (CommitUnknownError), nor while the circuit breaker is open (CircuitOpenError).
        """
        if not callable(work):
            raise ValidationError("work", "must be a function that takes the transaction: run(lambda tx: ...)", work)

        def once() -> T:
            with self.transaction() as tx:
                return work(tx)

        again = partial(self._context.meter.record_retry, "transaction")
        return self._context.guard.run(once, is_retryable=was_not_committed, on_retry=again)

    @property
    def circuit_breaker(self) -> CircuitBreaker:
        """The circuit breaker of this database, which all namespaces share: its state, `reset`, and listeners."""
        return self._context.guard.breaker

    @property
    def meter(self) -> Meter:
        """What counts and times the operations, of all namespaces; `memory_storage.monitoring` shows it to others."""
        return self._context.meter

    def circuit_breaker_status(self) -> models.CircuitBreakerStatus:
        """How the circuit breaker is now."""
        return self.circuit_breaker.status()

    def pool_stats(self) -> models.PoolStats:
        """Connections in use and idle, and how long was waited for one."""
        return pool.stats(self.engine)

    def metrics(self) -> dict[str, models.OperationMetrics]:
        """What each operation, like "episodes.save", has done since the storage was made, in all its namespaces."""
        return self._context.meter.metrics()

    def health_check(self, *, deep: bool = False, timeout: float = 5.0) -> models.Health:
        """Whether the database answers within `timeout` seconds, has the right schema, and room on its disk.

        A database that is not there is an unhealthy one, and no error. `deep` also counts the namespace's rows and
        compares each index with its table, which reads all of them. Others may write meanwhile. In a file each
        full-text index is copied into memory for that; on a server only its rows are compared with those of the table,
        and its words with each other.
        """
        return health.check(self._context, self.settings, self, deep=deep, timeout=timeout)

    def forget(
        self, *, episode: UUID | str | None = None, namespace: str | None = None, scrub: bool = True
    ) -> models.ErasureResult:
        """Erase an episode of this namespace, or all of a namespace (this one's view or another's), for good.

        It is gone from every table and index at once, with steps, vectors and places. Patterns that have the episode
        in their evidence lose that; those that have no other evidence go with it. A digest of each id stays, so that no
        stale copy is imported or saved again. To forget what is not there is harmless: so it can be done again after
        an interruption.

        What the doctor has quarantined of it is erased too. With `scrub` nothing of it is left in the file, its log and
        its sidecars either: see `scrub`, and `ErasureResult.scrubbed`. Backups and exports are outside.

        Raises:
            UnavailableError: a transaction of this thread is open, or others keep writing there.
            ValidationError: neither an episode nor a namespace is given, or both.
        """
        if (episode is None) == (namespace is None):
            raise ValidationError("episode", "either an episode or a namespace", (episode, namespace))
        if namespace is not None:
            return self.in_namespace(namespace)._eraser().everything(scrub=scrub)
        return self._eraser().episode(episode or "", scrub=scrub)

    def scrub(self) -> models.ScrubResult:
        """See to it that nothing that was deleted, in any namespace, is left in the file and its log.

        It writes the file anew, without free space: others can read meanwhile, but not write, and the disk needs room
        for two more of it. Vector indexes are built anew after that; searches are right without them. On a server this
        can be done for its indexes only: `ScrubResult.why` says so. One scrub of a file runs at a time, across
        processes. Of an encrypted file the copy is in memory, and no temporary file is written.

        Raises:
            UnavailableError: the disk is full, another writer has held the lock for too long, or another scrub, restore
                or repair is running (code MAINTENANCE). Call it again.
            ConfigurationError: the directory of the file cannot be written to.
        """
        return self._eraser().scrub()

    def _eraser(self) -> Eraser:
        return Eraser(self.engine, self.settings, self._session, self._context.maintenance)

    def close(self) -> None:
        """Close what `open` has opened, for all namespaces; using it then is an UnavailableError.

        An in-memory database is gone with it.
        """
        if self._owns_memory and self._context.memory:
            self._context.memory.close()
        if self._owns_engine:
            event.listen(self.engine, "do_connect", _refuse_to_connect)
            self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryStorage({self.settings.database!r}, namespace={self.namespace!r})"


def _settings(
    database: str | os.PathLike[str] | Settings | None,
    auth_token: str | SecretStr | Callable[[], str | SecretStr] | None,
    namespace: str | None,
) -> Settings:
    given = {"auth_token": auth_token, "namespace": namespace}
    chosen = {name: value for name, value in given.items() if value is not None}
    if isinstance(database, Settings):
        return Settings(**{**dict(database), **chosen}) if chosen else database
    if database is not None:
        chosen["database"] = _checked_path(database)
    return Settings.from_environment(**chosen)


def _checked_path(database: object) -> str:
    path = os.fspath(database) if isinstance(database, os.PathLike) else database
    if not isinstance(path, str):
        raise ConfigurationError(f"database: must be a path, a URL or Settings, not a {type(database).__name__}")
    return path


def _check_construction(engine: object, settings: object, now: object) -> None:
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"engine: must be an engine, not a {type(engine).__name__}: write {_OPEN}")
    if not isinstance(settings, Settings):
        raise ConfigurationError(f"settings: must be Settings(database=...), not a {type(settings).__name__}")
    if not callable(now):
        raise ConfigurationError(f"now: must be a function that returns an aware moment, not a {type(now).__name__}")


def _check_engine(engine: Engine) -> None:
    """ConfigurationError unless the storage can work with an engine of the caller's."""
    from .dialect import LibSQLDialect  # loaded already if the engine is of it

    if not isinstance(engine.dialect, LibSQLDialect):
        url = "libsql://HOST" if engine.url.host else f"libsql:///{engine.url.database or ':memory:'}"
        raise ConfigurationError(
            f"engine: must be of this package's dialect, not {engine.url.drivername}://: write create_engine({url!r})"
        )
    levels = engine.get_execution_options().get("isolation_level"), engine.dialect._on_connect_isolation_level
    if "AUTOCOMMIT" in {str(level).upper() for level in levels}:
        raise ConfigurationError(
            "engine: its isolation level is AUTOCOMMIT, so that a transaction could not be rolled back: leave it out"
        )


def _candidate_source(settings: Settings) -> str:
    """The source of candidates."""
    if settings.vector_index == "auto":
        return "hnsw" if settings.path is not None and is_installed() else "diskann"
    if settings.vector_index == "hnsw" and not is_installed():
        raise ConfigurationError("vector_index: hnsw needs usearch: pip install 'memory-storage[ann]', or use diskann")
    return settings.vector_index


def _check_namespace(namespace: str) -> str:
    if not isinstance(namespace, str) or not 1 <= len(namespace) <= _NAMESPACE_LENGTH:
        raise ValidationError("namespace", f"1 to {_NAMESPACE_LENGTH} characters", namespace)
    if "\0" in namespace or any("\ud800" <= character <= "\udfff" for character in namespace):
        raise ValidationError("namespace", "text without NUL and lone surrogates", namespace)
    return namespace


def _refuse_to_connect(*_: Any) -> None:
    raise UnavailableError("this storage is closed: open it again")
