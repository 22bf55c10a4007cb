"""Keep the files of Anthropic's memory tool in the storage. Needs the extra `anthropic`.

    from memory_storage.integrations.anthropic import MemoryStorageTool

    client.beta.messages.run_tools(..., tools=[MemoryStorageTool(storage)])

A file is an item of `storage.items`: its directories are the labels of the path, its name is the key, and the value is
`{"text": ...}`.
"""

from memory_storage.integrations._packages import needs

with needs("MemoryStorageTool needs Anthropic's SDK: pip install 'memory-storage[anthropic]'", "anthropic"):
    from .tool import AsyncMemoryStorageTool, MemoryStorageTool

__all__ = ["AsyncMemoryStorageTool", "MemoryStorageTool"]
