"""Searches by vector and by words: recall, speed, and the cost of an index, on real embeddings.

Every preset of the index is compared with exact search, by this package and by hand-written SQL with the native driver,
on the same file; filtered searches with the faster of index and exact search; hybrid search with each of its halves.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.schema.vector_tables import VectorSpace

from . import _hnsw, _workload
from ._measure import Times
from ._report import Grid, Line, Report, line_of, milliseconds
from ._vectors import Array, Data, load

K = 10
MODEL = "benchmark"
_BATCH = 1_000
_TURN = 20
_PROMISED: dict[str, tuple[float, float | None]] = {  # recall@10, and KB a vector
    "compact": (0.93, 9),
    "balanced": (0.97, 16),
    "accurate": (0.99, None),
}
_FASTER = 10
_SLOWEST = 2
_HYBRID = 200  # queries
_GOOD, _POOR = 2.0, 6.0  # lengths of the noise that is added to a vector of length 1
_NOTES = (
    "recall@10: the share of the ten nearest by numpy among the ten found; the mean of all queries.",
    "faster, p50 / p95: the time of an exact search by that of one with the index; 10.0 is ten times as fast.",
    "ours: returns complete, validated episodes; bare: the native driver, hand-written SQL, only row numbers.",
    "inserts: the time to store all vectors, by the time to store and index them. KB: of the file, for each vector.",
    "hybrid: 200 queries for a known text; of one half the words are half of its own, shuffled, and the vector is very "
    "noisy (cosine 0.16); of the other the vector is noisy (0.45) and the words are one of its own.",
    "filters: 'slower' is the time of a search by that of the faster of mode='exact' and mode='index', which also "
    "compares exactly if the index does not have enough.",
)


def run(
    *, short: bool, data: Path | None = None, vectors: int | None = None, preset: ms.models.IndexPreset | None = None
) -> Report:
    """Measure all presets.

    Args:
        short: measure one preset with fewer vectors.
        data: the file of the vectors; see `load`.
        vectors: measure the in-process index with this number of vectors; with a `preset`, the index in the file.
        preset: measure only this preset.
    """
    found = load(data).grown(vectors) if vectors else load(data)
    if vectors and not preset:
        return _hnsw.run(found)
    if preset:
        return _presets(found, [preset], short=short, is_grown=bool(vectors))
    if short:
        return _presets(found.first(4_000), ["balanced"], short=True)
    return _presets(found, get_args(ms.models.IndexPreset))


def _presets(
    vectors: Data, presets: Sequence[ms.models.IndexPreset], *, short: bool = False, is_grown: bool = False
) -> Report:
    rounds, lines, rows = 1 if short or is_grown else 3, [], []
    gc.freeze()  # the vectors and texts are this benchmark's own: to collect among them is not a cost of a search
    with tempfile.TemporaryDirectory() as directory:
        for preset in presets:
            with _stored(Path(directory, f"{preset}.db"), vectors, preset) as stored:
                row, more = _measured(stored, short=short)
                rows.append(row)
                lines += more
                if preset == "balanced":
                    lines += _filters(stored, rounds)
                    lines += [] if is_grown or not vectors.texts else _hybrid(stored)
        if not is_grown:
            with _stored(Path(directory, "five.db"), vectors, "balanced", each=5) as stored:
                lines += _filters(stored, rounds)
    columns = ("preset", "recall@10", "faster", "ours to bare exact", "bare", "inserts", "KB a vector")
    return Report("Retrieval", lines, [vectors.source, *_NOTES], [Grid("The presets", columns, rows)])


@dataclass(frozen=True)
class Stored:
    """A file with vectors, and the time to store and index them."""

    storage: ms.MemoryStorage
    path: Path
    data: Data
    preset: str
    each: int  # vectors of an episode
    numbers: dict[Any, int]  # of the episodes, by their ids
    storing: float
    indexing: float
    bytes: int

    @property
    def owners(self) -> Array:
        """Return the number of the episode of each vector."""
        return np.arange(len(self.data.base)) // self.each


@contextmanager
def _stored(path: Path, data: Data, preset: ms.models.IndexPreset, each: int = 1) -> Iterator[Stored]:
    with ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="diskann")) as storage:
        numbers: dict[Any, int] = {}
        owners: list[tuple[Any, Any]] = []
        for first in range(0, len(data.base) // each, _BATCH):
            batch = [
                _episode(data, number, each) for number in range(first, min(first + _BATCH, len(data.base) // each))
            ]
            storage.episodes.save_many(batch)
            numbers |= {episode.id: first + at for at, episode in enumerate(batch)}
            for episode in batch:
                owners += [("episode", episode.id), *(("step", step.id) for step in episode.steps)]
        before, start = _size(path), time.perf_counter()
        items: Any = [(*owner, vector) for owner, vector in zip(owners, data.base, strict=False)]
        storage.embeddings.put_many(items, model=MODEL, preset=preset, index=False)
        stored = time.perf_counter()
        storage.embeddings.index.catch_up(MODEL)
        indexed = time.perf_counter()
        size = _size(path) - before
        yield Stored(storage, path, data, preset, each, numbers, stored - start, indexed - stored, size)


def _episode(data: Data, number: int, each: int) -> ms.Episode:
    texts = data.texts[number * each : (number + 1) * each] or [f"episode {number}"]
    return ms.Episode(
        task_description=texts[0],
        task_type="debugging" if number % 10 == 3 else "other",
        context=ms.TaskContext(domain="rare" if number % 100 == 7 else "web"),
        tags=[name for name, every in (("thousandth", 1000), ("half", 2)) if number % every == 0],
        metadata={"one": True} if number == 1234 % max(1, len(data.base) // each) else {},
        started_at=_workload.BEGINNING + timedelta(minutes=number),
        steps=[ms.Step(tool="t", action=text, started_at=_workload.BEGINNING) for text in (texts * each)[1:each]],
    )


def _measured(stored: Stored, *, short: bool) -> tuple[tuple[str, ...], list[Line]]:
    """Return the row of a preset, and its bounds."""
    name, data = stored.preset, stored.data
    recall, times = _against_exact(stored)
    ours, bare = _faster(times["exact"], times["ours"]), _faster(times["bare exact"], times["bare index"])
    mixed = _faster(times["bare exact"], times["ours"])
    seconds, kilobytes = stored.storing + stored.indexing, stored.bytes / len(data.base) / 1000
    promised, most = _PROMISED[name]
    required = _FASTER if name == "balanced" and not short else 1
    lines = [
        line_of(f"{name}: recall@10", recall, at_least=promised),
        line_of(f"{name}: search, faster than exact", ours[0], _detail(times, "ours", "exact"), at_least=required),
        line_of(
            f"{name}: bare SQL, faster than exact",
            bare[0],
            _detail(times, "bare index", "bare exact"),
            at_least=required,
        ),
        line_of(f"{name}: KB a vector", kilobytes, at_most=most),
    ]
    inserts = f"{stored.storing / seconds:.3f} ({len(data.base) / seconds:.0f}/s)"
    ratios = (f"{p50:.1f} / {p95:.1f}" for p50, p95 in (ours, mixed, bare))
    return (name, f"{recall:.3f}", *ratios, inserts, f"{kilobytes:.1f}"), lines


def _against_exact(stored: Stored) -> tuple[float, Times]:
    """Return recall and the seconds of each search, alternating ours and bare SQL by the driver."""
    known = iter(stored.data.nearest(K))
    table = VectorSpace(MODEL).table
    index = f"SELECT id FROM vector_top_k('{table}_ann', ?, {K})"
    scan = f"SELECT seq FROM {table} ORDER BY vector_distance_cos(vector, ?) LIMIT {K}"
    times: Times = {"ours": [], "exact": [], "bare index": [], "bare exact": []}
    recalls = []
    with closing(dbapi.connect(str(stored.path))) as bare:
        bare.autocommit = True
        ways: dict[str, Callable[[Array], Any]] = {
            "ours": partial(_search, stored),
            "exact": partial(_search, stored, mode="exact"),
            "bare index": lambda query: bare.execute(index, (query.tobytes(),)).fetchall(),
            "bare exact": lambda query: bare.execute(scan, (query.tobytes(),)).fetchall(),
        }
        for first in range(0, len(stored.data.queries), _TURN):
            queries = stored.data.queries[first : first + _TURN]
            for way, search in ways.items():
                found = [_timed(partial(search, query)) for query in queries]
                times[way] += [seconds for seconds, _ in found]
                if way == "ours":
                    recalls += [len(next(known) & _numbers(stored, hits)) / K for _, hits in found]
    return float(np.mean(recalls)), times


def _numbers(stored: Stored, hits: ms.Hits[ms.Episode]) -> set[int]:
    return {stored.numbers[hit.item.id] for hit in hits}


def _faster(over: list[float], under: list[float]) -> tuple[float, float]:
    """Return the ratios of the medians and of the 95th percentiles."""
    p50, p95 = (float(np.quantile(over, q) / np.quantile(under, q)) for q in (0.5, 0.95))
    return p50, p95


def _detail(times: Times, *ways: str) -> str:
    return ", ".join(f"{way} {milliseconds(median(times[way]))}" for way in ways)


def _filters(stored: Stored, rounds: int) -> list[Line]:
    count = len(stored.numbers)
    numbers = np.arange(count)
    noon = timedelta(minutes=count // 2)
    kept: dict[str, tuple[dict[str, Any], Array]] = {
        "100 %": ({"since": _workload.BEGINNING}, numbers >= 0),
        "50 %, by time": ({"since": _workload.BEGINNING + noon}, numbers >= count // 2),
        "50 %, by tag": ({"tags_any": ["half"]}, numbers % 2 == 0),
        "10 %": ({"task_type": "debugging"}, numbers % 10 == 3),
        "1 %": ({"domain": "rare"}, numbers % 100 == 7),
        "0.1 %": ({"tags_any": ["thousandth"]}, numbers % 1000 == 0),
        "10 % of 50 %": (
            {"task_type": "debugging", "since": _workload.BEGINNING + noon},
            (numbers % 10 == 3) & (numbers >= count // 2),
        ),
        "one row": ({"metadata": {"one": True}}, numbers == 1234 % count),
    }
    found = [_filtered(stored, name, *values, rounds=rounds) for name, values in kept.items()]
    worst = min(found, key=lambda one: one[0])
    promise = line_of(f"{_owned(stored)}, filtered: recall@10, the lowest", worst[0], at_least=_PROMISED["balanced"][0])
    return [*(line for _, line in found), promise]


def _filtered(stored: Stored, name: str, filters: dict[str, Any], keep: Array, rounds: int) -> tuple[float, Line]:
    """Return the recall of a filter, and the slowdown relative to the faster of exact and index search."""
    nearest = _nearest_episodes(stored, np.flatnonzero(keep[stored.owners]))
    ways = {"ours": filters, "exact": {"mode": "exact", **filters}, "index": {"mode": "index", **filters}}
    times: Times = {way: [] for way in ways}
    recalls, plans = [], set()
    for query, wanted in zip(stored.data.queries[: 20 * rounds], nearest, strict=False):
        found = {}
        for way, options in ways.items():
            seconds, found[way] = _timed(partial(_search, stored, query, **options))
            times[way].append(seconds)
        hits = _numbers(stored, found["ours"])
        assert len(hits) == len(found["ours"]) == min(K, int(keep.sum())), f"{name}: {len(hits)} results"
        recalls.append(len(hits & wanted) / len(hits))
        plans.add(found["ours"].plan)
    recall = float(np.mean(recalls))
    detail = f"recall {recall:.3f}, by {' or '.join(sorted(plans))}; {_detail(times, *times)}"
    slower = median(times["ours"]) / min(median(times["exact"]), median(times["index"]))
    return recall, line_of(f"{_owned(stored)}, keeps {name}: slower", slower, detail, at_most=_SLOWEST)


def _owned(stored: Stored) -> str:
    return f"{stored.each} vector{'s' * (stored.each > 1)} an episode"


def _search(stored: Stored, query: Array, **options: Any) -> ms.Hits[ms.Episode]:
    return stored.storage.episodes.similar_to(query, model=MODEL, k=K, **options)


def _nearest_episodes(stored: Stored, vectors: Array) -> list[set[int]]:
    """Return the ten nearest episodes to each query, by the nearest of their vectors."""
    similar = stored.data.queries @ stored.data.base[vectors].T
    owners = stored.owners[vectors]
    names, places = np.unique(owners, return_inverse=True)
    found = []
    for one in similar:
        best = np.full(len(names), -2.0)
        np.maximum.at(best, places, one)
        floor = np.sort(best)[-min(K, len(best))] - 1e-6
        found.append(set(names[best >= floor].tolist()))
    return found


def _hybrid(stored: Stored) -> list[Line]:
    """Return queries with known results: half have good words and a poor vector, half vice versa."""
    chance, noise = random.Random(1), np.random.default_rng(1)
    found = {"text alone": 0, "vector alone": 0, "hybrid": 0}
    targets = chance.sample(range(len(stored.numbers)), _HYBRID)
    for number, target in enumerate(targets):
        text, vector = _paraphrase(stored.data, target, by_words=number % 2 == 0, chance=chance, noise=noise)
        episodes = stored.storage.episodes
        ways: dict[str, ms.Hits[Any]] = {
            "text alone": episodes.search(text, k=K),
            "vector alone": episodes.similar_to(vector, model=MODEL, k=K),
            "hybrid": episodes.search(text, vector=vector, model=MODEL, k=K),
        }
        for way, hits in ways.items():
            found[way] += target in _numbers(stored, hits)
    recall = {way: count / len(targets) for way, count in found.items()}
    best = max(recall["text alone"], recall["vector alone"])
    detail = ", ".join(f"{way} {figure:.3f}" for way, figure in recall.items())
    return [
        line_of("hybrid: recall@10, by that of the better one alone", recall["hybrid"] / best, detail, at_least=1.01)
    ]


def _paraphrase(
    data: Data, target: int, *, by_words: bool, chance: random.Random, noise: np.random.Generator
) -> tuple[str, Array]:
    words = data.texts[target].split()
    kept = max(2, len(words) // 2) if by_words else 1
    direction = noise.normal(size=data.base.shape[1]).astype(np.float32)
    direction *= (_POOR if by_words else _GOOD) / np.linalg.norm(direction)
    return " ".join(chance.sample(words, min(kept, len(words)))), data.base[target] + direction


def _size(path: Path) -> int:
    with closing(dbapi.connect(str(path), configure=False)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        names = ("page_count", "freelist_count", "page_size")
        values: Any = [connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in names]
        pages, free, size = values
        return int((pages - free) * size)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
