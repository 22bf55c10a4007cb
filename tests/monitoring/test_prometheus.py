"""The output of the Prometheus client is parsed by Prometheus' own parser."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as as_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.monitoring import prometheus
from tests.raising import raises


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_the_output_parses_and_equals_the_metrics(storage: ms.MemoryStorage, registry, make_episode):
    prometheus.register(storage, registry=registry)
    saved = storage.episodes.save(make_episode())
    for _ in range(3):
        storage.episodes.get(saved.id)
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.get(new_id())
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {
        f"memory_storage_{name}"
        for name in (
            "operation_duration_seconds", "operation_errors", "operation_rows", "operation_round_trips",
            "operation_statements", "operation_retries", "pool_connections", "pool_acquired", "pool_waits",
            "pool_wait_seconds", "pool_timeouts", "circuit_breaker_state",
        )
    }  # fmt: skip
    found = storage.metrics()["episodes.get"]
    value = registry.get_sample_value
    labels = {"operation": "episodes.get"}
    assert value("memory_storage_operation_duration_seconds_count", labels) == found.count == 4
    assert value("memory_storage_operation_duration_seconds_sum", labels) == pytest.approx(found.latency.total)
    assert value("memory_storage_operation_errors_total", {**labels, "error": "NotFoundError"}) == 1
    assert value("memory_storage_operation_rows_total", labels) == found.rows
    assert value("memory_storage_pool_connections", {"state": "idle"}) == storage.pool_stats().idle
    assert value("memory_storage_circuit_breaker_state", {"state": "closed"}) == 1
    assert value("memory_storage_circuit_breaker_state", {"state": "open"}) == 0


def test_it_is_open_metrics_too(storage: ms.MemoryStorage, registry):
    prometheus.register(storage, registry=registry)
    storage.episodes.count()
    families = list(open_metrics(as_open_metrics(registry).decode()))
    assert {family.type for family in families} == {"histogram", "counter", "gauge"}


def test_the_buckets_grow_and_end_with_all(database, registry):
    with ms.MemoryStorage.open(database) as storage:
        for _ in range(50):
            storage.episodes.count()
        prometheus.register(storage, registry=registry, prefix="mine")
        text = generate_latest(registry).decode()
        samples = [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "mine_operation_duration_seconds_bucket"
            and sample.labels["operation"] == "episodes.count"
        ]
    counts = [sample.value for sample in samples]
    assert counts == sorted(counts)
    assert (counts[-1], samples[-1].labels["le"]) == (50, "+Inf")
    assert counts[-2] == 50


def test_to_unregister_ends_it(storage: ms.MemoryStorage, registry):
    registry.unregister(prometheus.register(storage, registry=registry))
    assert generate_latest(registry) == b""
    prometheus.register(storage, registry=registry)
