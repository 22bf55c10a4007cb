"""What has to change when a process is forked off: the child has no threads, and nothing of the parent's to use."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something of which a child process gets a copy that it must not go on with as it is."""

    def after_fork_in_child(self) -> None: ...


def tell_in_child(inherited: Inherited) -> None:
    """Have it told in every child process, as long as it lives."""
    _inherited.add(inherited)


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(_inherited):
        one.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
