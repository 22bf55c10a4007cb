"""Pauses: how long the slowest calls stop other threads, and how soon each of these calls ends on demand.

During each call a thread ticks every millisecond; its longest gap is the longest stop. Then the call is made again and
interrupted by another thread, by its request_timeout, and by Ctrl-C: what counts is the time from the demand to the
error. The gap and the three delays are compared with what a web app bears; they are milliseconds, not ratios, since a
stop of 20 ms is one on every machine.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

import memory_storage as ms

from . import _workload
from ._measure import timed
from ._report import Grid, Report, line_of, milliseconds

_EPISODES, _FEW = 200_000, 5_000
_SLOWEST = 20
_LONGEST_STOP, _LONGEST_DELAY = 0.020, 0.100
_SHORTEST = 0.050  # seconds of a call that is worth interrupting
_MODEL = "m"
_DIMENSION = 384
_NOTES = (
    "stop: the longest gap of a thread that ticks every millisecond during the call; a busy machine makes it longer.",
    "interrupt, timeout, Ctrl-C: from the demand to the error; - for a call that ends before it.",
)

Call = Callable[[ms.MemoryStorage], object]

_BOX = ms.Box(south=-60.0, west=-150.0, north=60.0, east=150.0)
_QUERY = np.random.default_rng(7).normal(size=_DIMENSION).astype(np.float32).tolist()

CALLS: dict[str, Call] = {
    "episodes.search": lambda storage: storage.episodes.search("booking price user", k=50),
    "episodes.search, filtered": lambda storage: storage.episodes.search("booking", k=50, outcome="failure"),
    "episodes.search, hybrid": lambda storage: storage.episodes.search(
        "booking price", vector=_QUERY, model=_MODEL, k=50, mode="exact"
    ),
    "episodes.similar_to, exact": lambda storage: storage.episodes.similar_to(_QUERY, model=_MODEL, k=50, mode="exact"),
    "episodes.similar_to, filtered": lambda storage: storage.episodes.similar_to(
        _QUERY, model=_MODEL, k=50, mode="exact", outcome="failure"
    ),
    "episodes.count, by tags": lambda storage: storage.episodes.count(tags_any=["airline", "trial-1"]),
    "episodes.query, by metadata": lambda storage: storage.episodes.query(metadata={"task_id": -1}),
    "episodes.iterate": lambda storage: [None for _ in storage.episodes.iterate(steps=False)],
    "analytics.summary": lambda storage: storage.analytics.summary(),
    "analytics.by": lambda storage: storage.analytics.by("domain"),
    "analytics.by, tool": lambda storage: storage.analytics.by("tool"),
    "analytics.by, tag": lambda storage: storage.analytics.by("tag"),
    "analytics.over_time": lambda storage: storage.analytics.over_time("day"),
    "analytics.by_stage": lambda storage: storage.analytics.by_stage(),
    "analytics.trend": lambda storage: storage.analytics.trend(),
    "analytics.tools": lambda storage: storage.analytics.tools(),
    "analytics.sequences": lambda storage: storage.analytics.sequences(),
    "analytics.sequences, 1 to 3": lambda storage: storage.analytics.sequences((1, 3)),
    "analytics.failures": lambda storage: storage.analytics.failures(),
    "analytics.span": lambda storage: storage.analytics.span(),
    "spatiotemporal.within": lambda storage: storage.spatiotemporal.within(_BOX, limit=1_000),
    "spatiotemporal.nearest": lambda storage: storage.spatiotemporal.nearest(
        ms.Point(latitude=1.0, longitude=2.0), 500
    ),
    "spatiotemporal.hierarchy": lambda storage: storage.spatiotemporal.hierarchy(),
    "spatiotemporal.diverse": lambda storage: storage.spatiotemporal.diverse(k=50),
    "patterns.learn": lambda storage: storage.patterns.learn(),
    "retention.plan": lambda storage: storage.retention.plan(ms.RetentionPolicy(max_age=timedelta(days=1))),
    "health_check, deep": lambda storage: storage.health_check(deep=True),
    "embeddings.iterate": lambda storage: [None for _ in storage.embeddings.iterate()],
    "episodes.save_many": lambda storage: storage.episodes.save_many(_workload.episodes(10_000_000, 200)),
}


@dataclass
class Pause:
    """What was measured of a call, in seconds; None for a demand that came too late."""

    name: str
    seconds: float
    stop: float
    interrupt: float | None = None
    timeout: float | None = None
    ctrl_c: float | None = None

    @property
    def delays(self) -> list[float]:
        """The delays that were measured."""
        return [one for one in (self.interrupt, self.timeout, self.ctrl_c) if one is not None]


def run(*, short: bool) -> Report:
    """Measure the slowest calls."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        count = _FEW if short else _EPISODES
        fill(path, count)
        gc.collect()
        gc.freeze()  # the workload and the modules are not the calls': to collect among them takes 60 ms, with the GIL
        pauses = measured(path, with_demands=not short)
    slowest = sorted(pauses, key=lambda pause: -pause.seconds)[:_SLOWEST]
    worst = max(slowest, key=lambda pause: pause.stop)
    late = max(slowest, key=lambda pause: max(pause.delays, default=0.0))
    delay = max(late.delays, default=0.0)
    lines = [
        line_of("longest stop, to 20 ms", worst.stop / _LONGEST_STOP, worst.name, at_most=None if short else 1.0),
        line_of("longest delay, to 100 ms", delay / _LONGEST_DELAY, late.name, at_most=None if short else 1.0),
    ]
    columns = ("call", "takes", "stop", "interrupt", "timeout", "Ctrl-C")
    grid = Grid(f"The {len(slowest)} slowest calls, at {count:,} episodes", columns, [_row(one) for one in slowest])
    return Report("Pauses", lines, list(_NOTES), [grid])


def fill(path: Path, count: int) -> None:
    """Create a file with `count` episodes of two steps, a tenth of them with a place and a vector."""
    random = np.random.default_rng(3)
    with ms.MemoryStorage.open(_settings(path)) as storage:
        for first in range(0, count, 1_000):
            numbers = range(first, min(first + 1_000, count))
            episodes = [_workload.episode(number, steps=2) for number in numbers]
            storage.episodes.save_many(episodes)
            some = episodes[::10]
            vectors = random.normal(size=(len(some), _DIMENSION)).astype(np.float32).tolist()
            storage.embeddings.put_many(
                [("episode", one.id, vector) for one, vector in zip(some, vectors, strict=True)], model=_MODEL
            )
            storage.spatiotemporal.put_many([_place(one, number) for number, one in enumerate(some, first)])


def measured(path: Path, *, with_demands: bool) -> list[Pause]:
    """Return the pauses of all calls, and how soon they end on demand."""
    pauses = []
    with ms.MemoryStorage.open(_settings(path)) as storage:
        for name, call in CALLS.items():
            call(storage)
            with _ticking() as gaps:
                seconds = timed(lambda call=call: call(storage))  # type: ignore[misc]
            pause = Pause(name, seconds, max(gaps))
            if seconds >= _SHORTEST and with_demands:
                pause.interrupt = _delay_of_interrupt(storage, call, seconds / 2)
                pause.ctrl_c = _delay_of_ctrl_c(storage, call, seconds / 2)
            pauses.append(pause)
    for pause in pauses:
        if pause.seconds >= _SHORTEST and with_demands:
            pause.timeout = _delay_of_timeout(path, CALLS[pause.name], pause.seconds / 2)
    return pauses


@contextmanager
def _ticking() -> Iterator[list[float]]:
    """Yield the gaps of a thread that ticks every millisecond, which are complete after the block."""
    gaps, done = [0.0], threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last - 0.001)
            last = now

    gc.collect()
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield gaps
    finally:
        done.set()
        thread.join()


def _delay_of_interrupt(storage: ms.MemoryStorage, call: Call, after: float) -> float | None:
    return _delay_of(lambda: storage.interrupt(), lambda: call(storage), after, ms.UnavailableError)


def _delay_of_ctrl_c(storage: ms.MemoryStorage, call: Call, after: float) -> float | None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _delay_of(lambda: os.kill(os.getpid(), signal.SIGINT), lambda: call(storage), after, KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)


def _delay_of(
    demand: Callable[[], object], call: Callable[[], object], after: float, error: type[BaseException]
) -> float | None:
    """Return the seconds from the demand, which another thread makes, to the error; None if the call had ended."""
    demanded: list[float] = []

    def wait_and_demand() -> None:
        time.sleep(after)
        demanded.append(time.perf_counter())
        demand()

    thread = threading.Thread(target=wait_and_demand)
    try:
        thread.start()
        call()
        thread.join()
    except error:
        delay = time.perf_counter() - demanded[0]
        thread.join()
        return delay
    return None


def _delay_of_timeout(path: Path, call: Call, after: float) -> float | None:
    with ms.MemoryStorage.open(_settings(path, request_timeout=after)) as storage:
        since = time.perf_counter()
        with suppress(ms.RequestTimeoutError):
            call(storage)
            return None
        return max(0.0, time.perf_counter() - since - after)


def _settings(path: Path, **more: float) -> ms.Settings:
    return ms.Settings(database=str(path), vector_index="exact", durability="normal", **more)


def _place(episode: ms.Episode, number: int) -> ms.SpatiotemporalEntry:
    return ms.SpatiotemporalEntry(
        owner_type="episode",
        owner_id=episode.id,
        latitude=number * 7 % 180 - 90.0,
        longitude=number * 13 % 360 - 180.0,
        place_name=f"place {number % 50}",
        starts_at=episode.started_at,
    )


def _row(pause: Pause) -> tuple[str, ...]:
    demands = (pause.interrupt, pause.timeout, pause.ctrl_c)
    delays = ["-" if one is None else milliseconds(one) for one in demands]
    return (pause.name, milliseconds(pause.seconds), milliseconds(pause.stop), *delays)
