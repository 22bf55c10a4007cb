"""From settings to a SQLAlchemy engine with its pool. Opens nothing by itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url

from .errors import ConfigurationError
from .pool import CountingPool, watch
from .settings import MEMORY, Settings


def make_engine(settings: Settings) -> Engine:
    """The engine that these settings ask for. Values never appear in its errors and logs."""
    engine = create_engine(
        url_of(settings),
        poolclass=CountingPool,
        pool_size=settings.pool.max_connections,
        max_overflow=0,
        pool_timeout=settings.pool.connect_timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args=_remote(settings) if settings.server else _local(settings),
    )
    if settings.database != MEMORY:  # which would be gone with its connections
        watch(engine, idle_timeout=settings.pool.idle_timeout, min_idle=settings.pool.min_idle)
    return engine


def make_directory(settings: Settings) -> None:
    """Make the directory of the database's file, if there is to be one.

    Raises:
        ConfigurationError: it cannot be made.
    """
    if settings.path is None:
        return
    directory = settings.path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"database: the directory {str(directory)!r} cannot be made: {error.strerror}"
        ) from error


def url_of(settings: Settings) -> URL:
    """The URL of the database that these settings name."""
    if settings.server:
        return make_url(settings.database)
    return URL.create("libsql", database=None if settings.database == MEMORY else settings.database)


def _local(settings: Settings) -> dict[str, Any]:
    return {
        "durability": settings.durability,
        "busy_timeout": settings.request_timeout,
        "encryption_key": settings.key,
    }


def _remote(settings: Settings) -> dict[str, Any]:
    return {
        "auth_token": settings.credentials,
        "ca_file": settings.tls_ca_file and str(settings.tls_ca_file),
        "timeout": settings.request_timeout,
        "max_response_bytes": settings.max_response_bytes,
        "base_url_hosts": settings.base_url_hosts,
    }
