"""The command `health`: report the state of a database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from memory_storage import migrate
from memory_storage._exception_mapping import map_exceptions
from memory_storage._formatting import counted
from memory_storage.engine import make_engine
from memory_storage.models import Health
from memory_storage.settings import MEMORY
from memory_storage.storage import MemoryStorage

from . import exit_codes
from .app import app
from .database import refuse_missing, settings_for
from .options import AsJson, Database, Namespace
from .output import show_fields, write_json


@app.command()
def health(
    database: Database = None,
    namespace: Namespace = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare the indexes with their tables, and count rows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report the state of the database. Exits with 7 if it is unavailable, and with 9 if a check finds a problem."""
    settings = settings_for(database, namespace)
    refuse_missing(settings)
    with map_exceptions():
        if settings.path is not None:
            # The file of another application is not touched.
            migrate.look(settings.path, settings.key, local_engine=settings.required_engine)
        engine = make_engine(settings)
    try:
        if settings.database == MEMORY:
            migrate.upgrade(engine)
        found = MemoryStorage(engine, settings).health_check(deep=deep)
    finally:
        engine.dispose()
    if as_json:
        write_json({"is_healthy": found.is_healthy, **asdict(found)})
    else:
        show_fields(dict(_fields(found)))
    if not found.is_healthy:
        raise typer.Exit(exit_codes.UNAVAILABLE if found.status == "unhealthy" else exit_codes.DAMAGED)


def _fields(found: Health) -> Iterator[tuple[str, object]]:
    yield "status", found.status
    yield "reason", found.reason
    yield "database", found.endpoint
    yield "schema", found.schema
    yield "latency", None if found.latency is None else f"{found.latency * 1000:.1f} ms"
    yield "circuit breaker", found.circuit_breaker.state
    if found.disk is not None:
        yield "file", f"{counted(found.disk.database_bytes, 'byte')}, and {found.disk.log_bytes:,} in its log"
        yield "free", counted(found.disk.free_bytes, "byte")
    for check in found.checks:
        yield check.name, check.problem or "ok"
    for table, count in (found.rows or {}).items():
        yield table, f"{count:,}"
