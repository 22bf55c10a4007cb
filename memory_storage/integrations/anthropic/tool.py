"""The memory tool, for the synchronous client and for the asynchronous one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool
from anthropic.types.beta import (
    BetaCacheControlEphemeralParam,
    BetaMemoryTool20250818CreateCommand,
    BetaMemoryTool20250818DeleteCommand,
    BetaMemoryTool20250818InsertCommand,
    BetaMemoryTool20250818RenameCommand,
    BetaMemoryTool20250818StrReplaceCommand,
    BetaMemoryTool20250818ViewCommand,
)

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations._threads import as_async
from memory_storage.storage import MemoryStorage

from .files import MemoryFiles

_ROOT = ("memories",)


class MemoryStorageTool(BetaAbstractMemoryTool):
    """The memory tool of Claude (`memory_20250818`), whose files are items of a storage.

    It answers with the texts of Anthropic's reference implementation. What the model got wrong is a ToolError, which
    the SDK reports to the model. Any number of tools, threads and processes may use the same files.
    """

    def __init__(
        self,
        storage: MemoryStorage,
        *,
        root: Sequence[str] = _ROOT,
        max_file_bytes: int | None = None,
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        """Use the files in the storage's namespace; there may be none yet.

        Args:
            storage: Where the files are stored. The caller closes it.
            root: The path of the items that stands for /memories: another one for each user, for example.
            max_file_bytes: The most bytes of a file. None: what the storage permits (`limits.document_bytes`).
            cache_control: Where the SDK puts a breakpoint of the prompt cache.

        Raises:
            ConfigurationError: `storage` is no MemoryStorage.
            ValidationError: Another argument is invalid.
        """
        super().__init__(cache_control=cache_control)
        self._files = MemoryFiles(storage, root, max_file_bytes)

    def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Show a file with line numbers, or the files and directories up to two levels below a directory."""
        return self._files.view(command.path, command.view_range)

    def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Store a new file."""
        return self._files.create(command.path, command.file_text)

    def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once in a file."""
        return self._files.str_replace(command.path, command.old_str, command.new_str)

    def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines into a file."""
        return self._files.insert(command.path, command.insert_line, command.insert_text)

    def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is below it."""
        return self._files.delete(command.path)

    def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file or a directory, in one transaction."""
        return self._files.rename(command.old_path, command.new_path)

    def clear_all_memory(self) -> str:
        """Delete all files."""
        return self._files.clear()


class AsyncMemoryStorageTool(BetaAsyncAbstractMemoryTool):
    """The memory tool for the asynchronous client: see `MemoryStorageTool`. No command blocks the event loop.

    A command that is cancelled has had its whole effect or none.
    """

    def __init__(
        self,
        storage: MemoryStorage | AsyncMemoryStorage,
        *,
        root: Sequence[str] = _ROOT,
        max_file_bytes: int | None = None,
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        """Use the files in the storage's namespace; there may be none yet.

        Args:
            storage: Where the files are stored. The caller closes it. The tools on a MemoryStorage share threads that
                run their commands; those on an AsyncMemoryStorage use its threads.
            root: The path of the items that stands for /memories: another one for each user, for example.
            max_file_bytes: The most bytes of a file. None: what the storage permits (`limits.document_bytes`).
            cache_control: Where the SDK puts a breakpoint of the prompt cache.

        Raises:
            ConfigurationError: `storage` is no storage.
            ValidationError: Another argument is invalid.
        """
        super().__init__(cache_control=cache_control)
        self._storage = as_async(storage)
        self._files = MemoryFiles(self._storage._storage, root, max_file_bytes)

    async def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Show a file with line numbers, or the files and directories up to two levels below a directory."""
        return await self._run(lambda: self._files.view(command.path, command.view_range))

    async def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Store a new file."""
        return await self._run(lambda: self._files.create(command.path, command.file_text))

    async def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once in a file."""
        return await self._run(lambda: self._files.str_replace(command.path, command.old_str, command.new_str))

    async def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines into a file."""
        return await self._run(lambda: self._files.insert(command.path, command.insert_line, command.insert_text))

    async def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is below it."""
        return await self._run(lambda: self._files.delete(command.path))

    async def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file or a directory, in one transaction."""
        return await self._run(lambda: self._files.rename(command.old_path, command.new_path))

    async def clear_all_memory(self) -> str:
        """Delete all files."""
        return await self._run(self._files.clear)

    async def _run(self, command: Callable[[], str]) -> str:
        return await self._storage._calls.run(command)
