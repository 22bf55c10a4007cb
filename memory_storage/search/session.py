"""The session of a repository that searches: what `sql.session.SessionProtocol` has, and the vector indexes."""

from __future__ import annotations

from typing import Protocol

from memory_storage.sql.session import SessionProtocol

from .hnsw.index import HnswIndexes
from .vectors import KnownSpaces


class SearchSession(SessionProtocol, Protocol):
    """A session that knows where a search gets its candidates."""

    @property
    def vector_index(self) -> str:
        """The source of candidates for searches: "hnsw", "diskann" or "exact"."""
        ...

    @property
    def spaces(self) -> KnownSpaces:
        """The vector space in which each namespace was last seen to store its vectors."""
        ...

    @property
    def memory(self) -> HnswIndexes | None:
        """The in-process vector indexes, searched if `vector_index` is "hnsw"."""
        ...
