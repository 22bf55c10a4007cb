"""Messages of a span in one shape, whichever convention it follows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .spans import SpanRecord

_USER_ROLES = {"user", "human"}
_TASK_NAMES = ("task", "input", "query", "question", "prompt", "instruction", "message", "text")
_INDEXED = re.compile(r"(\d+)\.message\.(.+)")
_INDEXED_CALL = re.compile(r"tool_calls\.(\d+)\.tool_call\.(.+)")
_INDEXED_CONTENT = re.compile(r"contents\.(\d+)\.message_content\.text")
_EVENT = re.compile(r"gen_ai\.(user|assistant|tool|system)\.message|gen_ai\.(choice)")


@dataclass
class Message:
    """A message: its role, its text, its tool calls, and the results of calls by their ids."""

    role: str = ""
    texts: list[str] = field(default_factory=list)
    calls: list[MessageCall] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)


@dataclass
class MessageCall:
    """A tool call that a model has asked for."""

    name: str = ""
    call_id: str = ""
    arguments: Any = None


def input_messages(record: SpanRecord) -> list[Message]:
    """Return the messages that a model or an agent was given."""
    return _messages(record, "input") or _messages_of_events(record, is_output=False)


def output_messages(record: SpanRecord) -> list[Message]:
    """Return the messages that a model or an agent has returned."""
    return _messages(record, "output") or _messages_of_events(record, is_output=True)


def last_user_text(messages: Iterable[Message]) -> str:
    """Return the text of the last message of a user that has one; tool results may have that role too."""
    texts = ("\n".join(one.texts) for one in messages if one.role in _USER_ROLES and one.texts)
    return next(reversed(list(texts)), "")


def text_of(messages: Iterable[Message]) -> str:
    """Return the texts of all messages."""
    return "\n".join(text for one in messages for text in one.texts)


def task_of_value(value: object) -> str:
    """Return the task in an agent's `input.value`: a text, or JSON with messages or with a field for the task."""
    parsed = parsed_json(value)
    if isinstance(parsed, str):
        return parsed
    listed = parsed.get("messages") if isinstance(parsed, dict) else parsed
    if isinstance(listed, list) and (text := last_user_text(map(_message, listed))):
        return text
    if isinstance(parsed, dict):
        for name in _TASK_NAMES:
            if isinstance(parsed.get(name), str) and parsed[name]:
                return str(parsed[name])
    return str(value)


def parsed_json(value: object) -> Any:
    """Return the value of a JSON object or array in a string; any other value unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in {"{", "["}:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _messages(record: SpanRecord, side: str) -> list[Message]:
    parsed = parsed_json(record.attributes.get(f"gen_ai.{side}.messages"))
    if isinstance(parsed, list):
        return [_message(one) for one in parsed]
    prefix = f"llm.{side}_messages."
    flat = {name.removeprefix(prefix): value for name, value in record.attributes.items() if name.startswith(prefix)}
    return _messages_of_names(flat)


def _message(value: Any) -> Message:
    """Read a message of the conventions, of a chat API or of LangChain: a pair, or an object with `kwargs`."""
    if isinstance(value, list | tuple) and len(value) == 2:
        value = {"role": value[0], "content": value[1]}
    if not isinstance(value, dict):
        return Message()
    if isinstance(value.get("kwargs"), dict):
        value = value["kwargs"]
    message = Message(str(value.get("role") or value.get("type") or ""))
    parts = value.get("parts", value.get("content"))
    for part in parts if isinstance(parts, list) else [parts]:
        _read_part(part, message)
    return message


def _read_part(part: object, message: Message) -> None:
    if isinstance(part, str) and part:
        message.texts.append(part)
    if not isinstance(part, dict):
        return
    kind = part.get("type")
    if kind in {"text", "input_text", "output_text"}:
        text = part.get("content", part.get("text"))
        message.texts += [text] if isinstance(text, str) and text else []
    elif kind == "tool_call":
        message.calls.append(MessageCall(str(part.get("name") or ""), str(part.get("id") or ""), part.get("arguments")))
    elif kind == "tool_call_response":
        result = next((part[name] for name in ("response", "result") if name in part), None)
        message.results[str(part.get("id") or "")] = result


def _messages_of_names(flat: Mapping[str, Any]) -> list[Message]:
    """Return the messages that OpenInference writes as one attribute for each value."""
    by_index: dict[int, dict[str, Any]] = {}
    for name, value in flat.items():
        if match := _INDEXED.fullmatch(name):
            by_index.setdefault(int(match[1]), {})[match[2]] = value
    return [_message_of_names(values) for _, values in sorted(by_index.items())]


def _message_of_names(values: Mapping[str, Any]) -> Message:
    message, calls = Message(str(values.get("role") or "")), dict[int, MessageCall]()
    for name, value in values.items():
        if (name == "content" or _INDEXED_CONTENT.fullmatch(name)) and value:
            message.texts.append(str(value))
        elif match := _INDEXED_CALL.fullmatch(name):
            _read_call(calls.setdefault(int(match[1]), MessageCall()), match[2], value)
    message.calls = [call for _, call in sorted(calls.items())]
    if "tool_call_id" in values:
        message.results[str(values["tool_call_id"])] = "\n".join(message.texts)
    return message


def _read_call(call: MessageCall, name: str, value: object) -> None:
    if name == "function.name":
        call.name = str(value)
    elif name == "function.arguments":
        call.arguments = value
    elif name == "id":
        call.call_id = str(value)


def _messages_of_events(record: SpanRecord, *, is_output: bool) -> list[Message]:
    """Return the messages that older versions of the conventions wrote as events."""
    return [
        message
        for name, values in record.events
        if (match := _EVENT.fullmatch(name)) and (match[2] is not None) == is_output
        for message in _message_of_event(match[1] or "assistant", values)
    ]


def _message_of_event(role: str, values: Mapping[str, Any]) -> Iterator[Message]:
    body = parsed_json(values.get("gen_ai.event.content"))
    body = body if isinstance(body, dict) else dict(values)
    inner = body.get("message")
    message = _message({"role": role, **body, **(inner if isinstance(inner, dict) else {})})
    if role == "tool":
        message.results[str(body.get("id") or "")] = "\n".join(message.texts)
    for call in body.get("tool_calls") or (inner.get("tool_calls") if isinstance(inner, dict) else None) or ():
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            called = call["function"]
            message.calls.append(
                MessageCall(str(called.get("name") or ""), str(call.get("id") or ""), called.get("arguments"))
            )
    yield message
