"""What the processes and threads of these tests do."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder

from . import oracle

MODEL = "m"


def vectors(count: int, seed: int) -> Any:
    """Clustered ones of dimension 16."""
    return oracle.clustered(count, 16, seed)


def load(pipe: Any, path: Path, ids: list[UUID], seed: int) -> None:
    """Store vectors in batches, and write the number of each that is stored."""
    made = vectors(len(ids), seed)
    with ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="diskann")) as storage:
        for first in range(0, len(ids), 100):
            rows = range(first, first + 100)
            storage.embeddings.put_many([("episode", ids[row], made[row]) for row in rows], model=MODEL)
            os.write(pipe.fileno(), "".join(f"{row}\n" for row in rows).encode())
        storage.embeddings.index.rebuild(MODEL)
        time.sleep(60)


def register(barrier: Any, path: Path, ids: list[UUID]) -> None:
    """Be one of the first to use two models."""
    with ms.MemoryStorage.open(path) as storage:
        barrier.wait()
        for model, dimension in ((MODEL, 16), ("another", 8)):
            made = oracle.clustered(len(ids), dimension, ids[0].int % 1000)
            storage.embeddings.put_many(
                [("episode", one, vector) for one, vector in zip(ids, made, strict=True)], model=model
            )


class Busy:
    """A storage that is searched while it is written to and its index is built anew."""

    def __init__(self, storage: ms.MemoryStorage, ids: list[UUID], queries: Any, *, seconds: float) -> None:
        self._storage, self._ids, self._queries = storage, ids, queries
        self._stop = time.monotonic() + seconds

    def search(self, thread: int) -> int:
        """Search for so long; how often."""
        for done in count():
            if time.monotonic() > self._stop:
                return done
            hits = self._storage.episodes.similar_to(self._queries[(thread + done) % len(self._queries)], model=MODEL)
            assert len({hit.item.id for hit in hits}) == 10
        return 0

    def write(self, thread: int) -> None:
        """Change one vector after the other."""
        for number, vector in enumerate(oracle.clustered(20_000, self._queries.shape[1], thread)):
            if time.monotonic() > self._stop:
                return
            self._storage.embeddings.put(
                "episode", self._ids[(thread + 7 * number) % len(self._ids)], vector, model=MODEL
            )

    def rebuild(self) -> None:
        """Build the index anew, once."""
        self._storage.embeddings.index.rebuild(MODEL)


class Slow(HashingEmbedder):
    """Takes its time, and tells of each batch."""

    def __init__(self, dimension: int, pipe: Any) -> None:
        super().__init__(dimension)
        self._pipe = pipe

    def embed(self, texts: Any) -> Any:
        """A vector for each, after a while."""
        vectors = super().embed(texts)
        time.sleep(0.03)
        os.write(self._pipe.fileno(), b".")
        return vectors


def reembed(pipe: Any, path: Path) -> None:
    """Go from one model to another, slowly."""
    with ms.MemoryStorage.open(path) as storage:
        storage.embeddings.reembed("hashing-8", Slow(16, pipe), batch_size=10)
        time.sleep(60)
