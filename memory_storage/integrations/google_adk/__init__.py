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

from memory_storage.integrations._packages import needs

with needs("MemoryStorageSessionService needs Google ADK: pip install 'memory-storage[google-adk]'", "google"):
    from .memory import MemoryStorageMemoryService
    from .sessions import MemoryStorageSessionService

__all__ = ["MemoryStorageMemoryService", "MemoryStorageSessionService"]
