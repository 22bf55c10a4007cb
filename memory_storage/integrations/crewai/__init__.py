"""Keep the memory of CrewAI in a storage. Needs the extra `crewai`.

    from crewai import Memory
    from memory_storage.integrations.crewai import MemoryStorageBackend

    memory = Memory(storage=MemoryStorageBackend(storage))

A record is an item at the path `MEMORY_PATH` of `storage.items`; its key is the record's id. CrewAI is imported by the
first backend, so that this module can be imported without it.
"""

from .backend import MemoryStorageBackend, memory_storage_factory
from .records import MEMORY_PATH

__all__ = ["MEMORY_PATH", "MemoryStorageBackend", "memory_storage_factory"]
