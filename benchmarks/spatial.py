"""Searches by region, against a scan of the whole table, and their growth with the number of entries.

Entries are distributed like a population: in towns whose sizes follow Zipf's law, each normally distributed. Searches
are at random places in the same towns, and find the same number of entries in a small and in a large store.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles

import memory_storage as ms
from memory_storage.repositories.spatiotemporal.geo import FARTHEST_M, chord_of, on_sphere

from . import _workload
from ._report import Line, Report, line_of, milliseconds

FOUND = 20  # entries by each search
_FASTER = 50
_GROWS = 1.5
_TOWNS = 1_000
_WIDE = 0.05  # degrees: the standard deviation of a town
_BATCH = 5_000
_EACH = 100  # entries of an episode
_SCANS = 5
_NOTES = (
    f"each search returns {FOUND} validated entries whose episodes are not archived; a scan returns the same rows.",
    "faster: the median time of a scan of the table of the large store by the 95th percentile of the searches.",
    "times are processor times, so other load is not counted.",
    "grows: the median time in the large store by that in the small one, in turns.",
)


@dataclass(frozen=True)
class Query:
    """A place, and the radius in which there are FOUND entries."""

    point: ms.Point
    radius_m: float
    box: ms.Box


Search = Callable[[ms.MemoryStorage, Query], object]

SEARCHES: dict[str, Search] = {
    "within": lambda storage, query: storage.spatiotemporal.within(query.box).items,
    "near": lambda storage, query: storage.spatiotemporal.near(query.point, query.radius_m).items,
    "nearest": lambda storage, query: storage.spatiotemporal.nearest(query.point, FOUND),
}
_ROWS = "SELECT id, document, created_at FROM spatiotemporal_index NOT INDEXED WHERE namespace = 'default'"
_CHORD = "((x - ?) * (x - ?) + (y - ?) * (y - ?) + (z - ?) * (z - ?))"
_BY_DISTANCE = f"{_ROWS} AND {_CHORD} <= ? ORDER BY {_CHORD} LIMIT {FOUND}"


def _box_scan(query: Query) -> tuple[str, tuple[float, ...]]:
    box = query.box
    sql = f"{_ROWS} AND latitude BETWEEN ? AND ? AND longitude BETWEEN ? AND ?"
    return sql, (box.south, box.north, box.west, box.east)


def _distance_scan(radius_m: float, query: Query) -> tuple[str, tuple[float, ...]]:
    x, y, z = on_sphere(query.point.latitude, query.point.longitude)
    point = (x, x, y, y, z, z)
    return _BY_DISTANCE, (*point, chord_of(radius_m) ** 2, *point)


SCANS: dict[str, Callable[[Query], tuple[str, tuple[float, ...]]]] = {
    "within": _box_scan,
    "near": lambda query: _distance_scan(query.radius_m + 0.001, query),
    "nearest": lambda query: _distance_scan(FARTHEST_M, query),
}


def run(*, short: bool) -> Report:
    """Measure with 10,000 and 1,000,000 entries; if short with 1,000 and 20,000, without bounds."""
    few, many, queries = (1_000, 20_000, 25) if short else (10_000, 1_000_000, 200)
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        stores = [opened.enter_context(ms.MemoryStorage.open(directory / f"{count}.db")) for count in (few, many)]
        start = time.perf_counter()
        for storage, count in zip(stores, (few, many), strict=True):
            _fill(storage, count)
        made = f"{many:,} and {few:,} entries, inserted in {time.perf_counter() - start:.0f} s"
        lines = [line for name in SEARCHES for line in _measured(name, stores, queries, is_checked=not short)]
    return Report("Searches by region", lines, [made, *_NOTES])


def _fill(storage: ms.MemoryStorage, count: int) -> None:
    chance = random.Random(1)
    places = _places(chance)
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        episodes = [_episode(first + number) for number in range(0, size, _EACH)]
        storage.episodes.save_many(episodes)
        storage.spatiotemporal.put_many(
            [_entry(first + number, episodes[number // _EACH], *next(places)) for number in range(size)]
        )


def _episode(number: int) -> ms.Episode:
    return ms.Episode(task_description="a delivery", started_at=_workload.BEGINNING + timedelta(minutes=number))


def _entry(number: int, episode: ms.Episode, latitude: float, longitude: float) -> ms.SpatiotemporalEntry:
    starts_at = _workload.BEGINNING + timedelta(minutes=number)
    return ms.SpatiotemporalEntry(
        owner_type="episode",
        owner_id=episode.id,
        latitude=latitude,
        longitude=longitude,
        place_name="a stop",
        starts_at=starts_at,
        ends_at=starts_at + timedelta(minutes=20) if number % 2 else None,
    )


def _places(chance: random.Random) -> Iterator[tuple[float, float]]:
    known = random.Random(7)
    towns = [(known.uniform(-55, 65), known.uniform(-175, 175)) for _ in range(_TOWNS)]
    sizes = list(accumulate(1 / (rank + 1) for rank in range(_TOWNS)))
    while True:
        for latitude, longitude in chance.choices(towns, cum_weights=sizes, k=1_000):
            yield latitude + chance.gauss(0, _WIDE), longitude + chance.gauss(0, _WIDE)


def _queries(storage: ms.MemoryStorage, count: int) -> list[Query]:
    places = _places(random.Random(2))
    return [_query(storage, *next(places)) for _ in range(count)]


def _query(storage: ms.MemoryStorage, latitude: float, longitude: float) -> Query:
    point = ms.Point(latitude=latitude, longitude=longitude)
    near = storage.spatiotemporal.nearest(point, FOUND)
    places = [(one.item.latitude or 0.0, one.item.longitude or 0.0) for one in near]
    low, high = 0.0, max(max(abs(up - latitude), abs(around - longitude)) for up, around in places)
    side = high = 1.001 * high  # what is on its edge is in it
    while (found := len(storage.spatiotemporal.within(_square(point, side), limit=FOUND + 1))) != FOUND:
        low, high = (side, high) if found < FOUND else (low, side)
        side = (low + high) / 2
    return Query(point, near[-1].distance_m, _square(point, side))


def _square(point: ms.Point, side: float) -> ms.Box:
    return ms.Box(
        south=max(point.latitude - side, -90.0),
        north=min(point.latitude + side, 90.0),
        west=max(point.longitude - side, -180.0),
        east=min(point.longitude + side, 180.0),
    )


def _measured(name: str, stores: list[ms.MemoryStorage], count: int, *, is_checked: bool) -> list[Line]:
    """Return the speedup over a scan of the large store, and the slowdown from the small store."""
    search = SEARCHES[name]
    asked = [_queries(storage, count) for storage in stores]
    times: list[list[float]] = [[] for _ in stores]
    for turn in zip(*asked, strict=True):
        for place, (storage, query) in enumerate(zip(stores, turn, strict=True)):
            times[place].append(_timed(search, storage, query))
    scans = [_timed(_scan(name), stores[-1], query) for query in asked[-1][:_SCANS]]
    small, large = map(median, times)
    slowest = quantiles(times[-1], n=20)[-1]
    return [
        line_of(
            f"{name}: faster",
            median(scans) / slowest,
            f"p50 {milliseconds(large)}, p95 {milliseconds(slowest)}, scan {milliseconds(median(scans))}",
            at_least=_FASTER if is_checked else None,
        ),
        line_of(
            f"{name}: grows",
            large / small,
            f"p50 {milliseconds(small)}, {milliseconds(large)}",
            at_most=_GROWS if is_checked else None,
        ),
    ]


def _scan(name: str) -> Search:
    return lambda storage, query: _run(storage, *SCANS[name](query))


def _run(storage: ms.MemoryStorage, sql: str, values: tuple[float, ...]) -> object:
    with storage.engine.connect() as connection:
        return connection.exec_driver_sql(sql, values).all()


def _timed(search: Search, storage: ms.MemoryStorage, query: Query) -> float:
    """Return the processor time: all work is done in this process, and other load is not counted."""
    start = time.process_time()
    found = search(storage, query)
    seconds = time.process_time() - start
    assert len(found) == FOUND, f"{len(found)} entries"  # type: ignore[arg-type]
    return seconds
