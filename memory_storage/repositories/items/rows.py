"""Items and their rows: paths as text, values as documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.models import Item, ItemPath
from memory_storage.settings import Limits
from memory_storage.sql.documents import decode_value
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros
from memory_storage.sql.validation import finite, limit_error, refuse_unstorable, to_list

END, ESCAPE = "\x01", "\x02"
"""What ends a label, and what stands before the second character of an escaped one."""

_ESCAPED = str.maketrans({END: ESCAPE + ESCAPE, ESCAPE: ESCAPE + "\x03"})
_LONGEST_TTL = 100 * 365 * 86_400  # seconds

COLUMNS = ("path", '"key"', "document", "version", "created_at", "updated_at", "expires_at", "ttl")
"""The columns of an item, in the order of `item_from_row`."""


def encode_path(labels: Sequence[str]) -> str:
    """Return a path as text: texts sort as paths do, and those of all paths below this one begin with its text."""
    # Each label ends with the lowest character, which no label contains, so a label sorts before its continuations.
    return "".join(label.translate(_ESCAPED) + END for label in labels)


def decode_path(text: str) -> ItemPath:
    """Return the labels of a path."""
    labels = text.split(END)[:-1]
    return tuple(label.replace(ESCAPE + ESCAPE, END).replace(ESCAPE + "\x03", ESCAPE) for label in labels)


def range_below(labels: Sequence[str]) -> tuple[str, str | bytes]:
    """Return the lowest text of a path that begins with these labels, and what is above all of them."""
    lower = encode_path(labels)
    # The engine sorts each BLOB after each text.
    return lower, lower[:-1] + ESCAPE if lower else b""


def check_path(field: str, path: Any, limits: Limits) -> ItemPath:
    """Return the labels of a path.

    Raises:
        ValidationError: It is no sequence of strings, has too many, or one that is too long or cannot be stored.
    """
    labels = to_list(path, field, 'a sequence of labels, like ("users", "42")')
    if len(labels) > limits.path_depth:
        raise limit_error(field, "labels", limits.path_depth, len(labels), "path_depth")
    return tuple(check_name(f"{field}.{index}", label, limits) for index, label in enumerate(labels))


def check_name(field: str, name: Any, limits: Limits) -> str:
    """Return a key, a label, or the name of a field or log; ValidationError if it cannot be one."""
    if not isinstance(name, str):
        raise ValidationError(field, "must be a string", name)
    refuse_unstorable(field, name)
    if len(name) > limits.key_length:
        raise limit_error(field, "characters", limits.key_length, len(name), "key_length")
    return str(name)


def ttl_micros(field: str, seconds: Any) -> int | None:
    """Return a time to live in microseconds; ValidationError if it is not above 0 and at most 100 years."""
    if seconds is None:
        return None
    if not 1e-6 <= (number := finite(field, seconds)) <= _LONGEST_TTL:
        raise ValidationError(field, "seconds, from 0.000001 to 100 years; None to keep it", seconds)
    return round(number * 1_000_000)


def name_of(path: Sequence[str], key: str) -> str:
    """Return the path and the key for an error."""
    return json.dumps([*path, key], ensure_ascii=False)


def item_from_row(row: Row) -> Item:
    """Return the item of a row with `COLUMNS`."""
    path, key, document, version, created_at, updated_at, expires_at, ttl = row
    labels = decode_path(path)
    return Item.model_construct(
        path=labels,
        key=key,
        value=decode_value(document, "items", name_of(labels, key)),
        ttl=None if ttl is None else ttl / 1_000_000,
        version=version,
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        expires_at=from_micros(expires_at),
    )
