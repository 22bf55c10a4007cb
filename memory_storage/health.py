"""Looks at a storage, and says how it is. Mends nothing, and raises nothing for what it finds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from . import pool
from .dbapi import Batch, Step, redacted
from .errors import MemoryStorageError, ValidationError
from .models import DiskSpace, EmbeddingModel, Health, HealthCheck, HealthStatus
from .repositories._arguments import finite
from .repositories._embedding_sql import of
from .schema import HEAD
from .schema.spaces import Space
from .settings import Settings
from .transaction import Ground, Repositories, Scope

_LITTLE = 64 * 2**20  # bytes that are free
_REVISION = Step("SELECT version_num FROM alembic_version")
_FULL_TEXTS = Step("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%USING fts5%' ORDER BY name")
_PLACES = Step("""
SELECT rtreecheck('main', 'spatiotemporal_rtree'),
    (SELECT count(*) FROM spatiotemporal_index), (SELECT count(*) FROM spatiotemporal_rtree)
""")


def check(ground: Ground, settings: Settings, repositories: Repositories, *, deep: bool, timeout: float) -> Health:
    """See `MemoryStorage.health_check`."""
    if finite("timeout", timeout) < 0:
        raise ValidationError("timeout", "seconds, not below 0", timeout)
    scope = Scope(ground, settings.namespace)
    schema, latency, problem = _reached(scope, timeout)
    disk = _disk(settings.path)
    if problem is None and settings.path is not None and disk is None:
        problem = f"the file {str(settings.path)!r} is not there any more: what is written now is lost"
    checks = tuple(_checks(scope, repositories)) if deep and problem is None else ()
    rows = _rows(repositories) if deep and problem is None else None
    status, reason = _verdict(problem, disk, checks)
    return Health(
        status=status,
        reason=reason,
        endpoint=redacted(settings.database),
        checked_at=ground.now(),
        latency=latency,
        schema=schema,
        expected_schema=HEAD,
        circuit_breaker=ground.guard.breaker.status(),
        pool=pool.stats(ground.engine),
        disk=disk,
        checks=checks,
        rows=rows,
    )


def _reached(scope: Scope, timeout: float) -> tuple[str | None, float | None, str | None]:
    """The revision, the seconds it took to read it, and what is wrong."""
    since = time.perf_counter()
    try:
        rows = scope.look(Batch([_REVISION], reads_only=True), deadline=time.monotonic() + timeout)
    except MemoryStorageError as error:
        return None, None, _said(error)
    seconds, found = time.perf_counter() - since, str(rows[0][0]) if rows else None
    if found == HEAD:
        return found, seconds, None
    older = found is None or found < HEAD
    advice = "run `memory-storage upgrade`" if older else "upgrade the memory-storage package"
    return found, seconds, f"the schema is {found}, and this version works with {HEAD}: {advice}"


def _disk(path: Path | None) -> DiskSpace | None:
    if path is None:
        return None
    log = path.with_name(path.name + "-wal")
    try:
        log_bytes = log.stat().st_size if log.exists() else 0
        return DiskSpace(path.stat().st_size, log_bytes, shutil.disk_usage(path.parent).free)
    except OSError:
        return None


def _checks(scope: Scope, repositories: Repositories) -> Iterator[HealthCheck]:
    try:
        for (name,) in scope.read(_FULL_TEXTS):
            yield _checked(name, partial(_full_text, scope, name))
        yield _checked("spatiotemporal_rtree", partial(_places, scope))
        for space, model in repositories.embeddings.index.registered():
            yield _checked(f"vectors of {model.name!r}", partial(_vectors, scope, space, model))
    except MemoryStorageError as error:
        yield HealthCheck("deep", _said(error))


def _rows(repositories: Repositories) -> dict[str, int] | None:
    try:
        return repositories.analytics.summary().rows
    except MemoryStorageError:  # which the checks have met too, and said
        return None


def _checked(name: str, problem: Callable[[], str | None]) -> HealthCheck:
    try:
        return HealthCheck(name, problem())
    except MemoryStorageError as error:
        return HealthCheck(name, _said(error))


def _full_text(scope: Scope, name: str) -> None:
    # With rank = 1 the index is compared with the table, and not only with itself. It fails where they differ.
    scope.write([Step(f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)")])  # noqa: S608


def _places(scope: Scope) -> str | None:
    said, rows, indexed = scope.read(_PLACES)[0]
    if said != "ok":
        return str(said)
    return None if rows == indexed else f"{rows} places, of which {indexed} are in the index"


def _vectors(scope: Scope, space: Space, model: EmbeddingModel) -> str | None:
    found = scope.read(of(space).nodes.step())[0][0]
    if found == model.indexed:
        return None
    return f"{model.indexed} vectors should be in the index, {found} are: `memory-storage index rebuild`"


def _verdict(
    problem: str | None, disk: DiskSpace | None, checks: Sequence[HealthCheck]
) -> tuple[HealthStatus, str | None]:
    if problem is not None:
        return "unhealthy", problem
    found = [f"{one.name}: {one.problem}" for one in checks if one.problem is not None]
    if disk is not None and disk.free_bytes < _LITTLE:
        found.append(f"only {disk.free_bytes:,} bytes are free on the disk: make room")
    return ("degraded", "; ".join(found)) if found else ("healthy", None)


def _said(error: MemoryStorageError) -> str:
    return f"{type(error).__name__}: {error}"
