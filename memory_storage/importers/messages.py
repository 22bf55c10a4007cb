"""Parse one message of a transcript, of any known shape, into text, tool calls and tool results.

Known shapes: OpenAI chat (`tool_calls`, `function_call`, roles tool and function), Anthropic Messages (parts tool_use
and tool_result), LLaMA-Factory (parts with `value`, tool_call), and calls as LangChain and the Responses API have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memory_storage.errors import ValidationError

from .json_records import parse_json

Message = dict[str, Any]

_CALL_PARTS = {"tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "tool-call", "function_call"}
_RESULT_PARTS = {
    "tool_result", "tool-result", "mcp_tool_result", "web_search_tool_result", "web_fetch_tool_result",
    "code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
    "tool_call_response", "function_call_output",
}  # fmt: skip
_TEXT_PARTS = {"text", "input_text", "output_text"}
_KNOWN_PARTS = {
    # They stay in the conversation, where readers expect them.
    "thinking", "redacted_thinking", "reasoning", "refusal",
    "image", "image_url", "input_image", "audio", "input_audio", "file", "input_file", "document", "video", "video_url",
}  # fmt: skip
_NAMES = ("name", "toolName", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "input", "args", "parameters")
_CALL_IDS = ("id", "toolCallId", "tool_call_id", "call_id")
_RESULT_IDS = ("tool_use_id", "tool_call_id", "toolCallId", "call_id", "id")
_OUTPUTS = ("content", "output", "result", "response", "value")


@dataclass
class ToolCall:
    """A tool call; `rest` has its fields other than id, name and arguments."""

    name: str
    arguments: object
    call_id: object = None
    rest: Message = field(default_factory=dict)


@dataclass
class ToolResult:
    """A tool result; `content` is a string or parts. `signs` are the objects that may show its status."""

    content: object
    call_id: object = None
    name: object = None
    signs: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass
class ReadMessage:
    """The contents of a message.

    `kept` is the message without the contents of its calls and results. `parts` pairs each call or result that was a
    part of the content with the part that replaces it. `unread` names what was not understood.
    """

    text: str
    kept: Message
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    parts: list[tuple[ToolCall | ToolResult, Message]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_message(message: Message, where: str) -> ReadMessage:
    """Parse a message.

    Args:
        message: the message, with a `role`.
        where: its path in the record, for errors.
    """
    read = ReadMessage(spoken_text(message.get("content")), dict(message))
    if isinstance(message.get("content"), list):
        _read_parts(message["content"], read)
    if message["role"] in {"tool", "function"} and not read.results:
        _read_tool_message(message, read)
    else:
        _read_listed_calls(message, where, read)
    return read


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, None or parts. A part without text becomes "[image_url]"."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return json.dumps(content, ensure_ascii=False)
    return "\n".join(_text_of_part(part) for part in content if _type_of(part) not in _CALL_PARTS | _RESULT_PARTS)


def spoken_text(content: object) -> str:
    """Return the text of a message's content without the parts that have none."""
    if not isinstance(content, list):
        return text_of(content)
    return "\n".join(text for part in content if (text := _text(part)) is not None)


def _read_parts(parts: list[object], read: ReadMessage) -> None:
    kept: list[object] = []
    for part in parts:
        kind = _type_of(part)
        call = _call_of_part(part) if isinstance(part, dict) and kind in _CALL_PARTS else None
        if isinstance(part, dict) and kind in _RESULT_PARTS:
            kept.append(_keep_result(part, read))
        elif isinstance(part, dict) and call is not None:
            read.calls.append(call)
            remaining = {"type": kind}
            read.parts.append((call, remaining))
            kept.append(remaining)
        else:
            kept.append(part)
            if _text(part) is None and kind not in _KNOWN_PARTS:
                read.unread.append(f"content of type {kind!r} is kept in the conversation alone")
    read.kept["content"] = kept


def _keep_result(part: Message, read: ReadMessage) -> Message:
    name, content = _first(part, _OUTPUTS)
    result = ToolResult(content, _first(part, _RESULT_IDS)[1], part.get("name"), [part])
    read.results.append(result)
    # An image or other content without text is kept here: the step has only the text.
    is_text = isinstance(content, str) or (
        isinstance(content, list) and all(_text(item) is not None for item in content)
    )
    kept = {key: value for key, value in part.items() if key != name or not is_text}
    read.parts.append((result, kept))
    return kept


def _call_of_part(part: Message) -> ToolCall | None:
    values = part
    if isinstance(part.get("value"), str):  # LLaMA-Factory: JSON in a string
        try:
            values = parse_json(part["value"])
        except ValueError:
            return None
        if not isinstance(values, dict):
            return None
    return _call_from(values, other_keys={"type", "value"})


def _call_from(values: Message, other_keys: set[str]) -> ToolCall | None:
    name_key, name = _first(values, _NAMES)
    if not isinstance(name, str):
        return None
    arguments_key, arguments = _first(values, _ARGUMENTS)
    id_key, call_id = _first(values, _CALL_IDS)
    used = {name_key, arguments_key, id_key, *other_keys}
    return ToolCall(name, arguments, call_id, {key: value for key, value in values.items() if key not in used})


def _read_tool_message(message: Message, read: ReadMessage) -> None:
    content = message.get("content")
    name = message.get("name")
    read.results.append(ToolResult(content, _first(message, _RESULT_IDS[:-1])[1], name, [message]))
    if isinstance(content, str):
        del read.kept["content"]


def _read_listed_calls(message: Message, where: str, read: ReadMessage) -> None:
    listed = message.get("tool_calls") or []
    if not isinstance(listed, list):
        raise ValidationError(f"{where}.tool_calls", "a list of calls", listed)
    calls = [_listed_call(call) for call in listed]
    old = _listed_call({"function": message["function_call"]}) if message.get("function_call") else None
    read.calls += [call for call in (*calls, old) if call is not None]
    unread = [call for call, is_read in zip(listed, calls, strict=True) if is_read is None]
    if len(unread) < len(listed):
        read.kept = {key: value for key, value in read.kept.items() if key != "tool_calls"}
        read.kept |= {"tool_calls": unread} if unread else {}
    if old is not None:
        del read.kept["function_call"]
    count = len(unread) + (bool(message.get("function_call")) and old is None)
    read.unread += ["a tool call of an unknown kind is kept in the conversation alone"] * count


def _listed_call(call: object) -> ToolCall | None:
    """Parse an OpenAI call (`function`, `custom`), or one that has its name and arguments at the top level."""
    if not isinstance(call, dict):
        return None
    for name in ("function", "custom"):
        if isinstance(call.get(name), dict):
            inner = _call_from({key: value for key, value in call[name].items() if key not in _CALL_IDS}, set())
            if inner is None:
                return None
            rest = {key: value for key, value in call.items() if key not in {name, "id"}}
            if inner.rest:
                rest[name] = inner.rest
            return ToolCall(inner.name, inner.arguments, call.get("id"), rest)
    return _call_from(call, set())


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    name = next((name for name in names if values.get(name) is not None), "")
    return name, values.get(name)


def _type_of(part: object) -> str:
    return str(part.get("type")) if isinstance(part, dict) else type(part).__name__


def _text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or _type_of(part) not in _TEXT_PARTS:
        return None
    return next((part[name] for name in ("text", "value") if isinstance(part.get(name), str)), None)


def _text_of_part(part: object) -> str:
    text = _text(part)
    return f"[{_type_of(part)}]" if text is None else text
