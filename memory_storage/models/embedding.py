"""An embedding: one vector of one owner by one model. And what is known of a model and its index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from memory_storage._deprecation import renamed_attributes

from .display import short_repr, shortened
from .model import Finite, Model, Moment

OwnerType = Literal["episode", "step", "pattern"]
IndexPreset = Literal["compact", "balanced", "accurate"]
IndexSource = Literal["hnsw", "diskann"]

EXACT_SCAN_MAX = 2_000
"""Up to this number, vectors are compared one by one: a search by an index would take longer."""

WORN = 0.5
"""So many vectors removed from an index, by those that are in it, and it finds too few of the others."""


class Embedding(Model):
    """A vector as it is stored: 32-bit floats, `dimension` of them."""

    owner_type: OwnerType
    owner_id: UUID
    model: Annotated[str, Field(min_length=1, max_length=200)]
    vector: Annotated[list[Finite], Field(min_length=1)]
    created_at: Moment | None = None
    updated_at: Moment | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"model={shortened(str(values.get('model')), 30)!r}", f"dimension={len(values.get('vector', ()))}"]
        return short_repr("Embedding", values.get("owner_id"), str(values.get("owner_type")), facts)

    __str__ = __repr__

    @property
    def dimension(self) -> int:
        """How many numbers the vector has."""
        return len(self.vector)


@renamed_attributes(is_worn="is_fragmented")
@dataclass(frozen=True)
class EmbeddingModel:
    """A model with its dimension, and the counters of its distinct vectors, in all namespaces together.

    `indexed` of its `vectors` are in its index, and `removed` were removed from there since it was built. `source` says
    where that is: in the process ("hnsw") or in the database.
    """

    name: str
    dimension: int
    metric: Literal["cosine"]
    preset: IndexPreset
    vectors: int
    indexed: int
    removed: int
    created_at: datetime
    source: IndexSource = "diskann"

    @property
    def needs_index(self) -> bool:
        """Whether there are enough vectors for an index to make searches faster."""
        return self.vectors > EXACT_SCAN_MAX

    @property
    def pending(self) -> int:
        """How many vectors the index still lacks: a search compares them one by one. 0 if there are few in all."""
        return max(0, self.vectors - self.indexed) if self.needs_index else 0

    @property
    def is_fragmented(self) -> bool:
        """Whether so much was removed that searches do without the index until it is built anew."""
        return self.removed > WORN * self.indexed


@renamed_attributes(is_sound="is_healthy")
@dataclass(frozen=True)
class IndexHealth:
    """A model's index, as it was found.

    `nodes` is how many vectors are in the index in truth; None if there is no index. `recall` is how many of the
    nearest ten it finds, from 0 to 1, on a sample; None if it is empty.
    """

    model: EmbeddingModel
    nodes: int | None
    recall: float | None

    @property
    def is_healthy(self) -> bool:
        """Whether the index is what its table says, and finds nine in ten of what it should."""
        return self.nodes == self.model.indexed and (self.recall is None or self.recall >= 0.9)
