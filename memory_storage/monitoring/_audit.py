"""Who has written what: one line of the log for each write, when it is certain. Holds ids and names, never a value."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

_log = logging.getLogger("memory_storage.audit")

_IDS = 100  # that are named; the others are only counted
_DEPTH = 3
_TABLE = re.compile(r"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM)\s+\"?(\w+)", re.IGNORECASE)
_OWN_BOOKS = {"receipts", "forgotten"}


@dataclass(frozen=True)
class Entry:
    """One write: by whom (as the caller has said), in which namespace, by what operation, on which tables and rows.

    `ids` are those that it was given, or gave back: the first hundred of `id_count`. `rows` is how many rows its
    statements have changed.
    """

    actor: str
    namespace: str
    operation: str
    tables: tuple[str, ...]
    ids: tuple[str, ...]
    id_count: int
    rows: int

    @classmethod
    def of(cls, actor: str, namespace: str, operation: str, sql: Iterable[str], rows: int, things: Any) -> Entry:
        """The entry of an operation that ran these statements, about these things: models, ids, or lists of them."""
        ids = list(dict.fromkeys(_ids(things, _DEPTH)))
        return cls(actor, namespace, operation, tables_of(sql), tuple(ids[:_IDS]), len(ids), rows)

    def write(self, result: str) -> None:
        """Put it into the log. `result` is "stored", or "unknown" where the answer was lost for good."""
        _log.info(
            "%s %s by %r in %r: %d rows of %s, ids %s",
            self.operation,
            result,
            self.actor,
            self.namespace,
            self.rows,
            ", ".join(self.tables) or "no table",
            ", ".join(self.ids) + (f" and {self.id_count - len(self.ids)} more" if self.id_count > _IDS else ""),
            extra={
                "actor": self.actor,
                "namespace": self.namespace,
                "operation": self.operation,
                "result": result,
                "tables": self.tables,
                "ids": self.ids,
                "rows": self.rows,
            },
        )


def tables_of(sql: Iterable[str]) -> tuple[str, ...]:
    """The tables that statements write to, but for those that only serve ourselves."""
    found = dict.fromkeys(name for text in sql for name in _TABLE.findall(text))
    return tuple(name for name in found if name not in _OWN_BOOKS and name.upper() != "SET")


def _ids(thing: Any, depth: int) -> Iterator[str]:
    if isinstance(thing, UUID):
        yield str(thing)
    elif isinstance(thing, str):
        if len(thing) == 36 and (found := _as_uuid(thing)):
            yield found
    elif isinstance(getattr(thing, "id", None), UUID):
        yield str(thing.id)
    elif isinstance(getattr(thing, "owner_id", None), UUID):
        yield str(thing.owner_id)
    elif depth and isinstance(thing, Mapping | list | tuple):
        for one in thing.values() if isinstance(thing, Mapping) else thing:
            yield from _ids(one, depth - 1)


def _as_uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return ""
