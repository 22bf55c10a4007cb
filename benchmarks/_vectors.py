"""Vectors for benchmarks: from a file, from real embeddings next to the project, or synthetic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
"""A numpy array of float32: one vector of length 1 per row."""

_REAL = Path(__file__).parents[2] / "shared/data/minilm_20k.npz"
_QUERIES = 200


@dataclass(frozen=True)
class Data:
    """Stored vectors, query vectors, and the texts of the stored vectors if known."""

    source: str
    base: Array
    queries: Array
    texts: list[str]

    def first(self, count: int) -> Data:
        """Return the data with only the first `count` vectors."""
        return Data(self.source, self.base[:count], self.queries, self.texts[:count])

    def grown(self, count: int, *, seed: int = 2) -> Data:
        """Return the data with `count` vectors: the added ones lie between two of the existing ones, with noise.

        The added vectors are not realistic: they have fewer near neighbors than real ones, and no new clusters. Recall
        on as many real vectors may be lower or higher.
        """
        more, random = count - len(self.base), np.random.default_rng(seed)
        if more <= 0:
            return self.first(count)
        ends = (self.base[random.integers(len(self.base), size=more)] for _ in range(2))
        share = random.uniform(0.3, 0.5, size=(more, 1)).astype(np.float32)
        noise = random.normal(scale=0.3 / self.base.shape[1] ** 0.5, size=(more, self.base.shape[1]))
        added = _unit((1 - share) * next(ends) + share * next(ends) + noise)
        source = f"{self.source}, and {more:,} between two of them each, with noise"
        return Data(source, np.concatenate([self.base, added]), self.queries, self.texts)

    def nearest(self, k: int, among: Array | None = None) -> list[set[int]]:
        """Return for each query the rows of the k nearest vectors, with ties of the last."""
        rows = np.arange(len(self.base)) if among is None else among
        if len(rows) == 0:
            return [set() for _ in self.queries]
        similar = self.queries @ self.base[rows].T
        least = np.sort(similar, axis=1)[:, -min(k, len(rows))] - 1e-6
        return [set(rows[one >= floor].tolist()) for one, floor in zip(similar, least, strict=True)]


def load(path: Path | None = None) -> Data:
    """Return the vectors of a .npy or .npz file; by default the real ones if available, else 20,000 synthetic ones."""
    if path is None and not _REAL.exists():
        return made(20_000, 384)
    base, queries = _read(path or _REAL)
    texts = list(_texts((path or _REAL).with_suffix(".jsonl")))[: len(base)]
    source = f"{len(base):,} vectors of dimension {base.shape[1]} of {(path or _REAL).name}"
    return Data(source, base, queries, texts)


def made(count: int, dimension: int, *, seed: int = 1) -> Data:
    """Return synthetic vectors: clusters of clusters of lower intrinsic dimension, roughly like real embeddings.

    Their similarities differ from those of real embeddings, so results of an index differ too.
    """
    random = np.random.default_rng(seed)
    total, clusters, inner = count + _QUERIES, max(8, count // 100), min(48, dimension)
    centers = (
        random.normal(size=(clusters, inner)) + 2 * random.normal(size=(8, inner))[random.integers(8, size=clusters)]
    )
    points = centers[random.integers(clusters, size=total)] + 0.9 * random.normal(size=(total, inner))
    vectors = points @ random.normal(size=(inner, dimension)) / inner**0.5
    vectors = _unit(vectors + 0.1 * random.normal(size=vectors.shape))
    return Data(f"{count:,} synthetic vectors of dimension {dimension}", vectors[:count], vectors[count:], [])


def _read(path: Path) -> tuple[Array, Array]:
    loaded = np.load(path)
    arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {"base": loaded}
    base = arrays.get("base", next(iter(arrays.values())))
    if base.ndim != 2 or len(base) <= 2 * _QUERIES:
        raise SystemExit(f"{path}: not an array of more than {2 * _QUERIES} vectors, a vector a row")
    queries = arrays.get("queries")
    if queries is None:
        base, queries = base[:-_QUERIES], base[-_QUERIES:]
    return _unit(base), _unit(queries)


def _unit(vectors: Array) -> Array:
    vectors = vectors.astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _texts(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)
