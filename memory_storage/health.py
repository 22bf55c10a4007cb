"""The health check of a storage: connection, schema, disk and indexes. Problems are reported, not raised."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from . import pool
from ._exception_mapping import map_exceptions
from .dbapi import Batch, BatchStep, redacted
from .errors import MemoryStorageError, ValidationError
from .models import DiskSpace, EmbeddingModel, EmbeddingStatus, Health, HealthCheck, HealthStatus
from .schema import HEAD
from .schema.vector_tables import DISKANN_INDEXES, VectorSpace
from .search.vector_index import registered
from .search.vector_sql import of
from .session import Repositories, Session, StorageContext
from .settings import Settings
from .sql.validation import finite

_LOW_DISK_BYTES = 64 * 2**20  # bytes that are free
_REVISION = BatchStep(f"SELECT version_num, EXISTS ({DISKANN_INDEXES}) FROM alembic_version")  # noqa: S608 - no input
_FROZEN = (
    "the vectors in its DiskANN index can only be changed with libSQL's engine: use local_engine='auto', or drop the "
    "index by `memory-storage index use hnsw`"
)
_FULL_TEXTS = BatchStep(
    "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql LIKE '%USING fts5%' ORDER BY name"
)
_NAME = re.compile(r"\w+", re.ASCII)
_CONTENT = re.compile(r"content='(\w+)', content_rowid='(\w+)'")
_PARTS = ("data", "idx", "docsize", "config")  # of a full-text index: the tables that it consists of
# With rank = 1 the index is compared with the table, and not only with itself. It fails where they differ.
_COMPARE = "INSERT INTO {schema}.{table} ({table}, rank) VALUES ('integrity-check', 1)"
_VIEW = "CREATE TEMP VIEW {content} AS SELECT * FROM main.{content}"
_COPY = ("DELETE FROM temp.{copy}", "INSERT INTO temp.{copy} SELECT * FROM main.{table}")
_ROWS = """
SELECT (SELECT count(*) FROM {content} WHERE {key} NOT IN (SELECT id FROM {table}_docsize)),
    (SELECT count(*) FROM {table}_docsize WHERE id NOT IN (SELECT {key} FROM {content}))
"""
_PLACES = BatchStep("""
SELECT rtreecheck('main', 'spatiotemporal_rtree'),
    (SELECT count(*) FROM spatiotemporal_index), (SELECT count(*) FROM spatiotemporal_rtree)
