"""From settings to a SQLAlchemy engine with its pool. Opens nothing by itself."""

from __future__ import annotations

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.pool import QueuePool

from .settings import MEMORY, Settings


def make_engine(settings: Settings) -> Engine:
    """The engine that these settings ask for. Values never appear in its errors and logs."""
    return create_engine(
        URL.create("libsql", database=None if settings.database == MEMORY else settings.database),
        poolclass=QueuePool,
        pool_size=settings.pool.max_connections,
        max_overflow=0,
        pool_timeout=settings.pool.connect_timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={"durability": settings.durability, "busy_timeout": settings.request_timeout},
    )
