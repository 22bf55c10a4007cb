"""The schedule of faults: derived from a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault: after how many seconds, and for how long. `size` is what the kind makes of it."""

    kind: str
    peace: float
    seconds: float
    size: float


def plan(seed: int, kinds: Sequence[str], seconds: float) -> Iterator[Fault]:
    """Faults for a number of seconds. Each kind comes once before the first comes again."""
    draw = random.Random(seed)
    spent, turn = 0.0, []
    while spent < seconds:
        turn = turn or draw.sample(kinds, len(kinds))
        fault = Fault(turn.pop(), draw.uniform(0.3, 1.5), draw.uniform(0.2, 1.5), draw.random())
        spent += fault.peace + fault.seconds
        yield fault
