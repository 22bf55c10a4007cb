"""The repository of places and times: where and when an episode or a step happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from memory_storage.dbapi import RowCountError
from memory_storage.errors import ConflictError, NotFoundError
from memory_storage.models import PlaceOwner, SpatiotemporalEntry

from ._codec import check_document, decode, encode, to_micros
from ._session import Repository, as_id
from ._statement import Prepared, columns, excluded, json_moment, micros, spliced, values

_ENTRY = TypeAdapter(SpatiotemporalEntry)
_TABLES = {"episode": "episodes", "step": "steps"}
_COLUMNS = {
    "namespace": "owner.namespace",
    "id": ":document ->> '$.id'",
    "owner_type": ":document ->> '$.owner_type'",
    "owner_id": "owner.id",
    "latitude": ":document ->> '$.latitude'",
    "longitude": ":document ->> '$.longitude'",
    "place_name": ":document ->> '$.place_name'",
    "starts_at": micros("(:document ->> '$.starts_at')"),
    "ends_at": micros("(:document ->> '$.ends_at')"),
    "created_at": ":now",
    "document": "json_remove(:document, '$.created_at')",
}


_REPLACED = excluded(_COLUMNS, "namespace", "id", "owner_type", "owner_id", "created_at")


def _put(table: str) -> Prepared:
    return Prepared(f"""
INSERT INTO spatiotemporal_index ({columns(_COLUMNS)})
SELECT {values(_COLUMNS)}
FROM {table} AS owner WHERE owner.namespace = :namespace AND owner.id = :document ->> '$.owner_id'
ON CONFLICT (namespace, id) DO UPDATE SET {_REPLACED}
WHERE spatiotemporal_index.owner_type = excluded.owner_type AND spatiotemporal_index.owner_id = excluded.owner_id
""")


_PUT = {owner: _put(table) for owner, table in _TABLES.items()}
_WHOLE = spliced("document", {"created_at": json_moment("created_at")})
_GET = Prepared(f"SELECT id, {_WHOLE} FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id")
_OF_OWNER = Prepared(f"""
SELECT id, {_WHOLE} FROM spatiotemporal_index
WHERE namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id ORDER BY starts_at, seq
""")
_DELETE = Prepared("DELETE FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id RETURNING id")
_COUNT = Prepared("SELECT count(*) FROM spatiotemporal_index WHERE namespace = :namespace")


class SpatiotemporalRepository(Repository):
    """The places and times of one namespace."""

    def put(self, entry: SpatiotemporalEntry) -> SpatiotemporalEntry:
        """Insert or replace by id, and give back what is stored.

        Raises:
            NotFoundError: there is no such owner.
            ConflictError: the id is another owner's.
        """
        document, stored = encode(_ENTRY, entry)
        check_document("", document, self._session.limits)
        namespace = self._session.namespace
        steps = [
            _PUT[stored.owner_type].step(1, namespace=namespace, document=document, now=to_micros(self._session.now())),
            _GET.step(namespace=namespace, id=str(stored.id)),
        ]
        try:
            return _entry(self._session.write(steps)[0])
        except RowCountError as error:
            if self.find(entry.id) is None:
                raise NotFoundError(stored.owner_type, stored.owner_id) from error
            detail = "it is the place of another owner"
            raise ConflictError("place", entry.id, expected=0, actual=None, detail=detail) from error

    def get(self, entry_id: UUID | str) -> SpatiotemporalEntry:
        """The entry.

        Raises:
            NotFoundError: there is no such entry.
        """
        found = self.find(entry_id)
        if found is None:
            raise NotFoundError("place", entry_id)
        return found

    def find(self, entry_id: UUID | str) -> SpatiotemporalEntry | None:
        """The entry, or None."""
        rows = self._session.read(_GET.step(namespace=self._session.namespace, id=as_id(entry_id)))
        return _entry(rows[0]) if rows else None

    def of(self, owner_type: PlaceOwner, owner_id: UUID | str) -> list[SpatiotemporalEntry]:
        """All the entries of one owner, by time."""
        values = {"owner_type": owner_type, "owner_id": as_id(owner_id, "owner_id")}
        step = _OF_OWNER.step(namespace=self._session.namespace, **values)
        return [_entry(row) for row in self._session.read(step)]

    def delete(self, entry_id: UUID | str) -> bool:
        """Delete it. Whether it was there."""
        return bool(self._session.write([_DELETE.step(namespace=self._session.namespace, id=as_id(entry_id))]))

    def count(self) -> int:
        """How many there are."""
        return int(self._session.read(_COUNT.step(namespace=self._session.namespace))[0][0])


def _entry(row: Sequence[Any]) -> SpatiotemporalEntry:
    return decode(_ENTRY, row[1], "spatiotemporal_index", row[0])
