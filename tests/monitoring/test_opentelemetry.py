"""Spans and measurements, as OpenTelemetry's own in-memory exporters have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.monitoring import opentelemetry
from tests.raising import raises

CANARY = "canary-7f3a"


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def tracer_provider() -> TracerProvider:
    return TracerProvider()


@pytest.fixture
def spans(
    storage: ms.MemoryStorage, tracer_provider: TracerProvider, reader: InMemoryMetricReader
) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """The spans that have ended, and were not asked for yet."""
    exporter = InMemorySpanExporter()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    opentelemetry.instrument(storage, tracer_provider=tracer_provider, meter_provider=meters)

    def ended() -> list[ReadableSpan]:
        found = list(exporter.get_finished_spans())
        exporter.clear()
        return found

    yield ended
    meters.shutdown()


def test_an_operation_is_a_span_with_its_sql_and_no_value(storage: ms.MemoryStorage, spans, make_episode):
    saved = storage.episodes.save(make_episode(task_description=CANARY))
    storage.episodes.get(saved.id)
    save, get = spans()
    assert (save.name, get.name) == ("episodes.save", "episodes.get")
    assert (save.kind, save.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    facts = dict(get.attributes)
    assert facts["db.system.name"] == "sqlite"
    assert facts["db.namespace"] == storage.settings.database
    assert facts["db.operation.name"] == "episodes.get"
    assert facts["db.query.text"].startswith("SELECT")
    assert "?" in facts["db.query.text"]
    assert facts["db.response.returned_rows"] >= 1
    assert ("server.address" in facts) == (storage.settings.server is not None)
    assert save.attributes["db.operation.batch.size"] >= 3
    assert CANARY not in f"{save.to_json()}{get.to_json()}"
    assert str(saved.id) not in f"{save.to_json()}{get.to_json()}"


def test_an_error_is_its_class_and_not_its_message(storage: ms.MemoryStorage, spans):
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.get(missing := new_id())
    with raises(ms.ValidationError, field="limit"):
        storage.episodes.query(domain=CANARY * 1000, limit=0)
    with raises(ms.MemoryStorageError, match="SELEKT"), storage.transaction() as tx:
        tx.execute([(f"SELEKT '{CANARY}'", ())])
    found = spans()
    assert [span.attributes["error.type"] for span in found[:2]] == ["NotFoundError", "ValidationError"]
    assert all(span.status.status_code is StatusCode.ERROR and not span.events for span in found)
    shown = "".join(span.to_json() for span in found)
    assert CANARY not in shown
    assert str(missing) not in shown


def test_spans_nest_below_the_transaction_and_the_caller(
    storage: ms.MemoryStorage, spans, tracer_provider: TracerProvider, make_episode
):
    tracer = tracer_provider.get_tracer("the program")
    with tracer.start_as_current_span("request") as request:
        with storage.transaction() as tx:
            tx.episodes.save(make_episode())
            tx.execute([("SELECT 'x', count(*) FROM steps", ())])
        list(storage.episodes.iterate())
        assert trace.get_current_span() is request
    found = {span.name: span for span in spans()}
    whole = found["transaction"].context.span_id
    assert found["episodes.save"].parent.span_id == found["transaction.execute"].parent.span_id == whole
    top = request.get_span_context().span_id
    assert found["transaction"].parent.span_id == found["episodes.iterate"].parent.span_id == top
    assert found["transaction.execute"].attributes["db.query.text"] == "SELECT ?, count(*) FROM steps"


def test_durations_connections_and_the_breaker_are_measured(
    storage: ms.MemoryStorage, spans, reader: InMemoryMetricReader
):
    storage.episodes.count()
    storage.in_namespace("other").episodes.count()
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.get(new_id())
    found = {
        metric.name: list(metric.data.data_points)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    durations = {point.attributes["db.operation.name"]: point for point in found["db.client.operation.duration"]}
    assert durations["episodes.count"].count == 2
    assert durations["episodes.get"].attributes["error.type"] == "NotFoundError"
    states = {point.attributes["db.client.connection.state"] for point in found["db.client.connection.count"]}
    assert states == {"used", "idle"}
    assert [point.value for point in found["memory_storage.circuit_breaker.state"]] == [0]


def test_to_uninstrument_ends_it(storage: ms.MemoryStorage, spans):
    with storage.snapshot() as view:
        opentelemetry.uninstrument(storage)
        view.episodes.count()
    storage.episodes.count()
    assert spans() == []
    assert storage.metrics()["episodes.count"].count == 2
