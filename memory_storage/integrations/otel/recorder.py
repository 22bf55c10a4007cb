"""The span processor that turns finished runs of agents into episodes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from opentelemetry import context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from memory_storage.dbapi import register_after_fork
from memory_storage.errors import ConfigurationError, ConflictError, MemoryStorageError, ValidationError
from memory_storage.sql.validation import finite, flag, function, whole
from memory_storage.storage import MemoryStorage

from .conversion import episode_of
from .spans import kind_of, read_span
from .traces import AgentTrace, TraceBuffer

_log = logging.getLogger("memory_storage.integrations.otel")
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds until a failed save is tried again
_SWEEP_SECONDS = 10.0
# The key of the API, and the one that instrumentations have read before.
_SUPPRESSED = context.Context({context._SUPPRESS_INSTRUMENTATION_KEY: True, "suppress_instrumentation": True})


@dataclass(frozen=True)
class RecorderStats:
    """What a recorder has done since it was made, and what it holds.

    Attributes:
        saved: episodes that were stored.
        repeated: episodes that were stored before, or erased: nothing was changed.
        failed: episodes that cannot be stored, since the storage refuses them.
        retries: attempts to save that failed and were, or will be, repeated.
        pending: episodes that wait to be saved.
        open_traces: traces with open spans.
        buffered_bytes: the estimated bytes of their spans, and of those of pending episodes.
        dropped_traces: traces that exceeded `max_traces`, `max_bytes` or, with spans of tools, `max_age`.
        dropped_spans: the spans of agents, tools and models in them.
        ignored_traces: traces without an agent.
    """

    saved: int = 0
    repeated: int = 0
    failed: int = 0
    retries: int = 0
    pending: int = 0
    open_traces: int = 0
    buffered_bytes: int = 0
    dropped_traces: int = 0
    dropped_spans: int = 0
    ignored_traces: int = 0


class EpisodeRecorder(SpanProcessor):
    """Saves the run of each outermost agent as an episode: `tracer_provider.add_span_processor(EpisodeRecorder(...))`.

    Spans are read by the conventions of OpenTelemetry (`gen_ai.operation.name`: invoke_agent, execute_tool, chat) and
    of OpenInference (`openinference.span.kind`: AGENT, TOOL, LLM). A run is complete when its agent's span and those
    above and below it have ended; one minute after the agent, only agents above it are waited for. Its tool spans, also
    those of agents below it, are its steps. IDs derive from trace and span, so that a trace that is processed twice is
    stored once.

    Spans are buffered in memory; a thread saves the episodes, and repeats what failed because the database was not
    available. An error of the storage never reaches the application: it is counted and logged.

    Args:
        storage: Where episodes are saved. The caller closes it, after `shutdown` of the recorder or its provider.
        max_traces: How many traces with open spans, and how many episodes that wait to be saved, are held.
        max_bytes: The bytes of buffered spans, estimated; beyond it the traces without a recent span are dropped.
        max_age: Seconds without a new span after which a trace has ended: its finished runs are saved.
        capture_content: Whether tasks, arguments, results and messages of errors are stored, if the spans have them.
        namespace_of: Returns the namespace of an episode by the span of its agent; None for that of the storage.
    """

    def __init__(
        self,
        storage: MemoryStorage,
        *,
        max_traces: int = 1_000,
        max_bytes: int = 64 * 2**20,
        max_age: float = 3_600.0,
        capture_content: bool = True,
        namespace_of: Callable[[ReadableSpan], str | None] | None = None,
    ) -> None:
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        if namespace_of is not None:
            function("namespace_of", namespace_of, "lambda span: span.attributes.get('tenant.id')")
        if (max_age := finite("max_age", max_age)) <= 0:
            raise ValidationError("max_age", "seconds above 0", max_age)
        self._storage, self._namespace_of = storage, namespace_of
        self._capture_content = flag("capture_content", capture_content)
        self._bounds = whole("max_traces", max_traces), whole("max_bytes", max_bytes), max_age
        self._buffer = TraceBuffer(*self._bounds)
        self._stats = RecorderStats()
        self._reset()
        register_after_fork(self)

    def _reset(self) -> None:
        # Reentrant: the garbage collector may end a span while this thread holds it.
        self._lock = threading.Condition(threading.RLock())
        self._queue: deque[AgentTrace] = deque()
        self._queued_bytes = 0
        self._n_saving = 0
        self._delay = 0.0
        self._is_flushing = self._is_shut_down = False
        self._worker: threading.Thread | None = None
        self._worker_id = 0
        self._warned: set[str] = set()

    def after_fork_in_child(self) -> None:
        """Forget the spans of the parent process, which saves them itself, and its thread."""
        is_shut_down = self._is_shut_down
        self._reset()
        self._buffer, self._is_shut_down = TraceBuffer(*self._bounds), is_shut_down

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:  # noqa: ARG002
        """Note that a span is open."""
        if self._is_shut_down or threading.get_ident() == self._worker_id:
            return
        own, parent = span.context, span.parent
        with self._lock:
            parent_id = parent.span_id if parent else None
            is_agent = kind_of(span.attributes or {}) == "agent"
            self._buffer.begin(own.trace_id, own.span_id, parent_id, time.monotonic(), is_agent=is_agent)

    def on_end(self, span: ReadableSpan) -> None:
        """Buffer a span, and hand the runs that it completes to the thread."""
        if self._is_shut_down or threading.get_ident() == self._worker_id:
            return
        try:
            record = read_span(span, capture_content=self._capture_content)
            own, parent = span.context, span.parent
            parent_id = parent.span_id if parent else None
            with self._lock:
                complete = self._buffer.end(own.trace_id, own.span_id, parent_id, record, time.monotonic())
                if complete:
                    self._enqueue(complete)
                elif record is not None and self._worker is None:
                    self._start_worker()
        except Exception:  # noqa: BLE001 - a span of a form that is not foreseen must not break the application
            self._warn("span", "a span cannot be read, and is left out", with_traceback=True)
        if self._buffer.dropped_traces:
            self._warn("dropped", "traces are dropped: max_traces, max_bytes or max_age is too small; see stats()")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all complete runs are saved, and try again at once what failed.

        Args:
            timeout_millis: How long to wait, in milliseconds.

        Returns:
            Whether nothing waits to be saved any more.
        """
        deadline = time.monotonic() + timeout_millis / 1_000
        with self._lock:
            failures = self._stats.retries
            self._is_flushing = True
            self._lock.notify_all()
            # One failed attempt ends it: the database is not available now.
            while (self._queue or self._n_saving) and self._stats.retries == failures:
                left = deadline - time.monotonic()
                if left <= 0 or not self._lock.wait(left):
                    break
            self._is_flushing = False
            return not self._queue and not self._n_saving

    def shutdown(self) -> None:
        """Save the runs whose agent has ended, for at most 30 seconds, and end the thread."""
        with self._lock:
            if self._is_shut_down:
                return
            # The thread continues while runs are flushed, and not for longer.
            self._is_shut_down = self._is_flushing = True
            if complete := self._buffer.close(time.monotonic()):
                self._enqueue(complete)
        self.force_flush()
        with self._lock:
            if self._queue:
                _log.error("%d episodes were not saved before the shutdown", len(self._queue))
            self._lock.notify_all()
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(5.0)

    def stats(self) -> RecorderStats:
        """Return what was saved, dropped and failed, and what waits."""
        with self._lock:
            return replace(
                self._stats,
                pending=len(self._queue) + self._n_saving,
                open_traces=len(self._buffer),
                buffered_bytes=self._buffer.size + self._queued_bytes,
                dropped_traces=self._stats.dropped_traces + self._buffer.dropped_traces,
                dropped_spans=self._stats.dropped_spans + self._buffer.dropped_spans,
                ignored_traces=self._buffer.ignored_traces,
            )

    def _enqueue(self, complete: list[AgentTrace]) -> None:
        for run in complete:
            self._queue.append(run)
            self._queued_bytes += run.size
        max_traces, max_bytes, _ = self._bounds
        while self._queue and (len(self._queue) > max_traces or self._queued_bytes > max_bytes):
            run = self._queue.popleft()
            self._queued_bytes -= run.size
            self._count(dropped_traces=1, dropped_spans=len(run.records))
            self._warn("pending", "episodes are dropped before they are saved: too many wait; see stats()")
        self._start_worker()
        self._lock.notify_all()

    def _start_worker(self) -> None:
        if self._worker is None:
            worker = threading.Thread(target=self._run, name="memory-storage-episodes", daemon=True)
            worker.start()
            self._worker = worker

    def _run(self) -> None:
        self._worker_id = threading.get_ident()
        context.attach(_SUPPRESSED)
        while (run := self._next()) is not None:
            outcome = self._save(run)
            with self._lock:
                self._n_saving = 0
                if outcome == "retries":
                    self._queue.appendleft(run)
                    self._delay = min(_LONGEST_DELAY, 2 * self._delay or _FIRST_DELAY)
                else:
                    self._queued_bytes -= run.size
                    self._delay = 0.0
                self._count(**{outcome: 1})
                self._lock.notify_all()

    def _next(self) -> AgentTrace | None:
        """Wait for a run that is to be saved; None after a shutdown."""
        with self._lock:
            retry_at = time.monotonic() + self._delay
            while True:
                now = time.monotonic()
                if expired := self._buffer.expire(now):
                    self._enqueue(expired)
                is_due = now >= retry_at or self._is_flushing
                if self._queue and is_due:
                    self._n_saving = 1
                    return self._queue.popleft()
                if self._is_shut_down and not self._is_flushing:
                    return None
                wait = retry_at - now if self._queue else min(_SWEEP_SECONDS, self._bounds[2])
                self._lock.wait(wait)

    def _save(self, run: AgentTrace) -> str:
        """Save an episode, and return the name of the counter of the outcome."""
        try:
            storage = self._storage
            if self._namespace_of is not None and run.agent.span is not None:
                namespace = self._namespace_of(run.agent.span)
                storage = storage if namespace is None else storage.in_namespace(namespace)
            episode = episode_of(run, storage.settings.limits)
            return "saved" if storage.episodes.import_many([episode]) else "repeated"
        except (ValidationError, ConflictError) as error:
            self._warn("refused", f"an episode cannot be stored, and is left out: {error}")
            return "failed"
        except MemoryStorageError as error:
            self._warn("retries", f"an episode was not saved, and is tried again: {type(error).__name__}: {error}")
            return "retries"
        except Exception:  # noqa: BLE001 - `namespace_of`, or a span of a form that is not foreseen
            self._warn("failed", "an episode cannot be made of a run, and is left out", with_traceback=True)
            return "failed"

    def _count(self, **counts: int) -> None:
        totals = {name: getattr(self._stats, name) + number for name, number in counts.items()}
        self._stats = replace(self._stats, **totals)

    def _warn(self, kind: str, message: str, *, with_traceback: bool = False) -> None:
        """Log a problem, once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", message, exc_info=with_traceback)
