"""The bases of what mirrors an object of the synchronous storage."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any

from typing_extensions import Self

from memory_storage.dbapi import Unpicklable

from ._calls import Caller

_UNSET = object()


class Mirror(Unpicklable):
    """Has the methods of a synchronous object, to be awaited.

    Args:
        caller: Runs the calls.
        sync: Returns the synchronous object. A thread calls it: the first use of one may import modules.
    """

    _sync: Callable[[], Any]

    def __init__(self, caller: Caller, sync: Callable[[], Any]) -> None:
        self._caller, self._sync = caller, sync


class Block(Mirror):
    """The mirror of an object that is used in a `with` block: use it in an `async with` block."""

    async def __aenter__(self) -> Self:
        await self._in_context(lambda: self._sync().__enter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._in_context(lambda: self._sync().__exit__(kind, error, traceback))

    async def _in_context(self, work: Callable[[], object]) -> None:
        """Have a thread run `work`; the context variables that it sets are set for this task."""
        context = copy_context()
        try:
            await self._caller.run(partial(context.run, work))
        finally:
            for variable, value in context.items():
                if variable.get(_UNSET) is not value:
                    variable.set(value)
