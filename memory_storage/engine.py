"""Creates the SQLAlchemy engine of a database from its settings, with its pool and its circuit breaker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url

from . import dbapi
from ._exception_mapping import as_storage_error
from ._paths import why_unwritable
from .errors import ConfigurationError
from .pool import CountingPool, set_gate, track_checkouts
from .resilience import Guard
from .settings import MEMORY, Settings


def make_engine(settings: Settings) -> Engine:
    """Return an engine for these settings. Its errors and logs contain no values."""
    arguments: dict[str, Any]
    if settings.server:
        arguments = {
            "auth_token": settings.credentials,
            "ca_file": settings.tls_ca_file and str(settings.tls_ca_file),
            "timeout": settings.request_timeout,
            "max_response_bytes": settings.max_response_bytes,
            "base_url_hosts": settings.base_url_hosts,
            "max_concurrent_writes": settings.max_concurrent_writes,
        }
    else:
        arguments = {
            "durability": settings.durability,
            "busy_timeout": settings.request_timeout,
            "encryption_key": settings.key,
            "local_engine": settings.required_engine,
        }
    engine = create_engine(
        url_of(settings),
        poolclass=CountingPool,
        pool_size=settings.pool.max_connections,
        max_overflow=0,
        pool_timeout=settings.pool.connect_timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args=arguments,
    )
    # Closing the connections of a database in memory would delete it: they stay open.
    idle_timeout = None if settings.database == MEMORY else settings.pool.idle_timeout
    track_checkouts(engine, idle_timeout=idle_timeout, min_idle=settings.pool.min_idle)
    return engine


def guard_engine(engine: Engine, guard: Guard) -> None:
    """Have the circuit breaker guard the caller's use of the engine: Connections, sessions, raw connections.

    While the circuit is open, `engine.connect()` and statements outside of a transaction are a CircuitOpenError, and
    nothing is sent; outages in a caller's statements and commits are counted. Nothing is retried. A call of a
    repository passes the breaker before it takes a connection, and is not counted twice.
    """
    set_gate(engine, _Gate(guard))


class _Gate:
    """The gate that callers' connections pass before each statement."""

    def __init__(self, guard: Guard) -> None:
        self._breaker, self.thread = guard.breaker, guard.thread
        self.refuse_if_open = self._breaker.refuse_if_open

    def admit(self, *, in_transaction: bool) -> tuple[int, bool]:
        """See `dbapi.Gate`. A transaction that has begun is not refused in its middle."""
        generation = self._breaker.generation
        if in_transaction or self._breaker.is_idle:
            return generation, False
        return self._breaker.acquire(max_wait=0), True

    def record(self, ticket: Any, error: BaseException | None) -> None:
        """See `dbapi.Gate`."""
        generation, admitted = ticket
        ours = as_storage_error(error) if isinstance(error, dbapi.Error) else error
        self._breaker.record(generation, ours, admitted=admitted)


def make_directory(settings: Settings) -> None:
    """Create the directory of the database file, unless the database is in memory or on a server.

    Raises:
        ConfigurationError: The directory cannot be created.
    """
    if settings.path is None:
        return
    directory = settings.path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"database: {why_unwritable(settings.path, error)}") from error


def url_of(settings: Settings) -> URL:
    """Return the SQLAlchemy URL of the database that these settings name."""
    if settings.server:
        return make_url(settings.database)
    return URL.create("libsql", database=None if settings.database == MEMORY else settings.database)
