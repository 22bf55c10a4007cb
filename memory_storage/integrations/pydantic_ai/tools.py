"""The tools with which an agent looks into its memory during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from pydantic_ai import FunctionToolset, ModelRetry, ToolFailed

from memory_storage.errors import MemoryStorageError, ValidationError
from memory_storage.models.markdown import DETAILS, episode_markdown
from memory_storage.storage import MemoryStorage

from .recorder import RunRecorder

TOOL_NAMES = frozenset({"recall_memory", "search_memory"})

_NOTHING = "The memory has nothing about this."
_MOST_HITS = 20


class MemoryTools:
    """The tools of one run. Its methods are the tools: names, arguments and answers.

    Args:
        recorder: That of the run; None for an agent that is not running.
    """

    def __init__(self, recorder: RunRecorder | None) -> None:
        self._recorder = recorder

    def toolset(self) -> FunctionToolset[Any]:
        """Return the tools for an agent."""
        return FunctionToolset([self.recall_memory, self.search_memory])

    async def recall_memory(
        self,
        task: Annotated[str, Field(description="What is to be done, in a sentence.", min_length=1, max_length=10_000)],
    ) -> str:
        """Return what the memory has about a task: what worked, what failed, and learned patterns.

        Call it before a part of the work that is a task of its own.
        """
        return await self._read(lambda recorder, storage: str(recorder.options.recall(storage, task)))

    async def search_memory(
        self,
        query: Annotated[str, Field(description="Words, any of which may match.", min_length=1, max_length=10_000)],
        k: Annotated[int, Field(description="Maximum number of episodes.", ge=1, le=_MOST_HITS)] = 5,
    ) -> str:
        """Look up past episodes by words in their tasks, steps and outcomes, the best match first."""

        def search(_: RunRecorder, storage: MemoryStorage) -> str:
            hits = storage.episodes.search(query, k=k, completed=True)
            parts = [
                episode_markdown(hit.item, DETAILS[2], heading=f"### {place}. ") for place, hit in enumerate(hits, 1)
            ]
            return "\n\n".join(parts)

        return await self._read(search)

    async def _read(self, work: Callable[[RunRecorder, MemoryStorage], str]) -> str:
        recorder = self._recorder
        if recorder is None or recorder.storage is None:
            raise ToolFailed("The memory is not available in this run.")
        try:
            return await recorder.read(work) or _NOTHING
        except ValidationError as error:
            raise ModelRetry(str(error)) from error
        except MemoryStorageError as error:
            # The class only: a message of the database is not for a model.
            raise ToolFailed(f"The memory is not available now: {type(error).__name__}.") from error
