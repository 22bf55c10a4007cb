"""Every query by region and time equals a plain loop over all entries."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.checks import assert_consistent
from tests.repositories import oracle
from tests.strategies import FIRST, LAST

EARTH_M = 6_371_009.0
NOON = datetime(2026, 3, 29, 0, 59, 59, 999_999, tzinfo=timezone.utc)  # a microsecond before Berlin's clocks change
TICK = timedelta(microseconds=1)
MOMENTS = (
    FIRST,
    FIRST + TICK,
    NOON - timedelta(days=400),
    NOON,
    NOON + TICK,
    NOON + timedelta(hours=1),
    LAST - TICK,
    LAST,
)
moments = st.sampled_from(MOMENTS) | st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001
    datetime(2026, 12, 31),  # noqa: DTZ001
    timezones=st.just(timezone.utc),
)
_odd_degrees = (0.0, -0.0, 5e-324, 1e-7, 1.0, 45.0, 89.9999999, 89.0)
latitudes = st.sampled_from([90.0, -90.0, *_odd_degrees, *(-one for one in _odd_degrees)]) | st.floats(-90, 90)
longitudes = st.sampled_from([180.0, -180.0, 179.9999999, -179.9999999, *_odd_degrees]) | st.floats(-180, 180)
points = st.builds(ms.Point, latitude=latitudes, longitude=longitudes)
radii = st.sampled_from([0, 1e-9, 0.001, 1, 11_120, 1e6, 10_007_557.0, 19e6, 3e7, 1e300]) | st.floats(0, 2.1e7)
DOMAINS = ("one", "two")


@st.composite
def boxes(draw: Any) -> ms.Box:
    south, north = sorted([draw(latitudes), draw(latitudes)])
    zero = draw(st.booleans())
    west = draw(longitudes)
    return ms.Box(south=south, north=south if zero else north, west=west, east=west if zero else draw(longitudes))


@st.composite
def intervals(draw: Any) -> ms.Interval:
    first, second = sorted([draw(moments), draw(moments)])
    starts_at, ends_at = draw(st.none() | st.just(first)), draw(st.none() | st.just(second))
    return ms.Interval(starts_at=starts_at, ends_at=None if starts_at == ends_at else ends_at)


@dataclass
class World:
    """What is stored, as the loop sees it."""

    memory: ms.MemoryStorage
    episodes: list[ms.Episode]
    entries: list[ms.SpatiotemporalEntry]

    def episode_of(self, entry: ms.SpatiotemporalEntry) -> ms.Episode:
        return next(one for one in self.episodes if entry.owner_id in {one.id, *(step.id for step in one.steps)})

    def kept(self, holds: Callable[[ms.SpatiotemporalEntry], bool], **filters: Any) -> list[ms.SpatiotemporalEntry]:
        passing = {one.id for one in oracle.episodes(self.episodes, **filters)}
        return [one for one in self.entries if holds(one) and self.episode_of(one).id in passing]


def stored(storage: ms.MemoryStorage, made: list[tuple[int, dict[str, Any]]]) -> World:
    """Four episodes of a step each, one of them archived; and places, each of one of the eight owners."""
    memory = storage.in_namespace(str(uuid4()))
    memory.episodes.save_many([_episode(number) for number in range(4)])
    memory.episodes.archive(memory.episodes.query(limit=1).items[0].id)
    episodes = list(memory.episodes.iterate(archived=None, direction="oldest_first"))
    owners = [("episode", one.id) for one in episodes] + [("step", one.steps[0].id) for one in episodes]
    entries = [
        ms.SpatiotemporalEntry(owner_type=owners[number][0], owner_id=owners[number][1], **place)
        for number, place in made
    ]
    entries.sort(key=lambda entry: entry.owner_type)  # as they are stored
    return World(memory, episodes, memory.spatiotemporal.put_many(entries))


def _episode(number: int) -> ms.Episode:
    started_at = NOON + timedelta(days=number)
    context = ms.TaskContext(domain=DOMAINS[number % 2])
    return ms.Episode(
        task_description="alpha",
        context=context,
        started_at=started_at,
        tags=[f"tag-{number}"],
        steps=[ms.Step(tool="t")],
    )


@st.composite
def places(draw: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found |= {"latitude": draw(latitudes), "longitude": draw(longitudes)}
    if not found or draw(st.booleans()):
        found["starts_at"] = draw(moments)
        ends_at = draw(st.none() | moments)
        if ends_at is None or ends_at > found["starts_at"]:
            found["ends_at"] = ends_at
        else:
            found["ongoing"] = True
    return found


worlds = st.lists(st.tuples(st.integers(0, 7), places()), max_size=12)
filters = oracle.some(
    domain=st.sampled_from(DOMAINS),
    archived=st.sampled_from([None, True, False]),
    tags_any=st.sampled_from([["tag-0", "tag-3"], ["tag-1"]]),
    since=st.just(NOON + timedelta(days=1)),
    text=st.just("alpha"),
)


# The loop.


def _span(entry: ms.SpatiotemporalEntry) -> tuple[int, float] | None:
    if entry.starts_at is None:
        return None
    start = (entry.starts_at - FIRST) // TICK
    if entry.ongoing:
        return start, math.inf
    return start, (entry.ends_at - FIRST) // TICK if entry.ends_at else start + 1


def _bounds(interval: ms.Interval) -> tuple[float, float]:
    start, end = interval.starts_at, interval.ends_at
    return (start - FIRST) // TICK if start else -math.inf, (end - FIRST) // TICK if end else math.inf


def overlaps(entry: ms.SpatiotemporalEntry, interval: ms.Interval | None) -> bool:
    if interval is None:
        return True
    span, (start, end) = _span(entry), _bounds(interval)
    return span is not None and span[0] < end and span[1] > start


def is_during(entry: ms.SpatiotemporalEntry, interval: ms.Interval) -> bool:
    span, (start, end) = _span(entry), _bounds(interval)
    return span is not None and start <= span[0] and span[1] <= end


def is_in(entry: ms.SpatiotemporalEntry, box: ms.Box) -> bool:
    if entry.latitude is None or entry.longitude is None or not box.south <= entry.latitude <= box.north:
        return False
    meridians = {entry.longitude, -entry.longitude} if abs(entry.longitude) == 180 else {entry.longitude}
    between = [
        box.west <= one <= box.east if box.west <= box.east else one >= box.west or one <= box.east for one in meridians
    ]
    return abs(entry.latitude) == 90 or any(between)


def metres(one: ms.Point, entry: ms.SpatiotemporalEntry) -> float:
    """Along the great circle, by vectors: another way than the library's."""
    a, b = _vector(one.latitude, one.longitude), _vector(entry.latitude, entry.longitude)
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return EARTH_M * math.atan2(math.hypot(*cross), sum(x * y for x, y in zip(a, b, strict=True)))


