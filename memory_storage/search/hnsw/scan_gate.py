"""The gate of exact scans, which is closed while an index is being built.

Until the index is built, every search compares all vectors. Searches in a row, by several threads, would take most of
the processor from the build, and so delay the index that makes them fast. A closed gate admits one scan at a time for
each four cores, and pauses after each. A scan that is known to be short passes at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_CORES_PER_SCAN = 4
_SHORT = 0.003  # seconds of processor time, about those of 2,000 vectors: a shorter scan does not wait
_MAX_WAIT = 5.0  # seconds: no interrupt ends the wait
_MAX_KINDS = 1_000

# Seconds after a scan, for each that it took. On two cores a scan takes one of them, and without pauses it would double
# the time of a build. With these, builds with scans take 1.3 times the processor time of those without; with 0.5, 1.5.
_PAUSE = 2.0


class ScanGate:
    """The gate of the exact scans of one database. Thread-safe."""

    def __init__(
        self,
        *,
        turns: int | None = None,
        max_wait: float = _MAX_WAIT,
        processor_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        """Create an open gate.

        Args:
            turns: Scans at a time while it is closed. Default: one for each four cores.
            max_wait: Seconds after which a scan no longer waits.
            processor_seconds: Returns the processor time of the current thread.
        """
        self._max_wait, self._processor_seconds = max_wait, processor_seconds
        self._changed = threading.Condition()  # guards what follows
        self.is_closed = False
        self._builds = 0
        self._free_turns = turns or max(1, (os.cpu_count() or 1) // _CORES_PER_SCAN)
        self._queue: deque[object] = deque()  # turns are taken in the order of arrival
        self._pause_ends_at = 0.0  # by the monotonic clock
        self._costs: dict[Hashable, float] = {}  # processor seconds of the last scan, by its kind

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep the gate closed during the block, which builds an index."""
        self._count_builds(1)
        try:
            yield
        finally:
            self._count_builds(-1)

    @contextmanager
    def admit(self, kind: Hashable) -> Iterator[None]:
        """Run a scan in the block, after waiting for a turn if the gate is closed.

        Args:
            kind: What scans of about the same cost have in common. Scans of an unknown kind do not wait.
        """
        has_turn = self.is_closed and self._costs.get(kind, 0.0) >= _SHORT and self._take_turn()
        start, processor_start = time.monotonic(), self._processor_seconds()
        try:
            yield
        finally:
            cost, end = self._processor_seconds() - processor_start, time.monotonic()
            with self._changed:
                if len(self._costs) >= _MAX_KINDS:
                    self._costs.clear()
                self._costs[kind] = cost
                if has_turn:
                    self._free_turns += 1
                    self._pause_ends_at = end + _PAUSE * (end - start)
                    self._changed.notify_all()

    def _count_builds(self, change: int) -> None:
        with self._changed:
            self._builds += change
            self.is_closed = self._builds > 0
            self._changed.notify_all()

    def _take_turn(self) -> bool:
        """Wait for a turn; return False, without one, if the gate was opened or the wait was too long."""
        ticket, deadline = object(), time.monotonic() + self._max_wait
        with self._changed:
            self._queue.append(ticket)
            try:
                while self.is_closed and (now := time.monotonic()) < deadline:
                    is_next = self._queue[0] is ticket and self._free_turns > 0
                    if is_next and now >= self._pause_ends_at:
                        self._free_turns -= 1
                        return True
                    self._changed.wait((min(deadline, self._pause_ends_at) if is_next else deadline) - now)
                return False
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
