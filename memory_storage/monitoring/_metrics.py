"""Operation metrics (counts, latencies, rows, retries) and the observer hook for tracing.

An operation is one call of a public method of a repository, like "episodes.save", or a transaction.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from inspect import isgeneratorfunction
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

from memory_storage.dbapi import Batch, Result, Unpicklable, register_after_fork
from memory_storage.errors import CommitUnknownError
from memory_storage.models.health import OperationMetrics
from memory_storage.settings import LoggingSettings

from ._histogram import Histogram

F = TypeVar("F", bound=Callable[..., Any])


class Operation:
    """A running operation, and its cost so far: rows, round trips, statements, retries."""

    # Not slots: most calls change three of these, and what is not changed costs nothing.
    rows = round_trips = statements = retries = changed = 0
    wrote = False
    batches: list[Batch] | None = None
    """The batches it has sent; None unless it is observed or audited."""
    removed_ids: list[str] | None = None
    """Ids of removed rows that are neither among its arguments nor its result; None as for `batches`."""
    token: Any = None
    """What the observer's `began` returned."""
    since = 0.0
    """When it began or, for a generator, was last resumed, by `time.perf_counter`."""
    session: Any = None
    """The session that it runs in: calls in the same session are parts of it."""

    def record_sent(self, batch: Batch) -> None:
        """Count a round trip that failed."""
        self.round_trips += 1
        self.statements += len(batch.steps)
        if self.batches is not None:
            self.batches.append(batch)

    def record_response(self, batch: Batch, results: Sequence[Result], rows: int) -> None:
        """Count a round trip and the rows of its response."""
        self.round_trips += 1
        self.statements += len(batch.steps)
        self.rows += rows
        if self.batches is not None:
            self.batches.append(batch)
            if not batch.reads_only:
                self._record_write(batch, results)

    def _record_write(self, batch: Batch, results: Sequence[Result]) -> None:
        self.wrote = True
        pairs = zip(batch.steps, results, strict=False)
        self.changed += sum(max(0, one.rowcount) for step, one in pairs if not _INTERNAL.search(step.sql))


_INTERNAL = re.compile(r" (receipts|index_changes|episode_texts) ")  # statements that are not the caller's
_Pending = tuple[str, float, int, int, int, int, str | None]  # name, seconds, what it cost, and its error's class
_BATCH = 200


class _Current(threading.local):
    operation: Operation | None = None


current = _Current()
"""`current.operation` is the running operation of this thread, or None."""


class Observer(Protocol):
    """Is notified of each operation. What `began` returns is the `token` of `ended`."""

    def began(self, name: str, *, is_current: bool) -> Any:
        """Handle the begin of an operation.

        Args:
            name: Its name, like "episodes.save".
            is_current: Whether this thread runs nothing else until it ends: not so for a generator.
        """
        ...

    def ended(self, token: Any, name: str, operation: Operation, seconds: float, error: BaseException | None) -> None:
        """Handle the end of an operation.

        Args:
            token: What `began` has returned.
            name: Its name.
            operation: Its cost; `operation.batches` are the batches it has sent.
            seconds: Its duration.
            error: What it raised, or None.
        """
        ...


@dataclass(slots=True)
class _OperationStats:
    histogram: Histogram = field(default_factory=Histogram)
    errors: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    round_trips: int = 0
    statements: int = 0
    retries: int = 0

    def failed(self, kind: str | None) -> None:
        if kind is not None:
            self.errors[kind] = self.errors.get(kind, 0) + 1

    def as_metrics(self) -> OperationMetrics:
        return OperationMetrics(
            count=self.histogram.count,
            errors=dict(self.errors),
            latency=self.histogram.latency(),
            rows=self.rows,
            round_trips=self.round_trips,
            statements=self.statements,
            retries=self.retries,
        )


