"""Conversations in ShareGPT's format, an episode each: `from` human, gpt, function_call, observation, or system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record, parse_json
from ..messages import Message
from ..run import Item, Run, task_without_prompt
from .records import converted
from .values import dict_of, list_of, text_in

NAME = "sharegpt"
TITLE = "ShareGPT conversations"

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_RESULTS = {"observation", "tool", "function_response", "tool_response"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a conversation."""
    return isinstance(content.get("conversations"), list)


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each conversation."""
    return converted(records, _runs_of)


def _runs_of(record: Record) -> Iterator[Run]:
    values = record.content
    turns = list_of(values.get("conversations"))
    if not turns:
        raise ValidationError("conversations", "a list of messages", values.get("conversations"))
    run = Run(NAME, record.line, record=values, size=record.size)
    if isinstance(values.get("system"), str):
        run.messages.append({"role": "system", "content": values["system"]})
    calls: list[str] = []
    for index, turn in enumerate(turns):
        run.messages.append(_message(index, turn, calls))
    if not any(message["role"] == "user" and isinstance(message["content"], str) for message in run.messages):
        run.task = task_without_prompt(run.messages)
    run.not_taken["definitions of tools"] = int(bool(values.get("tools")))
    run.metadata = {key: value for key, value in values.items() if key not in {"conversations", "system", "tools"}}
    yield run


def _message(index: int, turn: object, calls: list[str]) -> Message:
    """Return the message of a turn; a result answers the calls of the latest turn that has some, in their order."""
    values = dict_of(turn)
    kind = text_in(values.get("from")) or text_in(values.get("role"))
    value = values.get("value", values.get("content"))
    if not isinstance(value, str) or kind not in {*_ROLES, *_RESULTS, "function_call", "tool_call"}:
        raise ValidationError(f"conversations.{index}", "a message with `from` and `value`", turn)
    if kind in _ROLES:
        return {"role": _ROLES[kind], "content": value}
    if kind in _RESULTS:
        part = {"type": "tool_result", "content": value, **({"tool_use_id": calls.pop(0)} if calls else {})}
        return {"role": "user", "content": [part]}
    try:
        parsed = parse_json(value)
    except ValueError:
        return {"role": "assistant", "content": value}
    parts = [
        {"type": "tool_use", "id": f"{index}-{number}", "name": call["name"], "input": call.get("arguments")}
        for number, call in enumerate(parsed if isinstance(parsed, list) else [parsed])
        if isinstance(dict_of(call).get("name"), str)
    ]
    calls[:] = [str(part["id"]) for part in parts]
    return {"role": "assistant", "content": parts or value}
