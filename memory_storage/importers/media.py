"""Deduplication of images and other data in the messages of a run, and digests of data that do not fit."""

from __future__ import annotations

import hashlib
import re
from typing import Any

_LARGE = 1_000  # characters
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\-\r\n]+")
_SHORTEST = 100  # characters; shorter base64 that is not a URL may be a word
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,")
_SHOWN = re.compile(r"(?s:(?P<head>.{0,40}))\.\.\. \((?P<count>[\d,]+) characters, SHA-256 (?P<digest>[0-9a-f]{64})\)")
_DEEPEST = 200


class Media:
    """Stores the data of a run's messages once: a repeated image becomes a reference.

    Attributes:
        saved: the number of characters replaced by references.
    """

    def __init__(self) -> None:
        self.saved = 0
        self._first: dict[bytes, int] = {}

    def once(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        """Return message `number` (from 1) with data that occurred before replaced by references.

        Values that are nested too deeply to be searched are kept unchanged.
        """
        return dict(self._deduplicate(number, message, "", 0))

    def _deduplicate(self, number: int, value: Any, key: str, depth: int) -> Any:
        if depth > _DEEPEST:
            return value
        if isinstance(value, dict):
            return {name: self._deduplicate(number, inner, name, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._deduplicate(number, inner, "", depth + 1) for inner in value]
        return self._reference(number, value, key) if isinstance(value, str) else value

    def _reference(self, number: int, text: str, key: str) -> str:
        url = _DATA_URL.match(text)
        payload = text[url.end() :] if url else text  # some programs write the URL, others only the payload
        is_data = url or (key == "data" and len(text) >= _SHORTEST)
        if not is_data or not _BASE64.fullmatch(payload):
            return text
        digest = hashlib.sha256(payload.encode(errors="replace"))
        if digest.digest() not in self._first:
            self._first[digest.digest()] = number
            return text
        self.saved += len(text)
        first = self._first[digest.digest()]
        return f"the same data as in message {first} ({len(payload):,} characters, SHA-256 {digest.hexdigest()})"


def without_data(value: Any, key: str = "", depth: int = 0) -> tuple[Any, int]:
    """Return the value with binary data replaced by digests, and the number of digests."""
    if isinstance(value, dict) and depth < _DEEPEST:
        parts = {name: without_data(inner, name, depth + 1) for name, inner in value.items()}
        return {name: part for name, (part, _) in parts.items()}, sum(count for _, count in parts.values())
    if isinstance(value, list) and depth < _DEEPEST:
        items = [without_data(inner, "", depth + 1) for inner in value]
        return [item for item, _ in items], sum(count for _, count in items)
    is_data = isinstance(value, str) and (value.startswith("data:") or (key == "data" and len(value) > _LARGE))
    return (digested(value), 1) if is_data else (value, 0)


def digested(text: str) -> str:
    """Return the beginning of a string, its length and its SHA-256."""
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return f"{text[:40]}... ({len(text):,} characters, SHA-256 {digest})"


def is_same(one: Any, other: Any) -> bool:
    """Return whether two messages are equal, where a digest equals the string that it stands for."""
    if isinstance(one, dict) and isinstance(other, dict):
        # The text of a result is removed if the document would be too large.
        names = (one.keys() | other.keys()) - ({"content"} if "content" not in one or "content" not in other else set())
        return all(name in one and name in other and is_same(one[name], other[name]) for name in names)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if one == other:
        return True
    return isinstance(one, str) and isinstance(other, str) and (_is_digest(one, other) or _is_digest(other, one))


def _is_digest(short: str, text: str) -> bool:
    return _SHOWN.fullmatch(short) is not None and short == digested(text)
