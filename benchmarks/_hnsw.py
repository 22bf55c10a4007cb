"""The in-process vector index at a given size, against numpy's exact product, DiskANN, and chromadb if installed.

Everything is measured in the same run, in turns. The bounds are ratios; times are shown to be read with them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import memory_storage as ms
from memory_storage.schema.vector_tables import VectorSpace

from ._measure import Times
from ._report import Line, Report, line_of, milliseconds
from ._vectors import Array, Data

Way = tuple[Callable[..., Any], Callable[[Any], set[int]]]
"""A search, and a function that returns the row numbers of its result."""

K = 10
MODEL = "benchmark"
_BATCH = 1_000
_TURN, _ROUNDS = 100, 3
_WARM = 50  # untimed searches at the beginning of a turn: the previous side has replaced the processor's caches
_FEW = 4_000  # vectors for DiskANN, which only gets slower with more
_FILTERS: dict[str, tuple[dict[str, Any], int, int]] = {
    "10 %": ({"task_type": "debugging"}, 10, 3),
    "1 %": ({"domain": "rare"}, 100, 7),
}
_NOTES = (
    "memory: candidates are the index alone; similar_to is whole searches, with the heads of episodes and no steps.",
    "numpy: the product of all vectors with the query, and argpartition, by one caller.",
    f"Each query of these three is timed {_ROUNDS} times, and the median counts, because of other load.",
    f"put_many is compared with {_FEW:,} vectors by DiskANN, which is slower the more there are.",
    "chromadb: the same vectors and filters, its defaults, cosine, a persistent client in this process.",
    "It returns the metadata of each hit, as this package returns an episode; 'ids alone' is its minimum.",
)


@dataclass
class Found:
    """The results of one side and the seconds of each query."""

    seconds: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """The mean recall of the queries."""
        return float(np.mean(self.recalls))

    def summary(self) -> str:
        """Return recall and times as text."""
        p50, p95 = (milliseconds(float(np.quantile(self.seconds, q))) for q in (0.5, 0.95))
        return f"recall {self.recall:.3f}, p50 {p50}, p95 {p95}"


def run(data: Data) -> Report:
    """Measure all sides."""
    with tempfile.TemporaryDirectory() as directory:
        memory = Ours(Path(directory, "memory.db"), data, "hnsw")
        lines = memory.costs(Ours(Path(directory, "diskann.db"), data.first(_FEW), "diskann"))
        ways: dict[str, Way] = {"hnsw": (memory.search, memory.numbers_of)}
        if find_spec("chromadb"):
            chroma = Chroma(Path(directory, "chroma"), data)
            ways["chromadb"] = (chroma.search, chroma.numbers_of)
            ways["ids alone"] = (chroma.search_ids, chroma.numbers_of)
            lines += _beside(memory, chroma)
        os.sync()  # otherwise the stored data is still being written, by the same processors
        lines += _searches(memory, data)
        for name in ("all", *_FILTERS):
            lines += _filtered(ways, data, name)
        lines.append(memory.opened_again(data))
    notes = [data.source, *_NOTES] + ([] if find_spec("chromadb") else ["chromadb is not installed: extra bench"])
    return Report(f"Retrieval: {len(data.base):,} vectors", lines, notes)


class Ours:
    """A file with vectors and one source of candidates, and the time to build it."""

    def __init__(self, path: Path, data: Data, source: Any) -> None:
        self._path = path
        self._settings = ms.Settings(database=str(path), vector_index=source)
        self.storage = ms.MemoryStorage.open(self._settings)
        saved = [
            one.id
            for first in range(0, len(data.base), _BATCH)
            for one in self.storage.episodes.save_many(
                [_episode(number) for number in range(first, min(first + _BATCH, len(data.base)))]
            )
        ]
        self.numbers = {key: number for number, key in enumerate(saved)}
        items: Any = [("episode", key, vector) for key, vector in zip(saved, data.base, strict=True)]
        self.putting = _seconds(partial(self.storage.embeddings.put_many, items, model=MODEL))
        self.building = _seconds(partial(self.storage.embeddings.index.catch_up, MODEL))
        self.rate = len(data.base) / self.putting
        self.bytes = sum(one.stat().st_size for one in path.parent.glob(f"{path.name}.*.usearch"))

    def costs(self, diskann: Ours) -> list[Line]:
        """Return the time to store and index the vectors, and the size."""
        count = len(self.numbers)
        detail = f"{self.rate:,.0f}/s and {diskann.rate:,.0f}/s; built in {self.building:.1f} s"
        diskann.storage.close()
        return [
            line_of("put_many, faster than with diskann", self.rate / diskann.rate, detail, at_least=20),
            line_of("put_many and build, the same", count / (self.putting + self.building) / diskann.rate),
            line_of("KB per vector in addition to the rows", self.bytes / count / 1000, at_most=1.5),
        ]

    def candidates(self, query: Array) -> set[int]:
        """Search the index only; return the row count, because its row numbers are not those of episodes."""
        indexes = self.storage._context.memory
        near = indexes and indexes.of(VectorSpace(MODEL)).candidates(query.tobytes(), K + 1, are_broad=True, began=None)
        return set(near.seqs) if near else set()

    def search(self, query: Array, name: str = "all") -> ms.Hits[ms.Episode]:
        """Search episodes, without their steps."""
        filters = _FILTERS[name][0] if name in _FILTERS else {}
        return self.storage.episodes.similar_to(query, model=MODEL, k=K, steps=False, **filters)

    def numbers_of(self, hits: ms.Hits[ms.Episode]) -> set[int]:
        """Return the row numbers of the episodes."""
        return {self.numbers[hit.item.id] for hit in hits}

    def opened_again(self, data: Data) -> Line:
        """Return the time of the first search after opening the file, relative to that of building the index."""
        self.storage.close()
        self.storage = ms.MemoryStorage.open(self._settings)
        seconds = _seconds(partial(self.search, data.queries[0]))
        plan = self.storage.episodes.similar_to(data.queries[0], model=MODEL).plan
        detail = f"{milliseconds(seconds)} by {plan}, built in {self.building:.1f} s"
        self.storage.close()
        return line_of("cold open: a rebuild by the first search", self.building / seconds, detail, at_least=50)


class Chroma:
    """The same vectors in chromadb."""

    def __init__(self, path: Path, data: Data) -> None:
        import chromadb

        client = chromadb.PersistentClient(str(path), settings=chromadb.Settings(anonymized_telemetry=False))
        self._vectors = client.create_collection(
            "benchmark", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
        self.loading = _seconds(partial(self._load, data.base))
        self.bytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())

    def _load(self, base: Array) -> None:
        for first in range(0, len(base), _BATCH):
            numbers = range(first, min(first + _BATCH, len(base)))
            self._vectors.add(
                ids=[str(number) for number in numbers],
                embeddings=base[first : first + _BATCH],
                metadatas=[_facts(number) for number in numbers],
            )

    def search(self, query: Array, name: str = "all") -> Any:
        """Search with the metadata of each hit."""
        return self._found(query, name, ["metadatas", "distances"])

    def search_ids(self, query: Array, name: str = "all") -> Any:
        """Search with the ids only."""
        return self._found(query, name, [])

    def _found(self, query: Array, name: str, include: Any) -> Any:
        where: Any = _FILTERS[name][0] if name in _FILTERS else None
        return self._vectors.query(query_embeddings=[query], n_results=K, where=where, include=include)

    def numbers_of(self, found: Any) -> set[int]:
        """Return the row numbers of the result."""
        return {int(one) for one in found["ids"][0]}


def _searches(memory: Ours, data: Data) -> list[Line]:
    base = data.base
    ways: dict[str, Callable[[Array], Any]] = {
        "candidates": memory.candidates,
        "similar_to": memory.search,
        "numpy": lambda query: np.argpartition(base @ query, -K)[-K:],
    }
    rounds: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, search in ways.items():
            _warm(search, data)
            rounds[name].append([_seconds(partial(search, query)) for query in data.queries])
    times: Times = {name: [median(one) for one in zip(*taken, strict=True)] for name, taken in rounds.items()}
    return [
        line_of(
            f"{name}, {at}: by numpy's", _by(times, name, q), _detail(times, name, q), **({} if q < 0.9 else bounds)
        )
        for name, bounds in (("candidates", {"at_most": 0.1}), ("similar_to", {"at_most": 0.25}))
        for at, q in (("p50", 0.5), ("p95", 0.95))
    ]


def _warm(search: Callable[[Array], Any], data: Data) -> None:
    for query in data.queries[-_WARM:]:
        search(query)


def _by(times: Times, name: str, q: float) -> float:
    return float(np.quantile(times[name], q) / np.quantile(times["numpy"], q))


def _detail(times: Times, name: str, q: float) -> str:
    return ", ".join(f"{one} {milliseconds(float(np.quantile(times[one], q)))}" for one in (name, "numpy"))


def _beside(memory: Ours, chroma: Chroma) -> list[Line]:
    ours = memory.putting + memory.building
    return [
        line_of(
            "load, faster than chromadb", chroma.loading / ours, f"{ours:.1f} s, {chroma.loading:.1f} s", at_least=1
        ),
        line_of(
            "disk space in addition to the rows, by chromadb's",
            memory.bytes / chroma.bytes,
            f"{memory.bytes / 1e6:.0f} MB",
            at_most=1,
        ),
    ]


def _filtered(ways: dict[str, Way], data: Data, name: str) -> list[Line]:
    """Return the recall of a filter, and the speedup over chromadb."""
    _, every, rest = _FILTERS.get(name, ({}, 1, 0))
    nearest = data.nearest(K, np.arange(rest, len(data.base), every))
    found = {way: Found() for way in ways}
    for first in range(0, len(data.queries), _TURN):
        for way, (search, numbers_of) in ways.items():
            _warm(partial(search, name=name), data)
            for query, wanted in zip(data.queries[first : first + _TURN], nearest[first : first + _TURN], strict=True):
                start = time.perf_counter()
                hits = search(query, name=name)
                found[way].seconds.append(time.perf_counter() - start)
                found[way].recalls.append(len(numbers_of(hits) & wanted) / K)
    lines = [line_of(f"{name}: recall@10", found["hnsw"].recall, found["hnsw"].summary(), at_least=0.98)]
    if "chromadb" in found:
        other, ids, own = found["chromadb"], found["ids alone"], median(found["hnsw"].seconds)
        lines.append(line_of(f"{name}: faster than chromadb", median(other.seconds) / own, other.summary(), at_least=1))
        lines.append(line_of(f"{name}: than its ids alone", median(ids.seconds) / own, ids.summary()))
        lines.append(line_of(f"{name}: recall above chromadb's", found["hnsw"].recall - other.recall, at_least=0))
    return lines


def _episode(number: int) -> ms.Episode:
    facts = _facts(number)
    task_type: Any = facts["task_type"]
    return ms.Episode(
        task_description=f"episode {number}", task_type=task_type, context=ms.TaskContext(domain=facts["domain"])
    )


def _facts(number: int) -> dict[str, str]:
    return {
        "task_type": "debugging" if number % 10 == 3 else "other",
        "domain": "rare" if number % 100 == 7 else "web",
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
