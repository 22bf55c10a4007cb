"""Running a batch: past SQLAlchemy straight on the driver, or through it where listeners watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from . import dbapi
from .resilience import Guard
from .sql.session import Row

Response = tuple[Sequence[Row], Sequence[dbapi.Result]]  # the rows that count, and what each step gave


def has_listeners(engine: Engine) -> bool:
    return bool(engine.echo or engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute)


def execute_raw(
    engine: Engine,
    batch: dbapi.Batch,
    guard: Guard | None = None,
    ticket: int = 0,
    *,
    deadline: float | None = None,
) -> Response:
    # From the pool to the driver: SQLAlchemy's Connection takes as long as a small read itself, and is for listeners.
    connection = engine.raw_connection()
    driver: Any = connection.dbapi_connection
    driver.gate = None  # the call was admitted before it took the connection
    try:
        if guard is not None and guard.breaker.generation != ticket:
            guard.recheck(ticket)
        if deadline is not None:
            driver.deadline = deadline
        cursor: Any = connection.cursor().execute(batch)
        return cursor.fetchall(), cursor.results
    except dbapi.InterfaceError as error:
        connection.invalidate(error)
        raise
    finally:
        if deadline is not None:
            driver.deadline = None
        connection.close()


def execute_with_events(connection: Connection, batch: dbapi.Batch) -> Response:
    result = connection.exec_driver_sql(batch)
    results = result.context.cursor.results
    return (result.fetchall() if result.returns_rows else []), results
