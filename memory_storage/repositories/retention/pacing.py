"""How much to do at once, so that the write lock is held shortly, and others get in between. Knows no SQL."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_TARGET = 0.015  # seconds that a portion should hold the lock; the promise is 0.05
_PAUSE = 0.012  # others look every 5 ms at most whether the lock is free
_FIRST = 40
_LEAST = 24  # less would save no time: to begin and to commit takes as long, and a busy machine is not faster for it
_MOST = 4_000
_REMEMBERED = 4  # portions: what was slow once may be so again


class Pace:
    """Measures the portions, and says how large the next one may be, in the unit that the caller weighs with."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.time) -> None:
        self.portion = _FIRST
        self._possible = deque([_FIRST], maxlen=_REMEMBERED)
        self._sleep = sleep
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        """A portion begins."""
        self._began = self._clock()

    def ended(self, weight: int, locked_at: float | None) -> None:
        """It is done, and had the lock since `locked_at`, by the database's clock. Let others have it for a while."""
        whole = self._clock() - self._began
        held = whole if locked_at is None else self._clock() - locked_at
        if not 0 <= held <= whole:  # a server has a clock of its own
            held = whole
        if weight:
            self._possible.append(int(weight * _TARGET / max(held, 0.0005)))
            self.portion = max(_LEAST, min(*self._possible, 2 * self.portion, _MOST))
        self._sleep(max(_PAUSE, held / 2))
