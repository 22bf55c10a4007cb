"""Canaries for a token and for stored values, looked for in all that this package shows of itself at work."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

import memory_storage as ms
from memory_storage.monitoring import opentelemetry, prometheus
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.server.tokens import Key, token

VALUE = "canary-9c41e7"


def _work(storage: ms.MemoryStorage, *, is_there: bool) -> None:
    """Every kind of call, with the canary in every kind of value; and every kind of failure."""
    refused = 0
    calls = [
        lambda: storage.episodes.save(ms.Episode(task_description=VALUE, metadata={"key": VALUE}, tags=[VALUE])),
        lambda: storage.episodes.query(domain=VALUE, text=VALUE, metadata={"key": VALUE}),
        lambda: storage.episodes.search(VALUE),
        lambda: storage.patterns.save(ms.Heuristic(condition=VALUE, action=VALUE)),
        lambda: list(storage.episodes.iterate(domain=VALUE)),
        lambda: storage.episodes.query(domain=VALUE, limit=0),
        lambda: storage.episodes.get(VALUE),
        lambda: storage.run(lambda tx: tx.execute([(f"SELECT count(*) FROM steps WHERE tool = '{VALUE}'", ())])),
        lambda: storage.run(lambda tx: tx.execute([(f"SELECT '{VALUE}' FROM missing", ())])),
        lambda: storage.health_check(deep=True, timeout=0.5),
    ]
    for call in calls:
        try:
            call()
        except ms.MemoryStorageError:
            refused += 1
    assert refused == (3 if is_there else len(calls) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("outage", [False, True], ids=["at work", "in an outage"])
def test_no_log_no_figure_and_no_span_shows_a_secret(
    sqld_with_tokens: tuple[Sqld, Key], caplog: pytest.LogCaptureFixture, outage: bool
):
    server, key = sqld_with_tokens
    secret = token(key=key)
    caplog.set_level(logging.DEBUG)
    exporter, reader, registry = InMemorySpanExporter(), InMemoryMetricReader(), CollectorRegistry()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    with Proxy(server.port) as line:
        settings = ms.Settings(
            database=line.url,
            auth_token=secret,
            request_timeout=1,
            circuit_breaker={"failure_threshold": 3},
            logging={"slow_query": 0.0, "audit": True},
        )
        with ms.MemoryStorage.open(settings) as storage:
            opentelemetry.instrument(storage, tracer_provider=tracers, meter_provider=MeterProvider([reader]))
            prometheus.register(storage, registry=registry)
            if outage:
                line.target_port = 1
                line.cut_all()
            _work(storage, is_there=not outage)
            shown = {
                "logs": caplog.text + "".join(repr(record.__dict__) for record in caplog.records),
                "spans": "".join(span.to_json() for span in exporter.get_finished_spans()),
                "measurements": reader.get_metrics_data().to_json(),
                "prometheus": generate_latest(registry).decode(),
                "metrics": json.dumps({name: dataclasses.asdict(one) for name, one in storage.metrics().items()}),
                "health": repr(storage.health_check(timeout=0.5)),
                "breaker": repr(storage.circuit_breaker_status()),
                "pool": repr(storage.pool_stats()),
            }
    pieces = (VALUE, secret, secret[:16], secret[-16:])
    assert {name for name, text in shown.items() if any(piece in text for piece in pieces)} == set()
    assert "episodes.save" in shown["prometheus"]
    assert "episodes.save" in shown["spans"]
    assert ("circuit breaker is open" in shown["logs"]) == outage


def test_sqlalchemys_log_shows_no_values(storage, caplog):
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    storage.episodes.save(ms.Episode(task_description=VALUE, metadata={"key": VALUE}, tags=[VALUE]))
    with storage.transaction() as tx:
        (episode,) = tx.episodes.query(text=VALUE).items
        tx.episodes.save(episode)
        assert tx.execute([("SELECT document FROM episodes", ())])
    with storage.snapshot() as view:
        assert [one.task_description for one in view.episodes.iterate()] == [VALUE]
    assert "SELECT document FROM episodes" in caplog.text
    assert VALUE not in caplog.text


@pytest.fixture(scope="module")
def sqld_with_tokens(tmp_path_factory: pytest.TempPathFactory):
    """A server that wants a token, with the schema."""
    key = Key()
    directory: Path = tmp_path_factory.mktemp("secrets")
    with Sqld(directory=directory, jwt_public_key=key.public_pem) as server:
        ms.MemoryStorage.open(server.url, auth_token=token(key=key)).close()
        yield server, key
