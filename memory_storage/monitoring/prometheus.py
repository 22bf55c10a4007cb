"""Metrics of a storage for `prometheus_client`. Needs the extra `prometheus`.

from memory_storage.monitoring import prometheus
prometheus.register(storage)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from memory_storage.models.health import CircuitBreakerStatus, Latency, OperationMetrics, PoolStats
from memory_storage.models.sync import SyncStatus

_BOUNDS = tuple(math.ldexp(1.0, exponent) for exponent in range(-15, 7))  # 31 microseconds to 64 seconds
_STATES = ("closed", "open", "half_open")


class _Source(Protocol):
    """The storage whose metrics are collected: a MemoryStorage."""

    def metrics(self) -> dict[str, OperationMetrics]: ...
    def pool_stats(self) -> PoolStats: ...
    def circuit_breaker_status(self) -> CircuitBreakerStatus: ...
    def sync_status(self) -> SyncStatus | None: ...


class StorageCollector(Collector):
    """Collects the metrics of one storage without querying the database; of a replica, with small reads of it.

    Args:
        storage: A MemoryStorage.
        prefix: The prefix of the metric names; several storages in one registry need different ones.
    """

    def __init__(self, storage: _Source, *, prefix: str = "memory_storage") -> None:
        self._storage, self._prefix = storage, prefix

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        yield from self._operations(self._storage.metrics())
        yield from self._pool(self._storage.pool_stats())
        yield self._breaker(self._storage.circuit_breaker_status())
        if (status := self._storage.sync_status()) is not None:
            yield from self._sync(status)

    def _sync(self, found: SyncStatus) -> Iterator[Metric]:
        age = math.nan if found.synced_at is None else (datetime.now(timezone.utc) - found.synced_at).total_seconds()
        for what, said, value in (
            ("sync_waiting", "Changes that are not pushed yet.", found.waiting),
            ("sync_conflicts", "Conflicts that are not resolved.", found.conflicts),
            ("sync_age_seconds", "Seconds since the latest sync.", age),
        ):
            yield GaugeMetricFamily(f"{self._prefix}_{what}", said, value=value)

    def _operations(self, found: Mapping[str, OperationMetrics]) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            f"{self._prefix}_operation_duration_seconds", "Duration of operations.", labels=["operation"]
        )
        errors = self._counter("operation_errors", "Operations that failed.", "operation", "error")
        for name, one in found.items():
            seconds.add_metric([name], _cumulated(one.latency, one.count), one.latency.total)
            for kind, count in one.errors.items():
                errors.add_metric([name, kind], count)
        yield from (seconds, errors)
        for what, said in (
            ("rows", "Rows returned."),
            ("round_trips", "Batches sent."),
            ("statements", "Statements sent."),
            ("retries", "Retries of calls."),
        ):
            counter = self._counter(f"operation_{what}", said, "operation")
            for name, one in found.items():
                counter.add_metric([name], getattr(one, what))
            yield counter

    def _pool(self, found: PoolStats) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            f"{self._prefix}_pool_connections", "Connections in each state.", labels=["state"]
        )
        connections.add_metric(["used"], found.active)
        connections.add_metric(["idle"], found.idle)
        yield connections
        for what, said, value in (
            ("pool_acquired", "Connections taken from the pool.", found.total_acquired),
            ("pool_waits", "Calls that waited for a connection.", found.waits),
            ("pool_wait_seconds", "Seconds that calls waited.", found.wait_seconds),
            ("pool_timeouts", "Waits that timed out.", found.timeouts),
        ):
            counter = self._counter(what, said)
            counter.add_metric([], value)
            yield counter

    def _breaker(self, found: CircuitBreakerStatus) -> Metric:
        state = GaugeMetricFamily(f"{self._prefix}_circuit_breaker_state", "1 for the current state.", labels=["state"])
        for name in _STATES:
            state.add_metric([name], found.state == name)
        return state

    def _counter(self, name: str, said: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", said, labels=labels)


def register(
    storage: _Source, *, registry: CollectorRegistry = REGISTRY, prefix: str = "memory_storage"
) -> StorageCollector:
    """Register a collector for the metrics of a storage.

    Args:
        storage: A MemoryStorage.
        registry: Where to register; by default the client's global registry.
        prefix: The prefix of the metric names.

    Returns:
        The collector; `registry.unregister(collector)` removes it.
    """
    collector = StorageCollector(storage, prefix=prefix)
    registry.register(collector)
    return collector


def _cumulated(latency: Latency, count: int) -> list[tuple[str, float]]:
    """Return the cumulative count for each bound; each is also a bound of the finer histogram."""
    found = []
    rest, seen = list(latency.buckets), 0
    for bound in _BOUNDS:
        while rest and rest[0][0] <= bound:
            seen = rest.pop(0)[1]
        found.append((repr(bound), float(seen)))
    return [*found, ("+Inf", float(count))]
