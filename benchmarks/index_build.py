"""A build of the in-process index while threads search without a pause, against the same build undisturbed.

Vectors are stored, and four threads search in a row: their first search starts the build, and until it is done they
compare all vectors. What counts is the time until a search uses the index, by the time of a build that nothing
disturbs. Both are measured in each round, in turn.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import memory_storage as ms
from memory_storage.search.candidates import HNSW

from ._measure import Times, in_turn, ratios
from ._report import Line, Report, milliseconds
from ._vectors import Data, load

K = 10
MODEL = "benchmark"
_VECTORS, _FEW = 50_000, 10_000
_THREADS = 4
_ROUNDS = 3
_SLOWEST = 1.5
_BATCH = 2_000
_AFTERWARDS = 2.0  # seconds of searches that use the index
_TOO_LONG = 600.0  # seconds after which a build counts as starved
_NOTES = (
    f"until the index is used: by {_THREADS} threads that search without a pause; from the first search to the end of "
    "the first one that used the index, by the time of an undisturbed build.",
    "processor time: of this process until then, by what of it was not of searches; other load matters less.",
    "before: exact scans, which take turns. Afterwards: with the index.",
)


@dataclass
class Searches:
    """The searches of all threads: when each ended, how long it took, in seconds, and its plan."""

    ends: list[tuple[float, float, str]] = field(default_factory=list)
    has_used_index: threading.Event = field(default_factory=threading.Event)
    processor_start: float = field(default_factory=time.process_time)
    share: float = 0.0
    """Processor seconds of the process until the index was used, for each that was not of a search."""

    def __post_init__(self) -> None:
        self._scanning: list[float] = []  # processor seconds of the exact scans

    def run(self, search: Callable[[], ms.Hits[ms.Episode]]) -> None:
        """Run a search, and record it."""
        start, processor = time.perf_counter(), time.thread_time()
        plan = search().plan
        end = time.perf_counter()
        self.ends.append((end, end - start, plan))
        if plan != HNSW.plan:
            self._scanning.append(time.thread_time() - processor)
        elif not self.has_used_index.is_set():
            total = time.process_time() - self.processor_start
            self.share = total / (total - sum(self._scanning))
            self.has_used_index.set()

    def seconds(self, *, by_index: bool) -> list[float]:
        """Return the times of the searches that used the index, or of the others."""
        return [seconds for _, seconds, plan in self.ends if (plan == HNSW.plan) is by_index]

    def first_use(self) -> float:
        """Return when the first search that used the index had ended."""
        return min(end for end, _, plan in self.ends if plan == HNSW.plan)


def run(*, short: bool) -> Report:
    """Measure with 50,000 vectors; with 10,000 in one round if short, whose ratio the first searches dominate."""
    data = load().grown(_FEW if short else _VECTORS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "memory.db")
        _fill(path, data)
        times, shares, before, after = _measured(path, data, rounds=1 if short else _ROUNDS)
    detail = ", ".join(f"{side} {milliseconds(median(seconds))}" for side, seconds in times.items())
    p50 = median(before), median(after)
    slower = p50[0] / p50[1]
    lines = [
        Line(
            "until the index is used, by an undisturbed build",
            *ratios(times["searched"], times["undisturbed"]),
            detail,
            at_most=None if short else _SLOWEST,
        ),
        Line(
            "processor time, by that of the build alone",
            median(shares),
            min(shares),
            max(shares),
            at_most=None if short else _SLOWEST,
        ),
        Line(
            "p50 of a search before, by that afterwards", slower, slower, slower, " and ".join(map(milliseconds, p50))
        ),
    ]
    counts = f"{len(before):,} searches before and {len(after):,} afterwards"
    return Report(f"Build of an index of {len(data.base):,} vectors", lines, [data.source, *_NOTES, counts])


def _fill(path: Path, data: Data) -> None:
    with _opened(path) as storage:
        for first in range(0, len(data.base), _BATCH):
            vectors = data.base[first : first + _BATCH]
            episodes = storage.episodes.save_many([ms.Episode(task_description="episode") for _ in vectors])
            items: Any = [("episode", episode.id, vector) for episode, vector in zip(episodes, vectors, strict=True)]
            storage.embeddings.put_many(items, model=MODEL)


def _measured(path: Path, data: Data, *, rounds: int) -> tuple[Times, list[float], list[float], list[float]]:
    """Return the seconds of the builds, the shares of processor time, and the seconds of searches before and after."""
    times: Times = {"undisturbed": [], "searched": []}
    shares, before, after = [], [], []
    for number in range(rounds):
        for side in in_turn(list(times), number):
            for sidecar in path.parent.glob(f"{path.name}.*.usearch"):
                sidecar.unlink()
            with _opened(path) as storage:
                start = time.perf_counter()
                if side == "undisturbed":
                    storage.embeddings.index.catch_up(MODEL)
                    times[side].append(time.perf_counter() - start)
                else:
                    searches = _search_in_a_row(storage, data)
                    times[side].append(searches.first_use() - start)
                    shares.append(searches.share)
                    before += searches.seconds(by_index=False)
                    after += searches.seconds(by_index=True)
    return times, shares, before, after


def _search_in_a_row(storage: ms.MemoryStorage, data: Data) -> Searches:
    """Search by all threads until the index has been used for some time."""
    searches, stop = Searches(), threading.Event()

    def work(thread: int) -> None:
        for number in range(thread, 1 << 30, _THREADS):
            if stop.is_set():
                return
            searches.run(
                partial(storage.episodes.similar_to, data.queries[number % len(data.queries)], model=MODEL, k=K)
            )

    with ThreadPoolExecutor(_THREADS) as pool:
        threads = [pool.submit(work, thread) for thread in range(_THREADS)]
        is_used = searches.has_used_index.wait(_TOO_LONG)
        time.sleep(_AFTERWARDS)
        stop.set()
    for thread in threads:
        thread.result()
    assert is_used, f"no search used the index within {_TOO_LONG:.0f} s"
    return searches


def _opened(path: Path) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="hnsw"))
