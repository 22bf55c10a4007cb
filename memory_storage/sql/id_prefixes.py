"""Prefixes of ids, as users type and read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from uuid import UUID

from memory_storage.errors import NotFoundError, ValidationError

from .session import SessionProtocol, ids_as_json
from .statement import SqlTemplate
from .validation import as_id, to_list

LEAST = 4
SHOWN = 10
_AFTER_ALL_DIGITS = "g"  # sorts after every hexadecimal digit and after the hyphen
_HYPHENS = (8, 12, 16, 20)  # digits before each


class IdPrefixes:
    """Looks up the prefixes of the ids of a table. Each method is one round trip.

    Args:
        table: the table, with a unique index of `(namespace, id)`.
        kind: the name of a row in messages.
    """

    def __init__(self, table: str, kind: str) -> None:
        self._kind = kind
        self._matching = SqlTemplate(f"""
SELECT id FROM {table} WHERE namespace = :namespace AND id >= :first AND id < :after ORDER BY id LIMIT :limit
""")
        # The longest prefix that an id shares with any other is one that it shares with its neighbours in the index.
        self._adjacent = SqlTemplate(f"""
SELECT ids.value,
    (SELECT max(e.id) FROM {table} AS e WHERE e.namespace = :namespace AND e.id < ids.value),
    (SELECT min(e.id) FROM {table} AS e WHERE e.namespace = :namespace AND e.id > ids.value)
FROM json_each(:ids) AS ids
""")

    def resolve(self, session: SessionProtocol, prefix: UUID | str) -> UUID:
        """Return the only id that begins with a prefix.

        Raises:
            NotFoundError: there is none.
            ValidationError: not a prefix of a UUID, or several ids begin with it.
        """
        text = as_prefix(prefix)
        step = self._matching.bind(
            namespace=session.namespace,
            first=text,
            after=range_end(text),
            limit=SHOWN + 1,  # one shows more
        )
        return sole_match(self._kind, text, [row[0] for row in session.read(step)])

    def short(self, session: SessionProtocol, ids: Iterable[UUID | str], field: str, least: int) -> dict[UUID, str]:
        """Return for each id its shortest prefix, of `least` characters or more, that identifies it.

        Raises:
            ValidationError: an id or `least` is invalid.
        """
        if type(least) is not int or not LEAST <= least <= 36:
            raise ValidationError("least", f"a whole number from {LEAST} to 36", least)
        texts = [as_id(one, field) for one in to_list(ids, field)]
        step = self._adjacent.bind(namespace=session.namespace, ids=ids_as_json(texts))
        return {UUID(text): shortest_unique_prefix(text, others, least) for text, *others in session.read(step)}


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
