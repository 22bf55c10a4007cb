"""Hours, days, weeks and months of a named time zone, as half-open periods of moments. Knows no SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import get_args
from zoneinfo import ZoneInfo

from memory_storage.errors import ValidationError
from memory_storage.models import TimeUnit

from .arguments import choice
from .documents import to_micros

Period = tuple[datetime, datetime]

MOST_PERIODS = 10_000
USUAL = {
    "hour": timedelta(days=2),
    "day": timedelta(days=30),
    "week": timedelta(weeks=26),
    "month": timedelta(days=730),
}
"""How far back an answer goes when it is not told."""

_HOUR = timedelta(hours=1)
_LAST = datetime.max.replace(tzinfo=timezone.utc)


def as_zone(name: str) -> tzinfo:
    """The zone of the IANA database; ValidationError if it has none of this name."""
    if name == "UTC":
        return timezone.utc  # there also where the system has no such database
    try:
        return ZoneInfo(name) if isinstance(name, str) else ZoneInfo("")
    except (ValueError, LookupError, OSError, TypeError, AttributeError) as error:
        raise ValidationError("tz", "an IANA time zone, like Europe/Berlin (pip install tzdata?)", name) from error


def periods(bucket: TimeUnit, since: datetime, until: datetime, zone: tzinfo) -> list[Period]:
    """Those that meet `since <= moment < until`, without gaps, in the zone's time.

    A day is from midnight to midnight there: 23 or 25 hours when clocks change, and two hours of one name are two.

    Raises:
        ValidationError: there are more than 10,000, or the first would begin before year 1 in the zone.
    """
    choice("unit", bucket, get_args(TimeUnit))
    found: list[Period] = []
    try:
        for period in _from(bucket, since, zone):
            if period[0] >= until:
                return found
            if len(found) == MOST_PERIODS:
                raise ValidationError("since", f"at most {MOST_PERIODS:,} periods: choose a larger unit", since)
            found.append(period)
    except OverflowError as error:
        raise ValidationError("since", "from year 1, in the zone too", since) from error
    return found


def as_json(some: Sequence[Period]) -> str:
    """The periods as a statement reads them with json_each: arrays of two integers."""
    return json.dumps([[to_micros(starts_at), to_micros(ends_at)] for starts_at, ends_at in some])


def _from(bucket: str, since: datetime, zone: tzinfo) -> Iterator[Period]:
    local = since.astimezone(zone)
    start = _hour(local) if bucket == "hour" else _midnight(_FIRST_DAY[bucket](local.date()), zone)
    after = _AFTER[bucket]
    while True:
        try:
            end = after(start)
        except OverflowError:
            end = _LAST  # there is no midnight after it
        yield start, end
        start = end


def _hour(local: datetime) -> datetime:
    floor = local - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    return _utc(floor).astimezone(local.tzinfo)


def _hour_after(start: datetime) -> datetime:
    rest = _HOUR - timedelta(minutes=start.minute, seconds=start.second)
    return (_utc(start) + rest).astimezone(start.tzinfo)


def _next(days: Callable[[date], date]) -> Callable[[datetime], datetime]:
    return lambda start: _midnight(days(start.date()), start.tzinfo)


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    # By UTC and back: a midnight that clocks skip is the moment when they do.
    return _utc(datetime(day.year, day.month, day.day, tzinfo=zone)).astimezone(zone)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)


_FIRST_DAY: dict[str, Callable[[date], date]] = {
    "day": lambda day: day,
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
}
_AFTER: dict[str, Callable[[datetime], datetime]] = {
    "hour": _hour_after,
    "day": _next(lambda day: day + timedelta(days=1)),
    "week": _next(lambda day: day + timedelta(days=7)),
    "month": _next(lambda day: (day.replace(day=1) + timedelta(days=32)).replace(day=1)),
}
