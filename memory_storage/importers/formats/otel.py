"""Spans of OpenTelemetry as JSON, with the attributes of the GenAI conventions, OpenInference or Traceloop.

A trace is an episode. Spans are those of an OTLP request (`resourceSpans`), as the Collector's file exporter writes it,
or one object each, as the SDK's console exporter does. A step is a span of a tool, or a call in the messages of a model
without one; the tokens are those of the model's span. A trace whose root failed is a failure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from memory_storage.models import Failure

from ..json_records import Record
from ..messages import Message, text_of
from ..run import ImportProblem, Item, NotTaken, Run, parts_of, task_without_prompt
from ..timestamps import read_time
from .values import dict_of, kind_of, list_of, only, text_in

NAME = "otel"
TITLE = "OpenTelemetry GenAI spans"

_TOOL_KINDS = {"execute_tool", "tool", "TOOL"}
_MODEL_KINDS = {"chat", "text_completion", "generate_content", "LLM", "llm"}
_KIND_NAMES = ("gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind", "llm.request.type")
_INPUTS = ("gen_ai.input.messages", "llm.input_messages", "gen_ai.prompt", "input.value", "traceloop.entity.input")
_OUTPUTS = ("gen_ai.output.messages", "llm.output_messages", "gen_ai.completion", "output.value")
_INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT_TOKENS = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_MODELS = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
_TOOL_NAMES = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name")
_TOOL_IDS = ("gen_ai.tool.call.id", "tool_call.id", "tool.id")
_TOOL_INPUTS = ("gen_ai.tool.call.arguments", "tool.parameters", "input.value", "traceloop.entity.input")
_TOOL_OUTPUTS = ("gen_ai.tool.call.result", "output.value", "traceloop.entity.output")
_SESSIONS = ("gen_ai.conversation.id", "session.id")
_LARGEST_INDEX = 100_000


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is an OTLP request or a span."""
    return isinstance(content.get("resourceSpans"), list) or _is_span(content)


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each trace with spans of an agent, a model or a tool."""
    traces: dict[str, _Trace] = {}
    for record in records:
        if record.problem or not matches(record.content):
            yield ImportProblem(record.line, record.problem or "neither `resourceSpans` nor a span")
            continue
        for span in _spans_in(record.content):
            trace = traces.setdefault(span.trace_id, _Trace(record.line))
            trace.spans.append(span)
        if traces:
            trace.size += record.size
    others = 0
    for trace_id, trace in traces.items():
        if run := _run_of(trace_id, trace):
            yield run
        else:
            others += len(trace.spans)
    yield NotTaken({"spans of other programs": others})


@dataclass
class _Span:
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    started_at: object
    ended_at: object
    attributes: dict[str, Any]
    error: str
    resource: dict[str, Any]

    @property
    def kind(self) -> str:
        kinds = {text_in(self.attributes.get(name)) for name in _KIND_NAMES}
        if kinds & _TOOL_KINDS:
            return "tool"
        has_messages = any(self.messages(names) for names in (_INPUTS[:3], _OUTPUTS[:3]))
        return "model" if kinds & _MODEL_KINDS or has_messages else "agent" if kinds - {""} else ""

    def first(self, names: Iterable[str]) -> Any:
        return next((self.attributes[name] for name in names if self.attributes.get(name) not in (None, "")), None)

    def messages(self, names: Iterable[str]) -> list[Any]:
        """Return the messages in the first of these attributes that has some: JSON text, a list, or one per index."""
        for name in names:
            value = _parsed(self.attributes.get(name))
            if isinstance(value, list) and value:
                return value
            if indexed := _indexed(self.attributes, f"{name}."):
                return indexed
        return []


@dataclass
class _Trace:
    line: int
    spans: list[_Span] = field(default_factory=list)
    size: int = 0


def _is_span(content: dict[str, Any]) -> bool:
    context = dict_of(content.get("context"))
    ids = ({"traceId", "spanId"}, {"trace_id", "span_id"})
    return any(names <= content.keys() or names <= context.keys() for names in ids)


def _spans_in(content: dict[str, Any]) -> Iterator[_Span]:
    if not isinstance(content.get("resourceSpans"), list):
        yield _span_of(content, dict_of(dict_of(content.get("resource")).get("attributes")))
        return
    for resource_spans in map(dict_of, content["resourceSpans"]):
        resource = _attributes(dict_of(resource_spans.get("resource")).get("attributes"))
        scopes = resource_spans.get("scopeSpans") or resource_spans.get("instrumentationLibrarySpans")
        for scope in map(dict_of, list_of(scopes)):
            for span in map(dict_of, list_of(scope.get("spans"))):
                yield _span_of(span, resource)


def _span_of(span: dict[str, Any], resource: dict[str, Any]) -> _Span:
    context = dict_of(span.get("context"))

    def given(*names: str) -> Any:
        return next((place[name] for place in (span, context) for name in names if place.get(name) is not None), None)

    attributes = _attributes(span.get("attributes"))
    return _Span(
        trace_id=str(given("traceId", "trace_id") or ""),
        span_id=str(given("spanId", "span_id") or ""),
        parent_id=str(given("parentSpanId", "parent_span_id", "parent_id") or ""),
        name=str(given("name") or ""),
        started_at=given("startTimeUnixNano", "start_time_unix_nano", "start_time"),
        ended_at=given("endTimeUnixNano", "end_time_unix_nano", "end_time"),
        attributes=attributes,
        error=_error_of(span, attributes),
        resource=resource,
    )


def _error_of(span: dict[str, Any], attributes: Mapping[str, Any]) -> str:
    """Return the message of a span that failed, or an empty string."""
    status = dict_of(span.get("status"))
    code = status.get("code", status.get("status_code"))
    if code not in (2, "2", "ERROR", "STATUS_CODE_ERROR"):
        return ""
    raised = (_attributes(dict_of(event).get("attributes")) for event in list_of(span.get("events")))
    messages = (text_in(one.get("exception.message")) for one in raised)
    said = text_in(status.get("message")) or text_in(status.get("description"))
    return said or next(filter(None, messages), "") or str(attributes.get("error.type") or "error")


def _attributes(given: object) -> dict[str, Any]:
    """Return attributes as names and values: OTLP has a list of keys with typed values."""
    if isinstance(given, dict):
        return given
    pairs = (dict_of(item) for item in list_of(given))
    return {text_in(pair.get("key")): _value(dict_of(pair.get("value"))) for pair in pairs}


def _value(value: dict[str, Any]) -> Any:
    kind, inner = next(iter(value.items()), ("", None))
    if kind == "intValue":  # a text, because not every reader of JSON has 64 bits
        return int(str(inner)) if str(inner).removeprefix("-").isdecimal() and len(str(inner)) < 30 else None
    if kind == "arrayValue":
        return [_value(dict_of(item)) for item in list_of(dict_of(inner).get("values"))]
    return _attributes(dict_of(inner).get("values")) if kind == "kvlistValue" else inner


def _parsed(value: object) -> object:
    """Parse an attribute that is JSON text; return others unchanged."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _indexed(attributes: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return the objects whose fields are attributes `prefix.<index>.<field>`."""
    items: dict[int, dict[str, Any]] = {}
    for name, value in attributes.items():
        number, _, rest = name[len(prefix) :].partition(".") if name.startswith(prefix) else ("", "", "")
        if number.isdecimal() and rest and int(number) < _LARGEST_INDEX:
            items.setdefault(int(number), {})[rest.removeprefix("message.")] = value
    return [items[number] for number in sorted(items)]


