"""LangGraph's long-term store and its checkpoints, in a storage. Needs the extra `langgraph`.

    from memory_storage.integrations.langgraph import MemoryStorageSaver, MemoryStorageStore

    graph = builder.compile(store=MemoryStorageStore(storage), checkpointer=MemoryStorageSaver(storage))

Both keep items: the store below the path `STORE_PATH`, the saver below `THREADS_PATH`.
"""

from memory_storage.integrations._packages import needs

with needs(
    "the store and the saver need LangGraph's interfaces, version 4.3 or later of langgraph-checkpoint; run: "
    "pip install 'memory-storage[langgraph]'",
    *("langgraph", "langchain_core"),
):
    from .saver import THREADS_PATH, MemoryStorageSaver
    from .store import STORE_PATH, MemoryStorageStore

__all__ = ["STORE_PATH", "THREADS_PATH", "MemoryStorageSaver", "MemoryStorageStore"]
