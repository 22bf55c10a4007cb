"""Scale: what each operation costs at 10 thousand, 100 thousand and one million episodes in one file.

Nine of ten episodes are in one namespace, the others in a thousand small ones. Each operation is timed at each size;
its growth is the factor of its time over the factor of rows, so that 1.00 grows as the rows do, and an operation that
does not grow with the file is near 0. The search in a small namespace is also timed in a file that has only it.
"""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from uuid import UUID

import memory_storage as ms

from . import _workload
from ._measure import timed
from ._report import Grid, Line, Report, line_of, milliseconds

_SIZES, _FEW = (10_000, 100_000, 1_000_000), (500, 2_000)
_SMALL_NAMESPACES = 1_000
_BATCH = 1_000
_CALLS = 20
_STEPS = 2
_LARGE = "large"
_WORD, _SMALL_WORD = "customer", "user"  # the first is in texts of the large namespace only, the other in all
_MOST_BYTES = 1.4  # of a file, for each byte of JSON
_SEARCH = {10_000: 0.060, 100_000: 0.060, 1_000_000: 0.100}  # seconds that a search of a frequent word may take
_PAGE = 0.005  # seconds that a page by a tag or metadata may take
_OPEN = 0.030
_NOTES = (
    "p50 of 20 calls, p95 of a search; growth: factor of time / factor of rows.",
    "rows: nine of ten in one namespace, the others in a thousand; two steps each, of the sizes of real ones.",
)

Call = Callable[[ms.MemoryStorage], object]

NUMBERED: dict[str, Callable[[ms.MemoryStorage, int], object]] = {
    "save": lambda memory, number: memory.episodes.save(_episode(10**8 + number)),
    "append_step": lambda memory, number: memory.episodes.append_step(_id(number), _workload.step(10**9 + number)),
    "get": lambda memory, number: list(memory.episodes.get(_id(number)).steps),
}
CALLS: dict[str, Call] = {
    "page, newest": lambda memory: memory.episodes.query(limit=50),
    "page by outcome": lambda memory: memory.episodes.query(outcome="success", limit=50),
    "page by a frequent tag, newest": lambda memory: memory.episodes.query(tags_any=["airline"], limit=50),
    "page by a frequent tag, oldest": lambda memory: memory.episodes.query(
        tags_any=["airline"], limit=50, direction="oldest_first"
    ),
    "page by a rare tag": lambda memory: memory.episodes.query(tags_any=["rare-1"], limit=50),
    "page by frequent metadata": lambda memory: memory.episodes.query(metadata={"trial": 1}, limit=50),
    "page by rare metadata": lambda memory: memory.episodes.query(metadata={"ticket": "rare-1"}, limit=50),
    "page by a frequent word": lambda memory: memory.episodes.query(text=_WORD, limit=50),
    "count by outcome": lambda memory: memory.episodes.count(outcome="success"),
    "search for a frequent word": lambda memory: memory.episodes.search(_WORD, steps=False),
    "search for a rare word": lambda memory: memory.episodes.search("rare-1", steps=False),
    "search in a small namespace": lambda memory: memory.in_namespace(_name(0)).episodes.search(
        _SMALL_WORD, steps=False
    ),
}
_SLOW: dict[str, Call] = {
    "iterate by a word, each": lambda memory: _pace(memory.episodes.iterate(text=_WORD, steps=False)),
    "iterate by a tag, each": lambda memory: _pace(memory.episodes.iterate(tags_any=["airline"], steps=False)),
    "analytics.summary": lambda memory: memory.analytics.summary(),
    "analytics.tools": lambda memory: memory.analytics.tools(),
}


@dataclass
class Measured:
    """What was measured at one size."""

    rows: int
    seconds: dict[str, float] = field(default_factory=dict)
    build: float = 0.0
    json_bytes: int = 0
    file_bytes: int = 0
    peak_bytes: int = 0
    opened: float = 0.0
    alone: float = 0.0


def run(*, short: bool) -> Report:
    """Measure each size."""
    sizes = _FEW if short else _SIZES
    with tempfile.TemporaryDirectory() as directory:
        found = [measure(Path(directory), rows) for rows in sizes]
    names = [*NUMBERED, *CALLS, *_SLOW]
    columns = ("call", *(f"{one.rows:,}" for one in found), "growth")
    rows = [
        (name, *(milliseconds(one.seconds[name]) for one in found), f"{_growth(name, found[0], found[-1]):.2f}")
        for name in names
    ]
    rows += [
        ("open and first get", *(milliseconds(one.opened) for one in found), ""),
        ("search, the small namespace alone", *(milliseconds(one.alone) for one in found), ""),
        ("save_many, an episode", *(milliseconds(one.build / one.rows) for one in found), ""),
        ("file, times its JSON", *(f"{one.file_bytes / one.json_bytes:.2f}" for one in found), ""),
        ("file", *(f"{one.file_bytes / 1e6:,.0f} MB" for one in found), ""),
        ("peak memory", *(f"{one.peak_bytes / 1e6:,.0f} MB" for one in found), ""),
    ]
    return Report("Scale", _lines(found, short=short), list(_NOTES), [Grid("By number of episodes", columns, rows)])


