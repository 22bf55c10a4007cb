"""What a recorder costs an agent: `python -m tests.integrations.otel.overhead`.

The same scripted agent of Pydantic AI runs with and without the recorder, in turns, in one process, with its own
instrumentation on in both. A run has 5 model calls of 100 ms and 4 tools of 50 ms, and is saved to a file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import memory_storage as ms
from memory_storage.integrations.otel import EpisodeRecorder

MODEL_SECONDS, TOOL_SECONDS = 0.1, 0.05
TURNS = [*([("lookup", {"order": number})] for number in range(4)), "Refunded."]


@dataclass(frozen=True)
class Overhead:
    """The fastest runs in seconds, and the cost of a span in microseconds.

    Attributes:
        without: seconds of the fastest run without the recorder: other load of the machine only adds to it.
        recorded: seconds of the fastest run with it.
        median_ratio: the median duration with the recorder in relation to that without.
        application_us: what the thread of the agent spends for a span, on its start and its end together.
        worker_us: what the recorder's thread spends for a span: its share of the conversion and the save.
        spans: the spans of a run.
    """

    without: float
    recorded: float
    median_ratio: float
    application_us: float
    worker_us: float
    spans: int

    @property
    def cpu_share(self) -> float:
        """The CPU time of both threads in relation to the duration of a run."""
        return self.spans * (self.application_us + self.worker_us) / 1e6 / self.without

    @property
    def ratio(self) -> float:
        """The duration of the fastest run with the recorder in relation to that without."""
        return self.recorded / self.without

    def __str__(self) -> str:
        return (
            f"a run takes {self.without * 1e3:.1f} ms without and {self.recorded * 1e3:.1f} ms with the recorder: "
            f"{self.ratio - 1:+.2%} (medians: {self.median_ratio - 1:+.2%}); "
            f"of a span {self.application_us:.0f} us in the application's thread "
            f"and {self.worker_us:.0f} us in the recorder's: {self.cpu_share:.2%} of a run of {self.spans} spans"
        )


def measure(directory: Path, pairs: int = 15, *, most: int = 15, enough: float = 0.0) -> Overhead:
    """Measure the overhead, by runs in turns.

    Args:
        directory: Where the database is made.
        pairs: The number of runs with and without the recorder.
        most: On a busy machine, how many of them there are until the ratio of the fastest runs is `enough`.
        enough: The ratio at which no more runs are needed.
    """
    with ms.MemoryStorage.open(directory / "memory.db") as storage:
        recorder = EpisodeRecorder(storage)
        with _provider() as plain, _provider(recorder) as recording:
            agents = [_agent(plain), _agent(recording)]
            seconds: list[list[float]] = [[], []]
            for number in range(most + 1):
                if number > pairs and min(seconds[1]) <= enough * min(seconds[0]):
                    break
                for which in (0, 1) if number % 2 else (1, 0):
                    began = time.perf_counter()
                    asyncio.run(agents[which].run("Refund order 17"))
                    if number:  # the first one of each imports and compiles
                        seconds[which].append(time.perf_counter() - began)
            assert recorder.force_flush()
        assert storage.episodes.count() == len(seconds[1]) + 1
        spans = _spans_of_a_run()
        ratio = median(seconds[1]) / median(seconds[0])
        return Overhead(min(seconds[0]), min(seconds[1]), ratio, *_cost_of_a_span(storage, spans), len(spans))


@contextmanager
def _provider(*recorders: EpisodeRecorder) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    for recorder in recorders:
        provider.add_span_processor(recorder)
    yield provider
    provider.shutdown()


def _agent(provider: TracerProvider, thinks: float = MODEL_SECONDS, works: float = TOOL_SECONDS):
    from .agents import pydantic_agent

    def lookup(order: int) -> str:
        """Look up an order."""
        time.sleep(works)
        return f"order {order}"

    return pydantic_agent(TURNS, [lookup], provider, thinks=thinks)


def _spans_of_a_run() -> Sequence[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    asyncio.run(_agent(provider, 0.0, 0.0).run("Refund order 17"))
    provider.shutdown()
    return exporter.get_finished_spans()


def _cost_of_a_span(storage: ms.MemoryStorage, spans: Sequence[ReadableSpan]) -> tuple[float, float]:
    """Return microseconds of a span in the application's thread, and in the recorder's: medians of 50 runs."""
    from memory_storage.integrations.otel.conversion import episode_of

    application, worker = [], []
    for number in range(50):
        namespace = storage.in_namespace(f"cost-{number}")
        recorder = EpisodeRecorder(namespace)
        recorder._start_worker = lambda: None  # so that only this thread runs
        began = time.thread_time()
        for span in spans:
            recorder.on_start(span)
        for span in spans:
            recorder.on_end(span)
        application.append((time.thread_time() - began) / len(spans))
        (run,) = recorder._queue
        began = time.thread_time()
        namespace.episodes.import_many([episode_of(run, storage.settings.limits)])
        worker.append((time.thread_time() - began) / len(spans))
        recorder._queue.clear()
        recorder.shutdown()
    return 1e6 * median(application), 1e6 * median(worker)


def main() -> None:
    """Print the overhead."""
    with TemporaryDirectory() as directory:
        print(measure(Path(directory)))


if __name__ == "__main__":
    main()
