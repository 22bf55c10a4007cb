"""A clock that only advances when a test advances it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

_START = datetime(2025, 1, 1, tzinfo=timezone.utc)


class FakeClock:
    """A clock that stands still: its methods replace `now`, `sleep` and a monotonic clock.

    `sleep` returns immediately and advances the clock. Threads may share it.

        clock = FakeClock()
        storage = MemoryStorage.open(":memory:", now=clock.now)
        clock.advance(3600)
    """

    def __init__(self, start: datetime = _START) -> None:
        if start.tzinfo is None:
            raise ValueError("the start of the clock must be aware: give it a tzinfo")
        self._start = start
        self._seconds = 0.0
        self._sleeps: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the current time, aware."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the seconds since the clock was created."""
        with self._lock:
            return self._seconds

    def advance(self, seconds: float) -> None:
        """Advance the clock.

        Raises:
            ValueError: `seconds` is negative; for an earlier time, create another clock.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot be set back by {-seconds:g} s: create a FakeClock with an earlier start")
        with self._lock:
            self._seconds += seconds

    def sleep(self, seconds: float) -> None:
        """Record the sleep, and advance the clock by it."""
        self.advance(seconds)
        with self._lock:
            self._sleeps.append(seconds)

    @property
    def sleeps(self) -> list[float]:
        """The recorded sleeps, in seconds."""
        with self._lock:
            return list(self._sleeps)
