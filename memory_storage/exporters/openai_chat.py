"""Chat messages for fine-tuning: one JSON line `{"messages": [...], "tools": [...]}` per episode.

The inverse of the importer `openai-chat`, as far as the format goes:

    the task                the first user message; of an imported episode, all its messages
    a step                  a call of an assistant's message, whose text is the action; and a message of the role tool
    the outcome             the last message of the assistant, in the words of the verdict or reason
    metadata["tools"]       tools; without it, the schema of each called tool is inferred from its arguments

A tool's message has no field for its status. An error begins with "Error: " unless it reads like one already; a timeout
is `{"timed_out": true}`, and a step without a result `{"returncode": null}`, which the importer reads as such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from memory_storage.models import Episode

from .notes import Notes, used_fields
from .turns import Call, Turn, ids_of, turns_of

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_READS_LIKE_AN_ERROR = re.compile(r"\s*(?:(?:\w+\.)*\w*(?:Error|Exception)|error|fatal|panic):")
_TIMED_OUT = '{"timed_out": true}'
_UNKNOWN = '{"returncode": null}'
_OF_AN_IMPORT = {"conversation", "tools", "source", "import_notes", "occurrence"}
_OF_A_CALL = {"tool_call_id", "type"}
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class OpenAIChat:
    """Writes episodes as JSON lines."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, episode: Episode, notes: Notes) -> None:
        """Write an episode as one line."""
        line = json.dumps(record_of(episode, notes), ensure_ascii=False, separators=(",", ":"))
        self._stream.write(line.encode())
        self._stream.write(b"\n")

    def finish(self) -> None:
        """Write nothing: the format has no footer."""


def record_of(episode: Episode, notes: Notes) -> dict[str, Any]:
    """Return the messages and tools of an episode; note what they leave out."""
    turns = list(turns_of(episode, notes))
    messages = [message for turn in turns for message in _messages_of(turn, notes)]
    _note_fields(episode, notes)
    if all(turn.text != episode.task_description for turn in turns if turn.role == "user"):
        notes.omit("task_description, which is not a message of the conversation")
    if not messages or messages[-1]["role"] != "assistant":
        notes.remark("the last message is not the assistant's, which fine-tuning requires")
    record: dict[str, Any] = {"messages": messages}
    if tools := _tools_of(episode, [call for turn in turns for call in turn.calls], notes):
        record["tools"] = tools
    return record


def _messages_of(turn: Turn, notes: Notes) -> Iterator[dict[str, Any]]:
    if turn.reasoning:
        notes.omit("reasoning")
    images = [part for part in turn.parts if turn.role == "user" and part.get("type") == "image_url"]
    if len(images) < len(turn.parts):
        notes.omit("content other than text and image URLs")
    content: Any = turn.text
    if images:
        content = [{"type": "text", "text": turn.text}] * bool(turn.text) + [dict(image) for image in images]
    if not turn.calls:
        if content or turn.role != "assistant":
            yield {"role": turn.role, "content": content}
        return
    ids = ids_of(turn.calls)
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": call.step.tool, "arguments": json.dumps(call.step.parameters, ensure_ascii=False)},
        }
        for call_id, call in zip(ids, turn.calls, strict=True)
    ]
    yield {"role": "assistant", "content": content or None, "tool_calls": calls}
    for call_id, call in zip(ids, turn.calls, strict=True):
        yield {"role": "tool", "tool_call_id": call_id, "content": _content_of(call, notes)}


def _content_of(call: Call, notes: Notes) -> str:
    text = call.output or ""
    if call.status == "timeout":
        return _TIMED_OUT
    if call.status == "error":
        return text if _READS_LIKE_AN_ERROR.match(text) else f"Error: {text}"
    if call.status is None and call.output is None:
        notes.remark(f"a step without a result has the content {_UNKNOWN}")
        return _UNKNOWN
    if call.status == "ok" and _READS_LIKE_AN_ERROR.match(text):
        notes.remark("the result of a step that succeeded reads like an error")
    return text


def _note_fields(episode: Episode, notes: Notes) -> None:
    used = used_fields(episode)
    if episode.metadata.keys() - _OF_AN_IMPORT:
        used.append("metadata")
    for name in ("latency_ms", "tokens_used", "metadata"):
        if any(_has(step, name) for step in episode.steps):
            used.append(f"{name} of steps")
    if episode.outcome is not None:
        notes.omit("the kind of the outcome, except in words")
    notes.omit("times", *used)


def _has(step: Any, name: str) -> bool:
    value = getattr(step, name)
    return bool(value.keys() - _OF_A_CALL) if name == "metadata" else bool(value)


def _tools_of(episode: Episode, calls: list[Call], notes: Notes) -> list[dict[str, Any]]:
    """Return the tools that the run was given; if they are unknown, those that it called."""
    given = episode.metadata.get("tools")
    if isinstance(given, list) and given and all(isinstance(tool, dict) for tool in given):
        return list(given)  # type: ignore[arg-type] # JSON objects
    properties: dict[str, dict[str, set[str]]] = {}
    for call in calls:
        of_tool = properties.setdefault(call.step.tool, {})
        for name, value in call.step.parameters.items():
            of_tool.setdefault(name, set()).add(_TYPES.get(type(value), "null"))
    if properties:
        notes.remark("the schemas of tools are inferred from their calls")
    if any(not _NAME.fullmatch(name) for name in properties):
        notes.remark("a tool's name is one that OpenAI refuses: it has other characters than letters, digits, _ and -")
    return [_schema(name, types) for name, types in properties.items()]


def _schema(tool: str, types: dict[str, set[str]]) -> dict[str, Any]:
    properties = {name: {"type": next(iter(of)) if len(of) == 1 else sorted(of)} for name, of in types.items()}
    return {
        "type": "function",
        "function": {"name": tool, "parameters": {"type": "object", "properties": properties}},
    }
