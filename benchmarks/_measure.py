"""Interleaved timing of several implementations of the same work."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
Work = Callable[[], object]
Times = dict[str, list[float]]


def interleaved(prepare: Callable[[int], Mapping[str, Work]], rounds: int, *, collect_every: int = 1) -> Times:
    """Return the seconds of each side in each round, after one warm-up round.

    The sides take turns to be the first, so that the side effects of one (a warm cache, a busy disk) do not always
    affect the same others.

    Args:
        prepare: returns the work of each side for a round; not timed.
        rounds: the number of timed rounds.
        collect_every: the number of rounds after which all garbage is collected before each side; it takes some 30 ms.
    """
    times: Times = {}
    for number in range(rounds + 1):
        sides = list(prepare(number).items())
        times = times or {name: [] for name, _ in sides}
        for name, work in in_turn(sides, number):
            # Before each side: else the first one's garbage brings the second one's collection of all objects forward.
            gc.collect(2 if number % collect_every == 0 else 1)
            seconds = timed(work)
            if number:
                times[name].append(seconds)
    return times


def in_turn(sides: Sequence[T], number: int) -> list[T]:
    """Return the sides in the order of a round: each is the first in its turn."""
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, least and greatest ratio of the rounds; a disturbance of a round affects both sides."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return median(each), min(each), max(each)


def timed(work: Work) -> float:
    """Return the seconds that the work takes."""
    start = time.perf_counter()  # garbage collection stays enabled: it is part of the cost of objects
    result = work()
    seconds = time.perf_counter() - start
    del result  # the memory is released after the measurement, for all sides
    return seconds
