"""The session of a repository that searches: what `sql.session.SessionProtocol` has, and the vector indexes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from memory_storage.embedders import Embedder
from memory_storage.models import OwnerType
from memory_storage.sql.session import SessionProtocol

from .hnsw.index import HnswIndexes
from .vectors import KnownSpaces


class EmbeddingQueueProtocol(Protocol):
    """What embeds the texts that are saved."""

    @property
    def embedder(self) -> Embedder:
        """Computes the vectors."""
        ...

    def add(self, namespace: str, owner_type: OwnerType, ids: Iterable[str]) -> None:
        """Note owners that were saved."""
        ...

    def flush(self, namespace: str) -> int:
        """Embed all that is missing in a namespace now, and return the number of vectors."""
        ...

    def query_failed(self, error: Exception) -> None:
        """Note that the embedder has failed for a query."""
        ...


class SearchSession(SessionProtocol, Protocol):
    """A session that knows where a search gets its candidates."""

    @property
    def vector_index(self) -> str:
        """The source of candidates for searches: "hnsw", "diskann" or "exact"."""
        ...

    @property
    def embedding_queue(self) -> EmbeddingQueueProtocol | None:
        """What embeds the texts that are saved; None if the storage has no embedder."""
        ...

    @property
    def spaces(self) -> KnownSpaces:
        """The vector space in which each namespace was last seen to store its vectors."""
        ...

    @property
    def memory(self) -> HnswIndexes | None:
        """The in-process vector indexes, searched if `vector_index` is "hnsw"."""
        ...
