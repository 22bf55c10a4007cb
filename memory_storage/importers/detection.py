"""Detection of formats that cannot be imported, so that the error can name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Content = Mapping[str, Any]


def looks_like(content: Content) -> str:
    """Return the name of the likely format of a record; "" if it is unknown."""
    return next((name for name, matches in _FORMATS.items() if matches(content)), "")


def _has(*names: str) -> Callable[[Content], bool]:
    return lambda content: all(name in content for name in names)


def _is_claude_code(content: Content) -> bool:
    kind = content.get("type")
    has_message = kind in {"user", "assistant", "system"} and ("uuid" in content or "sessionId" in content)
    return has_message or (kind == "summary" and "leafUuid" in content) or kind == "file-history-snapshot"


def _is_codex(content: Content) -> bool:
    return content.get("type") in {
        "session_meta", "turn_context", "response_item", "event_msg", "compacted"
    } and "payload" in content  # fmt: skip


def _is_openhands(content: Content) -> bool:
    is_event = "source" in content and ("action" in content or "observation" in content)
    return (
        is_event
        or content.get("kind") in {"ActionEvent", "ObservationEvent"}
        or _has("instance_id", "history")(content)
    )


def _is_langchain(content: Content) -> bool:
    kind = content.get("type")
    return (kind in {"human", "ai", "tool", "system"} and ("data" in content or "content" in content)) or (
        content.get("lc") == 1 and "kwargs" in content
    )


def _is_responses(content: Content) -> bool:
    is_item = content.get("type") in {"function_call", "function_call_output", "reasoning", "message"}
    return isinstance(content.get("input"), list) or isinstance(content.get("output"), list) or is_item


def _is_gemini(content: Content) -> bool:
    is_request = isinstance(content.get("contents"), list)
    return is_request or (content.get("role") in {"user", "model"} and isinstance(content.get("parts"), list))


_FORMATS: dict[str, Callable[[Content], bool]] = {
    "a Claude Code session": _is_claude_code,
    "a Codex session": _is_codex,
    "OpenTelemetry traces (OTLP)": _has("resourceSpans"),
    "OpenTelemetry spans": lambda content: _has("traceId", "spanId")(content) or _has("trace_id", "span_id")(content),
    "a Gemini conversation": _is_gemini,
    "an ATIF trajectory": lambda content: str(content.get("schema_version", "")).startswith("ATIF"),
    "a SWE-agent trajectory": lambda content: _has("trajectory")(content) or _has("history")(content),
    "an OpenHands trajectory": _is_openhands,
    "tau2 simulations": lambda content: isinstance(content.get("simulations"), list),
    "ShareGPT conversations": lambda content: isinstance(content.get("conversations"), list),
    "LangChain messages": _is_langchain,
    "OpenAI Responses items": _is_responses,
    "prompts with completions": (
        lambda content: _has("instruction", "output")(content) or _has("prompt", "completion")(content)
    ),
}
