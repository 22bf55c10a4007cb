"""The threads that run the calls of asynchronous adapters on a storage that the caller has opened."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.errors import ConfigurationError
from memory_storage.storage import MemoryStorage

_lock = threading.Lock()
_by_storage: WeakValueDictionary[MemoryStorage, AsyncMemoryStorage] = WeakValueDictionary()


def as_async(storage: MemoryStorage | AsyncMemoryStorage) -> AsyncMemoryStorage:
    """Return the storage for asyncio.

    The adapters on one MemoryStorage share one, whose threads end when the last adapter is collected as garbage.

    Raises:
        ConfigurationError: It is no storage.
    """
    if isinstance(storage, AsyncMemoryStorage):
        return storage
    if not isinstance(storage, MemoryStorage):
        raise ConfigurationError(
            f"storage: must be a MemoryStorage or an AsyncMemoryStorage, not a {type(storage).__name__}"
        )
    with _lock:
        shared = _by_storage.get(storage)
        if shared is None:
            shared = _by_storage[storage] = AsyncMemoryStorage(storage)
        return shared
