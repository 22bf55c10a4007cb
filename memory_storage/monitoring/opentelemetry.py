"""Spans and metrics of a storage for the OpenTelemetry API. Needs the extra `opentelemetry`.

Names follow OpenTelemetry's semantic conventions for databases. A span has the SQL, with `?` for each value, and only
the class of an error: its message may contain a value.

    from memory_storage.monitoring import opentelemetry
    opentelemetry.instrument(storage)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from memory_storage.dbapi import Server, redacted
from memory_storage.models.health import CircuitBreakerStatus, PoolStats
from memory_storage.settings import Settings

from ._metrics import Meter, Operation
from ._slow_query_log import without_literals

_NAME = "memory_storage"
_STATES = {"closed": 0, "half_open": 1, "open": 2}
# The bucket boundaries, in seconds, that the conventions ask for.
_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


class _Source(Protocol):
    """The observed storage: a MemoryStorage."""

    @property
    def settings(self) -> Settings: ...
    @property
    def meter(self) -> Meter: ...
    def pool_stats(self) -> PoolStats: ...
    def circuit_breaker_status(self) -> CircuitBreakerStatus: ...


def instrument(
    storage: _Source, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Create a span and a measurement for each operation of all namespaces, until `uninstrument`.

    Args:
        storage: The storage to observe.
        tracer_provider: Makes the tracer; by default the global one.
        meter_provider: Makes the meter; by default the global one.
    """
    facts = _facts(storage.settings)
    figures = metrics.get_meter(_NAME, meter_provider=meter_provider)
    durations = figures.create_histogram(
        "db.client.operation.duration",
        unit="s",
        description="Duration of operations.",
        explicit_bucket_boundaries_advisory=_BOUNDS,
    )
    _observe_pool(storage, figures, facts)
    tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
    storage.meter.observe(_Spans(tracer, durations, facts))


def uninstrument(storage: _Source) -> None:
    """No span and no measurement any more for what begins from now on."""
    storage.meter.observe(None)


class _Spans:
    """One span for each operation, of which those are children that begin within it."""

    def __init__(self, tracer: trace.Tracer, durations: Histogram, facts: dict[str, str | int]) -> None:
        self._tracer, self._durations, self._facts = tracer, durations, facts

    def began(self, name: str, *, is_current: bool) -> tuple[Span, Any] | None:
        if context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY):
            return None
        span = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes={**self._facts, "db.operation.name": name}
        )
        return span, context.attach(trace.set_span_in_context(span)) if is_current else None

    def ended(
        self, token: tuple[Span, Any], name: str, call: Operation, seconds: float, error: BaseException | None
    ) -> None:
        span, attached = token
        facts: dict[str, str | int] = {**self._facts, "db.operation.name": name}
        if error is not None:
            facts["error.type"] = type(error).__name__
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._durations.record(seconds, facts)
        span.set_attributes({**facts, **_sent(call)})
        span.end()
        if attached is not None:
            context.detach(attached)


def _sent(call: Operation) -> dict[str, str | int]:
    found: dict[str, str | int] = {"db.response.returned_rows": call.rows}
    if call.retries:
        found["memory_storage.retries"] = call.retries
    if call.round_trips:
        found["memory_storage.round_trips"] = call.round_trips
    if call.statements > 1:
        found["db.operation.batch.size"] = call.statements
    if call.batches:
        found["db.query.text"] = "; ".join(without_literals(step.sql) for batch in call.batches for step in batch.steps)
    return found


def _facts(settings: Settings) -> dict[str, str | int]:
    # The conventions have no name for libSQL: use that of its SQL dialect.
    facts: dict[str, str | int] = {"db.system.name": "sqlite", "db.namespace": redacted(settings.database)}
    server: Server | None = settings.server
    if server is not None:
        facts |= {"server.address": server.origin.host, "server.port": server.origin.port}
    return facts


def _observe_pool(storage: _Source, figures: metrics.Meter, facts: dict[str, str | int]) -> None:
    pool = {"db.client.connection.pool.name": facts["db.namespace"]}

    def connections(_: CallbackOptions) -> Iterable[Observation]:
        found = storage.pool_stats()
        yield Observation(found.active, {**pool, "db.client.connection.state": "used"})
        yield Observation(found.idle, {**pool, "db.client.connection.state": "idle"})

    def breaker(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(_STATES[storage.circuit_breaker_status().state], facts)

    figures.create_observable_up_down_counter(
        "db.client.connection.count", [connections], unit="{connection}", description="Connections in each state."
    )
    figures.create_observable_gauge(
        "memory_storage.circuit_breaker.state", [breaker], description="0 closed, 1 half open, 2 open."
    )
