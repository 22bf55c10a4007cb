"""Open or create the database of a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from memory_storage import migrate
from memory_storage._exception_mapping import map_exceptions
from memory_storage.engine import make_engine
from memory_storage.errors import ConfigurationError
from memory_storage.settings import MEMORY, Settings
from memory_storage.storage import MemoryStorage


def settings_for(
    database: str | None,
    namespace: str | None,
    vector_index: str | None = None,
    local_engine: str | None = None,
    request_timeout: float | None = None,
) -> Settings:
    """Return the settings of the environment, overridden by the options that are not None.

    Raises:
        ConfigurationError: neither the environment nor the options name a database.
    """
    given: dict[str, Any] = {
        "database": database,
        "namespace": namespace,
        "vector_index": vector_index,
        "local_engine": local_engine,
        "request_timeout": request_timeout,
    }
    return Settings.from_environment(**{name: value for name, value in given.items() if value is not None})


def open_or_create(database: str | None, namespace: str | None) -> MemoryStorage:
    """Open the storage; create the database or upgrade its schema if necessary."""
    return MemoryStorage.open(settings_for(database, namespace))


def open_existing(
    database: str | None,
    namespace: str | None,
    vector_index: str | None = None,
    local_engine: str | None = None,
    request_timeout: float | None = None,
) -> MemoryStorage:
    """Open the storage of an existing database without changing its schema.

    Raises:
        ConfigurationError: the file does not exist.
        SchemaError: its schema is of another version.
    """
    settings = settings_for(database, namespace, vector_index, local_engine, request_timeout)
    if settings.database == MEMORY:
        return MemoryStorage.open(settings)
    return _open_checked(settings, migrate.check)


def open_any_revision(database: str | None) -> MemoryStorage:
    """Open the storage of an existing database, whose schema may be an older one.

    With an older schema, only a part of the API works.

    Raises:
        ConfigurationError: the file does not exist.
        SchemaError: there is no schema, or a newer one.
    """
    return _open_checked(settings_for(database, None), migrate.check_ours)


def _open_checked(settings: Settings, check: Callable[[Engine], object]) -> MemoryStorage:
    refuse_missing(settings)
    with map_exceptions():
        if settings.path is not None:
            migrate.look(settings.path, settings.key, local_engine=settings.required_engine)
        engine = make_engine(settings)
        try:
            check(engine)
        except BaseException:
            engine.dispose()
            raise
    storage = MemoryStorage(engine, settings)
    storage._owns_engine = True  # as if `open` had made it: closing the storage closes the file
    return storage


def refuse_missing(settings: Settings) -> None:
    """Raise ConfigurationError if the database is a file that does not exist."""
    if settings.path is not None and not settings.path.exists():
        raise ConfigurationError(f"there is no database {settings.database!r}: create it with `memory-storage init`")
