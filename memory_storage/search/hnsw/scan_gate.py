"""The gate of exact scans, which is closed while an index is being built.

Until the index is built, every search compares all vectors. Searches in a row, by several threads, would take most of
the processor from the build, and so delay the index that makes them fast. A closed gate admits one of them at a time
for each four cores, and pauses after each. A scan that is known to be short passes at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

_CORES_PER_SCAN = 4
_PAUSE = 2.0  # after a scan, for each second that it took
_SHORT = 0.020  # seconds of processor time: a shorter scan does not wait
_MAX_WAIT = 5.0  # seconds: no interrupt ends the wait
_MAX_KINDS = 1_000


class ScanGate:
    """The gate of the exact scans of one vector table. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards what follows
        self._is_closed = False
        self._queue: deque[object] = deque()  # who comes first is admitted first
        self._free_turns = max(1, (os.cpu_count() or 1) // _CORES_PER_SCAN)
        self._pause_ends_at = 0.0  # by the monotonic clock
        self._costs: dict[Hashable, float] = {}  # seconds of processor time of the last scan, by its kind

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close the gate during the block. One thread at a time may do so."""
        self._set_closed(is_closed=True)
        try:
            yield
        finally:
            self._set_closed(is_closed=False)

    @contextmanager
    def admit(self, kind: Hashable) -> Iterator[None]:
        """Wait for a turn if the gate is closed, for at most five seconds; run the scan in the block.

        Args:
            kind: What scans of about the same cost have in common. The first scan of a kind does not wait.
        """
        if not self._is_closed:
            yield
            return
        is_short = self._costs.get(kind, 0.0) < _SHORT
        has_turn = not is_short and self._take_turn()
        start, processor = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            with self._changed:
                if len(self._costs) >= _MAX_KINDS:
                    self._costs.clear()
                self._costs[kind] = time.thread_time() - processor
                if has_turn:
                    self._free_turns += 1
                    self._pause_ends_at = time.monotonic() + _PAUSE * (time.monotonic() - start)
                    self._changed.notify_all()

    def _set_closed(self, *, is_closed: bool) -> None:
        with self._changed:
            self._is_closed = is_closed
            self._changed.notify_all()

    def _take_turn(self) -> bool:
        """Wait for a turn, and return whether there is one to give back: not if the gate was opened meanwhile."""
        ticket, deadline = object(), time.monotonic() + _MAX_WAIT
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._is_closed and (now := time.monotonic()) < deadline:
                    is_next = self._queue[0] is ticket and self._free_turns > 0
                    if is_next and now >= self._pause_ends_at:
                        self._free_turns -= 1
                        return True
                    self._changed.wait(min(deadline, self._pause_ends_at if is_next else deadline) - now)
                return False
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
