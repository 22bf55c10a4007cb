"""Storages with enough vectors for an index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

import memory_storage as ms
from memory_storage.testing import Sqld
from tests.search import oracle

MODEL = "m"
COUNT = 2_400
DIMENSION = 24
PLANS = {"diskann": "index", "hnsw": "hnsw", "exact": "exact"}


def at(database: object, source: Any = "diskann") -> ms.Settings:
    """The settings of a database with such a source of candidates."""
    return ms.Settings(database=str(database), vector_index=source)


class Indexed:
    """Episodes with a vector each, enough of them for an index, and what brute force knows of them."""

    def __init__(self, storage: ms.MemoryStorage, count: int) -> None:
        self.storage = storage
        self.plan = PLANS[storage.vector_index]
        self.vectors = oracle.clustered(count, DIMENSION)
        self.queries = oracle.unit(self.vectors[::37] + 0.1 * oracle.clustered(len(self.vectors[::37]), DIMENSION, 9))
        self.episodes = _episodes(count)
        self.numbers = {episode.id: number for number, episode in enumerate(self.episodes)}

    def store(self) -> Indexed:
        """Store the episodes and their vectors."""
        self.storage.episodes.save_many(self.episodes)
        self.put(range(len(self.vectors)), self.vectors)
        return self

    def put(self, rows: Sequence[int], vectors: Any, **options: Any) -> None:
        """Give these episodes these vectors."""
        self.vectors[rows] = vectors
        owners = [self.episodes[row].id for row in rows]
        items: list[tuple[Any, UUID, Any]] = [
            ("episode", owner, one) for owner, one in zip(owners, vectors, strict=True)
        ]
        self.storage.embeddings.put_many(items, model=MODEL, **options)

    def recall(self, rows: Sequence[int] | None = None, *, plan: str | None = "", **options: Any) -> float:
        """The share of the nearest ten among these rows that searches find; each must find ten, by this plan.

        "" is the plan of the source of candidates, None is any.
        """
        plan = self.plan if plan == "" else plan
        kept = np.arange(len(self.vectors)) if rows is None else np.array(rows, dtype=int)
        nearest = [{int(kept[row]) for row in found} for found in oracle.nearest(self.queries, self.vectors[kept])]
        searches = [self.storage.episodes.similar_to(query, model=MODEL, **options) for query in self.queries]
        assert {len(hits) for hits in searches} == {min(10, len(kept))}
        assert plan is None or {hits.plan for hits in searches} == {plan}
        return oracle.recall([{self.numbers[hit.item.id] for hit in hits} for hits in searches], nearest)

    def settle(self) -> None:
        """Have the index catch up."""
        if self.plan != "exact":
            self.storage.embeddings.index.catch_up(MODEL)

    def status(self) -> ms.models.EmbeddingModel:
        """The counters of the model."""
        return self.storage.embeddings.index.status()[0]


def _episode(number: int) -> ms.Episode:
    return ms.Episode(
        task_description=f"episode {number}",
        task_type="debugging" if number % 2 else "testing",
        context=ms.TaskContext(domain=f"d{number % 10}"),
        tags=[f"t{number % 100}"],
        metadata={"number": number},
    )


@cache
def _episodes(count: int) -> list[ms.Episode]:
    return [_episode(number) for number in range(count)]


@pytest.fixture(scope="session")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("indexed") / "memory.db"
    with ms.MemoryStorage.open(at(path)) as storage:
        Indexed(storage, COUNT).store()
    return path


@pytest.fixture(scope="session")
def _namespace(sqld: Sqld, _template: str) -> str:
    sqld.fork_namespace(_template, "indexed")
    with ms.MemoryStorage.open(sqld.url_of("indexed")) as storage:
        Indexed(storage, COUNT).store()
    return "indexed"


@pytest.fixture(scope="session")
def _bare_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without an index in it, and with a sidecar."""
    path = tmp_path_factory.mktemp("bare") / "memory.db"
    with ms.MemoryStorage.open(at(path, "hnsw")) as storage:
        Indexed(storage, COUNT).store().settle()
    return path


@pytest.fixture
def on_file(database: Path, _file: Path) -> Iterator[Indexed]:
    """Episodes with clustered vectors, on a file."""
    shutil.copy(_file, database)
    with ms.MemoryStorage.open(at(database)) as storage:
        yield Indexed(storage, COUNT)


@pytest.fixture
def bare(database: Path, _bare_file: Path) -> Path:
    """A file without an index in it, and its sidecar."""
    for path in _bare_file.parent.iterdir():
        shutil.copy(path, database.parent / path.name)
    return database


@pytest.fixture
def in_memory(bare: Path) -> Iterator[Indexed]:
    """The same with the index in this process."""
    with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
        yield Indexed(storage, COUNT)


@pytest.fixture
def by_exact(bare: Path) -> Iterator[Indexed]:
    """The same without an index."""
    with ms.MemoryStorage.open(at(bare, "exact")) as storage:
        yield Indexed(storage, COUNT)


@pytest.fixture
def on_server(sqld: Sqld, _namespace: str) -> Iterator[Indexed]:
    """The same on a server."""
    name = f"test-{uuid4().hex}"
    sqld.fork_namespace(_namespace, name)
    with ms.MemoryStorage.open(sqld.url_of(name)) as storage:
        yield Indexed(storage, COUNT)
    sqld.delete_namespace(name)


@pytest.fixture(params=["on_file", "in_memory", "by_exact"])
def by_source(request: pytest.FixtureRequest) -> Indexed:
    """The same by each source of candidates."""
    found: Indexed = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["on_file", "in_memory", "by_exact", "on_server"])
def searched(request: pytest.FixtureRequest) -> Indexed:
    """The same by each source of candidates, and on a server, whose DiskANN is that of a file."""
    found: Indexed = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["file", "server"])
def indexed(request: pytest.FixtureRequest) -> Indexed:
    """The same on each backend."""
    found: Indexed = request.getfixturevalue(f"on_{request.param}")
    return found
