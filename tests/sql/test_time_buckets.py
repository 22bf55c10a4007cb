"""Hours, days, weeks and months are those of the zone's own clocks, and leave no gap."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.sql.statement import to_micros
from memory_storage.sql.time_buckets import FIRST, UNIT_SIZES, bucket, periods
from tests.raising import raises

UTC = timezone.utc
ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"]
HOUR = timedelta(hours=1)


def _hours(bucket: ms.models.TimeUnit, since: datetime, until: datetime, zone: str) -> list[float]:
    found = periods(bucket, since, until, ZoneInfo(zone))
    return [(end.astimezone(UTC) - start.astimezone(UTC)) / HOUR for start, end in found]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC), 23),
        ("Europe/Berlin", datetime(2026, 10, 25, 12, tzinfo=UTC), 25),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, 3, tzinfo=UTC), 24.5),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 12, tzinfo=UTC), 23),  # its midnight was skipped
        ("America/Havana", datetime(2024, 11, 3, 12, tzinfo=UTC), 25),  # its midnight came twice
        ("UTC", datetime(2026, 3, 29, 12, tzinfo=UTC), 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone, day, hours):
    assert _hours("day", day, day + HOUR, zone) == [hours]


def test_a_repeated_hour_counts_as_two(storage):
    since = datetime(2026, 10, 25, 0, tzinfo=UTC)  # 02:00 in summer
    found = periods("hour", since, since + 2 * HOUR, ZoneInfo("Europe/Berlin"))
    assert [start.isoformat() for start, _ in found] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]


def test_weeks_begin_on_monday_and_months_on_the_first():
    since, until = datetime(2024, 2, 14, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    weeks = [start for start, _ in periods("week", since, until, ZoneInfo("Asia/Kathmandu"))]
    assert {start.weekday() for start in weeks} == {0}
    months = [start for start, _ in periods("month", since, until, ZoneInfo("Asia/Kathmandu"))]
    assert [(start.month, start.day, start.hour) for start in months] == [(2, 1, 0), (3, 1, 0), (4, 1, 0)]


def _is_shown(moment: datetime) -> bool:
    """Whether clocks ever show it: they leave some hours out."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)


@example(  # where a day begins at one o'clock
    bucket="day", zone="America/Sao_Paulo", since=datetime(2000, 10, 6, tzinfo=UTC), lasts=timedelta(days=3)
)
@given(
    bucket=st.sampled_from(get_args(ms.models.TimeUnit)),
    zone=st.sampled_from(ZONES),
    since=st.datetimes(datetime(1970, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    lasts=st.timedeltas(timedelta(microseconds=1), timedelta(days=40)),
)
def test_periods_have_no_gaps_and_start_at_local_boundaries(bucket, zone, since, lasts):
    found = periods(bucket, since, since + lasts, ZoneInfo(zone))
    assert found[0][0] <= since < found[0][1]
    assert found[-1][0] < since + lasts <= found[-1][1]
    assert all(one[1] == other[0] for one, other in pairwise(found))
    for start, end in found:
        assert start.astimezone(UTC) < end.astimezone(UTC)
        if bucket != "hour":
            earlier = start - timedelta(microseconds=1)
            assert earlier.astimezone(UTC) < start.astimezone(UTC) or not _is_shown(earlier)
            before = (start.astimezone(UTC) - timedelta(microseconds=1)).astimezone(start.tzinfo)
            assert before.date() < start.date() or zone == "America/Havana"


@pytest.mark.parametrize("unit", get_args(ms.models.TimeUnit))
@pytest.mark.parametrize("zone", ["America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "America/Toronto"])
@pytest.mark.parametrize("since", [datetime(1919, 3, 30, tzinfo=UTC), datetime(2011, 11, 5, 20, tzinfo=UTC)])
def test_the_first_period_contains_the_start(zone, unit, since):
    for hours in range(72):  # clocks skip 23:30 to 00:30, show 23:01 to 24:00 twice
        at = since + hours * HOUR / 2
        first, *_ = periods(unit, at, at + HOUR, ZoneInfo(zone))
        assert first[0] <= at < first[1]


@example(at=datetime(2011, 12, 31, tzinfo=UTC), zone="Pacific/Apia", unit="day")
@example(at=datetime(2020, 10, 2, tzinfo=UTC), zone="America/Havana", unit="month")
@given(
    at=st.datetimes(datetime(1900, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    zone=st.sampled_from([*ZONES, "Pacific/Apia", "Asia/Beirut", "Europe/Amsterdam"]),
    unit=st.sampled_from(["day", "week", "month"]),
)
def test_a_bucket_is_the_period_of_the_same_name(at, zone, unit):
    tz = ZoneInfo(zone)
    ((starts_at, ends_at),) = periods(unit, at, at + timedelta(microseconds=1), tz)
    local = starts_at.replace(tzinfo=UTC)
    label = (to_micros(local) - FIRST) // UNIT_SIZES.get(unit, 1)
    if unit == "month":
        label = local.year * 12 + local.month - 1
    found = bucket(label, unit, 0, tz, 1)
    # In UTC: a time of an hour that clocks show twice is unequal to the same time in any other zone (PEP 495).
    assert [found.starts_at, found.ends_at] == [one.astimezone(UTC) for one in (starts_at, ends_at)]


def test_episodes_near_a_clock_change_count_in_their_day(storage, make_episode):
    last_of_sunday = datetime(2026, 3, 29, 21, 59, 59, 999_999, tzinfo=UTC)  # in Berlin, in summer time already
    moments = [last_of_sunday, last_of_sunday + timedelta(microseconds=1), datetime(2026, 3, 28, 23, tzinfo=UTC)]
    storage.episodes.save_many([make_episode(started_at=moment) for moment in moments])
    found = storage.analytics.over_time(
        tz="Europe/Berlin", since=datetime(2026, 3, 28, 12, tzinfo=UTC), until=datetime(2026, 3, 30, 12, tzinfo=UTC)
    )
    assert [(row.starts_at.day, row.episodes) for row in found] == [(28, 0), (29, 2), (30, 1)]


def test_the_last_day_of_all_ends_with_time_itself(storage, make_episode):
    last = datetime.max.replace(tzinfo=UTC)
    storage.episodes.save(make_episode(started_at=last - HOUR))
    (found,) = storage.analytics.over_time(since=last - 2 * HOUR, until=last)
    assert (found.ends_at, found.episodes) == (last, 1)


def test_too_many_periods_are_refused(storage):
    since = datetime(2026, 1, 1, tzinfo=UTC)
    with raises(ms.ValidationError, field="since", match="at most 10,000 periods"):
        storage.analytics.over_time("hour", since=since, until=since + 10_001 * HOUR)


def test_the_default_range_ends_now(target, make_episode):
    now = datetime(2026, 3, 30, 12, 30, tzinfo=UTC)
    with ms.MemoryStorage.open(target, now=lambda: now) as storage:
        storage.episodes.save(make_episode(started_at=now - timedelta(days=30)))
        assert storage.analytics.over_time()[0].episodes == 1
        assert len(storage.analytics.over_time("hour")) == 49
        assert len(storage.analytics.over_time("week")) == 27
    with ms.MemoryStorage.open(":memory:", now=lambda: datetime(1, 1, 2, tzinfo=UTC)) as storage:
        assert len(storage.analytics.over_time()) == 1
