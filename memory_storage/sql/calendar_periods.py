"""Time zones as periods of one offset each, and the hours, days, weeks and months in them. Knows no SQL.

A moment's label is what a clock and a calendar there show: SQL adds the offset of its period and divides. Microseconds
since the epoch; "local" ones are what the clock would have if it were in UTC.
"""

from __future__ import annotations

import zoneinfo
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from memory_storage.errors import ValidationError
from memory_storage.models import TimeBucket, TimeUnit
from memory_storage.schema.rtree import FOREVER

from .documents import EPOCH, to_micros

FIRST = to_micros(datetime.min.replace(tzinfo=timezone.utc))
END = to_micros(datetime.max.replace(tzinfo=timezone.utc)) + 1
HOUR = 3_600_000_000
UNITS = {"hour": HOUR, "day": 24 * HOUR, "week": 7 * 24 * HOUR}  # year 1 began on a Monday
GRANULARITIES: tuple[str, ...] = (*UNITS, "month")

_KNOWN_UNTIL = datetime(2038, 1, 1, tzinfo=timezone.utc)
KNOWN_UNTIL = to_micros(_KNOWN_UNTIL)
"""Few moments are later. Until then changes are looked for day by day; after it, the zones have only yearly rules."""

_LOOKED_FROM = datetime(1830, 1, 1, tzinfo=timezone.utc)  # before, clocks went by the sun
_RULES_FROM = datetime(2101, 1, 1, tzinfo=timezone.utc)  # some zones have tables for this century
_CYCLE = timedelta(days=146_097)  # 400 years: the calendar repeats itself, and with it whatever follows yearly rules
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_FARTHEST = 26 * HOUR  # no offset is larger


class Period(NamedTuple):
    """From `since` on, until before `until`, clocks are `shift` ahead of UTC."""

    since: int
    until: int
    shift: int


@lru_cache(maxsize=64)
def periods(zone: str, *, for_ever: bool = False) -> tuple[Period, ...]:
    """The periods of a zone, from before year 1. The last one has no end: without `for_ever` it is that of 2038.

    Raises:
        ValidationError: there is no such zone.
    """
    changes = [(-FOREVER, _shift(_LOOKED_FROM, found := _zone(zone)))]
    changes += _changes(found, _LOOKED_FROM, _KNOWN_UNTIL, _DAY)
    if for_ever:
        changes += _changes(found, _KNOWN_UNTIL, _RULES_FROM, 7 * _DAY)
        cycle = list(_changes(found, _RULES_FROM, _RULES_FROM + _CYCLE, 7 * _DAY))
        turns = range((END - to_micros(_RULES_FROM)) // _micros(_CYCLE) + 1)
        changes += [(since + turn * _micros(_CYCLE), shift) for turn in turns for since, shift in cycle]
    ends = [since for since, _ in changes[1:]]
    return tuple(Period(since, until, shift) for (since, shift), until in zip(changes, [*ends, FOREVER], strict=True))


def bucket(label: int, by: TimeUnit, shift: int, zone: Sequence[Period], count: int) -> TimeBucket:
    """The bucket of a number that SQL gave: `shift` is that of an hour, which a clock may show twice."""
    first, end = _local(label, by)
    only = shift if by == "hour" else None
    found = list(_instants(first, end, zone, only))
    starts_at = FIRST if first <= FIRST else min(start for start, _ in found)
    ends_at = END if end >= END else max(end for _, end in found)
    return TimeBucket(_text(first, by, shift), _moment(starts_at), _moment(ends_at), count)


def _instants(first: int, end: int, zone: Sequence[Period], only: int | None) -> Iterator[tuple[int, int]]:
    """When clocks show something from `first` until before `end`."""
    at = max(0, bisect_right(zone, first - _FARTHEST, key=lambda period: period.since) - 1)
    while at < len(zone) and zone[at].since <= end + _FARTHEST:
        since, until, shift = zone[at]
        span = max(since, first - shift), min(until, end - shift)
        if span[0] < span[1] and only in (None, shift):
            yield span
        at += 1


def _local(label: int, by: TimeUnit) -> tuple[int, int]:
    if by != "month":
        return FIRST + label * UNITS[by], FIRST + (label + 1) * UNITS[by]
    (year, month), (next_year, next_month) = divmod(label, 12), divmod(label + 1, 12)
    return _midnight(year, month + 1), _midnight(next_year, next_month + 1)


def _midnight(year: int, month: int) -> int:
    return END if year > 9999 else to_micros(datetime(year, month, 1, tzinfo=timezone.utc))


def _text(local: int, by: TimeUnit, shift: int) -> str:
    shown = EPOCH + timedelta(microseconds=local)
    if by == "hour":
        return shown.replace(tzinfo=timezone(timedelta(microseconds=shift))).isoformat(timespec="hours")
    if by == "week":
        year, week, _ = date(shown.year, shown.month, shown.day).isocalendar()
        return f"{year:04}-W{week:02}"
    day = shown.date().isoformat()
    return day if by == "day" else day[:7]


def _moment(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=min(max(micros, FIRST), END - 1))


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, AttributeError, OSError) as error:
        limit = "a time zone's name, like 'Europe/Berlin' (where the system has none, install tzdata)"
        raise ValidationError("tz", limit, name) from error


def _shift(moment: datetime, zone: zoneinfo.ZoneInfo) -> int:
    return _micros(moment.astimezone(zone).utcoffset() or timedelta())


def _micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _changes(zone: zoneinfo.ZoneInfo, at: datetime, end: datetime, step: timedelta) -> Iterator[tuple[int, int]]:
    shift = _shift(at, zone)
    while at < end:
        then = min(at + step, end)
        if _shift(then, zone) != shift:
            then = _change(zone, at, then)
            shift = _shift(then, zone)
            yield to_micros(then), shift
        at = then


def _change(zone: zoneinfo.ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first moment of another offset, to the second."""
    shift = _shift(before, zone)
    while after - before > _SECOND:
        middle = before + (after - before) // (2 * _SECOND) * _SECOND
        before, after = (middle, after) if _shift(middle, zone) == shift else (before, middle)
    return after
