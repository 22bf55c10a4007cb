"""How evidence loses weight with age: by half every 90 days, in steps of 30 days.

An episode weighs 2 to the power of the half-lives from a fixed day to the period of 30 days in which it ended. So its
weight never changes, and sums of weights can be added to and taken from. What is left of a sum at a moment is the sum,
divided by the weight of that moment (forward decay; Cormode, Shkapenyuk, Srivastava and Xu, 2009).
"""

from __future__ import annotations

from datetime import datetime, timezone

from memory_storage.sql.statement import to_micros

HALF_LIFE_DAYS = 90
_PERIODS = 3  # in a half-life

_PERIOD = HALF_LIFE_DAYS // _PERIODS * 86_400_000_000
_ORIGIN = to_micros(datetime(2020, 1, 1, tzinfo=timezone.utc))
_MOST = 1_000 * _PERIODS  # about 246 years: a float has 2 to the power of 1,023, and sums of weights are larger


def period_of(moment: int) -> int:
    """Return the number of the period of a moment, in microseconds since the epoch."""
    return max(-_MOST, min((moment - _ORIGIN) // _PERIOD, _MOST))


def weight_of_period(period: int) -> float:
    """Return the weight of what ends in a period."""
    return float(2.0 ** (period / _PERIODS))
