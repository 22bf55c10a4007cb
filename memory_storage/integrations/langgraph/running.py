"""Calls of a storage, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.aio._calls import iterate
from memory_storage.errors import ConfigurationError
from memory_storage.storage import MemoryStorage

T = TypeVar("T")


class AsyncRunner:
    """Runs blocking calls for coroutines, by the threads of the asynchronous storage.

    Args:
        storage: The storage. The threads start with the first call.
    """

    def __init__(self, storage: MemoryStorage) -> None:
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        self._calls = AsyncMemoryStorage(storage)._calls

    async def run(self, call: Callable[[], T]) -> T:
        """Return what a call returns. Of a task that is cancelled, its statement is interrupted."""
        # All of it, and not only its statements: the event loop has other work to do than to make and read documents.
        return await self._calls.run(call)

    def iterate(self, items: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
        """Yield the items of an iterator that threads advance."""
        return iterate(self._calls, items)
