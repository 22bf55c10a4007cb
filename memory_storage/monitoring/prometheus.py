"""A storage's figures for Prometheus, by its own client. Needs the extra `prometheus`. Starts no server.

from memory_storage.monitoring import prometheus
prometheus.register(storage)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from memory_storage.models.health import CircuitBreakerStatus, Latency, OperationMetrics, PoolStats

_BOUNDS = tuple(math.ldexp(1.0, exponent) for exponent in range(-15, 7))  # 31 microseconds to 64 seconds
_STATES = ("closed", "open", "half_open")


class _Source(Protocol):
    """What is collected from: a MemoryStorage."""

    def metrics(self) -> dict[str, OperationMetrics]: ...
    def pool_stats(self) -> PoolStats: ...
    def circuit_breaker_status(self) -> CircuitBreakerStatus: ...


class StorageCollector(Collector):
    """All figures of one storage, as they are when they are asked for. Asking touches no database.

    Several storages in one registry need a `prefix` each.
    """

    def __init__(self, storage: _Source, *, prefix: str = "memory_storage") -> None:
        self._storage, self._prefix = storage, prefix

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        yield from self._operations(self._storage.metrics())
        yield from self._pool(self._storage.pool_stats())
        yield self._breaker(self._storage.circuit_breaker_status())

    def _operations(self, found: Mapping[str, OperationMetrics]) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            f"{self._prefix}_operation_duration_seconds", "What an operation took.", labels=["operation"]
        )
        errors = self._counter("operation_errors", "Operations that failed.", "operation", "error")
        for name, one in found.items():
            seconds.add_metric([name], _cumulated(one.latency, one.count), one.latency.total)
            for kind, count in one.errors.items():
                errors.add_metric([name, kind], count)
        yield from (seconds, errors)
        for what, said in (
            ("rows", "Rows that came back."),
            ("round_trips", "Batches that were sent."),
            ("statements", "Statements in them."),
            ("retries", "Calls that were done again."),
        ):
            counter = self._counter(f"operation_{what}", said, "operation")
            for name, one in found.items():
                counter.add_metric([name], getattr(one, what))
            yield counter

    def _pool(self, found: PoolStats) -> Iterator[Metric]:
        connections = GaugeMetricFamily(f"{self._prefix}_pool_connections", "Connections now.", labels=["state"])
        connections.add_metric(["used"], found.active)
        connections.add_metric(["idle"], found.idle)
        yield connections
        for what, said, value in (
            ("pool_acquired", "Connections that were handed out.", found.total_acquired),
            ("pool_waits", "Calls that had to wait for one.", found.waits),
            ("pool_wait_seconds", "How long they waited.", found.wait_seconds),
            ("pool_timeouts", "Those that waited in vain.", found.timeouts),
        ):
            counter = self._counter(what, said)
            counter.add_metric([], value)
            yield counter

    def _breaker(self, found: CircuitBreakerStatus) -> Metric:
        state = GaugeMetricFamily(
            f"{self._prefix}_circuit_breaker_state", "1 for the state it is in.", labels=["state"]
        )
        for name in _STATES:
            state.add_metric([name], found.state == name)
        return state

    def _counter(self, name: str, said: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", said, labels=labels)


def register(
    storage: _Source, *, registry: CollectorRegistry = REGISTRY, prefix: str = "memory_storage"
) -> StorageCollector:
    """Have a registry show the figures of a storage; `registry.unregister` of what it gives ends that."""
    collector = StorageCollector(storage, prefix=prefix)
    registry.register(collector)
    return collector


def _cumulated(latency: Latency, count: int) -> list[tuple[str, float]]:
    """How many took at most as long, for each bound. All of ours are among the finer ones that are kept."""
    found = []
    rest, seen = list(latency.buckets), 0
    for bound in _BOUNDS:
        while rest and rest[0][0] <= bound:
            seen = rest.pop(0)[1]
        found.append((repr(bound), float(seen)))
    return [*found, ("+Inf", float(count))]
