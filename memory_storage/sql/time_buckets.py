"""Hours, days, weeks and months of named time zones: as periods of time, and as labels that SQL computes.

`periods` lists the periods of a range, without gaps; statements read them with json_each. `offset_periods` lists the
ranges in which a zone has one offset from UTC: with those, SQL computes the local time of a row and from that the
number of its hour, day, week or month, which `bucket` turns into a label with its start and end.

Times are integer microseconds since the epoch. A local time is what clocks show, as if it were UTC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple, get_args
from zoneinfo import ZoneInfo

from memory_storage.errors import ValidationError
from memory_storage.models import TimeBucket, TimeUnit
from memory_storage.schema.rtree import FOREVER

from .statement import EPOCH, to_micros
from .validation import choice

FIRST = to_micros(datetime.min.replace(tzinfo=timezone.utc))
END = to_micros(datetime.max.replace(tzinfo=timezone.utc)) + 1
"""Every time that can be stored is at least FIRST and less than END: years 1 to 9999."""

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
UNIT_SIZES = {"hour": HOUR, "day": DAY, "week": 7 * DAY}
"""The units of one size, counted from year 1, which began on a Monday. Months are counted from January of year 0."""

DEFAULT_RANGES = {
    "hour": timedelta(days=2),
    "day": timedelta(days=30),
    "week": timedelta(weeks=26),
    "month": timedelta(days=730),
}
"""The range that ends now, for a caller who gives no start."""

MAX_PERIODS = 10_000

KNOWN_UNTIL = to_micros(datetime(2038, 1, 1, tzinfo=timezone.utc))
"""The end of `offset_periods` by default: few rows are later, and it takes seconds to list the offsets of all time."""

_KNOWN_FROM = to_micros(datetime(1830, 1, 1, tzinfo=timezone.utc))  # before, each zone has its local mean time
_RULES_FROM = to_micros(datetime(2101, 1, 1, tzinfo=timezone.utc))  # Morocco's table of Ramadans ends in 2087
_CYCLE = 146_097 * DAY  # 400 years, after which the Gregorian calendar, and so each yearly rule, repeats
_MAX_OFFSET = 16 * HOUR  # of all zones: 15:13:42

Period = tuple[datetime, datetime]


class OffsetPeriod(NamedTuple):
    """From `since` until before `until`, local times are `offset` ahead of UTC."""

    since: int
    until: int
    offset: int


def time_zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name.

    Raises:
        ValidationError: the system's time zone database has no such name.
    """
    if name == "UTC":
        return timezone.utc  # works without a database
    limit = "an IANA time zone, like 'Europe/Berlin' (where the system has no database: pip install tzdata)"
    if not isinstance(name, str):  # ZoneInfo takes a tuple for arguments of its cache's `get`
        raise ValidationError("tz", limit, name)
    try:
        return ZoneInfo(name)
    except (ValueError, LookupError, OSError) as error:
        raise ValidationError("tz", limit, name) from error


def periods(unit: TimeUnit, since: datetime, until: datetime, tz: tzinfo) -> list[Period]:
    """Return the periods that meet `since <= time < until`, in order and without gaps.

    A day is from one midnight to the next: 23 or 25 hours where clocks change. An hour that clocks show twice is two.

    Args:
        unit: "hour", "day", "week" (from Monday) or "month".
        since: aware; the first period contains it.
        until: aware; the last period starts before it.
        tz: the zone whose clocks count; starts and ends are in it.

    Raises:
        ValidationError: there are more than 10,000, or the first one starts before year 1 in the zone.
    """
    choice("unit", unit, get_args(TimeUnit))
    at, end = to_micros(since), to_micros(until)
    local = at + _offset(at, tz)
    label = _label(local, unit) if FIRST <= local < END else 0
    start = _first_time(_start(label, unit), tz)
    if start < FIRST or local >= END:
        raise ValidationError("since", "from year 1 to 9999, in the zone too", since)
    found: list[Period] = []
    starts_at, offset = _on_clocks(start, tz)
    while start < end:
        label += 1
        # Hours are cut at the full hour again after an offset that changed by a part of one.
        boundary = start + offset + HOUR - (start + offset) % HOUR if unit == "hour" else _start(label, unit)
        stop = boundary - offset
        ends_at, new_offset = _on_clocks(stop, tz)
        if new_offset != offset and unit != "hour" and stop < END:  # the clocks changed in between
            stop = _first_time(boundary, tz)
            ends_at, new_offset = _on_clocks(stop, tz)
        if stop > max(start, at):  # not a day that the zone left out, nor the first of two hours before `since`
            if len(found) == MAX_PERIODS:
                raise ValidationError("since", f"at most {MAX_PERIODS:,} periods: choose a larger unit", since)
            found.append((starts_at, ends_at))
        start, starts_at, offset = stop, ends_at, new_offset
    return found


def as_json(some: Sequence[Period]) -> str:
    """Return the periods as arrays of two integers, for json_each."""
    return json.dumps([[to_micros(starts_at), to_micros(ends_at)] for starts_at, ends_at in some])


