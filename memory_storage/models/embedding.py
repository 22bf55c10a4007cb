"""An embedding, and the state of an embedding model and its index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from memory_storage._deprecation import renamed_attributes

from .display import short_repr, shortened
from .model import Finite, Model, Timestamp

OwnerType = Literal["episode", "step", "pattern"]
IndexPreset = Literal["compact", "balanced", "accurate"]
IndexSource = Literal["hnsw", "diskann", "exact"]
EmbeddingMode = Literal["in_background", "on_save", "manually"]

EXACT_SCAN_MAX = 2_000
"""Up to this number, vectors are compared one by one: an index would be slower."""

MAX_REMOVED_RATIO = 0.5
"""The ratio of removed to indexed vectors above which the index misses too many of the others."""


class Embedding(Model):
    """A stored vector of 32-bit floats.

    Attributes:
        owner_type: "episode", "step" or "pattern".
        owner_id: the id of the owner.
        model: the name of the embedding model, 1 to 200 characters.
        vector: the numbers; finite, at least one.
        created_at: when the store first had a vector of this owner and model; None until stored.
        updated_at: when the vector was last replaced; None until stored.
    """

    owner_type: OwnerType
    owner_id: UUID
    model: Annotated[str, Field(min_length=1, max_length=200)]
    vector: Annotated[list[Finite], Field(min_length=1)]
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"model={shortened(str(values.get('model')), 30)!r}", f"dimension={len(values.get('vector', ()))}"]
        return short_repr("Embedding", values.get("owner_id"), str(values.get("owner_type")), facts)

    __str__ = __repr__

    @property
    def dimension(self) -> int:
        """The numbers in the vector."""
        return len(self.vector)


@dataclass(frozen=True)
class EmbeddingStatus:
    """What a storage with an embedder has to embed, and how the embedder does.

    Attributes:
        model: the name under which the vectors are stored.
        mode: "in_background", "on_save" or "manually".
        pending: owners that were saved by this process and are not embedded yet.
        refused: owners that the embedder has refused, while it took others: `embeddings.flush()` tries them again.
        is_searching: whether a namespace has still to be searched for owners without vectors.
        embedded: vectors stored since the storage was opened.
        last_embedded_at: when the latest vectors were stored.
        last_error: the class and message of the error since then; None if there was none.
        last_error_at: when it occurred.
    """

    model: str
    mode: EmbeddingMode
    pending: int = 0
    refused: int = 0
    is_searching: bool = False
    embedded: int = 0
    last_embedded_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None


@renamed_attributes(is_worn="is_fragmented")
@dataclass(frozen=True)
class EmbeddingModel:
    """An embedding model in the database, with counters of its distinct vectors over all namespaces.

    Attributes:
        name: the name of the model.
        dimension: the numbers in each vector.
        metric: always "cosine".
        preset: the size and accuracy of the index: "compact", "balanced" or "accurate".
        vectors: distinct vectors in the table.
        indexed: how many of them are in the index.
        removed: vectors removed from the index since it was built.
        created_at: when the model was registered.
        source: where the index is: "hnsw" (in the process), "diskann" (in the database) or "exact" (there is none).
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
        """The number of vectors that are not in the index yet; searches compare them exactly. 0 without an index."""
        return max(0, self.vectors - self.indexed) if self.needs_index and self.source != "exact" else 0

    @property
    def is_fragmented(self) -> bool:
        """Whether enough vectors were removed that searches ignore the index until it is rebuilt."""
        return self.removed > MAX_REMOVED_RATIO * self.indexed


@renamed_attributes(is_sound="is_healthy")
@dataclass(frozen=True)
class IndexHealth:
    """The result of verifying a model's index.

    Attributes:
        model: the model with its counters.
        nodes: vectors found in the index itself; None if there is no index.
        recall: the share of the ten nearest vectors that the index finds, from 0 to 1, over a sample; None if it is
            empty.
    """

    model: EmbeddingModel
    nodes: int | None
    recall: float | None

    @property
    def is_healthy(self) -> bool:
        """Whether the index has the vectors that its table counts, and a recall of at least 0.9."""
        return self.nodes == self.model.indexed and (self.recall is None or self.recall >= 0.9)
