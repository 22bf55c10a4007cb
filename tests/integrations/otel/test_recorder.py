"""The recorder itself: bounds, threads, failures, repeats, and what never reaches the application."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import memory_storage as ms
from memory_storage.integrations.otel import EpisodeRecorder
from memory_storage.monitoring import opentelemetry
from tests.raising import raises

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "clerk"}
TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "read"}

Recorded = Callable[[], list[ms.Episode]]


def _run(tracer: trace.Tracer, *, tools: int = 1, **attributes: str) -> None:
    with tracer.start_as_current_span("a", attributes={**AGENT, **attributes}):
        for _ in range(tools):
            tracer.start_span("b", attributes=TOOL).end()


def _provider(*processors: EpisodeRecorder) -> tuple[TracerProvider, trace.Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider, provider.get_tracer("t")


def test_a_trace_that_is_processed_twice_is_stored_once(storage: ms.MemoryStorage):
    first, second = EpisodeRecorder(storage), EpisodeRecorder(storage)
    provider, tracer = _provider(first, second)
    _run(tracer)
    provider.force_flush()
    (episode,) = storage.episodes.query().items
    storage.episodes.complete(episode.id, ms.Failure(reason="a user knows better"))
    assert sorted((one.stats().saved, one.stats().repeated) for one in (first, second)) == [(0, 1), (1, 0)]
    provider.shutdown()
    assert storage.episodes.get(episode.id).outcome.kind == "failure"


def test_only_the_outermost_agent_is_an_episode(provider, recorder, recorded: Recorded):
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("request"):
        for _ in range(2):
            with tracer.start_as_current_span("outer") as outer:
                _run(tracer)
                assert recorder.force_flush()
                assert recorder.stats().saved == 0  # a span above it is open, and may turn out to be an agent's
                outer.set_attributes(AGENT)  # as instrumentations do that set the kind when the span ends
    assert [len(one.steps) for one in recorded()] == [1, 1]
    assert recorder.stats().open_traces == recorder.stats().buffered_bytes == 0


def test_a_run_with_a_remote_parent_waits_for_no_other_process(provider, recorded: Recorded):
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracer = provider.get_tracer("t")
    with trace.use_span(NonRecordingSpan(remote)):
        _run(tracer)
    (episode,) = recorded()
    assert episode.metadata["trace_id"] == f"{0xABC:032x}"


def test_a_span_that_outlives_its_agent_is_a_step(provider, recorder, recorded: Recorded):
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("a", attributes=AGENT):
        late = tracer.start_span("b", attributes=TOOL)
    assert recorded() == []
    late.end()
    assert [len(one.steps) for one in recorded()] == [1]


def test_a_trace_that_never_ends_holds_nothing_of_the_past(provider, recorder, recorded: Recorded, monkeypatch):
    tracer = provider.get_tracer("t")
    root = tracer.start_span("a worker")
    trace_id = root.get_span_context().trace_id
    for _ in range(3):
        with trace.use_span(root), tracer.start_as_current_span("a job"):
            for _ in range(700):
                tracer.start_span("GET").end()
            _run(tracer)
        held = recorder._buffer._traces[trace_id]
        assert len(held.parents) <= 1_000
    assert recorded() == []  # the worker's span may be set to an agent's when it ends
    monkeypatch.setattr("memory_storage.integrations.otel.traces._SETTLED_SECONDS", 0.0)
    with trace.use_span(root), tracer.start_as_current_span("b", attributes=AGENT):
        _run(tracer)  # below an agent that is known already
        assert [len(one.steps) for one in recorded()] == [1, 1, 1]
    assert [len(one.steps) for one in recorded()] == [1, 1, 1, 1]
    assert (held.model_calls, held.size, held.records, held.ended_at) == ({}, 0, [], {})
    root.end()


def test_a_trace_without_an_agent_is_ignored(provider, recorder, recorded: Recorded):
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("request"):
        tracer.start_span("b", attributes=TOOL).end()
    assert recorded() == []
    assert (recorder.stats().ignored_traces, recorder.stats().dropped_traces) == (1, 0)


@pytest.mark.parametrize("bound", [{"max_traces": 3}, {"max_bytes": 8_000}])
def test_the_memory_is_bounded_and_what_is_dropped_is_counted(storage, caplog, bound):
    recorder = EpisodeRecorder(storage, **bound)
    provider, tracer = _provider(recorder)
    agents = [tracer.start_span("a", attributes=AGENT) for _ in range(10)]
    for agent in agents:
        for _ in range(2):
            tracer.start_span("b", trace.set_span_in_context(agent), attributes=TOOL).end()
        assert recorder.stats().buffered_bytes <= 8_000
    stats = recorder.stats()
    assert stats.open_traces + stats.dropped_traces == 10
    assert stats.dropped_traces >= 5
    for agent in agents:
        agent.end()
    provider.shutdown()
    stats = recorder.stats()
    assert stats.saved == storage.episodes.count() == 10 - stats.dropped_traces
    assert all(len(one.steps) == 2 for one in storage.episodes.query().items)  # none is stored in part
    assert stats.dropped_spans == 3 * stats.dropped_traces
    messages = [record.message for record in caplog.records]
    assert messages[0] == "traces are dropped: max_traces, max_bytes or max_age is too small; see stats()"
    assert len(messages) == len(set(messages))


def test_a_trace_ends_by_its_age(storage: ms.MemoryStorage):
    recorder = EpisodeRecorder(storage, max_age=0.05)
    provider, tracer = _provider(recorder)
    leaked = tracer.start_span("never ended")
    with trace.use_span(leaked):
        _run(tracer)
        open_agent = tracer.start_span("a", attributes=AGENT)
    alone = tracer.start_span("b", attributes=TOOL, context=trace.set_span_in_context(tracer.start_span("x")))
    alone.end()
    for _ in range(100):
        if recorder.stats().saved == 1 and recorder.stats().dropped_traces == 1:
            break
        time.sleep(0.05)
    assert storage.episodes.count() == 1
    assert (recorder.stats().dropped_traces, recorder.stats().open_traces) == (1, 0)
    open_agent.end()
    provider.shutdown()


class _Away:
    """Breaks a storage, as a server that cannot be reached does, until it is back."""

    def __init__(self, storage: ms.MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away, self.calls, save = True, 0, storage.episodes.import_many

        def import_many(episodes: list[ms.Episode]) -> int:
            self.calls += 1
            if self.is_away:
                raise ms.UnavailableError("no connection", code="CONNECTION_FAILED")
            return save(episodes)

        monkeypatch.setattr(storage.episodes, "import_many", import_many)


def test_what_was_not_saved_is_tried_again(storage, recorder, provider, monkeypatch, caplog):
    away = _Away(storage, monkeypatch)
    tracer = provider.get_tracer("t")
    _run(tracer)
    _run(tracer)
    assert not recorder.force_flush()
    stats = recorder.stats()
    assert (stats.saved, stats.pending) == (0, 2)
    assert away.calls >= stats.retries >= 1  # another attempt may be running
    assert stats.buffered_bytes > 0
    away.is_away = False
    assert recorder.force_flush()
    assert (recorder.stats().saved, recorder.stats().buffered_bytes, storage.episodes.count()) == (2, 0, 2)
    assert len(caplog.records) == 1
    assert "UnavailableError: no connection" in caplog.text


def test_it_is_tried_again_without_a_flush(storage, recorder, provider, monkeypatch):
    monkeypatch.setattr("memory_storage.integrations.otel.recorder._FIRST_DELAY", 0.01)
    away = _Away(storage, monkeypatch)
    _run(provider.get_tracer("t"))
    while away.calls < 3:
        time.sleep(0.01)
    away.is_away = False
    while recorder.stats().saved == 0:
        time.sleep(0.01)
    assert storage.episodes.count() == 1


def test_too_many_that_wait_are_dropped_and_counted(storage, monkeypatch, caplog):
    recorder = EpisodeRecorder(storage, max_traces=3)
    provider, tracer = _provider(recorder)
    away = _Away(storage, monkeypatch)
    for _ in range(10):
        _run(tracer)
    stats = recorder.stats()
    assert stats.pending + stats.dropped_traces == 10
    assert stats.pending <= 4  # three, and the one that is being saved
    provider.shutdown()
    assert storage.episodes.count() == 0
    assert away.calls >= 1
    assert "episodes were not saved before the shutdown" in caplog.text


def test_what_the_storage_refuses_is_not_tried_again(storage, caplog):
    recorder = EpisodeRecorder(storage, namespace_of=lambda span: span.attributes["tenant"])
    provider, tracer = _provider(recorder)
    _run(tracer, tenant="n" * 500)
    _run(tracer)  # `namespace_of` raises KeyError
    _run(tracer, tenant="a-tenant")
    assert recorder.force_flush()
    assert (recorder.stats().failed, recorder.stats().saved) == (2, 1)
    assert storage.in_namespace("a-tenant").episodes.count() == 1
    assert storage.episodes.count() == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    provider.shutdown()


def test_the_spans_of_the_storage_itself_are_not_recorded(storage, recorder, provider, recorded: Recorded):
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    opentelemetry.instrument(storage, tracer_provider=provider)
    _run(provider.get_tracer("t"))
    assert len(recorded()) == 1
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["b", "a", "episodes.query"]  # the query is the test's own
    opentelemetry.uninstrument(storage)


def test_threads_record_at_the_same_time(provider, recorder, recorded: Recorded):
    tracer = provider.get_tracer("t")
    threads = [threading.Thread(target=lambda: [_run(tracer, tools=3) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(one.steps) for one in recorded()] == [3] * 40
    assert recorder.stats().saved == 40


def test_after_a_shutdown_nothing_is_recorded(storage, recorder, provider):
    tracer = provider.get_tracer("t")
    open_request = tracer.start_span("request")
    with trace.use_span(open_request):
        _run(tracer)
    recorder.shutdown()
    assert storage.episodes.count() == 1  # its agent has ended
    recorder.shutdown()
    open_request.end()
    _run(tracer)
    assert recorder.force_flush()
    assert storage.episodes.count() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_leaves_the_spans_to_its_parent(provider, recorder, recorded: Recorded):
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("a", attributes=AGENT):
        child = os.fork()
        if child == 0:
            os._exit(0 if recorder.stats().open_traces == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(recorded()) == 1


def test_what_is_wrong_is_refused(storage):
    with raises(ms.ConfigurationError, match="must be a MemoryStorage"):
        EpisodeRecorder("memory.db")
    for options in ({"max_traces": 0}, {"max_bytes": 1.5}, {"max_age": 0}, {"capture_content": "no"}):
        with raises(ms.ValidationError, field=next(iter(options))):
            EpisodeRecorder(storage, **options)
    with raises(ms.ValidationError, field="namespace_of"):
        EpisodeRecorder(storage, namespace_of="tenant")


def test_without_the_sdk_the_extra_is_named():
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None\nimport memory_storage.integrations.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError: EpisodeRecorder needs OpenTelemetry's SDK" in done.stderr
    assert "pip install 'memory-storage[otel]'" in done.stderr
