"""Who has written what: one line of the log for each write, when it is certain. Holds ids and names, never a value."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from memory_storage.dbapi import tables_written

_log = logging.getLogger("memory_storage.audit")

_IDS = 100  # that are named; the others are only counted
_DEPTH = 3
INTERNAL_TABLES = {"receipts", "forgotten"}


@dataclass(frozen=True)
class AuditRecord:
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
    ids_digest: str = ""
    """Where there are more ids than are named: the BLAKE2b-128 of all of them, sorted, with a newline after each."""

    @classmethod
    def of(
        cls, actor: str, namespace: str, operation: str, sql: Iterable[str], rows: int, subjects: Any
    ) -> AuditRecord:
        """The record of an operation that ran these statements, about these subjects: models, ids, or lists of them."""
        ids = list(dict.fromkeys(_ids(subjects, _DEPTH)))
        shown, digest = tuple(ids[:_IDS]), digest_of_ids(ids) if len(ids) > _IDS else ""
        return cls(actor, namespace, operation, tables_of(sql), shown, len(ids), rows, digest)

    def log(self, result: str) -> None:
        """Put it into the log. `result` is "stored", or "unknown" where the answer was lost for good."""
        _log.info(
            "%s %s by %r in %r: %d rows of %s, ids %s",
            self.operation,
            result,
            self.actor,
            self.namespace,
            self.rows,
            ", ".join(self.tables) or "no table",
            ", ".join(self.ids) + self._more,
            extra={
                "actor": self.actor,
                "namespace": self.namespace,
                "operation": self.operation,
                "result": result,
                "tables": self.tables,
                "ids": self.ids,
                "id_count": self.id_count,
                "ids_digest": self.ids_digest,
                "rows": self.rows,
            },
        )

    @property
    def _more(self) -> str:
        more = self.id_count - len(self.ids)
        return f" and {more} more (digest of all: {self.ids_digest})" if more else ""


def digest_of_ids(ids: Iterable[str]) -> str:
    """What tells a set of ids from any other, in hexadecimal."""
    return blake2b("".join(f"{one}\n" for one in sorted(ids)).encode(), digest_size=16).hexdigest()


def tables_of(sql: Iterable[str]) -> tuple[str, ...]:
    """The tables that statements write to, but for those that only serve ourselves."""
    tables = dict.fromkeys(name for text in sql for name in tables_written(text))
    return tuple(name for name in tables if name not in INTERNAL_TABLES)


def _ids(subject: Any, depth: int) -> Iterator[str]:
    if isinstance(subject, UUID):
        yield str(subject)
    elif isinstance(subject, str):
        if len(subject) == 36 and (id_ := _as_uuid(subject)):
            yield id_
    elif isinstance(getattr(subject, "id", None), UUID):
        yield str(subject.id)
    elif isinstance(getattr(subject, "owner_id", None), UUID):
        yield str(subject.owner_id)
    elif depth and isinstance(subject, Mapping | list | tuple):
        for one in subject.values() if isinstance(subject, Mapping) else subject:
            yield from _ids(one, depth - 1)


def _as_uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return ""