def _run_of(trace_id: str, trace: _Trace) -> Run | None:
    """Return the run of a trace; None if it has no span of an agent, a model or a tool."""
    spans = sorted(trace.spans, key=_start)
    if not any(span.kind for span in spans):
        return None
    run = Run(NAME, trace.line, key=trace_id, size=trace.size)
    reader = _Reader(run, {str(span.first(_TOOL_IDS)) for span in spans if span.kind == "tool"})
    agents = [span for span in spans if span.kind == "agent" or not span.parent_id]
    for span in sorted(spans, key=lambda one: _end(one) if one.kind == "model" else _start(one)):
        if span.kind == "tool":
            reader.add_tool(span)
        elif span.kind == "model":
            reader.add_model(span)
    root = next(iter(agents), spans[0])
    if not any(message["role"] == "user" and any(parts_of(message, "text")) for message in run.messages):
        given = next((text for span in agents if (text := _prompt_of(span))), "")
        run.task = given or task_without_prompt(run.messages) or root.name
        if given:
            run.messages.insert(0, {"role": "user", "content": given, "timestamp": root.started_at})
            run.task = ""
    run.messages = run.messages or [{"role": "user", "content": run.task, "timestamp": root.started_at}]
    run.outcome = Failure(reason=root.error) if root.error and not root.parent_id else None
    models = [text_in(span.first(_MODELS)) for span in spans if span.kind == "model"]
    run.metadata = {
        "trace_id": trace_id,
        "session_id": next(filter(None, (text_in(span.first(_SESSIONS)) for span in spans)), None),
        "agent": next(filter(None, (text_in(span.attributes.get("gen_ai.agent.name")) for span in spans)), None),
        "service": root.resource.get("service.name"),
        "model": only([model for model in models if model]),
    }
    return run


