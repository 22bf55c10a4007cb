"""Keep the sessions and the memory of Google's Agent Development Kit in the storage. Needs the extra `google-adk`.

    from memory_storage.integrations.google_adk import MemoryStorageMemoryService, MemoryStorageSessionService

    Runner(
        app_name="shop",
        agent=agent,
        session_service=MemoryStorageSessionService(storage),
        memory_service=MemoryStorageMemoryService(storage),
    )

Everything is kept as items of `storage.items` below the label `google-adk`; `paths.py` lists them.
"""

from memory_storage.errors import ConfigurationError

try:
    from .memory import MemoryStorageMemoryService
    from .sessions import MemoryStorageSessionService
except ImportError as error:
    if (error.name or "").partition(".")[0] != "google":
        raise
    raise ConfigurationError(
        "MemoryStorageSessionService needs Google ADK: pip install 'memory-storage[google-adk]'"
    ) from error

__all__ = ["MemoryStorageMemoryService", "MemoryStorageSessionService"]
