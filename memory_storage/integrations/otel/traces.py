"""Buffers of spans by trace, with bounded memory, until the spans of an agent's run are complete."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from .spans import SpanRecord

_PRUNE_AT = 1_000  # spans of a trace
_SETTLED_SECONDS = 60.0
_MAX_DROPPED = 10_000  # traces whose later spans are dropped too


@dataclass(slots=True)
class AgentTrace:
    """The spans of the run of one outermost agent, itself included."""

    trace_id: int
    agent: SpanRecord
    records: list[SpanRecord]
    parents: dict[int, int | None]

    @property
    def size(self) -> int:
        """The bytes of its records."""
        return sum(record.size for record in self.records)


@dataclass(slots=True)
class _Trace:
    trace_id: int
    active_at: float
    open: dict[int, int | None] = field(default_factory=dict)
    open_agents: set[int] = field(default_factory=set)
    parents: dict[int, int | None] = field(default_factory=dict)
    records: list[SpanRecord] = field(default_factory=list)
    agents: list[SpanRecord] = field(default_factory=list)
    ended_at: dict[int, float] = field(default_factory=dict)
    """When its agents have ended, by their spans."""
    model_calls: dict[int | None, tuple[SpanRecord, int]] = field(default_factory=dict)
    """By their parents: the latest call, and its number."""
    size: int = 0
    prune_at: int = _PRUNE_AT

    @property
    def is_agentless_run(self) -> bool:
        """Whether a tool was used, and no agent has ended."""
        return not self.agents and any(one.kind == "tool" for one in self.records)

    def add(self, record: SpanRecord, now: float, *, is_agent: bool) -> None:
        """Store a record. A model call that has the messages of the one before replaces those."""
        self.records.append(record)
        self.size += record.size
        if is_agent:
            self.agents.append(record)
            self.ended_at[record.span_id] = now
        elif record.kind == "model":
            before, number = self.model_calls.get(record.parent_id, (record, 0))
            # The first one has the task; the others repeat what the last one has.
            if number > 1 and record.input_size() >= before.input_size():
                self.size -= before.size
                before.drop_input()
                self.size += before.size
            self.model_calls[record.parent_id] = record, number + 1

    def take_complete(self, now: float, *, is_expired: bool = False) -> list[AgentTrace]:
        """Remove and return the runs of outermost agents that are complete; of an expired trace, those that have ended.

        No span above or below a complete one is open. Those above may live as long as the process: after a minute only
        agents are waited for. Until then any of them may turn out to be one, by an attribute that is set at its end.
        """
        if not self.agents:
            return []
        ids = {agent.span_id for agent in self.agents}
        busy = {ancestor for span_id in self.open for ancestor in self._ancestors(span_id)}
        complete = []
        for agent in self.agents:
            above = set(self._ancestors(agent.span_id))
            is_settled = now - self.ended_at.get(agent.span_id, now) >= _SETTLED_SECONDS
            waits_for = self.open_agents if is_settled else self.open.keys()
            is_open = not above.isdisjoint(waits_for) or agent.span_id in busy
            if above.isdisjoint(ids) and (is_expired or not is_open):
                complete.append(agent)
        return [self._take(agent) for agent in complete]

    def _take(self, agent: SpanRecord) -> AgentTrace:
        inside = [one for one in self.records if one is agent or agent.span_id in self._ancestors(one.span_id)]
        taken = set(map(id, inside))
        path = {one.span_id for one in inside}.union(*(self._ancestors(one.span_id) for one in inside))
        parents = {span_id: self.parents.get(span_id) for span_id in path}
        self.records = [one for one in self.records if id(one) not in taken]
        self.agents = [one for one in self.agents if id(one) not in taken]
        self.ended_at = {one.span_id: self.ended_at[one.span_id] for one in self.agents}
        self.model_calls = {key: call for key, call in self.model_calls.items() if id(call[0]) not in taken}
        self.size -= sum(one.size for one in inside)
        return AgentTrace(self.trace_id, agent, inside, parents)

    def prune(self) -> None:
        """Forget spans that are above none that is stored or open: a trace may live as long as its process."""
        if len(self.parents) < self.prune_at:
            return
        ids = [*self.open, *(one.span_id for one in self.records)]
        above = set(ids).union(*(self._ancestors(span_id) for span_id in ids))
        self.parents = {span_id: parent for span_id, parent in self.parents.items() if span_id in above}
        self.prune_at = max(_PRUNE_AT, 2 * len(self.parents))

    def _ancestors(self, span_id: int) -> Iterator[int]:
        seen = {span_id}
        parent = self.parents.get(span_id)
        while parent is not None and parent not in seen:  # ids come from clients: a cycle is possible
            yield parent
            seen.add(parent)
            parent = self.parents.get(parent)


class TraceBuffer:
    """The traces with open spans. Not thread-safe.

    Args:
        max_traces: How many traces are buffered.
        max_bytes: The bytes of their spans, estimated.
        max_age: Seconds after which a trace without a new span has ended.
    """

    def __init__(self, max_traces: int, max_bytes: int, max_age: float) -> None:
        self._max_traces, self._max_bytes, self._max_age = max_traces, max_bytes, max_age
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._dropped: OrderedDict[int, None] = OrderedDict()
        self.size = 0
        self.dropped_traces = self.dropped_spans = self.ignored_traces = 0

    def __len__(self) -> int:
        return len(self._traces)

    def begin(self, trace_id: int, span_id: int, parent_id: int | None, now: float, *, is_agent: bool = False) -> None:
        """Note that a span has begun.

        Args:
            trace_id: The trace of the span.
            span_id: The span.
            parent_id: Its parent, if it has one.
            now: The monotonic time in seconds.
            is_agent: Whether it is known already to be an agent's.
        """
        if trace_id in self._dropped:
            return
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = _Trace(trace_id, now)
        trace.active_at = now
        self._traces.move_to_end(trace_id)
        trace.open[span_id] = trace.parents[span_id] = parent_id
        if is_agent:
            trace.open_agents.add(span_id)

    def end(
        self, trace_id: int, span_id: int, parent_id: int | None, record: SpanRecord | None, now: float
    ) -> list[AgentTrace]:
        """Store a span that has ended, and return the runs that are complete by it.

        Args:
            trace_id: The trace of the span.
            span_id: The span.
            parent_id: Its parent, if it has one.
            record: What is stored of it; None for its place in the tree only.
            now: The monotonic time in seconds.
        """
        if trace_id in self._dropped:
            self.dropped_spans += 1
            return []
        self.begin(trace_id, span_id, parent_id, now)
        trace = self._traces[trace_id]
        del trace.open[span_id]
        trace.open_agents.discard(span_id)
        before = trace.size
        if record is not None:
            # Of a trace without an agent, a chain that has used a tool is the agent.
            is_agent = record.kind == "agent" or (record.kind == "chain" and trace.is_agentless_run)
            trace.add(record, now, is_agent=is_agent)
        complete = trace.take_complete(now)
        self.size += trace.size - before
        trace.prune()
        if not trace.open:
            self._remove(trace, is_ignored=not complete)
        self._enforce_bounds()
        return complete

    def expire(self, now: float) -> list[AgentTrace]:
        """Remove the traces without a span for `max_age` seconds, and return the runs that are complete by now."""
        complete = []
        while self._traces:
            trace = next(iter(self._traces.values()))
            if now - trace.active_at < self._max_age:
                break
            complete += self._close(trace, now)
        for trace in self._traces.values():
            before = trace.size
            complete += trace.take_complete(now)
            self.size += trace.size - before
        return complete

    def close(self, now: float) -> list[AgentTrace]:
        """Remove all traces, and return the runs whose agent has ended."""
        return [run for trace in list(self._traces.values()) for run in self._close(trace, now)]

    def _close(self, trace: _Trace, now: float) -> list[AgentTrace]:
        before = trace.size
        complete = trace.take_complete(now, is_expired=True)
        self.size += trace.size - before
        if any(one.kind == "tool" for one in trace.records):
            self._drop(trace)
        else:
            self._remove(trace, is_ignored=not complete)
        return complete

    def _enforce_bounds(self) -> None:
        while self._traces and (len(self._traces) > self._max_traces or self.size > self._max_bytes):
            self._drop(next(iter(self._traces.values())))

    def _drop(self, trace: _Trace) -> None:
        self.dropped_traces += 1
        self.dropped_spans += len(trace.records)
        self._remove(trace, is_ignored=False)
        # What follows of it would look like a run of its own, without its begin.
        self._dropped[trace.trace_id] = None
        if len(self._dropped) > _MAX_DROPPED:
            self._dropped.popitem(last=False)

    def _remove(self, trace: _Trace, *, is_ignored: bool) -> None:
        del self._traces[trace.trace_id]
        self.size -= trace.size
        self.ignored_traces += is_ignored
