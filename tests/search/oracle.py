"""The expected results of a search, computed by numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import numpy as np

import memory_storage as ms

T = TypeVar("T")

TOLERANCE = 2e-6
"""The engine computes with 32-bit floats."""

Array = Any


def unit(vectors: Array) -> Array:
    """Each of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def similarities(query: Sequence[float], vectors: Mapping[UUID, list[Sequence[float]]]) -> dict[UUID, float]:
    """The cosine to the nearest vector of each item that has some."""
    wanted = unit(np.array(query, dtype=np.float64))
    return {
        item: float(np.clip(unit(np.array(own, dtype=np.float64)) @ wanted, -1, 1).max())
        for item, own in vectors.items()
        if own
    }


def assert_nearest(hits: Iterable[ms.Hit[Any]], possible: Mapping[UUID, float], *, k: int, floor: float = -2.0) -> None:
    """The hits are the `k` nearest of those possible, the nearest first; any of those that are equally near."""
    found = [(hit.item.id, hit.similarity) for hit in hits]
    assert len({item for item, _ in found}) == len(found), "an item was found twice"
    for item, similarity in found:
        assert abs(similarity - possible[item]) <= TOLERANCE
        assert similarity >= floor
    given = [similarity for _, similarity in found]
    assert given == sorted(given, reverse=True)
    sure = sorted((one for one in possible.values() if one >= floor + TOLERANCE), reverse=True)
    maybe = sorted((one for one in possible.values() if one >= floor - TOLERANCE), reverse=True)
    assert min(k, len(sure)) <= len(found) <= min(k, len(maybe))
    assert np.allclose(given[: len(sure)], sure[: len(given)], atol=TOLERANCE)


def recall(found: Sequence[set[T]], nearest: Sequence[set[T]], k: int = 10) -> float:
    """The share of the nearest `k` that was found; a set has more of them where some are equally near."""
    shares = [
        len(one & other) / min(k, len(other)) if other else 1.0 for one, other in zip(found, nearest, strict=True)
    ]
    return float(np.mean(shares))


def clustered(count: int, dimension: int, seed: int = 3) -> Array:
    """Vectors of length 1 around a few centers, as 32-bit floats."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(4, count // 60), dimension))
    points = centers[random.integers(len(centers), size=count)] + 0.6 * random.normal(size=(count, dimension))
    return unit(points).astype(np.float32)


def nearest(queries: Array, vectors: Array, k: int = 10) -> list[set[int]]:
    """The rows of the nearest `k` to each query, and those as near as the last of them."""
    if not len(vectors):
        return [set() for _ in queries]
    similar = queries @ vectors.T
    floors = np.sort(similar, axis=1)[:, -min(k, len(vectors))] - TOLERANCE
    return [set(np.flatnonzero(one >= floor).tolist()) for one, floor in zip(similar, floors, strict=True)]
