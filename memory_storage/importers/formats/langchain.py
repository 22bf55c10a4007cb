"""Messages of LangChain: `messages_to_dict`, `model_dump`, or constructors (`dumps`); a list of them is an episode.

They are the elements of an array, lines, or the `messages` of an object, such as the state of a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record
from ..messages import Message
from ..run import Item, Run, task_without_prompt
from .records import converted, grouped
from .values import dict_of, kind_of, list_of, only, text_in

NAME = "langchain"
TITLE = "LangChain messages"

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}
_CLASSES = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool"}
_CLASSES |= {f"{name}Chunk": kind for name, kind in _CLASSES.items()} | {"FunctionMessage": "function"}
_CALL_PARTS = {"tool_use", "tool_call", "function_call", "input_json_delta"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a message, or has a list of them as `messages`."""
    messages = list_of(content.get("messages"))
    return _kind_of(content) != "" or (bool(messages) and _kind_of(dict_of(messages[0])) != "")


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each list of messages."""
    for one in grouped(records, lambda content: _kind_of(content) != ""):
        if isinstance(one, list):
            content = {"messages": [record.content for record in one]}
            one = Record(one[0].line, content, "", sum(record.size for record in one))
        yield from converted([one], _runs_of)


def _kind_of(content: dict[str, Any]) -> str:
    """Return human, ai, system, tool or function; an empty string for what is not a message."""
    if content.get("lc") == 1 and isinstance(content.get("kwargs"), dict):
        name = (list_of(content.get("id")) or [""])[-1]
        return _CLASSES.get(name, "") if isinstance(name, str) else ""
    kind = kind_of(content)
    kind = _CLASSES.get(kind, kind)
    has_content = "content" in content or isinstance(content.get("data"), dict)
    return kind if kind in _ROLES and has_content and "role" not in content else ""


def _runs_of(record: Record) -> Iterator[Run]:
    run = Run(NAME, record.line, record=record.content, size=record.size)
    models: list[str] = []
    listed = record.content.get("messages")
    if not isinstance(listed, list) or not listed:
        raise ValidationError("messages", "a list of messages", listed)
    for index, one in enumerate(listed):
        values = dict_of(one)
        kind = _kind_of(values)
        if not kind:
            raise ValidationError(f"messages.{index}", "a message of LangChain", one)
        fields = dict_of(values.get("kwargs") or values.get("data")) or values
        run.messages.append(_message(kind, fields, run.not_taken))
        response = dict_of(fields.get("response_metadata"))
        models.append(text_in(response.get("model_name")) or text_in(response.get("model")))
    if not any(message["role"] == "user" for message in run.messages):
        run.task = task_without_prompt(run.messages)
    others = {name: value for name, value in record.content.items() if name != "messages"}
    run.metadata = {"model": only([model for model in models if model]), **others}
    yield run


def _message(kind: str, fields: dict[str, Any], not_taken: Counter[str]) -> Message:
    not_taken.update(name for name in ("response_metadata", "artifact") if fields.get(name))
    message: Message = {"role": _ROLES[kind], "content": fields.get("content")}
    if kind in {"tool", "function"}:
        names = ("tool_call_id", "name", "status")
        return message | {name: fields[name] for name in names if fields.get(name) is not None}
    if kind != "ai":
        return message
    calls = [*list_of(fields.get("tool_calls")), *list_of(fields.get("invalid_tool_calls"))]
    calls = calls or list_of(dict_of(fields.get("additional_kwargs")).get("tool_calls"))
    content = fields.get("content")
    if calls and isinstance(content, list):  # it repeats the calls, in the provider's shape
        message["content"] = [part for part in content if kind_of(part) not in _CALL_PARTS]
    usage = {"usage": fields["usage_metadata"]} if isinstance(fields.get("usage_metadata"), dict) else {}
    return message | ({"tool_calls": calls} if calls else {}) | usage
