"""Resets locks, connections and threads in forked child processes, and refuses to pickle what has them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class ForkAware(Protocol):
    """An object whose copy in a forked child process must be reset before use."""

    def after_fork_in_child(self) -> None:
        """Reset the object. Called in the child, right after the fork."""
        ...


class Unpicklable:
    """A mixin for objects with connections, threads or locks: pickling or copying one is a TypeError."""

    def __reduce__(self) -> Any:
        """Refuse."""
        raise TypeError(
            f"cannot pickle {type(self).__name__}: its connections, threads and locks belong to this process. "
            "Send the settings (storage.settings), or the path, and open the storage in the other process: "
            "MemoryStorage.open(settings)"
        )


class Statements(Protocol):
    """A connection whose statements run without the GIL."""

    def acquire(self) -> None:
        """Wait for the running statement, and let no other begin."""
        ...

    def release(self) -> None:
        """Let statements begin again."""
        ...


class _StatementBarrier:
    """Lets a fork wait for running statements: the child would inherit the mutexes of the engine locked, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Statements] = weakref.WeakSet()
        self._held: list[Statements] = []

    def add(self, connection: Statements) -> None:
        """Have forks wait for the statements of a connection, while it is alive."""
        with self._lock:
            self._connections.add(connection)

    def before_fork(self) -> None:
        """Wait for all statements."""
        self._lock.acquire()
        for connection in list(self._connections):
            connection.acquire()
            self._held.append(connection)

    def after_fork(self) -> None:
        """Let statements begin again, in the parent or in the child."""
        while self._held:
            self._held.pop().release()
        self._lock.release()


statement_barrier = _StatementBarrier()


def register_after_fork(target: ForkAware) -> None:
    """Call `target.after_fork_in_child()` in every forked child process while `target` is alive (held weakly)."""
    _registered.add(target)


# Held weakly: registering an object must not keep it, or its connection, alive.
_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Only the forking thread exists in the child, so no lock is needed; a copy, since a reset may register another one.
    for target in list(_registered):
        target.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
