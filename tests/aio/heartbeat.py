"""Measures for how long the event loop does nothing else: a task that wakes up each millisecond."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_EVERY = 0.001


class Heartbeat:
    """How late each beat was, in milliseconds."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.blocked: list[float] = []
        """The part of it in which the loop was not ready to run: it was blocked, or waited for the interpreter."""

    def share(self, share: float, beats: list[float]) -> float:
        """Return the lateness that a share of the beats does not exceed."""
        ordered = sorted(beats)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def __str__(self) -> str:
        wall, ours = (
            " ".join(
                f"{name} {self.share(share, beats):.1f}" for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
            )
            for beats in (self.late, self.blocked)
        )
        return f"{len(self.late)} beats; late by {wall} ms; without waits for a processor {ours} ms"


@asynccontextmanager
async def heartbeat() -> AsyncIterator[Heartbeat]:
    """Measure the loop while the block runs."""
    measured = Heartbeat()

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            waited, since = _waited_for_processor(), loop.time()
            await asyncio.sleep(_EVERY)
            late = max(0.0, loop.time() - since - _EVERY)
            measured.late.append(1_000 * late)
            measured.blocked.append(1_000 * max(0.0, late - (_waited_for_processor() - waited)))

    task = asyncio.create_task(beat())
    try:
        yield measured
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _waited_for_processor() -> float:
    """Return for how many seconds this thread was ready to run, and other threads ran; 0 where it is unknown."""
    with suppress(OSError):
        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")  # Linux
        return int(path.read_text().split()[1]) / 1e9
    return 0.0
