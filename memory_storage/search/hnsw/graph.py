"""An HNSW graph of numbered vectors, by usearch. Callers must not add and search at the same time.

Vectors are never removed from a graph: callers filter its numbers by the rows that exist. (usearch can remove vectors
and reuse their nodes; searching does not need it, and a graph that only grows has fewer failure modes.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CONNECTIVITY = 16
_EXPANSION_ADD = 96
_SINGLE_THREAD_MAX = 100  # vectors; up to this many are added by one thread
_SELF_RESULTS = 16  # results of a search for a vector itself: others may be as near, in 8 bits
_QUICK_EXPANSION = 32  # candidates of a quick search, which finds nearly all vectors
_TIE_DISTANCE = 1e-3  # cosine distance; nearer vectors cannot be distinguished in 8 bits, so either may be returned
_DUPLICATE_KEY = 1 << 62  # added to the number of a vector that is inserted a second time
EXPANSION_SEARCH = 128
"""Candidates that a search keeps; recall@10 is then 0.98 among 100,000 vectors of dimension 384."""


class Graph:
    """Vectors of one dimension by their numbers, from 1. Cosine distance; quantized to 8 bits."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = _empty(dimension)
        self._viewed: Any = None
        self.duplicates = 0
        """The number of vectors that were inserted twice."""
        self.unreachable: set[int] = set()
        """The numbers of vectors that a search for themselves does not find: `nearest` compares them exactly."""
        self._unreachable_vectors: tuple[Any, Any] | None = None  # their numbers and vectors

    @classmethod
    def of(cls, dimension: int, data: memoryview, duplicates: int = 0, unreachable: Iterable[int] = ()) -> Graph:
        """Return the graph of a dump. The graph reads `data` in place until a vector is added.

        Args:
            dimension: Numbers in each vector.
            data: What `dump` returned.
            duplicates: The graph's `duplicates`.
            unreachable: The graph's `unreachable`.

        Raises:
            RuntimeError: the dump is damaged.
        """
        graph = cls(dimension)
        graph.duplicates, graph.unreachable = duplicates, set(unreachable)
        graph._index.view(data)
        graph._viewed = data  # usearch keeps no reference
        return graph

    def __len__(self) -> int:
        return len(self._index) - self.duplicates

    @property
    def size(self) -> int:
        """The size of the graph in bytes."""
        return len(self._viewed) if self._viewed is not None else int(self._index.memory_usage)

    def add(self, numbers: Sequence[int], vectors: bytes) -> None:
        """Add vectors; more than 100 on all cores, with the GIL released.

        Concurrent insertion leaves nodes that no search reaches: a thread may enter the graph by the node of another
        one, which has no neighbors yet. Those vectors are inserted again, by one thread.

        Args:
            numbers: The number of each vector, above 0.
            vectors: The vectors end to end, as little-endian 32-bit floats.
        """
        import numpy as np

        if self._viewed is not None:
            self._copy()
        rows = np.frombuffer(vectors, dtype="<f4").reshape(len(numbers), self.dimension)
        keys = np.array(numbers, dtype=np.uint64)
        threads = 1 if len(numbers) <= _SINGLE_THREAD_MAX else 0
        self._index.add(keys, rows, threads=threads)
        missed = self._find_unreachable(keys, rows, threads)
        if missed.any():
            self._index.add(keys[missed] + np.uint64(_DUPLICATE_KEY), rows[missed], threads=1)
            self.duplicates += int(missed.sum())
            self.unreachable.update(keys[missed][self._find_unreachable(keys[missed], rows[missed], 1)].tolist())
            self._unreachable_vectors = None

    def _find_unreachable(self, keys: Any, rows: Any, threads: int) -> Any:
        """Return a mask of the vectors that a search for themselves does not find."""
        missed = self._not_found(keys, rows, threads, _QUICK_EXPANSION)
        if missed.any():
            missed[missed] = self._not_found(keys[missed], rows[missed], threads, EXPANSION_SEARCH)
        return missed

    def _not_found(self, keys: Any, rows: Any, threads: int, expansion: int) -> Any:
        import numpy as np

        self._index.expansion_search = expansion
        try:
            found = self._index.search(rows, _SELF_RESULTS, threads=threads)
        finally:
            self._index.expansion_search = EXPANSION_SEARCH
        numbers, distances = (np.asarray(one).reshape(len(keys), -1) for one in (found.keys, found.distances))
        return ~(numbers % np.uint64(_DUPLICATE_KEY) == keys[:, None]).any(axis=1) & (distances[:, -1] > _TIE_DISTANCE)

    def nearest(self, vector: bytes, count: int) -> list[int]:
        """Return the numbers of about `count` nearest neighbors and of all `unreachable` vectors, nearest first."""
        import numpy as np

        query = np.frombuffer(vector, dtype="<f4")
        found = self._index.search(query, count, threads=1)
        if not self.duplicates:
            alone: list[int] = found.keys.tolist()
            return alone
        numbers, distances = found.keys % np.uint64(_DUPLICATE_KEY), found.distances
        if self.unreachable:
            others, vectors = self._unreachable_vectors = self._unreachable_vectors or self._load_unreachable()
            numbers = np.concatenate([numbers, others])
            # The distances of usearch are 1 - cosine.
            distances = np.concatenate([distances, 1 - vectors @ (query / np.linalg.norm(query))])
            numbers = numbers[np.argsort(distances, kind="stable")]
        return list(dict.fromkeys(numbers.tolist()))

    def _load_unreachable(self) -> tuple[Any, Any]:
        import numpy as np

        numbers = np.array(sorted(self.unreachable), dtype=np.uint64)
        vectors = np.asarray(self._index.get(numbers, dtype="f32"), dtype=np.float32).reshape(len(numbers), -1)
        return numbers, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def numbers(self) -> list[int]:
        """Return all row numbers in the graph, ascending."""
        import numpy as np

        numbers: list[int] = np.unique(np.asarray(self._index.keys) % np.uint64(_DUPLICATE_KEY)).tolist()
        return numbers

    def dump(self) -> memoryview:
        """Return the graph as bytes, for `of`."""
        return memoryview(self._index.save())

    def _copy(self) -> None:
        # usearch cannot add to an index that only views a buffer.
        index = _empty(self.dimension)
        index.load(self._viewed)
        self._index, self._viewed = index, None


def _empty(dimension: int) -> Any:
    from usearch.index import Index

    return Index(
        ndim=dimension,
        metric="cos",
        dtype="i8",
        connectivity=CONNECTIVITY,
        expansion_add=_EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )
