"""Retention concurrent with four writers: their added waits, the accuracy of the dry run, and a kill in the middle.

Four processes save episodes continuously. Retention is killed with SIGKILL when it is partly done, and run again; that
run pauses every other second, so that the writers' waits with and without it are measured in the same minutes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import memory_storage as ms

from . import _workload
from ._report import Line, Report, line_of, milliseconds

WRITERS = 4
_MORE = 0.1  # seconds; the bound of the added longest wait
_QUIET = 50_000  # episodes; the longest wait of a shorter run is not significant
_STEPS = 2
_EVERY = 0.01  # seconds between two saves of a writer
_SOURCE_OF = 40  # episodes for each pattern
_PROCESSES = multiprocessing.get_context("spawn")
_NOTES = (
    "longest wait: of the writers' saves in one second with retention, less that in the next second without it, in "
    "100 ms, so that 1.0 is the bound; the median of all pairs. Of all: the longest of all with it, minus without.",
    "p50, p99: of the saves with retention, relative to those without.",
    "dry run: the share of listed episodes that were removed after a kill in the middle and another run; others: the "
    "share of all others, and of those that the writers saved, that remain; sources: of the evidence of patterns.",
)


def run(*, short: bool) -> Report:
    """Measure with 100,000 episodes; with 3,000 if short."""
    count = 3_000 if short else 100_000
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        with ms.MemoryStorage.open(path) as storage:
            sources = _fill(storage, count)
            found = _measure(storage, path, sources, slices=0.25 if short else 1.0)
    return Report("Retention", found.lines(), [*_NOTES, found.note(count)])


@dataclass
class Found:
    """The measurements of a run."""

    planned: set[UUID]
    gone: set[UUID]
    lost: int
    others: int
    sources: float
    seconds: float
    after_kill: float
    slices: list[list[float]]

    @property
    def waits(self) -> dict[bool, list[float]]:
        """Return the seconds of the saves, with and without retention."""
        return {
            working: [took for slice_ in self.slices[0 if working else 1 :: 2] for took in slice_]
            for working in (True, False)
        }

    @property
    def longest(self) -> list[tuple[float, float]]:
        """Return the longest waits with and without retention, for each pair of consecutive slices."""
        pairs = zip(self.slices[::2], self.slices[1::2], strict=False)
        return [(max(one), max(other)) for one, other in pairs if one and other]

    def lines(self) -> list[Line]:
        """Return the measurements as ratios."""
        with_it, without = sorted(self.waits[True]), sorted(self.waits[False])
        pairs = [(one - other) / _MORE for one, other in self.longest]
        more = (with_it[-1] - without[-1]) / _MORE
        each = [milliseconds(median(times)) for times in zip(*self.longest, strict=True)]
        right = len(self.gone & self.planned) / len(self.planned)
        kept = 1 - self.lost / self.others
        return [
            Line(
                "longest wait of a second, more than without",
                median(pairs),
                min(pairs),
                max(pairs),
                f"with {each[0]}, without {each[1]}",
                at_most=1,
            ),
            _quantile("  waits, p50", with_it, without, 0.5),
            _quantile("  waits, p99", with_it, without, 0.99),
            Line(
                "  longest wait of all, more than without",
                more,
                more,
                more,
                f"with {milliseconds(with_it[-1])}, without {milliseconds(without[-1])}",
                at_most=None if self.others < _QUIET else 1,
            ),
            Line(
                "dry run: listed and gone", right, right, right, f"{len(self.planned):,} listed", at_least=1, at_most=1
            ),
            line_of("  others still there", kept, f"of {self.others:,}", at_least=1, at_most=1),
            Line("sources of patterns kept", self.sources, self.sources, self.sources, at_least=1, at_most=1),
        ]

    def note(self, count: int) -> str:
        """Return the note with the size of the run."""
        return (
            f"{count:,} episodes of {_STEPS} steps, {len(self.waits[True]):,} saves with retention and "
            f"{len(self.waits[False]):,} without; it was killed when {1 - self.after_kill:.0%} were done, and the "
            f"second run was at work for {self.seconds:.0f} s."
        )


def _fill(storage: ms.MemoryStorage, count: int) -> set[UUID]:
    """Store the episodes and patterns; return the sources of the patterns."""
    sources: list[UUID] = []
    for first in range(0, count, 250):
        episodes = [_workload.episode(number, _STEPS) for number in range(first, first + 250)]
        storage.episodes.save_many([_scored(one, number) for number, one in enumerate(episodes, first)])
        sources += [one.id for one in episodes[::_SOURCE_OF]]
    storage.patterns.save_many(
        [ms.Heuristic(condition="c", action="a", evidence=sources[n : n + 20]) for n in range(0, len(sources), 20)]
    )
    return set(sources)


def _scored(episode: ms.Episode, number: int) -> ms.Episode:
    steps = [_workload.step(number * _STEPS + index) for index in range(_STEPS)]
    return episode.model_copy(update={"steps": steps, "reward": ms.RewardScore(total=number % 20 / 20)})


def _policy(count: int) -> tuple[ms.RetentionPolicy, Any]:
    """Return a policy by which a fifth of the episodes are too old, and a tenth have too little reward."""
    policy = ms.RetentionPolicy(max_age=timedelta(minutes=0.8 * count), min_reward=0.1, keep_tagged=["trial-3"])
    return policy, _workload.BEGINNING + timedelta(minutes=count)


def _measure(storage: ms.MemoryStorage, path: Path, sources: set[UUID], *, slices: float) -> Found:
    before = _ids(storage)
    policy, now = _policy(len(before))
    planned = storage.retention.plan(policy, now=now)
    with _writing(path) as collect:
        _killed(path, policy, now, at=len(planned) // 4)
        again = storage.retention.plan(policy, now=now)
        switch = _Switch(slices)
        storage.retention.apply(again, sleep=switch.sleep)
        saves = collect()
    after = _ids(storage)
    expected = {item.id for item in planned}
    others = (before - expected) | {one for writer in saves for one, _, _ in writer}
    return Found(
        planned=expected,
        gone=before - after,
        lost=len(others - after),
        others=len(others),
        sources=len(sources & after) / len(sources),
        seconds=switch.worked,
        after_kill=len(again) / len(planned),
        slices=switch.sliced(took for writer in saves for took in writer),
    )


def _ids(storage: ms.MemoryStorage) -> set[UUID]:
    return {one.id for one in storage.episodes.iterate(steps=False, archived=None)}


class _Switch:
    """A replacement of `sleep` that pauses retention every other slice, and records the slices."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._edges = [time.monotonic()]  # when it began, ended, began, ...
        self.worked = 0.0

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        now = time.monotonic()
        if now - self._edges[-1] > self._seconds:
            self.worked += now - self._edges[-1]
            time.sleep(self._seconds)
            self._edges += [now, time.monotonic()]

    def sliced(self, saves: Iterator[tuple[UUID, float, float]]) -> list[list[float]]:
        """Return the seconds of the saves by slice, alternately with and without retention."""
        found: list[list[float]] = [[] for _ in self._edges]
        for _, began, took in saves:
            number = bisect(self._edges, began)
            found[number - 1] += [took] if number else []
        return found[: len(found) // 2 * 2]


@contextmanager
def _writing(path: Path) -> Iterator[Callable[[], list[list[tuple[UUID, float, float]]]]]:
    """Run four writers; yields a function that ends them and returns the id, time and seconds of each save."""
    pipes = [_PROCESSES.Pipe() for _ in range(WRITERS)]
    children = [_PROCESSES.Process(target=_write, args=(child, path, n)) for n, (_, child) in enumerate(pipes)]
    for child in children:
        child.start()

    def collect() -> list[list[tuple[UUID, float, float]]]:
        for parent, _ in pipes:
            parent.send("stop")
        return [parent.recv() for parent, _ in pipes]

    try:
        for parent, _ in pipes:
            parent.recv()
        yield collect
    finally:
        for child in children:
            child.kill()
            child.join()


def _write(pipe: Connection, path: Path, number: int) -> None:
    saves: list[tuple[UUID, float, float]] = []
    with ms.MemoryStorage.open(path) as storage:
        pipe.send("ready")
        for index in itertools.count():
            if pipe.poll():
                break
            episode = ms.Episode(
                task_description=f"concurrent {number} {index}", steps=_workload.episode(index, 2).steps
            )
            steps = [step.model_copy(update={"id": ms.Step(tool="t").id}) for step in episode.steps]
            began = time.monotonic()
            storage.episodes.save(episode.model_copy(update={"steps": steps}))
            saves.append((episode.id, began, time.monotonic() - began))
            time.sleep(_EVERY)
    pipe.send(saves)


def _killed(path: Path, policy: ms.RetentionPolicy, now: Any, *, at: int) -> None:
    parent, child = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_retain, args=(child, path, policy, now))
    process.start()
    child.close()  # so that its end is detected
    while parent.recv() < at:
        pass
    process.kill()  # SIGKILL
    process.join()


def _retain(pipe: Connection, path: Path, policy: ms.RetentionPolicy, now: Any) -> None:
    with ms.MemoryStorage.open(path) as storage:
        storage.retention.apply(storage.retention.plan(policy, now=now), progress=lambda done, _: pipe.send(done))
        pipe.send(2**31)
        os.kill(os.getpid(), 9)


def _quantile(name: str, with_it: list[float], without: list[float], part: float) -> Line:
    """Return a quantile of both sorted lists, and their ratio."""
    both = [one[int(part * (len(one) - 1))] for one in (with_it, without)]
    ratio = both[0] / both[1]
    return line_of(name, ratio, f"with {milliseconds(both[0])}, without {milliseconds(both[1])}")
