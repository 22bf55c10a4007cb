"""Reading a finished span: what kind of operation it is, and what of it is stored.

Nothing here parses JSON: it runs on the thread of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

Kind = Literal["agent", "chain", "tool", "model", "evaluation"]

_OPERATIONS: dict[object, Kind] = {
    "invoke_agent": "agent",
    "execute_tool": "tool",
    **dict.fromkeys(("chat", "generate_content", "text_completion"), "model"),
}
_OPENINFERENCE: dict[object, Kind] = {"AGENT": "agent", "TOOL": "tool", "LLM": "model"}
_EVALUATION = "gen_ai.evaluation."

_FACTS = frozenset(
    {
        *("gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.agent.id", "gen_ai.conversation.id"),
        *("gen_ai.provider.name", "gen_ai.system", "gen_ai.request.model", "gen_ai.response.model"),
        *("gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.tool.type", "mcp.method.name", "error.type"),
        *("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
        *("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"),
        *("openinference.span.kind", "agent.name", "session.id", "tool.name", "tool.id", "tool_call.id"),
        *("llm.model_name", "llm.provider", "llm.token_count.prompt", "llm.token_count.completion"),
    }
)
_CONTENT = frozenset(
    {
        *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
        *("input.value", "output.value", "tool.parameters"),
    }
)
_CONTENT_PREFIXES = ("llm.input_messages.", "llm.output_messages.")
_INPUTS = ("gen_ai.input.messages", "input.value")
_INPUT_PREFIX = "llm.input_messages."
_SMALL = 200  # bytes of an object that holds a number or a short text


@dataclass(slots=True)
class SpanRecord:
    """What is stored of a span. Times are nanoseconds since 1970; `size` estimates its bytes."""

    kind: Kind
    name: str
    span_id: int
    parent_id: int | None
    start: int
    end: int
    is_error: bool
    description: str
    attributes: dict[str, Any]
    events: list[tuple[str, Mapping[str, Any]]]
    scope: str
    size: int
    span: ReadableSpan | None = None

    def input_size(self) -> int:
        """Return the bytes of the messages that a model was given."""
        return sum(_size(self.attributes[name]) for name in self._input_names())

    def drop_input(self) -> None:
        """Remove the messages that a model was given."""
        for name in self._input_names():
            self.size -= _size(self.attributes.pop(name))

    def _input_names(self) -> list[str]:
        return [name for name in self.attributes if name in _INPUTS or name.startswith(_INPUT_PREFIX)]


def kind_of(attributes: Mapping[str, Any]) -> Kind | None:
    """Return the kind of operation of a span; None if it is neither of an agent, a tool nor a model."""
    kind = _OPERATIONS.get(attributes.get("gen_ai.operation.name"))
    return kind or _OPENINFERENCE.get(attributes.get("openinference.span.kind"))


def read_span(span: ReadableSpan, *, capture_content: bool) -> SpanRecord | None:
    """Return what is stored of a finished span; None if it is neither of an agent, a tool nor a model.

    A chain without a span above it may be an agent by another name: frameworks for graphs know no agents.

    Args:
        span: The span.
        capture_content: Whether messages, arguments, results and error messages are stored.
    """
    attributes = span.attributes or {}
    kind = kind_of(attributes)
    if kind is None and span.parent is None and attributes.get("openinference.span.kind") == "CHAIN":
        kind = "chain"
    has_evaluation = any(event.name.startswith(_EVALUATION) for event in span.events)
    if kind is None and not has_evaluation:
        return None
    stored = {
        name: value
        for name, value in attributes.items()
        if name in _FACTS or (capture_content and (name in _CONTENT or name.startswith(_CONTENT_PREFIXES)))
    }
    events = [(event.name, event.attributes or {}) for event in span.events]
    if not capture_content:
        events = [_without_content(name, values) for name, values in events]
    texts = sum(map(_size, stored.values())) + sum(_size(value) for _, values in events for value in values.values())
    context, parent, scope = span.context, span.parent, span.instrumentation_scope
    return SpanRecord(
        kind=kind or "evaluation",
        name=span.name,
        span_id=context.span_id if context else 0,
        parent_id=parent.span_id if parent else None,
        start=span.start_time or 0,
        end=span.end_time or span.start_time or 0,
        is_error=span.status.status_code is StatusCode.ERROR,
        description=(span.status.description or "") if capture_content else "",
        attributes=stored,
        events=events,
        scope=scope.name if scope else "",
        size=_SMALL * (4 + len(stored)) + texts,
        span=span if kind in {"agent", "chain"} else None,
    )


def _without_content(name: str, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return an event with the class of an exception and the score of an evaluation only."""
    allowed = ("exception.type", "gen_ai.evaluation.name", "gen_ai.evaluation.score.value")
    return name, {key: values[key] for key in allowed if key in values}


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else _SMALL
