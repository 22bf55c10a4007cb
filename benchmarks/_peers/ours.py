"""This package: `MemoryStorage` on a local file with its default settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import memory_storage as ms

from .. import _workload
from ._store import OUTCOME, PAGE, WORDS, Array, K, Store, VectorStore, levels

_MODEL = "m"
_BATCH = 1_000


class Ours(Store):
    """Episodes with typed steps; each call is a transaction."""

    note = "an Episode; checked on the way in, with full-text index, facets and indexes; checked models on the way out"

    def __init__(self, directory: Path) -> None:
        self._storage = ms.MemoryStorage.open(directory / "memory.db")

    def record(self, episode: ms.Episode) -> ms.Episode:
        return episode

    def save(self, record: ms.Episode) -> object:
        return self._storage.episodes.save(record)

    def get(self, key: str) -> int:
        return len(list(self._storage.episodes.get(key).steps))

    def get_lazily(self, key: str) -> object:
        return self._storage.episodes.get(key)

    def page(self) -> int:
        return _read(self._storage.episodes.query(limit=PAGE).items)

    def page_lazily(self) -> int:
        return len(self._storage.episodes.query(limit=PAGE).items)

    def page_by_outcome(self) -> int:
        return _read(self._storage.episodes.query(outcome=OUTCOME, limit=PAGE).items)

    def search(self, word: str) -> int:
        return _read(hit.item for hit in self._storage.episodes.search(word, k=WORDS))

    def durability(self) -> str:
        with self._storage.engine.connect() as connection:
            pragmas = ("journal_mode", "synchronous")
            return levels(*(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas))

    def close(self) -> None:
        self._storage.close()


class OurVectors(VectorStore):
    """Episodes without steps, each with a vector."""

    def __init__(self, directory: Path, vectors: Array) -> None:
        self._storage = ms.MemoryStorage.open(directory / "memory.db")
        self._numbers = {_workload.episode_id(number): number for number in range(len(vectors))}
        for first in range(0, len(vectors), _BATCH):
            rows = vectors[first : first + _BATCH]
            owners = [_workload.episode(first + number, steps=0) for number in range(len(rows))]
            self._storage.episodes.save_many(owners)
            pairs = [("episode", owner.id, row.tolist()) for owner, row in zip(owners, rows, strict=True)]
            self._storage.embeddings.put_many(pairs, model=_MODEL)  # type: ignore[arg-type]

    def similar(self, query: Array) -> list[int]:
        hits = self._storage.episodes.similar_to(query.tolist(), model=_MODEL, k=K)
        self.method = str(hits.plan)
        return [self._numbers[hit.item.id] for hit in hits]

    def close(self) -> None:
        self._storage.close()


open_store = Ours
open_vectors = OurVectors


def _read(episodes: Iterable[ms.Episode]) -> int:
    return len([list(episode.steps) for episode in episodes])
