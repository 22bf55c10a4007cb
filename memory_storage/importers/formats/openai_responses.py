"""Requests, responses and lists of items of OpenAI's Responses API, an episode each.

The usage is that of the response, so it belongs to its output. A response that failed is a failure; no other outcome is
stated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.models import Failure

from ..json_records import Record
from ..messages import Message
from ..run import Item, Run, parts_of, task_without_prompt
from .records import converted, grouped
from .response_items import ITEMS, messages_of, name_of_untaken
from .values import dict_of, kind_of, list_of, text_in

NAME = "openai-responses"
TITLE = "OpenAI Responses"

_PARTS = {"input_text", "output_text", "input_image", "input_file"}
_METADATA = ("id", "model", "previous_response_id", "conversation", "status", "user", "instructions")


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a response, a request with a list of items, or an item."""
    if content.get("object") == "response" or _is_item(content):
        return True
    items = [dict_of(item) for name in ("input", "output") for item in list_of(content.get(name))]
    return any(_is_item(item) or _is_plain_message(item) or kind_of(item).endswith("_call") for item in items)


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each request or response, and for each list of items."""
    for one in grouped(records, lambda content: _is_item(content) or _is_plain_message(content)):
        if isinstance(one, list):
            content = {"input": [record.content for record in one]}
            one = Record(one[0].line, content, "", sum(record.size for record in one))
        yield from converted([one], _runs_of)


def _is_item(content: object) -> bool:
    values = dict_of(content)
    kind = kind_of(values)
    if kind == "message":
        return any(kind_of(part) in _PARTS for part in list_of(values.get("content")))
    is_call = kind in {"function_call", "custom_tool_call"} and "call_id" in values
    return is_call or kind in ITEMS - {"function_call", "custom_tool_call"}


def _is_plain_message(content: dict[str, Any]) -> bool:
    return isinstance(content.get("role"), str) and "content" in content


def _runs_of(record: Record) -> Iterator[Run]:
    response = record.content
    run = Run(NAME, record.line, key=text_in(response.get("id")), record=response, size=record.size)
    given = response.get("input")
    items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else list_of(given)
    run.messages = list(_messages(items, "input", run))
    output = list(_messages(list_of(response.get("output")), "output", run))
    if output and isinstance(response.get("usage"), dict):
        with_call = (message for message in output if any(parts_of(message, "tool_use")))
        next(with_call, output[0])["usage"] = response["usage"]
    run.messages += output
    if not run.messages:
        raise ValidationError("input", "a text or a list of items", given)
    if not any(message["role"] == "user" and not any(parts_of(message, "tool_result")) for message in run.messages):
        run.task = text_in(response.get("instructions")) or task_without_prompt(run.messages)
    error = dict_of(response.get("error"))
    if response.get("status") == "failed":
        run.outcome = Failure(reason=text_in(error.get("message")) or "status: failed")
    run.times = {name: response.get(name) for name in ("created_at", "completed_at")}
    run.metadata = {name: response.get(name) for name in _METADATA} | {"metadata": response.get("metadata")}
    run.not_taken["definitions of tools"] += len(list_of(response.get("tools")))
    yield run


def _messages(items: list[Any], where: str, run: Run) -> Iterator[Message]:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValidationError(f"{where}.{index}", "an item, which is an object", item)
        messages = messages_of(item)
        if not messages:
            run.not_taken[name_of_untaken(item)] += 1
        yield from messages
