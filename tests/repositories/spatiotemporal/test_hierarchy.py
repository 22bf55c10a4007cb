"""Episodes by domain, task type and time: the counts, the calendar of a time zone, and a sample of all."""

from __future__ import annotations

import zoneinfo
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.backends import in_memory
from tests.raising import raises
from tests.repositories import oracle
from tests.strategies import FIRST, LAST

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # changed at a minute past midnight
    "Asia/Beirut",  # changes at midnight
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # left out a day
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Europe/Amsterdam",  # had an offset with seconds
)
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=timezone.utc),
    datetime(2026, 10, 25, 1, tzinfo=timezone.utc),
    datetime(2010, 11, 7, 2, 31, tzinfo=timezone.utc),
    datetime(2011, 12, 30, 10, tzinfo=timezone.utc),
    datetime(2024, 4, 6, 15, tzinfo=timezone.utc),
    datetime(2024, 10, 26, 21, tzinfo=timezone.utc),
    datetime(1930, 5, 14, 22, 40, 28, tzinfo=timezone.utc),
    datetime(9999, 10, 31, 1, tzinfo=timezone.utc),
)
near_changes = st.builds(
    lambda change, seconds: change + timedelta(seconds=seconds), st.sampled_from(CHANGES), st.integers(-90_000, 90_000)
)
moments = (
    near_changes
    | st.sampled_from([FIRST, LAST, *CHANGES, *(one - timedelta(microseconds=1) for one in CHANGES)])
    | st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001
)
EARLY, LATE = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001
filters = oracle.some(
    domain=st.sampled_from(["a", "b"]),
    task_type=st.sampled_from(["debugging", "testing"]),
    min_reward=st.just(0.5),
    archived=st.sampled_from([None, True]),
    since=st.just(CHANGES[0]),
    tags_any=st.just(["even"]),
    text=st.just("alpha"),
)
made = st.lists(
    st.tuples(
        moments, st.sampled_from(["a", "b"]), st.sampled_from(["debugging", "testing"]), st.none() | st.floats(0, 1)
    ),
    max_size=15,
)


def stored(storage: ms.MemoryStorage, rows: list[tuple[Any, ...]]) -> tuple[ms.MemoryStorage, list[ms.Episode]]:
    memory = storage.in_namespace(str(uuid4()))
    episodes = [
        ms.Episode(
            task_description="alpha",
            started_at=when,
            context=ms.TaskContext(domain=domain),
            task_type=kind,
            tags=["even"] if number % 2 == 0 else [],
            reward=None if reward is None else ms.RewardScore(total=reward),
        )
        for number, (when, domain, kind, reward) in enumerate(rows)
    ]
    saved = memory.episodes.save_many(episodes)
    return memory, [memory.episodes.archive(one.id) if number % 5 == 4 else one for number, one in enumerate(saved)]


