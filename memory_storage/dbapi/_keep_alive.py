"""Keeps open transactions of servers from expiring while their callers are busy elsewhere. Knows no messages.

A server ends a stream that had no request for ten seconds, and the snapshot or transaction in it is lost: so it is for
a caller that takes its time between two pages. One thread looks after all connections that are to be kept alive; it
ends when there are none.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol
from weakref import WeakSet

from ._fork import tell_in_child

_TICK = 1.0  # seconds


class Kept(Protocol):
    """A connection to a server that may have a transaction open."""

    def expires_soon(self) -> bool:
        """Whether its transaction has been idle for long. Called from another thread."""
        ...

    def refresh(self) -> None:
        """Send a request that changes nothing, unless the connection is in use. Never raises."""
        ...


class Pulse:
    """The connections that are kept alive, and the thread that looks after them while there are any."""

    def __init__(self, tick: float = _TICK) -> None:
        self._tick = tick
        self._lock = threading.RLock()  # a finalizer may run in a thread that holds it
        self._kept: WeakSet[Kept] = WeakSet()
        self._thread: threading.Thread | None = None
        tell_in_child(self)

    def watch(self, kept: Kept) -> None:
        """Keep its transactions alive from now on."""
        with self._lock:
            self._kept.add(kept)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memory-storage-pulse", daemon=True)
                self._thread.start()

    def forget(self, kept: Kept) -> None:
        """Let its transactions expire."""
        with self._lock:
            self._kept.discard(kept)

    def after_fork_in_child(self) -> None:
        """Start with none: the thread stayed in the parent, and so did the connections."""
        self._lock, self._kept, self._thread = threading.RLock(), WeakSet(), None

    def _run(self) -> None:
        while self._beat():
            time.sleep(self._tick)

    def _beat(self) -> bool:
        """Refresh what expires soon, each in a thread of its own: one server may be slow. Whether there are any."""
        with self._lock:
            due = [one for one in self._kept if one.expires_soon()]
            if not self._kept:
                self._thread = None
                return False
        for one in due:
            threading.Thread(target=one.refresh, name="memory-storage-refresh", daemon=True).start()
        return True


PULSE = Pulse()
