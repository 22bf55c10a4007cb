"""The repository of embeddings: vectors by owner and model. Searching among them is retrieval's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from memory_storage.dbapi import RowCountError, Step
from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import Embedding, OwnerType
from memory_storage.schema import DIMENSIONS, pack_vector, unpack_vector

from ._codec import from_micros, to_micros
from ._session import Repository, as_id
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
        vector, created_at, updated_at = rows[0]
        return Embedding(
            owner_type=owner_type,
            owner_id=key["owner_id"],
            model=model,
            vector=unpack_vector(vector),
            created_at=from_micros(created_at),
            updated_at=from_micros(updated_at),
        )

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

    def _key(self, owner_type: OwnerType, owner_id: UUID | str, model: str) -> dict[str, Any]:
        if owner_type not in _TABLES:
            raise ValidationError("owner_type", f"one of {', '.join(_TABLES)}", owner_type)
        if not isinstance(model, str) or not 1 <= len(model) <= 200 or "\0" in model:
            raise ValidationError("model", "a name of 1 to 200 characters", model)
        return {
            "namespace": self._session.namespace,
            "owner_type": owner_type,
            "owner_id": as_id(owner_id, "owner_id"),
            "model": model,
        }


def _packed(vector: Sequence[float]) -> bytes:
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
