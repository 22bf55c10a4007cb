"""Limits how many writes to one server are in flight at a time.

sqld runs one write at a time, and stalls when many wait for their turn. Measured on a busy machine, with 10 and 16
writers, against sqld 0.24.32: with 8 writes in flight, 8 of 25 runs of 3 seconds met a stall of 10 to 37 seconds; with
4, 1 of 28 did. So the others wait in this process, where waiting costs the server nothing. A limit that adapted itself
to the response times (as TCP Vegas does) grew to 9 on a line of 20 ms, and met stalls in 9 of 25 runs, as 8 did.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ._errors import OperationalError
from ._fork import register_after_fork

CONCURRENT_WRITES = 4
"""The default. It allows some 150 small writes per second where a round trip takes 20 ms, and 400 on loopback."""


class WriteLimiter:
    """The slots for writes, shared by the connections to a server."""

    def __init__(self, slots: int = CONCURRENT_WRITES) -> None:
        self._slots = slots
        self.after_fork_in_child()
        register_after_fork(self)

    @contextmanager
    def slot(self, seconds: float) -> Iterator[None]:
        """Hold a slot for the block.

        Args:
            seconds: The longest wait for a free slot.

        Raises:
            OperationalError: no slot came free in time; nothing was sent (code SQLITE_BUSY).
        """
        free = self._free  # the one to release, also if the block forks
        if not free.acquire(timeout=seconds):
            raise OperationalError(
                f"nothing was sent: {self._slots} other writes of this process were in flight for {seconds:.3g} s; "
                "retry, or raise the limit (setting: max_concurrent_writes)",
                "SQLITE_BUSY",
            )
        try:
            yield
        finally:
            free.release()

    def after_fork_in_child(self) -> None:
        """Release all slots: their holders are threads of the parent process."""
        self._free = threading.BoundedSemaphore(self._slots)
