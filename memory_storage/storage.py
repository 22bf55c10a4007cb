"""MemoryStorage: the facade. It opens, migrates and closes, and hands out repositories; the work is theirs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pydantic import SecretStr
from sqlalchemy import Engine, event
from typing_extensions import Self

from . import migrate, models
from .dbapi import redacted
from .engine import make_engine
from .errors import ConfigurationError, UnavailableError, ValidationError
from .nearby import is_installed
from .repositories.memory_index import MemoryIndexes
from .resilience import repeated
from .settings import Settings, hidden_token
from .transaction import NOT_STORED, Repositories, Scope, Transaction
from .translation import translated

T = TypeVar("T")

_log = logging.getLogger(__name__)
_NAMESPACE_LENGTH = 200
_NOTHING_HAPPENED = {
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "TRANSACTION_TIMEOUT",
    "TRANSACTION_BUSY",
    "TRANSACTION_LOST",
    "CONNECTION_FAILED",
    "CONNECTION_LOST",
    "SERVER_BUSY",
    NOT_STORED,
}


class MemoryStorage(Repositories):
    """An agent's memory in one namespace of one database. Threads may share it."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        now: Callable[[], datetime] = models.utc_now,
        _shared: MemoryIndexes | None = None,
    ) -> None:
        """For an engine of your own, which stays yours to dispose of; its schema must be there. Most want `open`."""
        if engine.dialect.driver != "libsql":
            raise ConfigurationError(
                f"the engine must be of this package's dialect, libsql://, not {engine.url.drivername}"
            )
        self.engine = engine
        self.settings = settings
        self.namespace = _checked_namespace(settings.namespace)
        self._now = now
        self._owns_engine = False
        self.vector_index = _vector_index(settings)
        """Where searches get their candidates: "memory", "diskann" or "exact"."""
        self._owns_memory = _shared is None
        self._memory = _shared or self._make_memory()
        super().__init__(self._scope(self.namespace))

    @classmethod
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
            ConfigurationError: the path or a setting cannot work.
            SchemaError: the schema is newer than this package, or another program's. Nothing is touched.
        """
        auth_token, database = hidden_token(auth_token), redacted(database)  # a traceback may show this frame
        settings = _settings(database, auth_token, namespace)
        if settings.path is not None:
            _make_directory(settings.path.parent)
        with translated():
            engine = make_engine(settings)
            try:
                migrate.ensure(engine, settings.path)
            except BaseException:
                engine.dispose()
                raise
        storage = cls(engine, settings, now=now)
        storage._owns_engine = True
        if settings.path is not None:
            storage._mend_indexes()
        return storage

    def _scope(self, namespace: str) -> Scope:
        given = (self.engine, namespace, self.settings.limits, self._now)
        return Scope(*given, vector_index=self.vector_index, memory=self._memory)

    def _transaction(self, *, read_only: bool) -> Transaction:
        return Transaction(
            self.engine,
            self.namespace,
            self.settings.limits,
            self._now,
            read_only=read_only,
            vector_index=self.vector_index,
            memory=self._memory,
        )

    def _make_memory(self) -> MemoryIndexes:
        scope = Scope(self.engine, self.namespace, self.settings.limits, self._now)
        return MemoryIndexes(scope.read, self.settings.path, self.settings.vector_index_memory)

    def _mend_indexes(self) -> None:
        try:
            for model in self.embeddings.index.mend():
                _log.warning("the vector index of %r was lost: searches are slow until it is rebuilt", model)
        except UnavailableError as error:  # read-only, locked or full: searches are right without it
            _log.warning("a vector index was lost, and cannot be made now: %s", error)

    def in_namespace(self, namespace: str) -> Self:
        """Another namespace of the same database, on the same engine; to close it closes nothing."""
        settings = self.settings.model_copy(update={"namespace": namespace})
        return type(self)(self.engine, settings, now=self._now, _shared=self._memory)

    def transaction(self) -> Transaction:
        """A unit of work: `with storage.transaction() as tx: tx.episodes.save(...)`. All or nothing."""
        return self._transaction(read_only=False)

    def snapshot(self) -> Transaction:
        """The memory as it is now, for reading: `with storage.snapshot() as view: view.episodes.iterate()`.

        Others go on writing; this view does not see it.
        """
        return self._transaction(read_only=True)

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Do `work(tx)` in a transaction, and again from its start where a lock or the line took it back as a whole."""

        def once() -> T:
            with self.transaction() as tx:
                return work(tx)

        return repeated(once, self.settings.retry, is_safe=_nothing_happened)

    def close(self) -> None:
        """Close what `open` has opened, for all namespaces; using it then is an UnavailableError.

        An in-memory database is gone with it.
        """
        if self._owns_memory:
            self._memory.close()
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
        chosen["database"] = os.fspath(database)
    return Settings.from_environment(**chosen)


def _vector_index(settings: Settings) -> str:
    """The source of candidates: with "auto", memory for files where the library is there."""
    if settings.vector_index == "memory" and not is_installed():
        raise ConfigurationError(
            "vector_index: memory needs usearch: pip install 'memory-storage[ann]', or use diskann"
        )
    if settings.vector_index != "auto":
        return settings.vector_index
    return "memory" if settings.path is not None and is_installed() else "diskann"


def _checked_namespace(namespace: str) -> str:
    if not isinstance(namespace, str) or not 1 <= len(namespace) <= _NAMESPACE_LENGTH:
        raise ValidationError("namespace", f"1 to {_NAMESPACE_LENGTH} characters", namespace)
    if "\0" in namespace or any("\ud800" <= character <= "\udfff" for character in namespace):
        raise ValidationError("namespace", "text without NUL and lone surrogates", namespace)
    return namespace


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"database: the directory {str(directory)!r} cannot be made: {error.strerror}"
        ) from error


def _refuse_to_connect(*_: Any) -> None:
    raise UnavailableError("this storage is closed: open it again")


def _nothing_happened(error: UnavailableError) -> bool:
    # What was begun was not committed. If that is not certain, it is another error: CommitUnknownError.
    return error.code in _NOTHING_HAPPENED