def _vector(latitude: Any, longitude: Any) -> tuple[float, float, float]:
    up, around = math.radians(latitude), math.radians(longitude)
    return math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)


def in_time(world: World, kept: list[ms.SpatiotemporalEntry], *, newest_first: bool) -> list[ms.SpatiotemporalEntry]:
    stored = {entry.id: number for number, entry in enumerate(world.entries)}
    ordered = sorted(kept, key=lambda one: (one.starts_at is not None, one.starts_at or FIRST, stored[one.id]))
    return ordered[::-1] if newest_first else ordered


def episodes_of(world: World, ordered: list[ms.SpatiotemporalEntry], *, newest_first: bool) -> list[Any]:
    """Each once, by its first one; those at the same moment in the order in which they were saved."""
    firsts: dict[Any, tuple[bool, datetime]] = {}
    for one in ordered:
        firsts.setdefault(world.episode_of(one).id, (one.starts_at is not None, one.starts_at or FIRST))
    saved = [one.id for one in world.episodes]
    return sorted(firsts, key=lambda key: (firsts[key], saved.index(key)), reverse=newest_first)


def every_page(call: Callable[..., ms.Page[Any]], limit: int) -> list[Any]:
    """All pages forwards; and each of them again, backwards."""
    pages = [call(limit=limit)]
    while pages[-1].next_cursor:
        pages.append(call(limit=limit, cursor=pages[-1].next_cursor))
    for before, after in pairwise(pages):
        assert call(limit=limit, cursor=after.previous_cursor).items == before.items
    assert all(len(page) == limit for page in pages[:-1])
    return [item for page in pages for item in page]


def is_asked_for(entry: ms.SpatiotemporalEntry, asked: tuple[ms.Box, ms.Interval | None]) -> bool:
    return is_in(entry, asked[0]) and overlaps(entry, asked[1])


def is_at(entry: ms.SpatiotemporalEntry, moment: datetime) -> bool:
    span, at = _span(entry), (moment - FIRST) // TICK
    return span is not None and span[0] <= at < span[1]


BY_TIME: dict[str, Any] = {
    "within": (st.tuples(boxes(), st.none() | intervals()), is_asked_for),
    "during": (intervals(), is_during),
    "overlapping": (intervals(), overlaps),
    "as_of": (moments, is_at),
}


def _ask(finder: Any, method: str, asked: Any) -> Callable[..., ms.Page[Any]]:
    if method == "within":
        return lambda **more: finder.within(asked[0], between=asked[1], **more)
    return lambda **more: getattr(finder, method)(asked, **more)


