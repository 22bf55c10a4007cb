"""A histogram of durations, with sixteen buckets for each power of two."""

from __future__ import annotations

import math
from collections.abc import Iterator

from memory_storage.models.health import Latency

_PARTS = 16  # of each power of two
_TWICE = 2 * _PARTS  # a mantissa begins at a half
_LEAST = 1e-9
_frexp = math.frexp


class Histogram:
    """Counts durations in buckets: a few hundred integers, independent of how many durations there are."""

    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        mantissa, exponent = _frexp(seconds or _LEAST)
        index = exponent * _PARTS + int(mantissa * _TWICE) - _PARTS
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def percentile(self, part: float) -> float:
        """Return the seconds within which the fraction `part` (0 to 1) of the durations lie; 0 if there are none."""
        rank, seen = math.ceil(part * self.count), 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if seen >= rank:
                return min((_bound(index) + _bound(index + 1)) / 2, self.longest)
        return 0.0

    def latency(self) -> Latency:
        """Return mean, percentiles, maximum, total and cumulated buckets."""
        return Latency(
            mean=self.total / self.count if self.count else 0.0,
            p50=self.percentile(0.50),
            p95=self.percentile(0.95),
            p99=self.percentile(0.99),
            longest=self.longest,
            total=self.total,
            buckets=tuple(self._cumulated()),
        )

    def _cumulated(self) -> Iterator[tuple[float, int]]:
        seen = 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            yield _bound(index + 1), seen


def _bound(index: int) -> float:
    """Return the lower bound of a bucket, in seconds."""
    exponent, part = divmod(index, _PARTS)
    return math.ldexp(0.5 + part / (_TWICE), exponent)
