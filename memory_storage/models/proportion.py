"""Proportions with their confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from memory_storage.errors import ValidationError


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its confidence interval (Wilson score).

    Attributes:
        rate: `count / of`, from 0 to 1; None, like the bounds, if `of` is 0.
        low: the lower bound.
        high: the upper bound.
        count: how many have the property.
        of: how many were counted.
    """

    rate: float | None
    low: float | None
    high: float | None
    count: int
    of: int


def quantile(confidence: float) -> float:
    """Return the half width of an interval in standard errors: 1.96 for a confidence of 0.95."""
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValidationError("confidence", "a number between 0 and 1, like 0.95", confidence)
    return _quantile(confidence)


@lru_cache(maxsize=64)
def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(count: int, of: int, confidence: float) -> Rate:
    """Return the score interval of a proportion (Wilson 1927): valid for small counts, and within 0 to 1."""
    z = quantile(confidence)
    if not of:
        return Rate(None, None, None, 0, 0)
    rate = count / of
    centre = rate + z * z / (2 * of)
    reach = z * math.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    low = 0.0 if count == 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if count == of else min(1.0, (centre + reach) / scale)
    return Rate(rate, low, high, count, of)