@pytest.mark.parametrize("method", BY_TIME)
@settings(max_examples=30)
@given(data=st.data())
def test_a_search_by_region_or_time_equals_a_loop_over_all(storage, data, method):
    world = stored(storage, data.draw(worlds))
    strategy, holds = BY_TIME[method]
    asked, some = data.draw(strategy), data.draw(filters)
    newest_first, limit = data.draw(st.booleans()), data.draw(st.integers(1, 5))
    more = {"direction": "newest_first" if newest_first else "oldest_first", **some}
    expected = in_time(world, world.kept(lambda one: holds(one, asked), **some), newest_first=newest_first)
    ask = _ask(world.memory.spatiotemporal, method, asked)
    assert every_page(lambda **page: ask(**page, **more), limit) == expected
    chunk_episodes = _ask(world.memory.spatiotemporal.episodes, method, asked)
    found = every_page(lambda **page: chunk_episodes(**page, **more), limit)
    assert [one.id for one in found] == episodes_of(world, expected, newest_first=newest_first)
    assert all(one in world.episodes for one in found)


def _tolerance(distance: float) -> float:
    return 1e-6 if distance < 0.99 * math.pi * EARTH_M else 1.0  # there the loop's own rounding shows


def _assert_nearest(
    found: list[ms.models.Nearby[Any]], expected: list[tuple[float, Any]], most: float, key: Callable
) -> None:
    """The same things at the same distances, in their order; at the edge, what is a hair from it may be in or out."""
    distances = [one.distance_m for one in found]
    for one, other in pairwise(distances):
        assert other - one >= -_tolerance(one)
    wanted = {name: distance for distance, name in expected}
    assert len({key(one.item) for one in found}) == len(found)
    for one in found:
        assert abs(wanted[key(one.item)] - one.distance_m) <= _tolerance(one.distance_m)
        assert one.distance_m <= most
    clearly = {name for name, distance in wanted.items() if distance < most - _tolerance(most)}
    assert clearly <= {key(one.item) for one in found}


@given(data=st.data())
def test_near_equals_a_loop_over_all(storage, data):
    world = stored(storage, data.draw(worlds))
    point, radius, between = data.draw(points), data.draw(radii), data.draw(st.none() | intervals())
    some, limit = data.draw(filters), data.draw(st.integers(1, 5))
    kept = world.kept(lambda one: one.latitude is not None and overlaps(one, between), **some)
    for finder, name in (
        (world.memory.spatiotemporal, lambda one: one.id),
        (world.memory.spatiotemporal.episodes, lambda one: world.episode_of(one).id),
    ):
        pages = every_page(lambda **page: finder.near(point, radius, between=between, **page, **some), limit)  # noqa: B023
        expected = sorted(((metres(point, one), name(one)) for one in kept), reverse=True)  # the nearest of each stays
        _assert_nearest(pages, expected, radius, lambda item: item.id)


@given(data=st.data())
def test_the_k_nearest_equal_those_of_a_loop_over_all(storage, data):
    world = stored(storage, data.draw(worlds))
    point, k, between = data.draw(points), data.draw(st.integers(1, 6)), data.draw(st.none() | intervals())
    some = data.draw(filters)
    kept = world.kept(lambda one: one.latitude is not None and overlaps(one, between), **some)
    for finder, name in (
        (world.memory.spatiotemporal, lambda one: one.id),
        (world.memory.spatiotemporal.episodes, lambda one: world.episode_of(one).id),
    ):
        found = finder.nearest(point, k, between=between, **some)
        expected = sorted(((metres(point, one), name(one)) for one in kept), reverse=True)
        nearest = sorted({name: distance for distance, name in expected}.values())
        assert len(found) == min(k, len(nearest))
        most = (nearest[k - 1] if k <= len(nearest) else math.inf) + 1.0
        _assert_nearest(found, expected, most, lambda item: item.id) if k >= len(nearest) else None
        for one, distance in zip(found, nearest, strict=False):
            assert abs(one.distance_m - distance) <= _tolerance(distance)


@given(data=st.data())
def test_timeline_and_trajectory_equal_a_loop(storage, data):
    world = stored(storage, data.draw(worlds))
    between, newest_first = data.draw(st.none() | intervals()), data.draw(st.booleans())
    more = {"direction": "newest_first" if newest_first else "oldest_first"}
    for episode in world.episodes:
        for kind, key in (("episode", episode.id), ("step", episode.steps[0].id)):
            kept = [one for one in world.entries if one.owner_id == key and overlaps(one, between)]
            timeline = world.memory.spatiotemporal.timeline
            found = every_page(lambda **page: timeline(kind, key, between=between, **page, **more), 2)  # noqa: B023
            assert found == in_time(world, kept, newest_first=newest_first)
        kept = [one for one in world.entries if world.episode_of(one) == episode]
        trajectory = world.memory.spatiotemporal.trajectory
        found = every_page(lambda **page: trajectory(episode.id, **page, **more), 2)  # noqa: B023
        assert found == in_time(world, kept, newest_first=newest_first)


