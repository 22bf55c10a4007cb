"""Adaptive batch size for bulk deletes: keeps each hold of the write lock under about 15 ms."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_TARGET_SECONDS = 0.015  # seconds that a batch should hold the lock; the promise is 0.05
_PAUSE_SECONDS = 0.012  # others look every 5 ms at most whether the lock is free
_INITIAL = 40
_MIN = 24  # less would save no time: to begin and to commit takes as long, and a busy machine is not faster for it
_MAX = 4_000
_WINDOW = 4  # batches: what was slow once may be so again


class BatchSizer:
    """Measures batches and adapts `batch_size`, in the unit of the caller's weights."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.time) -> None:
        self.batch_size = _INITIAL
        self._estimates = deque([_INITIAL], maxlen=_WINDOW)
        self._sleep = sleep
        self._clock = clock
        self._started_at = 0.0

    def start(self) -> None:
        """Start timing a batch."""
        self._started_at = self._clock()

    def finish(self, weight: int, locked_at: float | None) -> None:
        """Finish a batch that held the lock since `locked_at` (database clock); pause for other writers."""
        whole = self._clock() - self._started_at
        held = whole if locked_at is None else self._clock() - locked_at
        if not 0 <= held <= whole:  # a server has a clock of its own
            held = whole
        if weight:
            self._estimates.append(int(weight * _TARGET_SECONDS / max(held, 0.0005)))
            self.batch_size = max(_MIN, min(*self._estimates, 2 * self.batch_size, _MAX))
        self._sleep(max(_PAUSE_SECONDS, held / 2))
