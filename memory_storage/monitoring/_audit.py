"""Audit log: one record per committed write, or write of unknown outcome. Contains ids and names, never values."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from memory_storage.dbapi import tables_written

_log = logging.getLogger("memory_storage.audit")

_IDS = 100  # named in a record; further ids are counted and digested
_DEPTH = 3
INTERNAL_TABLES = {"receipts", "forgotten", "namespaces", "episode_texts", "index_changes"}


@dataclass(frozen=True)
class AuditRecord:
    """One write: its actor (as named by the caller), namespace, operation, tables and rows.

    `ids` are the first hundred of the `id_count` ids among the arguments and the result. `rows` is the number of rows
    that its statements have changed.
    """

    actor: str
    namespace: str
    operation: str
    tables: tuple[str, ...]
    ids: tuple[str, ...]
    id_count: int
    rows: int
    ids_digest: str = ""
    """BLAKE2b-128 of all ids, sorted, with a newline after each, if there are more than a hundred; else empty."""

    @classmethod
    def of(
        cls, actor: str, namespace: str, operation: str, sql: Iterable[str], rows: int, subjects: Any
    ) -> AuditRecord:
        """Return the record of an operation.

        Args:
            actor: Who wrote, as named by the caller.
            namespace: Where.
            operation: Its name, like "episodes.save".
            sql: The statements that it ran.
            rows: How many rows they changed.
            subjects: Its arguments and result: models, ids, or collections of them.
        """
        ids = list(dict.fromkeys(_ids(subjects, _DEPTH)))
        shown, digest = tuple(ids[:_IDS]), digest_of_ids(ids) if len(ids) > _IDS else ""
        return cls(actor, namespace, operation, tables_of(sql), shown, len(ids), rows, digest)

    def log(self, result: str) -> None:
        """Write the record to the log. `result` is "stored", or "unknown" if the commit could not be resolved."""
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
    """Return a hexadecimal digest of a set of ids, independent of their order."""
    return blake2b("".join(f"{one}\n" for one in sorted(ids)).encode(), digest_size=16).hexdigest()


def tables_of(sql: Iterable[str]) -> tuple[str, ...]:
    """Return the tables that statements write to, except internal ones."""
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
