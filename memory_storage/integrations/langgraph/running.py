"""Runs work that is written once, as a generator of batches, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from memory_storage.errors import ConfigurationError, MemoryStorageError
from memory_storage.models import ItemOperation
from memory_storage.storage import MemoryStorage

if TYPE_CHECKING:
    from memory_storage.aio import AsyncMemoryStorage

T = TypeVar("T")

Work: TypeAlias = Generator[list[ItemOperation], list[Any], T]
"""Yields batches of operations, is sent their results, and returns a value. An error of a batch is raised in it."""


class _Items(Protocol):
    def batch(self, operations: list[ItemOperation], /) -> list[Any]: ...


class _AsyncItems(Protocol):
    async def batch(self, operations: list[ItemOperation], /) -> list[Any]: ...


class Runner:
    """Runs work on the items of a storage.

    Args:
        storage: The storage. Coroutines use it by threads of their own, which start with the first one.
    """

    def __init__(self, storage: MemoryStorage) -> None:
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        self.storage = storage
        self._async: AsyncMemoryStorage | None = None

    @property
    def async_storage(self) -> AsyncMemoryStorage:
        """The storage for coroutines."""
        if self._async is None:
            from memory_storage.aio import AsyncMemoryStorage

            self._async = AsyncMemoryStorage(self.storage)
        return self._async

    @property
    def page_size(self) -> int:
        """The greatest number of items that one read returns."""
        return self.storage.settings.limits.query_maximum

    def run(self, work: Callable[[], Work[T]], *, isolation: str = "batch") -> T:
        """Run work, and return its value.

        Args:
            work: Returns the work; called again if a transaction is retried.
            isolation: "batch": each batch is a transaction; "snapshot": all of them read one state; "transaction".

        Returns:
            The value of the work.
        """
        if isolation == "transaction":
            return self.storage.run(lambda tx: _drive(tx.items, work()))
        if isolation == "snapshot":
            with self.storage.snapshot() as view:
                return _drive(view.items, work())
        return _drive(self.storage.items, work())

    async def arun(self, work: Callable[[], Work[T]], *, isolation: str = "batch") -> T:
        """Run work without blocking the event loop, and return its value: see `run`.

        Args:
            work: Returns the work.
            isolation: As for `run`.

        Returns:
            The value of the work.
        """
        storage = self.async_storage
        if isolation == "transaction":
            return await storage.run(lambda tx: _adrive(tx.items, work()))
        if isolation == "snapshot":
            async with storage.snapshot() as view:
                return await _adrive(view.items, work())
        return await _adrive(storage.items, work())


def _drive(items: _Items, work: Work[T]) -> T:
    step: Callable[[Any], list[ItemOperation]] = work.send
    value: Any = None
    while True:
        try:
            operations = step(value)
        except StopIteration as end:
            returned: T = end.value
            return returned
        try:
            step, value = work.send, items.batch(operations)
        except MemoryStorageError as error:
            step, value = work.throw, error


async def _adrive(items: _AsyncItems, work: Work[T]) -> T:
    step: Callable[[Any], list[ItemOperation]] = work.send
    value: Any = None
    while True:
        try:
            operations = step(value)
        except StopIteration as end:
            returned: T = end.value
            return returned
        try:
            step, value = work.send, await items.batch(operations)
        except MemoryStorageError as error:
            step, value = work.throw, error
