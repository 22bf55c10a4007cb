"""The repository of embeddings: vectors by owner and model. Searching among them is retrieval's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any
from uuid import UUID

from memory_storage.dbapi import RowCountError, Step
from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import Embedding, OwnerType
from memory_storage.schema import DIMENSIONS, pack_vector, unpack_vector

from ._codec import from_micros, refuse_unstorable, to_micros
from ._session import Repository, as_id, as_list
from ._statement import Prepared

_TABLES = {"episode": "episodes", "step": "steps", "pattern": "patterns"}
_COLUMNS = ", ".join(f"vector_{dimension}" for dimension in DIMENSIONS)


def _put(table: str, dimension: int) -> Prepared:
    others = ", ".join(f"vector_{other} = NULL" for other in DIMENSIONS if other != dimension)
    return Prepared(f"""
INSERT INTO embeddings (namespace, owner_type, owner_id, model, dimension, vector_{dimension}, created_at, updated_at)
SELECT namespace, :owner_type, id, :model, {dimension}, :vector, :now, :now
FROM {table} WHERE namespace = :namespace AND id = :owner_id
ON CONFLICT (namespace, owner_type, owner_id, model) DO UPDATE SET
    dimension = excluded.dimension, updated_at = excluded.updated_at,
    vector_{dimension} = excluded.vector_{dimension}, {others}
""")


_PUT = {(owner, dimension): _put(table, dimension) for owner, table in _TABLES.items() for dimension in DIMENSIONS}
_ONE = "namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id AND model = :model"
_GET = Prepared(f"SELECT coalesce({_COLUMNS}), created_at, updated_at FROM embeddings WHERE {_ONE}")
_DELETE = Prepared(f"DELETE FROM embeddings WHERE {_ONE} RETURNING model")
_COUNT = Prepared("SELECT count(*) FROM embeddings WHERE namespace = :namespace")
_NEXT = Prepared(f"""
SELECT owner_type, owner_id, model, coalesce({_COLUMNS}), created_at, updated_at FROM embeddings
WHERE namespace = :namespace AND (owner_type, owner_id, model) > (:owner_type, :owner_id, :model)
ORDER BY owner_type, owner_id, model LIMIT :limit
""")
_KNOWN = Prepared("""
SELECT owner_type, owner_id, model FROM embeddings
WHERE namespace = :namespace AND (owner_type, owner_id, model) IN (
    SELECT value ->> '$[0]', value ->> '$[1]', value ->> '$[2]' FROM json_each(:keys))
""")


def _import(table: str, dimension: int) -> Prepared:
    return Prepared(f"""
