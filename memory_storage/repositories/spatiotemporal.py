"""The repository of places and times: where and when an episode or a step happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from memory_storage.dbapi import RowCountError, Step
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import PlaceOwner, SpatiotemporalEntry

from ._codec import check_document, check_value, decode, encode, from_micros, to_micros
from ._session import Repository, as_id, as_list, json_ids, keep_writing
from ._statement import Prepared, columns, excluded, micros, values

_TABLES = {"episode": "episodes", "step": "steps"}
_COLUMNS = {
    "namespace": "owner.namespace",
    "id": "given.value ->> '$.id'",
    "owner_type": "given.value ->> '$.owner_type'",
    "owner_id": "owner.id",
    "latitude": "given.value ->> '$.latitude'",
    "longitude": "given.value ->> '$.longitude'",
    "place_name": "given.value ->> '$.place_name'",
    "starts_at": micros("(given.value ->> '$.starts_at')"),
    "ends_at": micros("(given.value ->> '$.ends_at')"),
    "created_at": ":now",
    "document": "json_remove(given.value, '$.created_at')",
}


_REPLACED = excluded(_COLUMNS, "namespace", "id", "owner_type", "owner_id", "created_at")


def _put(table: str) -> Prepared:
    return Prepared(f"""
INSERT INTO spatiotemporal_index ({columns(_COLUMNS)})
SELECT {values(_COLUMNS)}
FROM (SELECT :document AS value) AS given, {table} AS owner
WHERE owner.namespace = :namespace AND owner.id = given.value ->> '$.owner_id'
ON CONFLICT (namespace, id) DO UPDATE SET {_REPLACED}
WHERE spatiotemporal_index.owner_type = excluded.owner_type AND spatiotemporal_index.owner_id = excluded.owner_id
""")


_PUT = {owner: _put(table) for owner, table in _TABLES.items()}
_WHOLE = "id, document, created_at"
_GET = Prepared(f"SELECT {_WHOLE} FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id")
_OF_OWNER = Prepared(f"""
SELECT {_WHOLE} FROM spatiotemporal_index
WHERE namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id ORDER BY starts_at, seq
""")
_DELETE = Prepared("DELETE FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id RETURNING id")
_COUNT = Prepared("SELECT count(*) FROM spatiotemporal_index WHERE namespace = :namespace")
_NEXT = Prepared(f"""
SELECT {_WHOLE} FROM spatiotemporal_index WHERE namespace = :namespace AND id > :after ORDER BY id LIMIT :limit
""")
_KNOWN = Prepared("""
SELECT id FROM spatiotemporal_index WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
_IMPORTED = {**_COLUMNS, "created_at": "coalesce(" + micros("(given.value ->> '$.created_at')") + ", :now)"}
_IMPORT = {
    owner: Prepared(f"""
INSERT INTO spatiotemporal_index ({columns(_IMPORTED)})
SELECT {values(_IMPORTED)}
FROM (SELECT :document AS value) AS given, {table} AS owner
WHERE owner.namespace = :namespace AND owner.id = given.value ->> '$.owner_id'
ON CONFLICT (namespace, id) DO NOTHING
""")
    for owner, table in _TABLES.items()
}

_ITERATE_PAGE = 100


class SpatiotemporalRepository(Repository):
    """The places and times of one namespace."""

    def put(self, entry: SpatiotemporalEntry) -> SpatiotemporalEntry:
        """Insert or replace by id, and give back what is stored.

        Raises:
            NotFoundError: there is no such owner.
            ConflictError: the id is another owner's.
        """
        document, stored = self._encoded(entry)
        namespace = self._session.namespace
        steps = [
            _PUT[stored.owner_type].step(1, namespace=namespace, document=document, now=to_micros(self._session.now())),
            _GET.step(namespace=namespace, id=str(stored.id)),
        ]
        try:
            rows = self._session.write(steps)
        except RowCountError as error:
            if self.find(entry.id) is None:
                raise NotFoundError(stored.owner_type, stored.owner_id) from error
            detail = "it is the place of another owner"
            raise ConflictError("place", entry.id, expected=0, actual=None, detail=detail) from error
        if not rows:  # the answer was lost, and before it was read again, another writer has deleted it
            raise NotFoundError("place", stored.id)
        return _entry(rows[0])

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
        if not isinstance(owner_type, str) or owner_type not in _TABLES:
            raise ValidationError("owner_type", f"one of {', '.join(_TABLES)}", owner_type)
        values = {"owner_type": owner_type, "owner_id": as_id(owner_id, "owner_id")}
        step = _OF_OWNER.step(namespace=self._session.namespace, **values)
        return [_entry(row) for row in self._session.read(step)]

    def iterate(self) -> Iterator[SpatiotemporalEntry]:
        """All of them by id, a page at a time."""
        after = ""
        while rows := self._session.read(
            _NEXT.step(namespace=self._session.namespace, after=after, limit=_ITERATE_PAGE)
        ):
            yield from map(_entry, rows)
            after = rows[-1][0]

    def import_many(self, entries: Sequence[SpatiotemporalEntry]) -> int:
        """Insert copies with the `created_at` they have; leave alone those whose id is there already.

        Gives the number of new ones. To do it again changes nothing.

        Raises:
            NotFoundError: one of them has no owner here. None is stored.
        """
        prepared = [self._encoded(entry) for entry in as_list(entries, "places")]
        ids = [str(entry.id) for _, entry in prepared]
        if len(set(ids)) != len(ids):
            raise ValidationError("places", "each id once", ids)

        def write(new: list[tuple[str, SpatiotemporalEntry]]) -> int:
            if new:
                self._session.write([self._import(*pair) for pair in new])
            return len(new)

        def rest(
            new: list[tuple[str, SpatiotemporalEntry]], error: RowCountError
        ) -> list[tuple[str, SpatiotemporalEntry]]:
            _, refused = new[error.step - 1]  # it is there already, or has no owner
            known = self._known(ids)
            if str(refused.id) not in known:
                raise NotFoundError(refused.owner_type, refused.owner_id) from error
            return [pair for pair in prepared if str(pair[1].id) not in known]

        return keep_writing(write, prepared, rest, "importing these places")

    def delete(self, entry_id: UUID | str) -> bool:
        """Delete it. Whether it was there."""
        return bool(self._session.write([_DELETE.step(namespace=self._session.namespace, id=as_id(entry_id))]))

    def count(self) -> int:
        """How many there are."""
        return int(self._session.read(_COUNT.step(namespace=self._session.namespace))[0][0])

    def _encoded(self, entry: SpatiotemporalEntry) -> tuple[str, SpatiotemporalEntry]:
        document, stored = encode(SpatiotemporalEntry, entry)
        check_document("", document, self._session.limits)
        check_value("", document, self._session.value_bytes)
        return document, stored

    def _known(self, ids: Sequence[str]) -> set[str]:
        rows = self._session.read(_KNOWN.step(namespace=self._session.namespace, ids=json_ids(ids)))
        return {row[0] for row in rows}

    def _import(self, document: str, entry: SpatiotemporalEntry) -> Step:
        now = to_micros(self._session.now())
        return _IMPORT[entry.owner_type].step(1, namespace=self._session.namespace, document=document, now=now)


def _entry(row: Sequence[Any]) -> SpatiotemporalEntry:
    key, document, created_at = row
    found = decode(SpatiotemporalEntry.model_validate_json, document, "spatiotemporal_index", key)
    found.__dict__["created_at"] = from_micros(created_at)
    return found