@settings(max_examples=20)
@given(data=st.data())
def test_search_finds_the_current_vector_and_no_deleted_one(storage, data):
    world = stored(storage, data.draw(worlds))
    for entry in world.entries[::2]:
        place = data.draw(places())
        blank = {"latitude": None, "longitude": None, "starts_at": None, "ends_at": None, "ongoing": False}
        world.memory.spatiotemporal.put(entry.model_copy(update={**blank, **place}))
    for entry in world.entries[::3]:
        assert world.memory.spatiotemporal.delete(entry.id)
    left = [one for one in map(world.memory.spatiotemporal.find, (entry.id for entry in world.entries)) if one]
    everywhere = ms.Box(south=-90.0, west=-180.0, north=90.0, east=180.0)
    found = world.memory.spatiotemporal.within(everywhere, archived=None).items
    assert {one.id for one in found} == {one.id for one in left if one.latitude is not None}
    lasting = world.memory.spatiotemporal.overlapping(ms.Interval(), archived=None).items
    assert {one.id for one in lasting} == {one.id for one in left if one.starts_at is not None}


@pytest.mark.whole_database
def test_what_the_tests_of_this_module_store_is_consistent(storage):
    @settings(max_examples=20)
    @given(data=st.data())
    def fill(data):
        stored(storage, data.draw(worlds))

    fill()
    assert_consistent(storage.engine)


@pytest.mark.parametrize("tiny", [5e-324, -5e-324, 1e-310, -1e-46, 1e-30])
def test_next_to_nothing_is_found_where_it_is(storage, tiny):
    world = stored(storage, [(0, {"latitude": tiny, "longitude": tiny})])
    finder = world.memory.spatiotemporal
    here = ms.Point(latitude=tiny, longitude=tiny)
    edges = [(tiny, tiny, tiny, tiny), (tiny, 90.0, tiny, 180.0), (-90.0, tiny, -180.0, tiny)]
    boxes = [ms.Box(south=south, north=north, west=west, east=east) for south, north, west, east in edges]
    assert [len(list(finder.within(box))) for box in boxes] == [1, 1, 1]
    assert len(list(finder.near(here, 0))) == len(finder.nearest(here, 1)) == 1


def _crowded(chance: random.Random) -> tuple[float, float]:
    """Round the poles, on both sides of the antimeridian, in a town, and anywhere."""
    latitude, longitude, wide = chance.choice(
        [(90, 0, 2.0), (-90, 0, 1e-3), (0, 180, 1.0), (48, 11, 0.05), (0, 0, 60.0)]
    )
    up, around = latitude + chance.gauss(0, wide), longitude + chance.gauss(0, wide)
    if abs(latitude) == 90:
        around = chance.uniform(-180, 180)
    return math.copysign(min(abs(up), 180 - abs(up)), up), (around + 540) % 360 - 180


@pytest.mark.slow
def test_nearest_and_pages_of_near_equal_a_loop_over_many_places(storage):
    chance = random.Random(5)
    world = stored(
        storage,
        [
            (chance.randrange(8), dict(zip(("latitude", "longitude"), _crowded(chance), strict=True)))
            for _ in range(600)
        ],
    )
    kept = world.kept(lambda _: True)
    for _ in range(30):
        latitude, longitude = _crowded(chance)
        point = ms.Point(latitude=latitude, longitude=longitude)
        distances = sorted(metres(point, one) for one in kept)
        nearest = [one.distance_m for one in world.memory.spatiotemporal.nearest(point, 7)]
        assert nearest == pytest.approx(distances[:7], abs=1e-6)
        radius = distances[chance.randrange(80)] + 1e-3
        near = every_page(lambda **page: world.memory.spatiotemporal.near(point, radius, **page), 20)  # noqa: B023
        assert [one.distance_m for one in near] == pytest.approx([one for one in distances if one <= radius], abs=1e-6)
        by_episode = {world.episode_of(one).id: math.inf for one in kept}
        for one in kept:
            key = world.episode_of(one).id
            by_episode[key] = min(by_episode[key], metres(point, one))
        found = world.memory.spatiotemporal.episodes.nearest(point, 2)
        assert [one.distance_m for one in found] == pytest.approx(sorted(by_episode.values())[:2], abs=1e-6)