def measure(directory: Path, rows: int) -> Measured:
    """Build a file of a size, and time each operation on it."""
    found, path = Measured(rows), directory / f"{rows}.db"
    _build(path, found)
    found.file_bytes = path.stat().st_size
    found.opened = median(timed(lambda: _open_and_get(path)) for _ in range(5))
    with _open(path) as storage:
        memory = storage.in_namespace(_LARGE)
        for name, numbered in NUMBERED.items():
            found.seconds[name] = median(timed(partial(numbered, memory, number)) for number in range(_CALLS))
        for name, call in CALLS.items():
            times = sorted(timed(partial(call, memory)) for _ in range(_CALLS + 1))
            found.seconds[name] = times[-2] if name.startswith("search") else median(times)
        for name, call in _SLOW.items():
            result = call(memory)  # the pace, or the result of a call that is timed at its second time
            found.seconds[name] = result if isinstance(result, float) else timed(partial(call, memory))
        found.alone = _alone(directory / f"{rows}-alone.db", storage)
    found.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path.unlink()
    gc.collect()
    return found


def _build(path: Path, found: Measured) -> None:
    numbers = count()
    with _open(path) as storage:
        large = storage.in_namespace(_LARGE)
        for first in range(0, found.rows, _BATCH):
            episodes = [_episode(number) for number in islice(numbers, min(_BATCH, found.rows - first))]
            found.json_bytes += sum(len(episode.model_dump_json().encode()) for episode in episodes)
            since = time.perf_counter()
            large.episodes.save_many([one for number, one in enumerate(episodes) if number % 10])
            found.build += time.perf_counter() - since
            for number, one in enumerate(episodes[::10], first // 10):
                storage.in_namespace(_name(number)).episodes.save(one)
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _alone(path: Path, storage: ms.MemoryStorage) -> float:
    """Return how long the search takes in a file that has only the small namespace."""
    copies = list(storage.in_namespace(_name(0)).episodes.iterate())
    with _open(path) as alone:
        memory = alone.in_namespace(_name(0))
        memory.episodes.import_many(copies)
        times = sorted(timed(lambda: memory.episodes.search(_SMALL_WORD, steps=False)) for _ in range(_CALLS + 1))
    path.unlink()
    return times[-2]


def _lines(found: list[Measured], *, short: bool) -> list[Line]:
    first, last = found[0], found[-1]
    small = last.seconds["search in a small namespace"]
    pages = {name: seconds for name, seconds in last.seconds.items() if " tag" in name or " metadata" in name}
    slowest = max((name for name in pages if name.startswith("page")), key=lambda name: pages[name])
    lines = [
        ("save, to that at the least size", last.seconds["save"] / first.seconds["save"], 1.3),
        ("search in a small namespace, to it alone", small / last.alone, 1.5),
        ("file, to its JSON", last.file_bytes / last.json_bytes, _MOST_BYTES),
        ("search for a frequent word, to its goal", max(_to_goal(one) for one in found), 1.0),
        (f"slowest page by a tag or metadata, to {milliseconds(_PAGE)}", pages[slowest] / _PAGE, 1.0),
        (f"open, to {milliseconds(_OPEN)}", last.opened / _OPEN, 1.0),
        *((f"growth: {name}", _growth(name, first, last), 1.5) for name in _SLOW if name.startswith("iterate")),
    ]
    return [line_of(name, ratio, at_most=None if short else most) for name, ratio, most in lines]


def _to_goal(one: Measured) -> float:
    return one.seconds["search for a frequent word"] / _SEARCH.get(one.rows, 1.0)


def _growth(name: str, first: Measured, last: Measured) -> float:
    factor = last.seconds[name] / first.seconds[name]
    return factor if "each" in name else factor / (last.rows / first.rows)


def _pace(items: Iterator[ms.Episode]) -> float:
    """Return the seconds for each item."""
    since = time.perf_counter()
    found = sum(1 for _ in items)
    return (time.perf_counter() - since) / max(1, found)


def _episode(number: int) -> ms.Episode:
    episode = _workload.episode(number, _STEPS)
    if number % 10_000 != 1:
        return episode
    return episode.model_copy(update={"tags": [*episode.tags, "rare-1"], "metadata": {"ticket": "rare-1"}})


def _id(number: int) -> UUID:
    return _workload.episode_id(number * 10 + 1)  # one of the large namespace


def _name(number: int) -> str:
    return f"small-{number % _SMALL_NAMESPACES}"


def _open(path: Path) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(str(path))


def _open_and_get(path: Path) -> None:
    with _open(path) as storage:
        storage.in_namespace(_LARGE).episodes.get(_workload.episode_id(1))
