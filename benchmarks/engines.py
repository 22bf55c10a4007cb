"""The local engines: each call on a file of SQLite's engine, and on an equal file of libSQL's, in turns."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter

import memory_storage as ms

from . import _workload
from ._measure import Times, Work, in_turn, interleaved, ratios
from ._report import Line, Report, milliseconds
from ._vectors import Data, load

_ENGINES = ("sqlite", "libsql")
_STORED = 500
_BATCH = 100
_MODEL = "m"
_VECTORS = "vectors"  # a namespace of episodes with a vector, and without steps
_THREADS = 10
_SECONDS = 1.0  # of each round of the threads
_NOTES = (
    "ratio: libSQL's time / SQLite's time of the same round, the median of the rounds; 1.2 is 1.2 times as fast.",
    "threads: calls per second of ten threads by those of one thread, on the same file, and the same for libSQL.",
)

Call = Callable[[ms.MemoryStorage, int], object]


@dataclass(frozen=True)
class Case:
    """A call, its number of rounds, how often it is made in a round, and the required ratio."""

    name: str
    call: Call
    rounds: int
    short_rounds: int
    calls: int = 1
    required: float = 0.85  # 0.98 to 1.4 on an idle machine


def _save(storage: ms.MemoryStorage, number: int) -> object:
    return storage.episodes.save(_workload.episode(_STORED + number))


def _append(storage: ms.MemoryStorage, number: int) -> object:
    owner = _workload.episode(number % _STORED).id
    return storage.episodes.append_step(owner, _workload.step(1_000_000 + number))


def _save_many(storage: ms.MemoryStorage, number: int) -> object:
    return storage.episodes.save_many(_workload.episodes(100_000 + number * _BATCH, _BATCH))


def _get(storage: ms.MemoryStorage, number: int) -> object:
    return storage.episodes.get(_workload.episode_id(number % _STORED))


def _similar(storage: ms.MemoryStorage, number: int) -> object:
    return storage.episodes.similar_to(_vectors().queries[number % 50].tolist(), model=_MODEL, k=10, mode="exact")


def _search(storage: ms.MemoryStorage, number: int) -> object:
    return storage.episodes.search(_workload.episode(number).task_description[:40], k=10)


CASES = (
    Case("save an episode of 20 steps", _save, 60, 15, calls=3, required=1.1),
    Case("append a step", _append, 200, 60),
    Case("save_many, 100 episodes of 20 steps", _save_many, 12, 7),
    Case("get an episode of 20 steps", _get, 100, 25, calls=20, required=1.2),
    Case("query a page of 50 episodes", lambda storage, _: storage.episodes.query(limit=50), 60, 15, calls=2),
    Case("iterate over the episodes", lambda storage, _: list(storage.episodes.iterate()), 15, 7),
    Case("similar_to, exact", _similar, 40, 10),
    Case("search for words", _search, 40, 10),
    Case("analytics by tool", lambda storage, _: storage.analytics.tools(), 30, 8),
)


def run(*, short: bool) -> Report:
    """Measure all cases, and threads that share a file."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        storages = {
            engine: stack.enter_context(_filled(Path(directory) / f"{engine}.db", engine, 2_000 if short else 5_000))
            for engine in _ENGINES
        }
        lines = [_measured(case, storages, case.short_rounds if short else case.rounds) for case in CASES]
        lines += _threads(storages, 2 if short else 9, is_checked=not short)
    return Report("SQLite's engine, against libSQL's", lines, [_workload.texts().source, *_NOTES])


@contextmanager
def _filled(path: Path, engine: str, vectors: int) -> Iterator[ms.MemoryStorage]:
    settings = ms.Settings(database=str(path), local_engine=engine, vector_index="exact")
    with ms.MemoryStorage.open(settings, now=lambda: _workload.BEGINNING) as storage:
        for first in range(0, _STORED, _BATCH):
            storage.episodes.save_many(_workload.episodes(first, _BATCH))
        others = storage.in_namespace(_VECTORS)
        for first in range(0, vectors, 1_000):
            owners = [_workload.episode(number, steps=0) for number in range(first, min(first + 1_000, vectors))]
            others.episodes.save_many(owners)
            rows = _vectors().base[first : first + len(owners)].tolist()
            others.embeddings.put_many(
                [("episode", owner.id, row) for owner, row in zip(owners, rows, strict=True)], model=_MODEL
            )
        yield storage


@cache
def _vectors() -> Data:
    return load()


def _measured(case: Case, storages: Mapping[str, ms.MemoryStorage], rounds: int) -> Line:
    def prepare(number: int) -> dict[str, Work]:
        numbers = range(number * case.calls, (number + 1) * case.calls)
        return {
            engine: partial(_each, case.call, _view(case, storage), numbers) for engine, storage in storages.items()
        }

    times: Times = interleaved(prepare, rounds)
    detail = ", ".join(f"{engine} {milliseconds(median(times[engine]) / case.calls)}" for engine in _ENGINES)
    return Line(case.name, *ratios(times["libsql"], times["sqlite"]), detail, at_least=case.required)


def _view(case: Case, storage: ms.MemoryStorage) -> ms.MemoryStorage:
    return storage.in_namespace(_VECTORS) if case.call is _similar else storage


def _each(call: Call, storage: ms.MemoryStorage, numbers: Sequence[int]) -> list[object]:
    return [call(storage, number) for number in numbers]


def _threads(storages: Mapping[str, ms.MemoryStorage], rounds: int, *, is_checked: bool) -> list[Line]:
    """Compare ten threads that read and write with one that does, on the same file, in turns."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds):
        for engine, threads in in_turn(list(itertools.product(_ENGINES, (1, _THREADS))), number):
            rates.setdefault((engine, threads), []).append(_rates(storages[engine], threads, _SECONDS))
    lines = []
    for kind, (what, required) in enumerate((("reads", 1.1), ("writes", 0.7))):
        found = {side: [rate[kind] for rate in each] for side, each in rates.items()}
        sqlite, libsql = (ratios(found[engine, _THREADS], found[engine, 1]) for engine in _ENGINES)
        detail = ", ".join(f"{engine} {median(found[engine, _THREADS]):,.0f} a second" for engine in _ENGINES)
        bound = required if is_checked else None
        lines.append(
            Line(f"{what} of ten threads to one", *sqlite, f"{detail}; libsql: {libsql[0]:.2f}", at_least=bound)
        )
    return lines


def _rates(storage: ms.MemoryStorage, threads: int, seconds: float) -> tuple[float, float]:
    """Return reads and writes per second of this number of threads, each of which writes after every ten reads."""
    begin, end = threading.Event(), threading.Event()
    counts: list[tuple[int, int]] = []
    done = itertools.count()

    def work() -> None:
        reads = writes = 0
        begin.wait()
        while not end.is_set():
            number = next(done)
            if number % 11:
                _READS[number % len(_READS)](storage, number)
                reads += 1
            else:
                storage.episodes.append_step(_workload.episode_id(number % _STORED), _workload.step(next(_steps)))
                writes += 1
        counts.append((reads, writes))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    begin.set()
    since = perf_counter()
    time.sleep(seconds)
    end.set()
    for worker in workers:
        worker.join()
    took = perf_counter() - since
    return sum(reads for reads, _ in counts) / took, sum(writes for _, writes in counts) / took


_steps = itertools.count(50_000_000)
_READS: tuple[Call, ...] = (
    _get,
    _search,
    lambda storage, number: _similar(storage.in_namespace(_VECTORS), number),
    lambda storage, _: storage.analytics.tools(),
)
