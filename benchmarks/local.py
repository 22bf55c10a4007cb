"""The facade on a local file, against the raw driver: the same rows and the same bytes, in the same run.

Facade: `MemoryStorage` takes and returns complete, validated models, with pool, transactions and errors as in use.
Raw: one `apsw` connection with hand-written SQL takes and returns tuples of all columns of the same
rows, including documents, without checking or decoding them.

Both use a file with the schema of the package (all indexes and triggers), write-ahead logging, synchronous = FULL and
one transaction per call. A ratio is the raw time by the facade's, of the same round: 1.0 is as fast as raw.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import memory_storage as ms

from . import _workload
from ._measure import Times, Work, interleaved, ratios
from ._raw import Raw, Rows, decoded
from ._report import Line, Report, milliseconds

REQUIRED = 0.4  # apsw keeps prepared statements; measured from 0.49 on

_STORED = 500
_BATCH = 100
_PAGE = 100  # of `iterate`
_NOTES = (
    "ratio: raw time / facade time of the same round, the median of the rounds; 1.0 is as fast as raw.",
    "raw: apsw with hand-written SQL, tuples of all columns of the same rows in and out, unchecked "
    "and not decoded ('+ json.loads': every document decoded; 'many rows a statement': no executemany).",
    "facade: MemoryStorage, checked models in and out; steps are decoded at their first access, which "
    "only 'every step read' does. Both: our schema with its triggers, WAL, synchronous = FULL, "
    "one transaction per write, each on its own file.",
    "append a step: one in each turn, since an agent does other work between two; ten in a row find everything in the "
    "processor's caches, which favors the shorter code path, especially on a fast disk.",
)

Prepare = Callable[[int], Mapping[str, Work]]
"""The work of each side in a round."""


class Files:
    """A file with episodes in it, and copies of it."""

    def __init__(self, directory: Path, count: int = _STORED) -> None:
        self._directory = directory
        self._copies = 0
        self.count = count
        self.stored = directory / "stored.db"
        with facade(self.stored) as storage:
            for first in range(0, count, _BATCH):
                storage.episodes.save_many(_workload.episodes(first, min(_BATCH, count - first)))
        with closing(Raw(self.stored)) as raw:
            rows = len(raw.rows("episodes")), len(raw.rows("steps"))
        size = self.stored.stat().st_size / 1e6
        contents = f"{rows[0]:,} episodes with {rows[1]:,} steps in {size:.1f} MB"
        self.description = f"file: {contents}; {_workload.texts().source}"

    def copy(self) -> Path:
        """Return a copy of the file, for one side to write to."""
        self._copies += 1
        return Path(shutil.copy(self.stored, self._directory / f"copy-{self._copies}.db"))


@dataclass(frozen=True)
class Both:
    """The two sides, each with its file, and a trial run of the facade that provides the rows of the raw side."""

    raw: Raw
    storage: ms.MemoryStorage
    rehearsal: ms.MemoryStorage
    rehearsed: Raw


@dataclass(frozen=True)
class Case:
    """One comparison, and its number of rounds."""

    name: str
    rounds: int
    short_rounds: int
    sides: Callable[[Files], AbstractContextManager[Prepare]]
    required: float | None = REQUIRED


def run(*, short: bool) -> Report:
    """Measure all cases."""
    with tempfile.TemporaryDirectory() as directory:
        files = Files(Path(directory))
        lines = [
            line for case in CASES for line in measured(case, files, rounds=case.short_rounds if short else case.rounds)
        ]
    return Report("The facade against the raw driver, on a local file", lines, [files.description, *_NOTES])


def measured(case: Case, files: Files, *, rounds: int) -> list[Line]:
    """Measure one case: its required ratio, and the ratio between its variants."""
    with case.sides(files) as prepare:
        times = interleaved(prepare, rounds)
    required = _line(case.name, times, "raw", "facade", at_least=case.required)
    variants = [side for side in times if side not in {"raw", "facade"}]
    if not variants:
        return [required]
    other, ours = (*variants, "facade")[:2]
    return [required, _line(f"  {other}, to {ours}", times, other, ours)]


def facade(path: Path) -> ms.MemoryStorage:
    """Open the storage with a clock that stands still, so that its rows are the same in every file."""
    return ms.MemoryStorage.open(path, now=lambda: _workload.BEGINNING)


@contextmanager
def writing(files: Files) -> Iterator[Both]:
    """Yield both sides on equal files; check that the files are equal again at the end."""
    ours, theirs, third = files.copy(), files.copy(), files.copy()
    with facade(ours) as storage, facade(third) as rehearsal, closing(Raw(theirs)) as raw:
        with closing(Raw(third)) as rehearsed:
            yield Both(raw, storage, rehearsal, rehearsed)
        with closing(Raw(ours)) as stored:
            for table in ("episodes", "steps"):
                assert stored.rows(table) == raw.rows(table), f"the two sides have stored different {table}"


@contextmanager
def saving(files: Files, *, episodes: int, calls: int) -> Iterator[Prepare]:
    """Save new episodes of 20 steps, `calls` times."""
    with writing(files) as both, closing(Raw(files.copy())) as many:
        save = both.storage.episodes.save_many if episodes > 1 else lambda batch: both.storage.episodes.save(batch[0])

        def prepare(number: int) -> Mapping[str, Work]:
            first = files.count + number * calls * episodes
            batches = [_workload.episodes(first + call * episodes, episodes) for call in range(calls)]
            rows = [_saved(both, batch) for batch in batches]
            return {
                "raw": lambda: _each(both.raw.save, rows),
                "facade": lambda: [save(batch) for batch in batches],
                "raw, many rows a statement": lambda: _each(many.save_at_once, rows),
            }

        yield prepare


@contextmanager
def appending(files: Files, *, calls: int) -> Iterator[Prepare]:
    """Append a step to one of the episodes, `calls` times."""
    with writing(files) as both:

        def prepare(number: int) -> Mapping[str, Work]:
            owner = _workload.episode(number).id
            first = (files.count + number) * _workload.STEPS * calls
            steps = [_workload.step(first + call) for call in range(calls)]
            for step in steps:
                both.rehearsal.episodes.append_step(owner, step)
            rows = [both.rehearsed.rows("steps", "id = ?", (str(step.id),))[0] for step in steps]
            return {
                "raw": lambda: _each(both.raw.append, [(row,) for row in rows]),
                "facade": lambda: [both.storage.episodes.append_step(owner, step) for step in steps],
            }

        yield prepare


@contextmanager
def reading(
    files: Files,
    *,
    calls: int,
    theirs: Callable[[Raw, int], list[Rows]],
    ours: Callable[[ms.MemoryStorage, int], Sequence[ms.Episode]],
) -> Iterator[Prepare]:
    """Read, `calls` times; the argument is the number of the episode."""
    with facade(files.stored) as storage, closing(Raw(files.stored)) as raw:
        _check_the_same(theirs(raw, 0), ours(storage, 0))

        def prepare(number: int) -> Mapping[str, Work]:
            numbers = [n % files.count for n in range(number * calls, (number + 1) * calls)]
            return {
                "raw": lambda: [theirs(raw, n) for n in numbers],
                "facade": lambda: [ours(storage, n) for n in numbers],
                "raw + json.loads": lambda: [[decoded(rows) for rows in theirs(raw, n)] for n in numbers],
                "every step read": lambda: [_every_step(ours(storage, n)) for n in numbers],
            }

        yield prepare


CASES = (
    Case("save an episode of 20 steps", 60, 9, partial(saving, episodes=1, calls=5)),
    Case("append a step", 400, 100, partial(appending, calls=1)),
    Case("  ten in a row", 80, 14, partial(appending, calls=10), required=None),
    Case("save_many, 100 episodes of 20 steps", 15, 3, partial(saving, episodes=_BATCH, calls=1)),
    Case(
        "get an episode of 20 steps",
        150,
        25,
        partial(
            reading,
            calls=20,
            theirs=lambda raw, n: [raw.get(str(_workload.episode_id(n)))],
            ours=lambda storage, n: [storage.episodes.get(_workload.episode_id(n))],
        ),
    ),
    Case(
        "query a page of 50 episodes",
        80,
        15,
        partial(
            reading,
            calls=2,
            theirs=lambda raw, _: [raw.page(50)],
            ours=lambda storage, _: storage.episodes.query(limit=50).items,
        ),
    ),
    Case(
        "iterate over 500 episodes",
        20,
        3,
        partial(
            reading,
            calls=1,
            theirs=lambda raw, _: raw.pages(_PAGE),
            ours=lambda storage, _: list(storage.episodes.iterate()),
        ),
    ),
)


def _saved(both: Both, batch: list[ms.Episode]) -> Rows:
    both.rehearsal.episodes.save_many(batch)
    ids = tuple(str(episode.id) for episode in batch)
    marks = f"({','.join('?' * len(ids))})"
    rows = both.rehearsed.rows
    return rows("episodes", f"id IN {marks}", ids), rows("steps", f"episode_id IN {marks}", ids)


def _each(call: Callable[..., None], given: Sequence[tuple[Any, ...]]) -> None:
    for arguments in given:
        call(*arguments)


def _every_step(episodes: Sequence[ms.Episode]) -> list[list[ms.Step]]:
    return [list(episode.steps) for episode in episodes]


def _check_the_same(rows: list[Rows], episodes: Sequence[ms.Episode]) -> None:
    ids = {row[2] for heads, _ in rows for row in heads}
    assert ids == {str(episode.id) for episode in episodes}
    assert sum(len(steps) for _, steps in rows) == sum(len(episode.steps) for episode in episodes)


def _line(name: str, times: Times, raw: str, facade: str, at_least: float | None = None) -> Line:
    detail = ", ".join(f"{side} {milliseconds(median(times[side]))}" for side in (raw, facade))
    return Line(name, *ratios(times[raw], times[facade]), detail, at_least=at_least)
