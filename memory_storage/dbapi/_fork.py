"""What belongs to one process. A child has no threads, and nothing of its parent's to use; a pickle has neither."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class ForkAware(Protocol):
    """Something of which a child process gets a copy that it must not go on with as it is."""

    def after_fork_in_child(self) -> None: ...


class Unpicklable:
    """A mixin for what has connections, threads or locks: to pickle or copy it is a TypeError that says what to do."""

    def __reduce__(self) -> Any:
        """Refuse."""
        raise TypeError(
            f"cannot pickle {type(self).__name__}: its connections, threads and locks belong to this process. "
            "Send the settings (storage.settings), or the path, and open the storage in the other process: "
            "MemoryStorage.open(settings)"
        )


def register_after_fork(target: ForkAware) -> None:
    """Have it told in every child process, as long as it lives."""
    _registered.add(target)


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for target in list(_registered):
        target.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
