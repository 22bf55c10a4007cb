"""Requests and responses of Anthropic's Messages API, which `openai_chat.py` reads: it knows all their parts."""

from __future__ import annotations

from typing import Any

from .values import dict_of, kind_of, list_of

NAME = "anthropic"
TITLE = "Anthropic messages"

_PARTS = {"tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a request with tools or a `system`, or a message with blocks that only they have."""
    if isinstance(content.get("role"), str):
        return _has_blocks(content)
    messages = [dict_of(message) for message in list_of(content.get("messages"))]
    has_system = isinstance(content.get("system"), str | list) and "traj" not in content
    return bool(messages) and (has_system or any(map(_has_blocks, messages)))


def _has_blocks(message: dict[str, Any]) -> bool:
    return any(kind_of(part) in _PARTS for part in list_of(message.get("content")))
