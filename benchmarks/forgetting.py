"""Retention beside four writers: how much longer they wait, whether the dry run was right, and a kill in the middle.

Four processes save episodes all the time. Retention is killed with SIGKILL when a part is done, and run again; that
run does nothing for one second of every two, so that the writers' waits with it and without it are of the same minutes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import memory_storage as ms

from . import _workload
from ._report import Line, Report, milliseconds

WRITERS = 4
_MORE = 0.1  # seconds that the longest wait may be longer
_STEPS = 2
_EVERY = 0.01  # seconds between two saves of a writer
_SOURCE_OF = 40  # episodes for each pattern
_PROCESSES = multiprocessing.get_context("spawn")
_NOTES = (
    "longest wait: the longest of all saves with retention, less the longest of all without it, in 100 ms: 1.0 is the "
    "bound. The seconds with it and without it alternate.",
    "p50, p99: of the saves with retention, by those without.",
    "dry run: of the episodes that it listed, how many went, after a kill in the middle and another run; others: of "
    "all others, and of those that the writers saved, how many are there; sources: of the evidence of patterns.",
)


def run(*, short: bool) -> Report:
    """Measure it, among 100,000 episodes; in short among 3,000."""
    count = 3_000 if short else 100_000
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        with ms.MemoryStorage.open(path) as storage:
            sources = _fill(storage, count)
            found = _measure(storage, path, sources, slices=0.25 if short else 1.0)
    return Report("Retention", found.lines(), [*_NOTES, found.note(count)])


@dataclass
class Found:
    """What happened."""

    planned: set[UUID]
    gone: set[UUID]
    lost: int
    others: int
    sources: float
    seconds: float
    after_kill: float
    waits: dict[bool, list[float]] = field(default_factory=dict)

    def lines(self) -> list[Line]:
        """As ratios."""
        with_it, without = sorted(self.waits[True]), sorted(self.waits[False])
        more = (with_it[-1] - without[-1]) / _MORE
        longest = f"with {milliseconds(with_it[-1])}, without {milliseconds(without[-1])}"
        right = len(self.gone & self.planned) / len(self.planned)
        kept = 1 - self.lost / self.others
        return [
            Line("longest wait of a writer, more than without", more, more, more, longest, at_most=1),
            _quantile("  p50", with_it, without, 0.5),
            _quantile("  p99", with_it, without, 0.99),
            Line(
                "dry run: listed and gone", right, right, right, f"{len(self.planned):,} listed", at_least=1, at_most=1
            ),
            Line("  others still there", kept, kept, kept, f"of {self.others:,}", at_least=1, at_most=1),
            Line("sources of patterns kept", self.sources, self.sources, self.sources, at_least=1, at_most=1),
        ]

    def note(self, count: int) -> str:
        """What one has to know."""
        return (
            f"{count:,} episodes of {_STEPS} steps, {len(self.waits[True]):,} saves with retention and "
            f"{len(self.waits[False]):,} without; it was killed when {1 - self.after_kill:.0%} were done, and the "
            f"second run was at work for {self.seconds:.0f} s."
        )


def _fill(storage: ms.MemoryStorage, count: int) -> set[UUID]:
    """Store the episodes, and patterns; what those were learned from."""
    sources: list[UUID] = []
    for first in range(0, count, 250):
        episodes = [_workload.episode(number, _STEPS) for number in range(first, first + 250)]
        storage.episodes.save_many([_with_own_steps(one, number) for number, one in enumerate(episodes, first)])
        sources += [one.id for one in episodes[::_SOURCE_OF]]
    storage.patterns.save_many(
        [ms.Heuristic(condition="c", action="a", evidence=sources[n : n + 20]) for n in range(0, len(sources), 20)]
    )
    return set(sources)


def _with_own_steps(episode: ms.Episode, number: int) -> ms.Episode:
    steps = [_workload.step(number * _STEPS + index) for index in range(_STEPS)]
    return episode.model_copy(update={"steps": steps})


def _policy(count: int) -> tuple[ms.RetentionPolicy, Any]:
    """Half of them are too old; of the others those that failed go."""
    policy = ms.RetentionPolicy(max_age=timedelta(minutes=count / 2), min_reward=0.5, keep_tagged=["trial-3"])
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
        waits=switch.sorted(took for writer in saves for took in writer),
    )


def _ids(storage: ms.MemoryStorage) -> set[UUID]:
    return {one.id for one in storage.episodes.iterate(steps=False, archived=None)}


class _Switch:
    """In place of `sleep`: lets retention work for a while, and then nothing, and so on. Knows when it was what."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._on = [time.monotonic()]  # when it began, ended, began, ...
        self.worked = 0.0

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        now = time.monotonic()
        if now - self._on[-1] > self._seconds:
            self.worked += now - self._on[-1]
            time.sleep(self._seconds)
            self._on += [now, time.monotonic()]

    def sorted(self, saves: Iterator[tuple[UUID, float, float]]) -> dict[bool, list[float]]:
        """The seconds of the saves, with it and without; those of the time before and after are left out."""
        edges = [*self._on, time.monotonic()]
        waits: dict[bool, list[float]] = {True: [], False: []}
        for _, began, took in saves:
            slice_ = sum(edge <= began for edge in edges)
            if 0 < slice_ < len(edges):
                waits[slice_ % 2 == 1].append(took)
        return waits


@contextmanager
def _writing(path: Path) -> Iterator[Callable[[], list[list[tuple[UUID, float, float]]]]]:
    """Four writers at work; gives what ends them, and what they did: id, moment and seconds of each save."""
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
                task_description=f"meanwhile {number} {index}", steps=_workload.episode(index, 2).steps
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
    child.close()  # so that its end is noticed
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
    """Of both, and their ratio; they are sorted."""
    both = [one[int(part * (len(one) - 1))] for one in (with_it, without)]
    ratio = both[0] / both[1]
    return Line(name, ratio, ratio, ratio, f"with {milliseconds(both[0])}, without {milliseconds(both[1])}")
