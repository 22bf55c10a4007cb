"""Resets locks, connections and threads in forked child processes, and refuses to pickle what has them."""

from __future__ import annotations

import os
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


def register_after_fork(target: ForkAware) -> None:
    """Call `target.after_fork_in_child()` in every forked child process while `target` is alive (held weakly)."""
    _registered.add(target)


# Held weakly: registering an object must not keep it, or its connection, alive.
_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Only the forking thread exists in the child, so no lock is needed; a copy, since a reset may register another one.
    for target in list(_registered):
        target.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
