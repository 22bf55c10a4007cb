"""Characters that the database cannot store (NUL and lone surrogates): find or replace them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from memory_storage.errors import ValidationError

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def unstorable_error(field: str, value: Any) -> ValidationError | None:
    """Find the first string with a character that the database cannot store, in values and keys.

    Args:
        field: the path of the value, with which the error's `field` begins.
        value: a string, a model or a container; nested at any depth, also in itself.

    Returns:
        An error with the field and the character; None if there is none.
    """
    pending, seen = [(field, value)], set()
    while pending:
        field, value = pending.pop()
        if isinstance(value, str) and (match := _UNSTORABLE.search(value)):
            what = "the NUL character" if match[0] == "\0" else f"the lone surrogate U+{ord(match[0]):04X}"
            return ValidationError(field, f"text cannot hold {what}", value)
        if id(value) not in seen:
            seen.add(id(value))
            pending += [(join_field(field, name), part) for name, part in reversed(parts_of(value))]
    return None


def replace_unstorable(value: Any) -> Any:
    """Return the value with U+FFFD instead of each character that the database cannot store, in values and keys."""
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        content: dict[str, Any] = {}
        for key, inner in value.items():
            name = _UNSTORABLE.sub(REPLACEMENT, key)
            while name != key and (name in value or name in content):  # no other key's value is lost
                name += REPLACEMENT
            content[name] = replace_unstorable(inner)
        return content
    return [replace_unstorable(inner) for inner in value] if isinstance(value, list) else value


def parts_of(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a model or container, each with its name or index."""
    if isinstance(value, BaseModel):
        return list(value.__dict__.items())
    if isinstance(value, dict):
        return [("a key", key) for key in value] + [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return [(str(index), inner) for index, inner in enumerate(value)]
    return []


def join_field(field: str, name: str) -> str:
    """Return the path of a field within another."""
    return f"{field}.{name}" if field and name else field or name
