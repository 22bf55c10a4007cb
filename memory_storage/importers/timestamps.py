"""Parse the times of transcripts: ISO 8601, or Unix time in seconds, milli-, micro- or nanoseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pydantic

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LATEST = datetime(9000, 1, 1, tzinfo=timezone.utc)
_ISO = pydantic.TypeAdapter(datetime)
# The unit follows from the magnitude: in seconds, 2e10 is the year 2603; in milliseconds, it is August 1970.
_UNITS = ((2e10, 1.0), (2e13, 1e3), (2e16, 1e6), (2e19, 1e9))
_NESTED = ("extra", "metadata")


def read_time(value: object) -> datetime | None:
    """Parse a time; without an offset it is in UTC. Returns None if the value is not a time after 1970."""
    if isinstance(value, str):
        return _read_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _read_number(value)


def find_time(values: Mapping[str, Any], names: Iterable[str]) -> tuple[datetime | None, str]:
    """Find the first of these fields that is a time, also inside `extra` or `metadata`.

    Returns:
        The time, or None; and the name of a field that should be a time but is not, or "".
    """
    bad = ""
    for prefix, fields in _places(values):
        for name in names:
            if fields.get(name) is None:
                continue
            if (time := read_time(fields[name])) is not None:
                return time, ""
            # In `extra`, a field of that name may mean anything; in the record itself it is meant as a time.
            bad = bad or ("" if prefix else name)
    return None, bad


def _places(values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    nested = [(f"{name}.", values[name]) for name in _NESTED if isinstance(values.get(name), dict)]
    return [("", values), *nested]


def _read_text(text: str) -> datetime | None:
    try:
        return _read_number(float(text))
    except ValueError:
        pass
    try:
        time = _ISO.validate_python(text)
    except pydantic.ValidationError:
        return None
    return _plausible(time if time.tzinfo else time.replace(tzinfo=timezone.utc))


def _read_number(number: float) -> datetime | None:
    if not math.isfinite(number):
        return None
    divisor = next((divisor for limit, divisor in _UNITS if abs(number) < limit), None)
    return None if divisor is None else _plausible(_EPOCH + timedelta(seconds=number / divisor))


def _plausible(time: datetime) -> datetime | None:
    """Return the time; None for 1970 and before (a clock that was not set), and beyond the calendar."""
    try:
        return time if _EPOCH + timedelta(days=1) < time < _LATEST else None
    except OverflowError:
        return None
