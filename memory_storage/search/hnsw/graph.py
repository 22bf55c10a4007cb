"""An HNSW graph of numbered vectors, by usearch. It is added to and searched; the caller sees to it that not at once.

Nothing is ever removed from a graph: who uses its numbers knows which are still there. (usearch can remove, and reuses
the places; but to search does not need it, and a graph that only grows can be wrong in fewer ways.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

CONNECTIVITY = 16
_EXPANSION_ADD = 96
_SINGLE_THREAD_MAX = 100  # vectors are added by one thread
_SELF_RESULTS = 16  # that are found for a vector itself: others may be as near, in 8 bits
_QUICK_EXPANSION = 32  # candidates of a quick search, which finds nearly all
_TIE_DISTANCE = (
    1e-3  # distance: nearer to each other than 8 bits can tell, so that any of them may be found for another
)
_DUPLICATE_KEY = 1 << 62  # is added to the number of a vector that is there a second time
EXPANSION_SEARCH = 128
"""So many candidates a search keeps: of the nearest ten it then finds 0.98 among 100,000 of dimension 384."""


def is_installed() -> bool:
    """Whether there is the library that this needs."""
    return find_spec("usearch") is not None


class Graph:
    """Vectors of one dimension by their numbers, which are greater than 0. Cosine; 8 bits for each number."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = _empty(dimension)
        self._viewed: Any = None
        self.duplicates = 0
        """How many vectors are there twice."""
        self.unreachable: set[int] = set()
        """Those that a search for themselves does not find: they are compared one by one."""
        self._unreachable_vectors: tuple[Any, Any] | None = None  # their numbers and vectors

    @classmethod
    def of(cls, dimension: int, data: memoryview, duplicates: int = 0, unreachable: Iterable[int] = ()) -> Graph:
        """The graph that `dump` has given; it stays where it is until the graph is added to. RuntimeError if broken."""
        graph = cls(dimension)
        graph.duplicates, graph.unreachable = duplicates, set(unreachable)
        graph._index.view(data)
        graph._viewed = data  # usearch keeps no reference
        return graph

    def __len__(self) -> int:
        return len(self._index) - self.duplicates

    @property
    def size(self) -> int:
        """How much memory it takes; what is in a file counts too, as it is soon read."""
        return len(self._viewed) if self._viewed is not None else int(self._index.memory_usage)

    def add(self, numbers: Sequence[int], vectors: bytes) -> None:
        """Add vectors, end to end as 32-bit floats; many on all cores. Other threads of Python go on meanwhile.

        Several threads leave nodes that no search reaches: one may enter by the node of another, which has no
        neighbors yet. These vectors are added once more, by one thread.
        """
        import numpy as np

        if self._viewed is not None:
            self._copy()
        rows = np.frombuffer(vectors, dtype="<f4").reshape(len(numbers), self.dimension)
        keys = np.array(numbers, dtype=np.uint64)
        threads = 1 if len(numbers) <= _SINGLE_THREAD_MAX else 0
        self._index.add(keys, rows, threads=threads)
        unreachable = self._find_unreachable(keys, rows, threads)
        if unreachable.any():
            self._index.add(keys[unreachable] + np.uint64(_DUPLICATE_KEY), rows[unreachable], threads=1)
            self.duplicates += int(unreachable.sum())
            self.unreachable.update(
                keys[unreachable][self._find_unreachable(keys[unreachable], rows[unreachable], 1)].tolist()
            )
            self._unreachable_vectors = None

    def _find_unreachable(self, keys: Any, rows: Any, threads: int) -> Any:
        """Which of these a search for themselves does not find."""
        unreachable = self._not_found(keys, rows, threads, _QUICK_EXPANSION)
        if unreachable.any():
            unreachable[unreachable] = self._not_found(keys[unreachable], rows[unreachable], threads, EXPANSION_SEARCH)
        return unreachable

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
        """The numbers of `count` vectors that are likely to be the nearest, and of `unreachable`, the nearest first."""
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
            distances = np.concatenate([distances, 1 - vectors @ (query / np.linalg.norm(query))])
            numbers = numbers[np.argsort(distances, kind="stable")]
        return list(dict.fromkeys(numbers.tolist()))

    def _load_unreachable(self) -> tuple[Any, Any]:
        import numpy as np

        numbers = np.array(sorted(self.unreachable), dtype=np.uint64)
        vectors = np.asarray(self._index.get(numbers, dtype="f32"), dtype=np.float32).reshape(len(numbers), -1)
        return numbers, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def numbers(self) -> list[int]:
        """All there are."""
        import numpy as np

        numbers: list[int] = np.unique(np.asarray(self._index.keys) % np.uint64(_DUPLICATE_KEY)).tolist()
        return numbers

    def dump(self) -> memoryview:
        """The bytes from which `of` makes it."""
        return memoryview(self._index.save())

    def _copy(self) -> None:
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
