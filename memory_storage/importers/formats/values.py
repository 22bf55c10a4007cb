"""Values of foreign JSON, which may have any type."""

from __future__ import annotations

from typing import Any


def dict_of(value: object) -> dict[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """Return the value if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def text_in(value: object) -> str:
    """Return the value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def only(values: list[str]) -> str | list[str]:
    """Return the distinct values in order; the value itself if there is one."""
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else distinct


def kind_of(value: object) -> str:
    """Return the `type` of an object; an empty string if it has none, or the value is something else."""
    return text_in(dict_of(value).get("type"))
