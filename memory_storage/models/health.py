"""What is seen of a storage at work: its health, its pool, its circuit breaker, its operations. Measures nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

CircuitState = Literal["closed", "open", "half_open"]
HealthStatus = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True)
class CircuitBreakerStatus:
    """A circuit breaker as it is now.

    `failure_count` failures came in a row; the last one at `last_failure`, with `last_error` (its class and code).
    `opened_at` is None unless it is open or half open. After `retry_after` seconds a call is let through to try.
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
    """A connection pool: connections in use and idle now; the other figures are since it was made.

    `waits` calls had to wait for a connection, `wait_seconds` in all, and `timeouts` of them in vain. `overflow` is how
    many connections there are beyond `size`.
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
    """Seconds that calls took. The percentiles are within 5 % of the truth; all are 0 if there was no call.

    `buckets` are pairs of an upper bound in seconds, and how many calls took at most that.
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
    """What the calls of one operation, like "episodes.save", have done and cost.

    `errors` counts those that failed, by the class of the error. `rows` came back, by `round_trips` with `statements`;
    `retries` were done again. A round trip is one batch, whether a network is between or not.
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
    """Bytes of a database's file, of its write-ahead log, and that are free on its disk."""

    database_bytes: int
    log_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class HealthCheck:
    """One thing that a deep check has looked at. `problem` is None if it is as it should be."""

    name: str
    problem: str | None = None


@dataclass(frozen=True)
class Health:
    """How a storage is. `reason` says why it is not healthy.

    "unhealthy": nothing works now, or the schema is another version's. "degraded": it works, but a deep check has found
    something, or the disk is nearly full. `latency` is the seconds of one small read; None if there was no answer.
    `checks` and `rows` (of the namespace, by table) are from a deep check.
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
    disk: DiskSpace | None = None
    checks: tuple[HealthCheck, ...] = ()
    rows: dict[str, int] | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether all is as it should be."""
        return self.status == "healthy"
