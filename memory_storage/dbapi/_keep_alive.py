"""Keeps idle transactions on servers from expiring.

A server ends a stream that had no request for ten seconds, and with it the snapshot or transaction: for example while a
caller processes one page of rows before it reads the next. One thread refreshes all connections that are to be kept
alive; it ends when there are none.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol
from weakref import WeakSet

from ._fork import register_after_fork

_TICK = 1.0  # seconds


class Refreshable(Protocol):
    """A connection to a server that may have a transaction open."""

    def expires_soon(self) -> bool:
        """Return whether its transaction has been idle for long. Called from another thread."""
        ...

    def refresh(self) -> None:
        """Send a request that changes nothing, unless the connection is in use. Never raises."""
        ...


class KeepAlive:
    """The connections that are kept alive, held weakly, and the thread that refreshes them."""

    def __init__(self, tick: float = _TICK) -> None:
        self._tick = tick
        self._lock = threading.RLock()  # a finalizer may run in a thread that holds it
        self._connections: WeakSet[Refreshable] = WeakSet()
        self._thread: threading.Thread | None = None
        register_after_fork(self)

    def add(self, connection: Refreshable) -> None:
        """Keep the transactions of a connection alive from now on."""
        with self._lock:
            self._connections.add(connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memory-storage-keep-alive", daemon=True)
                self._thread.start()

    def remove(self, connection: Refreshable) -> None:
        """Let the transactions of a connection expire."""
        with self._lock:
            self._connections.discard(connection)

    def after_fork_in_child(self) -> None:
        """Start without a thread and connections: both belong to the parent process."""
        self._lock, self._connections, self._thread = threading.RLock(), WeakSet(), None

    def _run(self) -> None:
        while self._refresh_due():
            time.sleep(self._tick)

    def _refresh_due(self) -> bool:
        """Refresh the connections that expire soon, and return whether there are connections at all."""
        # Each in a thread of its own: one server may be slow.
        # The thread ends under the lock: `add` then starts another one, and no connection is left without.
        with self._lock:
            due = [connection for connection in self._connections if connection.expires_soon()]
            if not self._connections:
                self._thread = None
                return False
        for connection in due:
            threading.Thread(target=connection.refresh, name="memory-storage-refresh", daemon=True).start()
        return True


# One for the process, so that any number of connections costs one thread.
KEEP_ALIVE = KeepAlive()
