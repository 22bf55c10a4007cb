"""How evidence loses weight with age: by half every 90 days.

An episode weighs 2 to the power of the half-lives from a fixed day to its end, so that its weight never changes: sums
of weights can be added to and taken from. What is left of them now is the sum, divided by the weight of this moment
(forward decay; Cormode, Shkapenyuk, Srivastava and Xu, 2009).
"""

from __future__ import annotations

from datetime import datetime, timezone

from memory_storage.sql.statement import to_micros

HALF_LIFE_DAYS = 90

_HALF_LIFE = HALF_LIFE_DAYS * 86_400_000_000
_ORIGIN = to_micros(datetime(2020, 1, 1, tzinfo=timezone.utc))
_MOST = 1_000  # half-lives, about 246 years: a float has 2 to the power of 1,023, and sums of weights are larger


def weight_of(moment: int) -> float:
    """Return the weight of what ends at a moment, in microseconds since the epoch."""
    return float(2.0 ** max(-_MOST, min((moment - _ORIGIN) / _HALF_LIFE, _MOST)))
