"""Items of OpenAI's Responses API, which Codex writes too, as messages."""

from __future__ import annotations

from typing import Any

from ..messages import Message
from .values import dict_of, kind_of, list_of, text_in

ITEMS = {"message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
"""The types of items by which the format is recognised."""

_CALLS = {
    # The type of a call that has its name in itself, or a fixed one; and where its arguments are.
    "function_call": ("", "arguments"),
    "custom_tool_call": ("", "input"),
    "mcp_call": ("", "arguments"),
    "mcp_approval_request": ("", "arguments"),
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
    "web_search_call": ("web_search", "action"),
    "computer_call": ("computer", "action"),
    "file_search_call": ("file_search", "queries"),
    "code_interpreter_call": ("code_interpreter", "code"),
    "image_generation_call": ("image_generation", "prompt"),
    "tool_search_call": ("tool_search", "arguments"),
}
_OUTPUTS = ("output", "results", "outputs", "result", "tools")
_NOT_TAKEN = {"reasoning": "reasoning items", "compaction": "compacted items", "item_reference": "references to items"}


def messages_of(item: dict[str, Any]) -> list[Message]:
    """Return the messages of an item: a call that has its result is two. An item of an unknown type has none."""
    kind = kind_of(item) or ("message" if "role" in item else "")
    if kind == "message":
        return [{"role": text_in(item.get("role")) or "user", "content": item.get("content")}]
    if kind in _CALLS:
        return _messages_of_call(kind, item)
    if kind.endswith("_output"):
        return [{"role": "user", "content": [result_part(item.get("call_id"), item.get("output"))]}]
    return []


def name_of_untaken(item: dict[str, Any]) -> str:
    """Return how items of this type are counted that have no messages."""
    kind = kind_of(item)
    return _NOT_TAKEN.get(kind, f"items of type {kind!r}")


def result_part(call_id: object, output: object, **signs: object) -> Message:
    """Return the part of a result; an output that is an object may have its text and its success in itself."""
    part: Message = {"type": "tool_result", "tool_use_id": call_id, "content": output, **signs}
    if isinstance(output, dict):
        part |= {name: output[name] for name in ("success", "exit_code", "status", "error") if name in output}
        part["content"] = next((output[name] for name in ("content", "output", "text") if output.get(name)), output)
    return part


def _messages_of_call(kind: str, item: dict[str, Any]) -> list[Message]:
    name, argument = _CALLS[kind]
    call_id = item.get("call_id") or item.get("id")
    value = item.get(argument)
    arguments = {argument: value} if isinstance(value, list) or (name and isinstance(value, str)) else value
    call = {"type": "tool_use", "id": call_id, "name": name or text_in(item.get("name")) or kind, "input": arguments}
    if server := text_in(item.get("server_label")) or text_in(item.get("namespace")):
        call["server"] = server
    messages: list[Message] = [{"role": "assistant", "content": [call]}]
    output = next((item[name] for name in _OUTPUTS if item.get(name) is not None), None)
    if output is not None or item.get("error"):
        part = result_part(call_id, _output_text(output) if output is not None else item["error"])
        if item.get("error"):
            part["is_error"] = True
        messages.append({"role": "user", "content": [part]})
    return messages


def _output_text(output: object) -> object:
    """Return the logs of a code interpreter as text; another output unchanged."""
    logs = [text_in(dict_of(one).get("logs")) for one in list_of(output)]
    return "\n".join(logs) if logs and all(logs) else output
