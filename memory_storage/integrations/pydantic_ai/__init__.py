"""Memory and conversations for agents of Pydantic AI. Needs the extra `pydantic-ai`.

    from memory_storage.integrations.pydantic_ai import EpisodicMemory, MemoryStorageConversationStore

    agent = Agent("openai:gpt-5", capabilities=[EpisodicMemory(storage)])

`EpisodicMemory` recalls before a run, and records the run as an episode. `MemoryStorageConversationStore` keeps
conversations as items below the path `CONVERSATIONS_PATH`.
"""

from memory_storage.integrations._packages import needs

with needs(
    "EpisodicMemory and MemoryStorageConversationStore need Pydantic AI, version 2.68 or later; run: "
    "pip install 'memory-storage[pydantic-ai]'",
    *("pydantic_ai", "pydantic_graph"),
):
    from .conversations import CONVERSATIONS_PATH, MemoryStorageConversationStore
    from .memory import EpisodicMemory

__all__ = ["CONVERSATIONS_PATH", "EpisodicMemory", "MemoryStorageConversationStore"]