class _Reader:
    """Converts the spans of a trace, in order, into the messages of a run."""

    def __init__(self, run: Run, tool_ids: set[str]) -> None:
        self._run = run
        self._with_span = tool_ids
        self._called: dict[str, Message] = {}
        self._answered: set[str] = set()
        self._prompts = 0

    def add_tool(self, span: _Span) -> None:
        """Add the call of a tool, unless a model's message has it, and its result."""
        given = span.first(_TOOL_IDS)
        call_id = str(given) if given is not None else span.span_id
        if call_id not in self._called:
            name = text_in(span.first(_TOOL_NAMES)) or span.name.removeprefix("execute_tool ")
            call = {"type": "tool_use", "id": call_id, "name": name, "input": _arguments(span.first(_TOOL_INPUTS))}
            self._append("assistant", [call], span.started_at)
        elif span.ended_at is not None:  # the time since the model's message is not the tool's
            self._called[call_id]["execution_time"] = _end(span) - _start(span)
        output = span.first(_TOOL_OUTPUTS)
        part: Message = {"type": "tool_result", "tool_use_id": call_id, "is_error": bool(span.error)}
        part["content"] = _text(output) if output is not None else span.error
        self._append("user", [part], span.ended_at)

    def add_model(self, span: _Span) -> None:
        """Add what is new in the input of a model, and its output."""
        prompts = 0
        for message in map(dict_of, span.messages(_INPUTS)):
            converted = _message(message)
            results = list(parts_of(converted, "tool_result"))
            if results:
                self._add_results(results, span)
            elif converted["role"] != "assistant":
                prompts += 1
                if prompts > self._prompts:
                    self._append(converted["role"], converted["content"], span.started_at)
        self._prompts = max(self._prompts, prompts)
        outputs = [_message({"role": "assistant", **dict_of(one)}) for one in span.messages(_OUTPUTS)]
        for message in outputs or [{"content": ""}]:
            self._called |= {str(part.get("id")): part for part in parts_of(message, "tool_use")}
            self._append("assistant", message["content"], span.ended_at)
        usage = {"input_tokens": span.first(_INPUT_TOKENS), "output_tokens": span.first(_OUTPUT_TOKENS)}
        if any(count is not None for count in usage.values()):
            self._run.messages[-len(outputs or [0])]["usage"] = usage

    def _add_results(self, results: list[Message], span: _Span) -> None:
        """Add the results of calls that have no span of their own."""
        for part in results:
            call_id = str(part.get("tool_use_id"))
            if call_id not in self._with_span and call_id not in self._answered and call_id in self._called:
                self._answered.add(call_id)
                self._append("user", [part], span.started_at)

    def _append(self, role: str, content: object, time: object) -> None:
        self._run.messages.append(
            {"role": role, **({"timestamp": time} if time is not None else {}), "content": content}
        )


def _message(message: dict[str, Any]) -> Message:
    """Return a message of the conventions (`parts`), of OpenInference or of Traceloop with our parts."""
    role = text_in(message.get("role")) or "user"
    parts = [part for item in list_of(message.get("parts")) if (part := _part(dict_of(item)))]
    contents = [text_in(one.get("message_content.text")) for one in _indexed(message, "contents.")]
    text = "\n".join(filter(None, contents)) or text_of(_parsed(message.get("content")))
    if text and role == "tool":
        ids = (message.get("tool_call_id"), message.get("id"))
        parts.append({"type": "tool_result", "tool_use_id": next(filter(None, ids), None), "content": text})
    elif text:
        parts.append({"type": "text", "text": text})
    for call in _indexed(message, "tool_calls."):
        fields = {name.removeprefix("tool_call.").removeprefix("function."): value for name, value in call.items()}
        named = {"id": fields.get("id"), "name": fields.get("name"), "input": _arguments(fields.get("arguments"))}
        parts.append({"type": "tool_use", **named})
    return {"role": "user" if role == "tool" else role, "content": parts}


def _part(part: dict[str, Any]) -> Message | None:
    kind = kind_of(part)
    if kind == "tool_call":
        return {"type": "tool_use", "id": part.get("id"), "name": part.get("name"), "input": part.get("arguments")}
    if kind == "tool_call_response":
        content = part.get("response", part.get("result"))
        return {"type": "tool_result", "tool_use_id": part.get("id"), "content": _text(content)}
    if kind == "text":
        return {"type": "text", "text": _text(part.get("content"))}
    return None if kind in {"reasoning", "thinking"} else part


def _arguments(value: object) -> object:
    parsed = _parsed(value)
    return parsed if isinstance(parsed, dict) or value is None else {"input": parsed}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _prompt_of(span: _Span) -> str:
    """Return the text that an agent's span was given."""
    texts = [text_of(_message(dict_of(one))["content"]) for one in span.messages(_INPUTS[:3])]
    value = span.first(_INPUTS[3:])
    return next(filter(None, texts), "") or (_text(value) if value is not None else "")


def _start(span: _Span) -> float:
    time = read_time(span.started_at)
    return time.timestamp() if time else 0.0


def _end(span: _Span) -> float:
    time = read_time(span.ended_at)
    return time.timestamp() if time else _start(span)
