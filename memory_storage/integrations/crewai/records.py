"""The items of records: what `items` has no method for, each in one round trip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_storage.models import Item
from memory_storage.monitoring import operation
from memory_storage.repositories.items.rows import encode_path, item_from_row
from memory_storage.repositories.items.sql import SIZE
from memory_storage.sql.document_filters import document_conditions
from memory_storage.sql.session import Repository
from memory_storage.sql.statement import from_micros, to_micros

from . import sql
from .criteria import Criteria, naive

MEMORY_PATH = ("crewai", "memory")
"""The path of the items that are records."""

VECTOR_MODEL = "crewai"
"""The model of their vectors, all of which have one dimension."""

VECTOR_FIELD = "content"


@dataclass(frozen=True)
class StoredRecord:
    """A record as it is stored: its item, and its packed vector, or None."""

    item: Item
    vector: bytes | None


@dataclass(frozen=True)
class ScopeSummary:
    """The records of a scope and of those below it.

    Attributes:
        count: Their number.
        oldest: When the first one was created; None if there is none.
        newest: When the last one was created.
        children: The scopes directly below that have records.
        categories: The categories, and how many records have each.
    """

    count: int
    oldest: datetime | None
    newest: datetime | None
    children: list[str]
    categories: dict[str, int]


class RecordRepository(Repository):
    """The records of one namespace."""

    _operations = "crewai"

    @operation
    def find(self, ids: Sequence[str]) -> list[StoredRecord]:
        """Return the records with these ids, without those that do not exist."""
        values = {"ids": _as_json(ids), "model": VECTOR_MODEL, "field": VECTOR_FIELD}
        rows = self._session.read(sql.FIND.bind(**self._values(), **values))
        return [StoredRecord(item_from_row(row[1:]), row[0]) for row in rows]

    @operation
    def newest(self, selection: Criteria, limit: int, offset: int) -> list[Item]:
        """Return a page of the selected records, those that were created last first.

        Args:
            selection: The selection; its checks are not made.
            limit: The maximum number of records.
            offset: How many are left out at the beginning.
        """
        values = {**self._values(), "limit": limit, "offset": offset}
        conditions = _conditions(selection, values)
        rows = self._session.read(sql.composed(sql.NEWEST, conditions).bind(**values))
        return [item_from_row(row) for row in rows]

    @operation
    def delete(self, selection: Criteria, ids: Sequence[str] | None = None) -> int:
        """Delete the selected records, and return how many there were.

        Args:
            selection: The selection; its checks are not made.
            ids: Delete only records with one of these ids; None for any.
        """
        values = self._values()
        conditions = _conditions(selection, values)
        if ids is not None:
            values["ids"] = _as_json(ids)
            conditions += (sql.HAS_ID,)
        return len(self._session.write([sql.composed(sql.DELETE, conditions).bind(**values)]))

    @operation
    def summary(self, path: str, selection: Criteria) -> ScopeSummary:
        """Return what is in a scope.

        Args:
            path: The scope, with a slash at its end.
            selection: Its records.
        """
        values: dict[str, Any] = {**self._values(), "length": len(path)}
        conditions = _conditions(selection, values)
        steps = [sql.composed(text, conditions).bind(**values) for text in (sql.CHILDREN, sql.CATEGORIES)]
        children, categories = self._session.read_all(steps)
        return ScopeSummary(
            count=sum(row[1] for row in children),
            oldest=_as_moment(min((row[2] for row in children), default=None)),
            newest=_as_moment(max((row[3] for row in children), default=None)),
            children=[row[0][:-1] for row in children if row[0] != path],
            categories={str(name): int(count) for name, count in categories},
        )

    @operation
    def dimension(self) -> int | None:
        """Return the dimension of the stored vectors; None without any."""
        ((size,),) = self._session.read(SIZE.bind(namespace=self._session.namespace, model=VECTOR_MODEL))
        return None if size is None else size // 4

    def _values(self) -> dict[str, Any]:
        now = to_micros(self._session.now())
        return {"namespace": self._session.namespace, "path": encode_path(MEMORY_PATH), "now": now}


def _conditions(selection: Criteria, values: dict[str, Any]) -> tuple[str, ...]:
    """Return the conditions of a selection as SQL, and bind their values."""
    if selection.conditions is None:
        return ()
    return tuple(document_conditions(selection.conditions, document="i.document", values=values))


def _as_json(ids: Sequence[str]) -> str:
    return json.dumps(list(ids), ensure_ascii=False)


def _as_moment(since_epoch: int | None) -> datetime | None:
    moment = from_micros(since_epoch)
    return None if moment is None else naive(moment)