@lru_cache(maxsize=64)
def offset_periods(tz: tzinfo, *, all_time: bool = False) -> tuple[OffsetPeriod, ...]:
    """Return the ranges of one offset each, from before year 1. The last one has no end.

    Args:
        tz: the zone.
        all_time: include the changes after 2037.
    """
    changes = [(-FOREVER, _offset(_KNOWN_FROM, tz))]
    if tz is not timezone.utc:
        # A zone that changes twice within a day would be missed; none does.
        changes += _changes(tz, _KNOWN_FROM, KNOWN_UNTIL, DAY)
        if all_time:
            changes += _changes(tz, KNOWN_UNTIL, _RULES_FROM, 7 * DAY)
            cycle = list(_changes(tz, _RULES_FROM, _RULES_FROM + _CYCLE, 7 * DAY))
            shifts = range(0, END - _RULES_FROM, _CYCLE)
            changes += [(since + shift, offset) for shift in shifts for since, offset in cycle]
    ends = [since for since, _ in changes[1:]]
    return tuple(OffsetPeriod(since, until, of) for (since, of), until in zip(changes, [*ends, FOREVER], strict=True))


def bucket(label: int, unit: TimeUnit, offset: int, tz: tzinfo, episodes: int) -> TimeBucket:
    """Return the bucket of a label that SQL computed.

    Args:
        label: the number of the hour, day or week since year 1, or of the month since year 0.
        unit: what the label counts.
        offset: of an hour, the offset from UTC: it distinguishes the two hours of one label.
        tz: the zone.
        episodes: the count to put into the bucket.
    """
    return TimeBucket(_text(_start(label, unit), unit, offset), *_bounds(label, unit, offset, tz), episodes)


@lru_cache(maxsize=4096)  # a label comes back in each domain and task type
def _bounds(label: int, unit: str, offset: int, tz: tzinfo) -> Period:
    first, end = _start(label, unit), _start(label + 1, unit)
    if unit == "hour":
        starts_at, ends_at = first - offset, end - offset
        if _offset(starts_at, tz) != offset:
            starts_at = _change(tz, starts_at, ends_at)
        elif _offset(ends_at - SECOND, tz) != offset:
            ends_at = _change(tz, starts_at, ends_at)
    else:
        starts_at, ends_at = _first_time(first, tz), _last_time(end, tz)
    # What would be local times of the years 0 and 10000 is in the first and the last bucket.
    starts_at = FIRST if first <= FIRST else max(starts_at, FIRST)
    ends_at = END - 1 if end >= END else min(ends_at, END - 1)
    return _datetime(starts_at), _datetime(ends_at)


def _label(local: int, unit: str) -> int:
    if unit == "month":
        shown = _datetime(local)
        return shown.year * 12 + shown.month - 1
    return (local - FIRST) // UNIT_SIZES[unit]


def _start(label: int, unit: str) -> int:
    """The local time at which an hour, day, week or month starts."""
    if unit == "month":
        year, month = divmod(label, 12)
        return END if year > 9999 else to_micros(datetime(year, month + 1, 1, tzinfo=timezone.utc))
    return FIRST + label * UNIT_SIZES[unit]


def _text(local: int, unit: str, offset: int) -> str:
    shown = _datetime(local)
    if unit == "hour":
        return shown.replace(tzinfo=timezone(timedelta(microseconds=offset))).isoformat(timespec="hours")
    if unit == "week":
        year, week, _ = date(shown.year, shown.month, shown.day).isocalendar()
        return f"{year:04}-W{week:02}"
    return shown.date().isoformat()[: 10 if unit == "day" else 7]


def _first_time(local: int, tz: tzinfo) -> int:
    """The first time at which clocks reach a local time; of one that they skip, the time of the change."""
    offset = _offset(local - _MAX_OFFSET, tz)
    if _offset(local - offset, tz) == offset:
        return local - offset
    change = _change(tz, local - _MAX_OFFSET, local - offset)
    return max(change, local - _offset(change, tz))


def _last_time(local: int, tz: tzinfo) -> int:
    """The time from which on clocks always show at least a local time."""
    offset = _offset(local + _MAX_OFFSET, tz)
    if _offset(local - offset - SECOND, tz) == offset:
        return local - offset
    change = _change(tz, local - offset - SECOND, local + _MAX_OFFSET)
    return min(change, local - _offset(change - SECOND, tz))


def _changes(tz: tzinfo, at: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Each time at which the offset changes, with the new offset."""
    offset = _offset(at, tz)
    while at < end:
        then = min(at + step, end)
        if _offset(then, tz) != offset:
            then = _change(tz, at, then)
            offset = _offset(then, tz)
            yield then, offset
        at = then


def _change(tz: tzinfo, before: int, after: int) -> int:
    """The time, to the second, at which the offset of `before` ends; at `after` it is another."""
    offset = _offset(before, tz)
    while after - before > SECOND:
        middle = before + (after - before) // (2 * SECOND) * SECOND
        before, after = (middle, after) if _offset(middle, tz) == offset else (before, middle)
    return after


def _offset(at: int, tz: tzinfo) -> int:
    return _on_clocks(at, tz)[1]


def _on_clocks(at: int, tz: tzinfo) -> tuple[datetime, int]:
    """The time in a zone, and how far its clocks are ahead of UTC."""
    try:
        shown = (EPOCH + timedelta(0, 0, at)).astimezone(tz)
    except OverflowError:  # there is no datetime for it in the zone; no clock changes on the first and last days
        shown = _datetime(min(max(at, FIRST), END - 1))
        at = min(max(at, FIRST + DAY), END - 1 - DAY)
        return shown, _on_clocks(at, tz)[1]
    offset = shown.utcoffset() or timedelta()
    return shown, offset.days * DAY + offset.seconds * SECOND


def _datetime(at: int) -> datetime:
    return EPOCH + timedelta(0, 0, at)
