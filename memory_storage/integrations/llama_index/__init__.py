"""Keep the memory of LlamaIndex's agents in the storage. Needs the extra `llama-index`.

    from llama_index.core.memory import Memory
    from memory_storage.integrations.llama_index import MemoryStorageChatStore, RecallMemoryBlock

    memory = Memory.from_defaults(
        session_id="user-42",
        chat_store=MemoryStorageChatStore(storage),
        memory_blocks=[RecallMemoryBlock(storage)],
    )
    await agent.run("Hello", memory=memory)

`MemoryStorageChatStore` keeps the messages of conversations in `storage.logs`. `RecallMemoryBlock` adds to each prompt
what the storage has about the user's message: `storage.recall`.
"""

from __future__ import annotations

from memory_storage.integrations._packages import needs

with needs(
    "the chat store and the memory block need LlamaIndex: pip install 'memory-storage[llama-index]'", "llama_index"
):
    from .block import RecallMemoryBlock
    from .chat_store import MemoryStorageChatStore

__all__ = ["MemoryStorageChatStore", "RecallMemoryBlock"]
