"""Confidence intervals, from counts and sums."""

from __future__ import annotations

import math
from typing import NamedTuple

from memory_storage.models.analytics import Difference, Mean
from memory_storage.models.proportion import Rate, quantile


class Sums(NamedTuple):
    """Count, mean, and sum of squared deviations from the mean of some values."""

    of: int
    mean: float | None
    squares: float | None


def mean(sums: Sums, confidence: float) -> Mean:
    """Return a mean; its interval is the standard error times the normal quantile to either side."""
    error = _square_error(sums)
    if sums.mean is None or error is None:
        return Mean(sums.mean, None, None, sums.of)
    reach = quantile(confidence) * math.sqrt(error)
    return Mean(sums.mean, finite_part(sums.mean - reach), finite_part(sums.mean + reach), sums.of)


def difference_of_rates(before: Rate, after: Rate) -> Difference:
    """Return the difference by the hybrid of two score intervals (Newcombe 1998, method 10)."""
    b, b_low, b_high = before.rate, before.low, before.high
    a, a_low, a_high = after.rate, after.low, after.high
    if b is None or b_low is None or b_high is None or a is None or a_low is None or a_high is None:
        return Difference(None, None, None)
    return Difference(a - b, a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low))


def difference_of_means(before: Sums, after: Sums, confidence: float) -> Difference:
    """Return the difference; its interval uses Welch's standard error (1947) and the normal quantile."""
    if before.mean is None or after.mean is None:
        return Difference(None, None, None)
    difference, errors = finite_part(after.mean - before.mean), (_square_error(before), _square_error(after))
    if difference is None or errors[0] is None or errors[1] is None:
        return Difference(difference, None, None)
    reach = quantile(confidence) * math.sqrt(errors[0] + errors[1])
    return Difference(difference, finite_part(difference - reach), finite_part(difference + reach))


def finite_part(value: float | None) -> float | None:
    """Return the value; None if the computation overflowed, because JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _square_error(sums: Sums) -> float | None:
    return None if sums.of < 2 or sums.squares is None else sums.squares / (sums.of - 1) / sums.of
