"""Prefixes of ids, as users type and read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from uuid import UUID

from memory_storage.errors import NotFoundError, ValidationError

LEAST = 4
SHOWN = 10
_AFTER_ALL_DIGITS = "g"  # sorts after every hexadecimal digit and after the hyphen
_HYPHENS = (8, 12, 16, 20)  # digits before each


def as_prefix(value: UUID | str, field: str = "prefix") -> str:
    """Return a prefix in the form in which ids are stored: lower case, with hyphens.

    Raises:
        ValidationError: not a prefix of a UUID, or fewer than 4 digits.
    """
    # Users copy prefixes from tables and logs, with or without hyphens and in any case.
    digits = str(value).strip().lower().replace("-", "") if isinstance(value, UUID | str) else ""
    if not re.fullmatch(f"[0-9a-f]{{{LEAST},32}}", digits):
        raise ValidationError(field, f"an id, or at least its first {LEAST} hexadecimal digits", value)
    parts = [digits[start:end] for start, end in zip((0, *_HYPHENS), (*_HYPHENS, 32), strict=True)]
    return "-".join(filter(None, parts))


def range_end(prefix: str) -> str:
    """Return the end of the range of ids with a prefix."""
    return prefix + _AFTER_ALL_DIGITS


def sole_match(kind: str, prefix: str, ids: Sequence[str]) -> UUID:
    """Return the only id that has the prefix.

    Raises:
        NotFoundError: there is none.
        ValidationError: there are several; the message lists the first 10.
    """
    if not ids:
        raise NotFoundError(kind, f"whose id begins with {prefix}" if len(prefix) < len(str(UUID(int=0))) else prefix)
    if len(ids) > 1:
        more = ", ..." if len(ids) > SHOWN else ""
        begin = f"ambiguous: {', '.join(ids[:SHOWN])}{more} have this prefix; give more digits"
        raise ValidationError("prefix", begin, prefix)
    return UUID(ids[0])


def shortest_unique_prefix(text: str, others: Iterable[str | None], least: int) -> str:
    """Return the shortest prefix, of `least` characters or more, that no other one begins with."""
    known = [other for other in others if other]
    lengths = range(least, len(text))
    length = next((n for n in lengths if not any(other.startswith(text[:n]) for other in known)), len(text))
    return text[:length].rstrip("-")