def on_the_wall(moment: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """What calendar and clock show there: in the years that there are."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        offset = zone.utcoffset(moment.replace(tzinfo=None))
        return (EARLY if moment.year == 1 else LATE).replace(tzinfo=timezone(offset or timedelta()))


def label_of(moment: datetime, by: str, zone: zoneinfo.ZoneInfo) -> str:
    shown = on_the_wall(moment, zone)
    if by == "hour":
        return shown.replace(tzinfo=timezone(shown.utcoffset() or timedelta())).isoformat(timespec="hours")
    if by == "week":
        year, week, _ = shown.date().isocalendar()
        return f"{year:04}-W{week:02}"
    return shown.date().isoformat()[: 10 if by == "day" else 7]


@settings(max_examples=40)
@given(rows=made, by=st.sampled_from(["hour", "day", "week", "month"]), name=st.sampled_from(ZONES), some=filters)
@pytest.mark.slow
def test_the_hierarchy_equals_counting_in_a_loop(storage, rows, by, name, some):
    memory, episodes = stored(storage, rows)
    zone = zoneinfo.ZoneInfo(name)
    expected = Counter(
        (one.context.domain, one.task_type, label_of(one.started_at, by, zone))
        for one in oracle.episodes(episodes, **some)
    )
    tree = memory.spatiotemporal.hierarchy(unit=by, tz=name, **some)
    found = {
        (domain.domain, kind.task_type, bucket.label): bucket
        for domain in tree
        for kind in domain.task_types
        for bucket in kind.buckets
    }
    assert {key: bucket.episodes for key, bucket in found.items()} == expected
    assert [domain.domain for domain in tree] == sorted({domain for domain, _, _ in expected})
    for domain in tree:
        assert domain.episodes == sum(kind.episodes for kind in domain.task_types)
        for kind in domain.task_types:
            assert kind.episodes == sum(bucket.episodes for bucket in kind.buckets)
            assert all(one.starts_at < other.starts_at for one, other in pairwise(kind.buckets))
    for one in oracle.episodes(episodes, **some):
        bucket = found[one.context.domain, one.task_type, label_of(one.started_at, by, zone)]
        assert bucket.starts_at <= one.started_at < bucket.ends_at or one.started_at == bucket.ends_at == LAST


@settings(max_examples=40)
@given(rows=made, name=st.sampled_from(ZONES), k=st.integers(1, 8), some=filters)
@pytest.mark.slow
def test_a_diverse_sample_takes_turns_as_a_loop_would(storage, rows, name, k, some):
    memory, episodes = stored(storage, rows)
    zone = zoneinfo.ZoneInfo(name)
    ordered = sorted(
        oracle.episodes(episodes, **some),  # the newest first, of equal ones the last that was saved
        key=lambda one: -one.reward.total if one.reward else 1.0,
    )
    tree: dict[Any, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for one in ordered:
        day = on_the_wall(one.started_at, zone).date()
        tree[one.context.domain][one.task_type][day].append(one)
    in_domains = [
        in_turns([in_turns([days[day] for day in sorted(days, reverse=True)]) for _, days in sorted(kinds.items())])
        for _, kinds in sorted(tree.items())
    ]
    found = memory.spatiotemporal.diverse(k, tz=name, **some)
    assert [one.id for one in found] == [one.id for one in in_turns(in_domains)[:k]]
    assert all(one in episodes for one in found)
    bare = memory.spatiotemporal.diverse(k, tz=name, steps=False, **some)
    assert [one.id for one in bare] == [one.id for one in found]


def in_turns(lists: list[list[Any]]) -> list[Any]:
    return [one[turn] for turn in range(max(map(len, lists), default=0)) for one in lists if turn < len(one)]


def test_days_have_23_and_25_hours_where_clocks_change(storage):
    days = {29: (2026, 3, 29), 25: (2026, 10, 25)}
    for month, day, hours in ((3, 29, 23), (10, 25, 25), (10, 26, 24)):
        noon = datetime(2026, month, day, 11, tzinfo=timezone.utc)
        storage.episodes.save(ms.Episode(task_description=f"{days}", started_at=noon))
        buckets = storage.spatiotemporal.hierarchy(tz="Europe/Berlin", since=noon)[0].task_types[0].buckets
        assert buckets[0].ends_at - buckets[0].starts_at == timedelta(hours=hours)


def test_a_repeated_hour_counts_as_two(storage):
    before = datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
    storage.episodes.save_many(
        [ms.Episode(task_description="", started_at=before + timedelta(hours=hours)) for hours in (0, 1, 1, 2)]
    )
    (domain,) = storage.spatiotemporal.hierarchy(unit="hour", tz="Europe/Berlin")
    buckets = domain.task_types[0].buckets
    assert [(one.label, one.episodes) for one in buckets] == [
        ("2026-10-25T02+02:00", 1),
        ("2026-10-25T02+01:00", 2),
        ("2026-10-25T03+01:00", 1),
    ]
    assert all(one.ends_at == other.starts_at for one, other in pairwise(buckets))


@pytest.mark.parametrize(
    "zone", ["Nowhere/City", "", "../etc/passwd", "/etc/passwd", "Europe", None, 5, "\0", "a" * 999]
)
@in_memory
def test_an_unknown_time_zone_is_refused(storage, zone):
    with raises(ms.ValidationError, field="tz") as caught:
        storage.spatiotemporal.hierarchy(tz=zone)
    assert (caught.value.field, caught.value.value) == ("tz", zone)


@pytest.mark.parametrize("unit", ["year", "", None, 5, ["day"]])
@in_memory
def test_an_unknown_unit_is_refused(storage, unit):
    with raises(ms.ValidationError, field="unit") as caught:
        storage.spatiotemporal.diverse(unit=unit)
    assert (caught.value.field, caught.value.value) == ("unit", unit)


def test_old_keywords_of_the_calendar_warn(storage):
    storage.episodes.save(ms.Episode(task_description="t"))
    with pytest.warns(DeprecationWarning, match=r"use (unit|tz)="):
        assert storage.spatiotemporal.hierarchy(by="week", zone="Asia/Tokyo") == storage.spatiotemporal.hierarchy(
            unit="week", tz="Asia/Tokyo"
        )
    with pytest.warns(DeprecationWarning, match=r"use (unit|tz)="):
        assert len(storage.spatiotemporal.diverse(1, by="week", zone="Asia/Tokyo")) == 1
    with pytest.warns(DeprecationWarning, match=r"use (unit|tz)="):
        assert storage.analytics.over_time(bucket="week", zone="Asia/Tokyo")[-1].episodes == 1
    with pytest.warns(DeprecationWarning, match=r"use memory_storage\.models\.TimeUnit"):
        assert ms.models.Bucket is ms.models.TimeUnit
