"""Timing several ways to do the same, in turns. Knows nothing of what they do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

Work = Callable[[], object]
Times = dict[str, list[float]]


def interleaved(prepare: Callable[[int], Mapping[str, Work]], rounds: int) -> Times:
    """The seconds of each side in each round, after one round that is not counted.

    `prepare(round)` gives what each side does in that round; it is not timed. Another side goes first each time, so
    that what one leaves behind (a warm cache, a busy disk) is not always to the others' good or harm.
    """
    times: Times = {}
    for number in range(rounds + 1):
        sides = list(prepare(number).items())
        times = times or {name: [] for name, _ in sides}
        turn = number % len(sides)
        gc.collect()
        for name, work in sides[turn:] + sides[:turn]:
            seconds = _timed(work)
            if number:
                times[name].append(seconds)
    return times


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """The median, the least and the greatest of the ratios of the rounds: what disturbs a round disturbs both sides."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return median(each), min(each), max(each)


def _timed(work: Work) -> float:
    gc.collect(1)  # and leave it on: collecting is part of what objects cost
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result  # the memory is given back after the time is taken, for all sides alike
    return seconds
