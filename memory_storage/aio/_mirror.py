"""The base of what mirrors an object of the synchronous storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memory_storage.dbapi import Unpicklable

from ._calls import Caller


class Mirror(Unpicklable):
    """Has the methods of a synchronous object, to be awaited.

    Args:
        caller: Runs the calls.
        sync: Returns the synchronous object. A thread calls it: the first use of one may import modules.
    """

    _sync: Callable[[], Any]

    def __init__(self, caller: Caller, sync: Callable[[], Any]) -> None:
        self._caller, self._sync = caller, sync
