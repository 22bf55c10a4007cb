"""The functions that the processes and threads of these tests run."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from tests.search import oracle

MODEL = "m"
Found = tuple[str, list[tuple[UUID, float]]]
"""The plan of a search, and what it found."""


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


def opened(path: Path) -> ms.MemoryStorage:
    """A file with the index in this process, however few vectors there are."""
    storage = ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="hnsw", durability="normal"))
    storage._context.memory.exact_scan_max = 0
    return storage


def serve(pipe: Any, path: Path) -> None:
    """Run the requests, until the end."""
    storage = opened(path)
    while True:
        name, *arguments = pipe.recv()
        if name == "reopen":
            storage.close()
            storage = opened(path)
        pipe.send(_ASKED[name](storage, *arguments))


def _put(storage: ms.MemoryStorage, owners: list[UUID], vectors: Any) -> None:
    storage.embeddings.put_many(
        [("episode", owner, vector) for owner, vector in zip(owners, vectors, strict=True)], model=MODEL
    )


def _delete(storage: ms.MemoryStorage, owners: list[UUID]) -> None:
    with storage.transaction() as tx:
        for owner in owners:
            tx.embeddings.delete("episode", owner, model=MODEL)


def _undo(storage: ms.MemoryStorage, owners: list[UUID], vectors: Any) -> Found:
    """Put them, search for the first, and roll back; what was found."""
    found: Found = ("", [])
    with suppress(ZeroDivisionError), storage.transaction() as tx:
        items = [("episode", owner, vector) for owner, vector in zip(owners, vectors, strict=True)]
        tx.embeddings.put_many(items, model=MODEL)
        found = _search(tx, vectors[0], 3)
        raise ZeroDivisionError
    return found


def _search(storage: Any, vector: Any, k: int) -> Found:
    hits = storage.episodes.similar_to(vector, model=MODEL, k=k, mode="index", steps=False)
    return hits.plan, [(hit.item.id, hit.similarity) for hit in hits]


_ASKED: dict[str, Any] = {
    "put": _put,
    "delete": _delete,
    "undo": _undo,
    "search": _search,
    "save": lambda storage: storage.embeddings.index.catch_up(MODEL),
    "rebuild": lambda storage: storage.embeddings.index.rebuild(MODEL),
    "reopen": lambda storage: None,
}


def write_and_tell(barrier: Any, path: Path, ids: list[UUID], board: Any, seconds: float) -> int:
    """Give one episode after the other a vector of its own, and tell each that is committed; how many."""
    made = oracle.unit(np.random.default_rng(ids[0].int % 2**32).normal(size=(len(ids), 16))).astype(np.float32)
    with ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="hnsw", durability="normal")) as storage:
        barrier.wait()
        stop = time.monotonic() + seconds
        for number, (owner, vector) in enumerate(zip(ids, made, strict=True)):
            if time.monotonic() > stop:
                return number
            storage.embeddings.put("episode", owner, vector, model=MODEL)
            board.append((owner, vector.tobytes()))
    return len(ids)


def search_what_is_told(barrier: Any, path: Path, board: Any, seconds: float) -> tuple[int, set[str]]:
    """Search for what was committed before the search began; how often, and by which plans. Each must be found."""
    plans: set[str] = set()
    with ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="hnsw")) as storage:
        barrier.wait()
        stop = time.monotonic() + seconds
        for done in count():
            if time.monotonic() > stop:
                return done, plans
            n_stored = len(board)
            if not n_stored:
                time.sleep(0.01)
                continue
            owner, vector = board[n_stored - 1 if done % 2 else random.randrange(n_stored)]
            hits = storage.episodes.similar_to(np.frombuffer(vector, "<f4"), model=MODEL, k=1, steps=False)
            plans.add(hits.plan)
            assert (hits[0].item.id, hits[0].similarity > 0.99999) == (owner, True), (done, hits.plan)
    return 0, plans


class Busy:
    """A storage that is searched while it is written to and its index is rebuilt."""

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
        """Rebuild the index, once."""
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


def put_first(barrier: Any, path: Path, namespace: str, owner: UUID, dimension: int) -> None:
    """Store the first vectors by some models, at the same time as another process."""
    with ms.MemoryStorage.open(ms.Settings(database=str(path), namespace=namespace)) as storage:
        for number in range(int(os.environ.get("MEMORY_STORAGE_TEST_RACES", "3"))):
            barrier.wait()
            storage.embeddings.put("episode", owner, [1.0] * dimension, model=f"m{number}")
