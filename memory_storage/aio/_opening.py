"""Opening a storage: what can be awaited, and used in an `async with` block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

from memory_storage import pool
from memory_storage.settings import MEMORY
from memory_storage.storage import MemoryStorage

from ._calls import Calls

S = TypeVar("S")


class Opening(Awaitable[S], AbstractAsyncContextManager[S], Generic[S]):
    """A storage that is being opened: `await` it, or use it in an `async with` block, which closes the storage.

    Args:
        kind: What is opened.
        opens: Opens the synchronous storage; a thread calls it.
        workers: The most threads for single calls; None for the default.
    """

    def __init__(self, kind: type[S], opens: Callable[[], MemoryStorage], workers: int | None) -> None:
        self._kind, self._opens, self._calls = kind, opens, Calls(workers)
        self._storage: Any = None

    def __await__(self) -> Generator[Any, None, S]:
        return self._open().__await__()

    async def __aenter__(self) -> S:
        storage = self._storage = await self._open()
        return storage

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        storage, self._storage = self._storage, None
        if storage is not None:
            await storage.close()

    async def _open(self) -> S:
        calls, opened = self._calls, list[MemoryStorage]()

        def close() -> None:
            for storage in opened:
                storage.close()

        def open_now() -> None:
            opened.append(storage := self._opens())
            if storage.settings.database == MEMORY:
                # A connection that is opened during a transaction waits for its end, and cannot be interrupted.
                pool.fill(storage.engine, storage.settings.pool.max_connections)

        try:
            await calls.run(open_now)
            calls.use(opened[0].settings, opened[0].engine)
        except BaseException:  # what was opened for a task that is cancelled is closed, too
            await calls.close(close)
            raise
        storage = self._kind.__new__(self._kind)
        attach: Any = getattr(storage, "_attach")  # noqa: B009 - the type that is generic over has no bound
        attach(calls, opened[0], closes=close)
        return storage
