"""Conversion of the spans of one run into an episode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from itertools import zip_longest
from typing import Any
from uuid import UUID, uuid5

from memory_storage.models import (
    Abstained,
    Episode,
    Failure,
    Outcome,
    RewardScore,
    Step,
    StepError,
    StepOk,
    StepResult,
    StepTimeout,
    Success,
)
from memory_storage.models.model import JsonObject
from memory_storage.recording.values import Capture, cut_reason, cut_traceback, fitting_task
from memory_storage.settings import Limits
from memory_storage.sql.validation import replace_unstorable

from .messages import (
    MessageCall,
    input_messages,
    last_user_text,
    output_messages,
    parsed_json,
    task_of_value,
    text_of,
)
from .spans import SpanRecord
from .traces import AgentTrace

SOURCE = "otel"
_IDS = UUID("6f0a3f0e-5d5b-5c39-9d58-0a6d1c0f2b7e")  # the namespace of ids that derive from spans
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_EVALUATION = "gen_ai.evaluation.result"
_INTERRUPTIONS = ("CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit")
_INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT_TOKENS = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_MODELS = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
_TOOL_NAMES = ("gen_ai.tool.name", "tool.name")
_CALL_IDS = ("gen_ai.tool.call.id", "tool_call.id", "tool.id")
_AGENT_NAMES = ("gen_ai.agent.name", "agent.name")
_CALL_WRAPPERS = {"args", "kwargs", "sanitize_inputs_outputs"}  # as smolagents' instrumentation writes arguments


def episode_of(run: AgentTrace, limits: Limits) -> Episode:
    """Return the run of an outermost agent as an episode.

    Args:
        run: Its spans.
        limits: The limits of the storage: what exceeds them is replaced by a marker, and named in the metadata.
    """
    return _Conversion(run, limits).episode()


class _Conversion:
    """The conversion of one run. Records are read in the order in which they began."""

    def __init__(self, run: AgentTrace, limits: Limits) -> None:
        self._run, self._limits, self._agent = run, limits, run.agent
        self._records = sorted(run.records, key=lambda one: (one.start, one.end))
        self._models = [one for one in self._records if one.kind == "model"]
        self._by_id = {one.span_id: one for one in self._records}
        self._tools = [one for one in self._records if one.kind == "tool" and not self._is_repeated(one)]
        self._capture = Capture(limits)

    def episode(self) -> Episode:
        """Return the episode."""
        agent = self._agent
        most = self._limits.steps_per_episode
        steps = self._steps()
        if len(steps) > most:
            self._capture.not_stored["steps"] = len(steps) - most
        task, verdict = self._task(), self._verdict()
        scores = [one["score"] for one in self._evaluations() if isinstance(one.get("score"), int | float)]
        return Episode(
            id=uuid5(_IDS, f"{self._run.trace_id:032x}:{agent.span_id:016x}"),
            task_description=fitting_task(task, self._limits.task_description),
            started_at=_moment(agent.start),
            completed_at=_moment(max(agent.start, agent.end)),
            outcome=self._outcome(verdict),
            reward=RewardScore(total=sum(scores) / len(scores)) if scores else None,
            metadata=self._metadata(),
            steps=steps[:most],
        )

    def _task(self) -> str:
        agent = self._agent
        if text := last_user_text(input_messages(agent)):
            return text
        if agent.attributes.get("input.value"):
            return task_of_value(agent.attributes["input.value"])
        if self._models:
            first = self._models[0]
            if text := last_user_text(input_messages(first)):
                return text
            if first.attributes.get("input.value"):
                return task_of_value(first.attributes["input.value"])
        return str(_first(agent.attributes, _AGENT_NAMES) or agent.name)

    def _verdict(self) -> str:
        """Return the answer of the agent; without one, what its last model call has returned."""
        agent = self._agent
        answer: object = text_of(output_messages(agent)[-1:])
        if agent.kind == "agent":  # a chain returns its whole state
            answer = answer or agent.attributes.get("output.value")
        own = [one for one in self._models if self._agent_of(one) is agent]
        if not answer and own:
            answer = text_of(output_messages(own[-1])[-1:]) or own[-1].attributes.get("output.value")
        return self._capture.text("verdict", answer)

    def _outcome(self, verdict: str) -> Outcome:
        if not self._agent.is_error:
            return Success(verdict=verdict)
        kind, message, details = _error_of(self._agent)
        reason = replace_unstorable(cut_reason(message or kind or "the span of the agent has the status ERROR"))
        if kind in _INTERRUPTIONS:
            return Abstained(reason=reason)
        return Failure(reason=reason, error_details=replace_unstorable(cut_traceback(details)) or None)

    def _metadata(self) -> JsonObject:
        attributes = self._agent.attributes
        inputs, outputs = self._tokens(_INPUT_TOKENS), self._tokens(_OUTPUT_TOKENS)
        models = [_first(one.attributes, _MODELS) for one in self._models]
        metadata: dict[str, Any] = {
            "source": SOURCE,
            "trace_id": f"{self._run.trace_id:032x}",
            "span_id": f"{self._agent.span_id:016x}",
            "agent": _first(attributes, _AGENT_NAMES),
            "conversation": _first(attributes, ("gen_ai.conversation.id", "session.id")),
            "instrumentation": self._agent.scope,
            "models": list(dict.fromkeys(str(name) for name in models if name)),
            "tokens": {"input": inputs, "output": outputs} if inputs or outputs else None,
            "evaluations": self._evaluations(),
        }
        return self._capture.metadata({name: value for name, value in metadata.items() if value})

    def _tokens(self, names: tuple[str, ...]) -> int:
        """Return the sum over all model calls; of the agent, if they have none."""
        counts = [_count(one, names) for one in self._models]
        return sum(counts) or _count(self._agent, names)

    def _evaluations(self) -> list[dict[str, Any]]:
        found = []
        for record in self._records:
            for name, values in record.events:
                if name == _EVALUATION:
                    score = values.get("gen_ai.evaluation.score.value")
                    evaluation = {
                        "name": values.get("gen_ai.evaluation.name"),
                        "score": score,
                        "label": values.get("gen_ai.evaluation.score.label"),
                        "explanation": values.get("gen_ai.evaluation.explanation"),
                    }
                    found.append({key: value for key, value in evaluation.items() if value is not None})
        return found

    def _steps(self) -> list[Step]:
        tokens = self._tokens_by_tool()
        steps = [self._step(one, tokens.get(one.span_id)) for one in self._tools]
        steps += self._steps_of_messages()
        return sorted(steps, key=lambda step: step.started_at)

    def _step(self, record: SpanRecord, tokens_used: int | None) -> Step:
        attributes, capture = record.attributes, Capture(self._limits)
        parameters = capture.json_object("parameters", _arguments(attributes))
        metadata: dict[str, Any] = {"span_id": f"{record.span_id:016x}"}
        if call_id := _first(attributes, _CALL_IDS):
            metadata["tool_call_id"] = call_id
        agent = self._agent_of(record)
        if agent is not self._agent:
            metadata["agent"] = _first(agent.attributes, _AGENT_NAMES) or agent.name
        result = self._result(record, capture, metadata)
        return Step(
            id=uuid5(_IDS, f"{self._run.trace_id:032x}:{record.span_id:016x}"),
            started_at=_moment(record.start),
            tool=_tool(record),
            parameters=parameters,
            result=result,
            latency_ms=max(0, round((record.end - record.start) / 1e6)),
            tokens_used=tokens_used,
            metadata=capture.metadata(metadata),
        )

    def _result(self, record: SpanRecord, capture: Capture, metadata: dict[str, Any]) -> StepResult:
        output = _first(record.attributes, ("gen_ai.tool.call.result", "output.value"))
        if not record.is_error:
            return StepOk(output=capture.text("output", output))
        kind, message, _ = _error_of(record)
        if kind.lower() == "timeout" or kind.endswith("TimeoutError"):
            metadata["error"] = message
            return StepTimeout()
        return StepError(message=capture.text("error", message or output or "the span has the status ERROR"))

    def _steps_of_messages(self) -> Iterator[Step]:
        """Yield the tool calls that only messages show: those of tools that have no span."""
        traced_names = {_tool(one) for one in self._tools}
        traced_ids = {_first(one.attributes, _CALL_IDS) for one in self._tools}
        sources = self._models or [self._agent]
        results: dict[str, Any] = {}
        for one in sources:
            for message in (*input_messages(one), *output_messages(one)):
                results |= message.results
        for record, following in zip_longest(sources, sources[1:]):
            for index, call in enumerate(call for message in output_messages(record) for call in message.calls):
                if call.name and call.name not in traced_names and call.call_id not in traced_ids:
                    yield self._step_of_call(record, following, index, call, results)

    def _step_of_call(
        self,
        record: SpanRecord,
        following: SpanRecord | None,
        index: int,
        call: MessageCall,
        results: Mapping[str, Any],
    ) -> Step:
        capture = Capture(self._limits)
        has_result = call.call_id in results
        until = following.start if following is not None and has_result else record.end
        metadata = {"span_id": f"{record.span_id:016x}", "tool_call_id": call.call_id}
        return Step(
            id=uuid5(_IDS, f"{self._run.trace_id:032x}:{record.span_id:016x}:{index}:{call.call_id}"),
            started_at=_moment(record.end) + timedelta(microseconds=index),
            tool=replace_unstorable(call.name),
            parameters=capture.json_object("parameters", _as_object(call.arguments)),
            result=StepOk(output=capture.text("output", results[call.call_id])) if has_result else None,
            latency_ms=max(0, round((until - record.end) / 1e6)),
            metadata=capture.metadata({name: value for name, value in metadata.items() if value}),
        )

    def _tokens_by_tool(self) -> dict[int, int]:
        """Return the tokens of the model call that has asked for a tool, if it has asked for this one only."""
        by_call_id = {_first(one.attributes, _CALL_IDS): one.span_id for one in self._tools}
        tokens: dict[int, int] = {}
        for model, following in zip_longest(self._models, self._models[1:]):
            calls = [call for message in output_messages(model) for call in message.calls]
            if calls:
                tools = [by_call_id[call.call_id] for call in calls if call.call_id in by_call_id]
                is_clear = len(calls) == 1
            else:
                agent, until = self._agent_of(model), following.start if following else self._agent.end
                between = [one for one in self._tools if model.end <= one.start < until]
                tools = [one.span_id for one in between if self._agent_of(one) is agent]
                is_clear = len(tools) == 1 and self._agent_of(following or model) is agent
            used = _count(model, _INPUT_TOKENS) + _count(model, _OUTPUT_TOKENS)
            if is_clear and tools and used:
                tokens[tools[0]] = used
        return tokens

    def _is_repeated(self, record: SpanRecord) -> bool:
        """Return whether a span is the MCP client's or server's, within that of the same tool call."""
        outer = next((one for one in self._above(record) if one.kind == "tool"), None)
        if outer is None:
            return False
        own, other = _first(record.attributes, _CALL_IDS), _first(outer.attributes, _CALL_IDS)
        is_mcp = "mcp.method.name" in record.attributes and _tool(record) == _tool(outer)
        return (own is not None and own == other) or (own is None and is_mcp)

    def _agent_of(self, record: SpanRecord) -> SpanRecord:
        return next((one for one in self._above(record) if one.kind == "agent"), self._agent)

    def _above(self, record: SpanRecord) -> Iterator[SpanRecord]:
        """Yield the records above one, the nearest first."""
        seen, parent = {record.span_id}, record.parent_id
        while parent is not None and parent not in seen:
            if parent in self._by_id:
                yield self._by_id[parent]
            seen.add(parent)
            parent = self._run.parents.get(parent)


def _error_of(record: SpanRecord) -> tuple[str, str, str]:
    """Return the class of a span's error, its class and message in one text, and its stack trace."""
    exception: Mapping[str, Any] = next((values for name, values in reversed(record.events) if name == "exception"), {})
    kind = str(exception.get("exception.type") or record.attributes.get("error.type") or "").rpartition(".")[2]
    message = exception.get("exception.message") or record.description
    text = ": ".join(dict.fromkeys(str(part) for part in (kind, message) if part))
    # A description may begin with the class of the error already.
    text = str(message) if kind and str(message).startswith(f"{kind}: ") else text
    return kind, text, str(exception.get("exception.stacktrace") or "")


def _arguments(attributes: Mapping[str, Any]) -> dict[str, Any]:
    if (arguments := attributes.get("gen_ai.tool.call.arguments")) is not None:
        return _as_object(arguments)
    value = attributes.get("input.value", attributes.get("tool.parameters"))
    parsed = _as_object(value)
    if parsed.keys() <= _CALL_WRAPPERS and isinstance(parsed.get("kwargs"), dict):
        positional = {"args": parsed["args"]} if parsed.get("args") else {}
        return {**positional, **parsed["kwargs"]}
    return parsed


def _as_object(value: object) -> dict[str, Any]:
    """Return arguments as an object: JSON, or else the value under the name `input`."""
    parsed = parsed_json(value)
    if parsed is None or parsed == "":
        return {}
    return dict(parsed) if isinstance(parsed, Mapping) else {"input": parsed}


def _tool(record: SpanRecord) -> str:
    return str(replace_unstorable(str(_first(record.attributes, _TOOL_NAMES) or record.name)))


def _count(record: SpanRecord, names: tuple[str, ...]) -> int:
    value = _first(record.attributes, names)
    return value if isinstance(value, int) and value > 0 else 0


def _first(attributes: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _moment(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
