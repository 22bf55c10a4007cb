"""Opening the database that a command was given: to read it, or to make it."""

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


def settings_for(database: str | None, namespace: str | None, vector_index: str | None = None) -> Settings:
    """The settings of the environment with what was given. ConfigurationError if there is no database."""
    given: dict[str, Any] = {"database": database, "namespace": namespace, "vector_index": vector_index}
    return Settings.from_environment(**{name: value for name, value in given.items() if value is not None})


def open_or_create(database: str | None, namespace: str | None) -> MemoryStorage:
    """The storage; created and brought up to date if need be."""
    return MemoryStorage.open(settings_for(database, namespace))


def open_existing(database: str | None, namespace: str | None, vector_index: str | None = None) -> MemoryStorage:
    """The storage as it is. Creates nothing and upgrades nothing.

    Raises:
        ConfigurationError: there is no such file.
        SchemaError: its schema is not this version's.
    """
    settings = settings_for(database, namespace, vector_index)
    if settings.database == MEMORY:
        return MemoryStorage.open(settings)
    return _opened(settings, migrate.check)


def open_any_revision(database: str | None) -> MemoryStorage:
    """The storage as it is, though its schema may be an older one: not all of it can be used then.

    Raises: as `open_existing`, where there is no schema at all or a newer one.
    """
    return _opened(settings_for(database, None), migrate.check_ours)


def _opened(settings: Settings, check: Callable[[Engine], object]) -> MemoryStorage:
    refuse_missing(settings)
    with map_exceptions():
        if settings.path is not None:
            migrate.look(settings.path, settings.key)
        engine = make_engine(settings)
        try:
            check(engine)
        except BaseException:
            engine.dispose()
            raise
    return MemoryStorage(engine, settings)


def refuse_missing(settings: Settings) -> None:
    """ConfigurationError if the database is a file that is not there."""
    if settings.path is not None and not settings.path.exists():
        raise ConfigurationError(f"there is no database {settings.database!r}: `memory-storage init` makes one")