class Meter(Unpicklable):
    """The operation metrics of one storage, for all its namespaces, and the observer of its operations."""

    def __init__(self, settings: LoggingSettings) -> None:
        self.audits = settings.audit
        self.slow_after = float("inf") if settings.slow_query is None else settings.slow_query
        self.times_queries = settings.slow_query is not None
        self.is_observed = self.audits
        """Whether operations are audited or have an observer."""
        self.pending: deque[_Pending] = deque()
        """Operations that are not aggregated yet: appending takes no lock, and batches aggregate faster."""
        self._observer: Observer | None = None
        self._stats: dict[str, _OperationStats] = {}
        self.after_fork_in_child()
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Replace the lock: a thread of the parent process may hold it."""
        self._lock = threading.Lock()

    def observe(self, observer: Observer | None) -> None:
        """Set the observer of all operations that begin from now on; None removes it."""
        self._observer = observer
        self.is_observed = self.audits or observer is not None

    def begin(self, name: str, *, is_current: bool = True) -> Operation:
        """Return a new operation of this thread."""
        call = Operation()
        if self.is_observed:
            call.batches, call.removed_ids = [], []
            if self._observer is not None:
                call.token = self._observer.began(name, is_current=is_current)
        return call

    def end(self, name: str, operation: Operation, seconds: float, error: BaseException | None = None) -> None:
        """Record the end of an operation: its duration in seconds, and the error that it raised."""
        kind = None if error is None else type(error).__name__
        costs = operation.rows, operation.round_trips, operation.statements, operation.retries
        self.pending.append((name, seconds, *costs, kind))
        if len(self.pending) >= _BATCH:
            self.aggregate()
        if operation.token is not None and self._observer is not None:
            self._observer.ended(operation.token, name, operation, seconds, error)

    def record_retry(self, name: str) -> None:
        """Count a retry of a unit of work."""
        with self._lock:
            self._stats_of(name).retries += 1

    def aggregate(self) -> None:
        """Add the pending operations to the metrics."""
        with self._lock:
            while self.pending:
                name, seconds, rows, round_trips, statements, retries, kind = self.pending.popleft()
                stats = self._stats.get(name) or self._stats_of(name)
                stats.histogram.add(seconds)
                stats.rows += rows
                stats.round_trips += round_trips
                stats.statements += statements
                if retries or kind is not None:
                    stats.retries += retries
                    stats.failed(kind)

    def metrics(self) -> dict[str, OperationMetrics]:
        """Return the metrics of each operation, by its name."""
        self.aggregate()
        with self._lock:
            return {name: stats.as_metrics() for name, stats in sorted(self._stats.items())}

    def _stats_of(self, name: str) -> _OperationStats:
        return self._stats.setdefault(name, _OperationStats())


class _Session(Protocol):
    @property
    def meter(self) -> Meter: ...
    def audit(self, name: str, operation: Operation, subjects: Any, *, is_known: bool) -> None: ...


def note_removed(ids: Iterable[str]) -> None:
    """Add ids of removed rows to the audit record of this thread's operation."""
    if current.operation is not None and current.operation.removed_ids is not None:
        current.operation.removed_ids += ids


def operation(method: F) -> F:
    """Measure a public method of a repository as the operation "<repository>.<method>".

    A repository's own calls of its other methods, and of other repositories in the same session, are parts of the
    outer operation, and are not measured by themselves. A generator is one operation from its first item to its end.
    """
    measured = _measured_pages(method) if isgeneratorfunction(method) else _measured_call(method)
    measured.__dict__["is_operation"] = True
    return cast("F", measured)


def named_operation(name: str) -> Callable[[F], F]:
    """Measure a method as an operation of this name, also within another one."""

    def decorate(method: F) -> F:
        @wraps(method)
        def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return _observed(name, method, self, args, kwargs)

        return cast("F", call)

    return decorate


def _measured_call(method: Callable[..., Any]) -> Callable[..., Any]:
    suffix = f".{method.__name__}"

    @wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        # Every call of a storage passes here, and each microsecond counts: rare cases are in functions of their own.
        session = self._session
        outer = current.operation
        if outer is not None and outer.session is session:
            return method(self, *args, **kwargs)
        meter: Meter = session.meter
        if meter.is_observed:
            return _observed(self._operations + suffix, method, self, args, kwargs)
        current.operation = running = Operation()
        running.session = session
        running.since = since = perf_counter()
        try:
            result = method(self, *args, **kwargs)
        except BaseException as error:
            current.operation = outer
            meter.end(self._operations + suffix, running, perf_counter() - since, error)
            raise
        seconds = perf_counter() - since
        current.operation = outer
        name = self._operations + suffix
        costs = running.rows, running.round_trips, running.statements, running.retries
        meter.pending.append((name, seconds, *costs, None))
        if len(meter.pending) >= _BATCH:
            meter.aggregate()
        return result

    return call


def _observed(name: str, method: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
    session: _Session = owner._session
    meter = session.meter
    outer, current.operation = current.operation, (running := meter.begin(name))
    running.session = session
    running.since, failure, result = perf_counter(), None, None
    try:
        result = method(owner, *args, **kwargs)
        return result
    except BaseException as error:
        failure = error
        raise
    finally:
        current.operation = outer
        meter.end(name, running, perf_counter() - running.since, failure)
        _audit(session, name, running, (args, kwargs, result), failure)


def _audit(session: _Session, name: str, running: Operation, subjects: Any, failure: BaseException | None) -> None:
    is_known = not isinstance(failure, CommitUnknownError)
    if session.meter.audits and (running.wrote or not is_known):
        session.audit(name, running, (subjects, running.removed_ids or []), is_known=is_known)


def _measured_pages(method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    suffix = f".{method.__name__}"

    @wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        session, outer = self._session, current.operation
        items = method(self, *args, **kwargs)
        if outer is not None and outer.session is session:
            return items
        return _measured_items(session, self._operations + suffix, items)

    return call


def _measured_items(session: _Session, name: str, items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items. The duration of the operation is the time that the caller waited for them."""
    meter = session.meter
    running, seconds, failure = meter.begin(name, is_current=False), 0.0, None
    running.session = session
    try:
        while True:
            outer, current.operation = current.operation, running
            running.since = perf_counter()
            try:
                item = [next(items)]
            except StopIteration:
                return
            except BaseException as error:
                failure = error
                raise
            finally:
                current.operation = outer
                seconds += perf_counter() - running.since
            yield item.pop()  # it may be large: it is not held here while the caller has it
    finally:
        meter.end(name, running, seconds, failure)
        _audit(session, name, running, (), failure)  # a callback of the caller's, like `on_corrupt`, may have written