""")


def check(
    context: StorageContext, settings: Settings, repositories: Repositories, *, deep: bool, timeout: float
) -> Health:
    """See `MemoryStorage.health_check`."""
    if finite("timeout", timeout) < 0:
        raise ValidationError("timeout", "must be at least 0 seconds", timeout)
    session = Session(context, settings.namespace)
    schema, has_diskann, latency, problem = _probe(session, timeout)
    local_engine = pool.local_engine(context.engine)
    disk = _disk(settings.path)
    if problem is None and settings.path is not None and disk is None:
        problem = f"the file {str(settings.path)!r} was removed; further writes would be lost; close the storage"
    checks = tuple(_checks(session, context, settings)) if deep and problem is None else ()
    if has_diskann and local_engine == "sqlite":
        checks = (HealthCheck("local_engine", _FROZEN), *checks)
    rows = _rows(repositories) if deep and problem is None else None
    status, reason = _verdict(problem, disk, checks)
    return Health(
        status=status,
        reason=reason,
        endpoint=redacted(settings.database),
        checked_at=context.now(),
        latency=latency,
        schema=schema,
        expected_schema=HEAD,
        circuit_breaker=context.guard.breaker.status(),
        pool=pool.stats(context.engine),
        local_engine=local_engine,
        disk=disk,
        checks=checks,
        rows=rows,
    )


def _probe(session: Session, timeout: float) -> tuple[str | None, bool, float | None, str | None]:
    """Return the schema revision, whether there are DiskANN indexes, the seconds it took to read, and the problem."""
    since = time.perf_counter()
    try:
        rows = session.probe(Batch([_REVISION], reads_only=True), deadline=time.monotonic() + timeout)
    except MemoryStorageError as error:
        return None, False, None, _said(error)
    seconds = time.perf_counter() - since
    found, has_diskann = (str(rows[0][0]), bool(rows[0][1])) if rows else (None, False)
    if found == HEAD:
        return found, has_diskann, seconds, None
    older = found is None or found < HEAD
    advice = "run `memory-storage upgrade`" if older else "upgrade the memory-storage package"
    return found, has_diskann, seconds, f"the schema is {found}, and this version works with {HEAD}: {advice}"


def _disk(path: Path | None) -> DiskSpace | None:
    if path is None:
        return None
    log = path.with_name(path.name + "-wal")
    try:
        log_bytes = log.stat().st_size if log.exists() else 0
        return DiskSpace(path.stat().st_size, log_bytes, shutil.disk_usage(path.parent).free)
    except OSError:
        return None


def _checks(session: Session, context: StorageContext, settings: Settings) -> Iterator[HealthCheck]:
    try:
        for name, sql in session.read(_FULL_TEXTS):
            if not _NAME.fullmatch(name):
                continue  # the table of another program
            yield _checked(name, partial(_full_text, session, context.engine, settings, name, sql))
        yield _checked("spatiotemporal_rtree", partial(_places, session))
        for space, model in registered(session) if session.vector_index == "diskann" else ():
            yield _checked(f"vectors of {model.name!r}", partial(_vectors, session, space, model))
    except MemoryStorageError as error:
        yield HealthCheck("deep", _said(error))


def _rows(repositories: Repositories) -> dict[str, int] | None:
    try:
        return repositories.analytics.summary().rows
    except MemoryStorageError:  # the checks report it
        return None


def _checked(name: str, problem: Callable[[], str | None]) -> HealthCheck:
    try:
        return HealthCheck(name, problem())
    except MemoryStorageError as error:
        return HealthCheck(name, _said(error))


def _full_text(session: Session, engine: Engine, settings: Settings, name: str, sql: str) -> str | None:
    """Compare a full-text index with its table, without blocking writers."""
    content = _CONTENT.search(sql)
    if content is None or (settings.path is None and not settings.server):
        session.write([BatchStep(_COMPARE.format(schema="main", table=name))])
        return None
    if settings.server:
        return _full_text_on_server(session, name, *content.groups())
    with map_exceptions(engine), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _compare_copy(connection, name, sql, content[1])
    return None


def _compare_copy(connection: Connection, name: str, sql: str, content: str) -> None:
    """Compare a temporary copy of an index, in memory, with a snapshot of the table.

    The engine's comparison is an INSERT, which would hold the write lock of the database throughout.
    """
    run, copy = connection.exec_driver_sql, f"{name}_copy"
    store = run("PRAGMA temp_store").scalar()
    run("PRAGMA temp_store = MEMORY")
    try:
        # The copy and the table are of one snapshot. Outside of a transaction the driver takes the write lock for DDL.
        run("BEGIN DEFERRED")
        run(_VIEW.format(content=content))
        run(sql.replace(f"CREATE VIRTUAL TABLE {name} ", f"CREATE VIRTUAL TABLE temp.{copy} ", 1))
        for part in _PARTS:
            for statement in _COPY:
                run(statement.format(copy=f"{copy}_{part}", table=f"{name}_{part}"))
        run(_COMPARE.format(schema="temp", table=copy))
    finally:
        driver: Any = connection.connection.dbapi_connection
        if driver.in_transaction:
            run("ROLLBACK")  # this removes the copy
        run(f"PRAGMA temp_store = {store}")


def _full_text_on_server(session: Session, name: str, content: str, key: str) -> str | None:
    """Check that an index is consistent and has the rows of its table. A server has no temporary copies."""
    said = session.read(BatchStep("SELECT * FROM pragma_integrity_check(?)", (name,)))[0][0]
    if said != "ok":
        return str(said)
    rows, indexed = session.read(BatchStep(_ROWS.format(content=content, table=name, key=key)))[0]
    return None if (rows, indexed) == (0, 0) else f"{rows} rows are missing from the index, {indexed} are surplus"


def _places(session: Session) -> str | None:
    said, rows, indexed = session.read(_PLACES)[0]
    if said != "ok":
        return str(said)
    return None if rows == indexed else f"{rows} places, {indexed} in the index"


def _vectors(session: Session, space: VectorSpace, model: EmbeddingModel) -> str | None:
    found = session.read(of(space).nodes.bind())[0][0]
    if found == model.indexed:
        return None
    return f"{model.indexed} vectors should be in the index, {found} are; run `memory-storage index rebuild`"


def with_embedding(found: Health, status: EmbeddingStatus) -> Health:
    """Return the health with the state of the embedder; it is degraded while the embedder fails."""
    found = replace(found, embedding=status)
    if status.last_error is None or found.status == "unhealthy":
        return found
    problem = f"embedder {status.model}: {status.last_error}"
    return replace(found, status="degraded", reason=f"{found.reason}; {problem}" if found.reason else problem)


def _verdict(
    problem: str | None, disk: DiskSpace | None, checks: Sequence[HealthCheck]
) -> tuple[HealthStatus, str | None]:
    if problem is not None:
        return "unhealthy", problem
    found = [f"{one.name}: {one.problem}" for one in checks if one.problem is not None]
    if disk is not None and disk.free_bytes < _LOW_DISK_BYTES:
        found.append(f"only {disk.free_bytes:,} bytes are free on the disk; free some space")
    return ("degraded", "; ".join(found)) if found else ("healthy", None)


def _said(error: MemoryStorageError) -> str:
    code = getattr(error, "code", "")
    return f"{type(error).__name__}: {error}" + (f" ({code})" if code else "")