INSERT INTO embeddings (namespace, owner_type, owner_id, model, dimension, vector_{dimension}, created_at, updated_at)
SELECT namespace, :owner_type, id, :model, {dimension}, :vector, :created_at, :updated_at
FROM {table} WHERE namespace = :namespace AND id = :owner_id
""")


_IMPORT = {
    (owner, dimension): _import(table, dimension) for owner, table in _TABLES.items() for dimension in DIMENSIONS
}

_ITERATE_PAGE = 100


class EmbeddingRepository(Repository):
    """The embeddings of one namespace."""

    def put(self, owner_type: OwnerType, owner_id: UUID | str, vector: Sequence[float], *, model: str) -> None:
        """Store the vector of an owner by a model, in place of the one it had. Stored as 32-bit floats.

        Raises:
            NotFoundError: there is no such owner.
            ValidationError: the vector has a length without a column, zero length, NaN or infinity.
        """
        self.put_many([(owner_type, owner_id, vector)], model=model)

    def put_many(self, items: Sequence[tuple[OwnerType, UUID | str, Sequence[float]]], *, model: str) -> None:
        """Store several vectors by one model: all or none."""
        now = to_micros(self._session.now())
        items = [_item(item) for item in as_list(items, "items")]
        steps = [self._put(*item, model=model, now=now) for item in items]
        try:
            if steps:
                self._session.write(steps)
        except RowCountError as error:
            owner_type, owner_id, _ = items[error.step - 1]
            raise NotFoundError(owner_type, owner_id) from error

    def get(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding:
        """The vector of an owner by a model.

        Raises:
            NotFoundError: there is none.
        """
        found = self.find(owner_type, owner_id, model=model)
        if found is None:
            raise NotFoundError(f"embedding by {model!r} of {owner_type}", owner_id)
        return found

    def find(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding | None:
        """The vector of an owner by a model, or None."""
        key = self._key(owner_type, owner_id, model)
        rows = self._session.read(_GET.step(**key))
        if not rows:
            return None
        return _embedding((owner_type, key["owner_id"], model, *rows[0]))

    def iterate(self) -> Iterator[Embedding]:
        """All of them by owner and model, a page at a time."""
        place = {"owner_type": "", "owner_id": "", "model": ""}
        while rows := self._session.read(_NEXT.step(namespace=self._session.namespace, limit=_ITERATE_PAGE, **place)):
            yield from map(_embedding, rows)
            place = dict(zip(place, rows[-1], strict=False))

    def import_many(self, embeddings: Sequence[Embedding]) -> int:
        """Insert copies with the times they have; leave alone those that are there already.

        Gives the number of new ones. To do it again changes nothing.

        Raises:
            NotFoundError: one of them has no owner here. None is stored.
        """
        embeddings = [_checked(embedding) for embedding in as_list(embeddings, "embeddings")]
        keys = [_identity(embedding) for embedding in embeddings]
        if len(set(keys)) != len(keys):
            raise ValidationError("embeddings", "each owner and model once", keys)
        rows = self._session.read(_KNOWN.step(namespace=self._session.namespace, keys=json.dumps(keys)))
        known = {tuple(row) for row in rows}
        new = [embedding for embedding, key in zip(embeddings, keys, strict=True) if key not in known]
        try:
            if new:
                self._session.write([self._import(embedding) for embedding in new])
        except RowCountError as error:
            missing = new[error.step - 1]
            raise NotFoundError(missing.owner_type, missing.owner_id) from error
        return len(new)

    def delete(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> bool:
        """Delete the vector of an owner by a model. Whether it was there."""
        return bool(self._session.write([_DELETE.step(**self._key(owner_type, owner_id, model))]))

    def count(self) -> int:
        """How many there are."""
        return int(self._session.read(_COUNT.step(namespace=self._session.namespace))[0][0])

    def _put(
        self, owner_type: OwnerType, owner_id: UUID | str, vector: Sequence[float], *, model: str, now: int
    ) -> Step:
        key = self._key(owner_type, owner_id, model)
        packed = _packed(vector)
        return _PUT[owner_type, len(packed) // 4].step(1, vector=packed, now=now, **key)

    def _import(self, embedding: Embedding) -> Step:
        now = self._session.now()
        packed = _packed(embedding.vector)
        return _IMPORT[embedding.owner_type, len(packed) // 4].step(
            1,
            vector=packed,
            created_at=to_micros(embedding.created_at or now),
            updated_at=to_micros(embedding.updated_at or now),
            **self._key(embedding.owner_type, embedding.owner_id, embedding.model),
        )

    def _key(self, owner_type: OwnerType, owner_id: UUID | str, model: str) -> dict[str, Any]:
        if not isinstance(owner_type, str) or owner_type not in _TABLES:
            raise ValidationError("owner_type", f"one of {', '.join(_TABLES)}", owner_type)
        if not isinstance(model, str) or not 1 <= len(model) <= 200:
            raise ValidationError("model", "a name of 1 to 200 characters", model)
        refuse_unstorable("model", model)
        return {
            "namespace": self._session.namespace,
            "owner_type": owner_type,
            "owner_id": as_id(owner_id, "owner_id"),
            "model": model,
        }


def _embedding(row: Sequence[Any]) -> Embedding:
    owner_type, owner_id, model, vector, created_at, updated_at = row
    return Embedding(
        owner_type=owner_type,
        owner_id=owner_id,
        model=model,
        vector=unpack_vector(vector),
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
    )


def _item(item: Any) -> tuple[OwnerType, UUID | str, Sequence[float]]:
    if not isinstance(item, tuple | list) or len(item) != 3:
        raise ValidationError("items", "must be (owner_type, owner_id, vector)", item)
    return item[0], item[1], item[2]


def _checked(embedding: Embedding) -> Embedding:
    if type(embedding) is not Embedding:
        raise ValidationError("embeddings", "must be an Embedding", embedding)
    return Embedding(**embedding.__dict__)  # it can be made or changed past its validation


def _identity(embedding: Embedding) -> tuple[str, str, str]:
    return embedding.owner_type, str(embedding.owner_id), embedding.model


def _packed(vector: Sequence[float]) -> bytes:
    if isinstance(vector, str | bytes | bytearray | Mapping | Set):
        raise ValidationError("vector", "a sequence of numbers", vector)
    try:
        packed = pack_vector(vector)
    except (TypeError, OverflowError) as error:
        raise ValidationError("vector", "a sequence of numbers", vector) from error
    floats = unpack_vector(packed)
    if len(floats) not in DIMENSIONS:
        raise ValidationError("vector", f"a dimension among {', '.join(map(str, DIMENSIONS))}", len(floats))
    if not all(map(math.isfinite, floats)):
        raise ValidationError("vector", "finite 32-bit numbers only", "NaN or infinity")
    if not any(floats):
        raise ValidationError("vector", "a length above zero", "only zeros")
    return packed
