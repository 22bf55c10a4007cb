"""The state of a storage: health, connection pool, circuit breaker, metrics of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from .embedding import EmbeddingStatus
from .sync import SyncStatus

CircuitState = Literal["closed", "open", "half_open"]
HealthStatus = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True)
class CircuitBreakerStatus:
    """The state of a circuit breaker.

    Attributes:
        state: "closed" (calls pass), "open" (calls fail at once) or "half_open" (trial calls pass).
        failure_count: consecutive failures.
        last_failure: when the last failure occurred.
        last_error: the class and code of the last failure.
        opened_at: when it opened; None while it is closed.
        retry_after: seconds until the next trial call is let through.
        enabled: False if the breaker is switched off.
    """

    state: CircuitState
    failure_count: int = 0
    last_failure: datetime | None = None
    last_error: str | None = None
    opened_at: datetime | None = None
    retry_after: float = 0.0
    enabled: bool = True


@dataclass(frozen=True)
class PoolStats:
    """The state of a connection pool, and totals since it was created.

    Attributes:
        size: the largest number of connections.
        active: connections in use.
        idle: connections waiting for use.
        total_acquired: checkouts.
        waits: checkouts that had to wait for a connection.
        wait_seconds: their total waiting time.
        timeouts: waits that ended without a connection.
        overflow: connections beyond `size`.
    """

    size: int
    active: int
    idle: int
    total_acquired: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0
    overflow: int = 0


@dataclass(frozen=True)
class Latency:
    """Durations of calls in seconds; percentiles are accurate to 5 %. All are 0 without calls.

    Attributes:
        mean: the mean.
        p50: the median.
        p95: the 95th percentile.
        p99: the 99th percentile.
        longest: the longest call.
        total: the sum.
        buckets: pairs of an upper bound in seconds and the number of calls within it (cumulative).
    """

    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    total: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class OperationMetrics:
    """Totals of one operation, like "episodes.save".

    Attributes:
        count: calls.
        errors: failed calls by class of the error.
        latency: the durations.
        rows: rows returned.
        round_trips: batches sent; a batch counts as one, also to a local file.
        statements: SQL statements in them.
        retries: repeated attempts.
    """

    count: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: Latency = Latency()
    rows: int = 0
    round_trips: int = 0
    statements: int = 0
    retries: int = 0


@dataclass(frozen=True)
class DiskSpace:
    """The disk space of a database file.

    Attributes:
        database_bytes: the size of the file.
        log_bytes: the size of its write-ahead log.
        free_bytes: free bytes on the disk.
    """

    database_bytes: int
    log_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class HealthCheck:
    """The result of one check.

    Attributes:
        name: what was checked.
        problem: what is wrong; None if nothing is.
    """

    name: str
    problem: str | None = None


@dataclass(frozen=True)
class Health:
    """The health of a storage.

    Attributes:
        status: "healthy"; "degraded" (works, but a check found a problem, or the disk is nearly full); "unhealthy"
            (does not work, or the schema is of another version).
        reason: why it is not healthy; None if it is.
        endpoint: the database, without credentials.
        checked_at: when it was checked.
        latency: seconds of one small read; None if there was no response.
        schema: the revision of the database's schema; None if unknown.
        expected_schema: the revision that this version needs.
        circuit_breaker: the state of the circuit breaker.
        pool: the state of the connection pool.
        local_engine: what a file or a database in memory is open with, "sqlite" or "libsql"; None for a server.
        disk: the disk space of a file; None without a file.
        checks: the results of a deep check; without one, at most that the engine cannot change a DiskANN index.
        rows: rows of the namespace by table; None without a deep check.
        sync: how far a file is from its server; None without `sync_url`.
        embedding: what has to be embedded, and how the embedder does; None without an embedder.
    """

    status: HealthStatus
    reason: str | None
    endpoint: str
    checked_at: datetime
    latency: float | None
    schema: str | None
    expected_schema: str
    circuit_breaker: CircuitBreakerStatus
    pool: PoolStats
    local_engine: str | None = None
    disk: DiskSpace | None = None
    checks: tuple[HealthCheck, ...] = ()
    rows: dict[str, int] | None = None
    sync: SyncStatus | None = None
    embedding: EmbeddingStatus | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether `status` is "healthy"."""
        return self.status == "healthy"
