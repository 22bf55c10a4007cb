"""Time that passes only when a test says so."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

_START = datetime(2025, 1, 1, tzinfo=timezone.utc)


class FakeClock:
    """A clock that stands still: hand its methods to whatever takes a `now`, a `sleep` or a monotonic clock.

    To sleep takes no time, and lets the clock go on by as much. Threads may share it.

        clock = FakeClock()
        storage = MemoryStorage.open(":memory:", now=clock.now)
        clock.advance(3600)
    """

    def __init__(self, start: datetime = _START) -> None:
        if start.tzinfo is None:
            raise ValueError("the clock must give aware moments: give its start a tzinfo")
        self._start = start
        self._seconds = 0.0
        self._sleeps: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The moment, aware."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        with self._lock:
            return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass; ValueError for less than none: a clock that is set back is `FakeClock(earlier)`."""
        if seconds < 0:
            raise ValueError(f"time does not go back by {-seconds:g} s")
        with self._lock:
            self._seconds += seconds

    def sleep(self, seconds: float) -> None:
        """Note it down, and let that time pass."""
        self.advance(seconds)
        with self._lock:
            self._sleeps.append(seconds)

    @property
    def sleeps(self) -> list[float]:
        """How long was slept, each time."""
        with self._lock:
            return list(self._sleeps)
