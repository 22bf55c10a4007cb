"""`RecallMemoryBlock`: what the storage has about the user's message, for the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock
from llama_index.core.utils import get_tokenizer
from pydantic import Field, PrivateAttr

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations._threads import as_async
from memory_storage.models import Recall, RecallFilters
from memory_storage.recall import RecallRequest
from memory_storage.sql.validation import function
from memory_storage.storage import MemoryStorage

_REMEMBERED = 100
"""The greatest number of recalls whose text can be truncated."""


class RecallMemoryBlock(BaseMemoryBlock[str]):
    """A block for `Memory.from_defaults(memory_blocks=...)`: what is known from earlier tasks like the user's message.

    `Memory` adds its text to each prompt: similar episodes that succeeded, with their steps, failures to avoid, and
    patterns, as Markdown. An empty memory adds nothing. An agent reads its memory at the beginning of a run and after
    each round of tool calls; each time is a recall, which takes two round trips on a server.

    It records nothing: the messages that `Memory` hands to its blocks when a conversation gets long have no outcome,
    and a chat store has them. Record the agent's runs as episodes, and pass `last_recall` to `episodes.complete`.

    It closes nothing, and what LlamaIndex serializes has its fields, but nothing of the storage.
    """

    k: int = Field(default=5, description="The greatest number of similar episodes that succeeded.")
    budget_tokens: int = Field(default=2_000, description="The greatest number of tokens of the text.")

    _storage: AsyncMemoryStorage = PrivateAttr()
    _filters: RecallFilters = PrivateAttr()
    _tokenizer_fn: Callable[[str], Sequence[Any]] = PrivateAttr()
    # By its text: a Memory hands the text back to have it truncated.
    _recalls: dict[str, Recall] = PrivateAttr(default_factory=dict)
    _last: Recall | None = PrivateAttr(default=None)

    def __init__(
        self,
        storage: MemoryStorage | AsyncMemoryStorage,
        *,
        name: str = "recall",
        description: str | None = "Records of earlier tasks that are similar to the user's message.",
        priority: int = 1,
        k: int = 5,
        budget_tokens: int = 2_000,
        filters: RecallFilters | None = None,
        tokenizer_fn: Callable[[str], Sequence[Any]] | None = None,
    ) -> None:
        """Recall from the namespace of a storage.

        Args:
            storage: What is recalled from. The blocks on a MemoryStorage share threads that run their calls; those on
                an AsyncMemoryStorage use its threads.
            name: The name of the block, which the prompt has as an XML tag.
            description: What the block has.
            priority: When `Memory` shortens it to keep its `token_limit`: blocks with lower numbers first; 0 for never.
            k: The greatest number of similar episodes that succeeded, from 1 to 1,000.
            budget_tokens: The greatest number of tokens of the text.
            filters: The filters of `storage.recall`, like `{"domain": "web-api"}`.
            tokenizer_fn: Counts the tokens, like that of a `Memory`; by default LlamaIndex's `get_tokenizer()`.

        Raises:
            ConfigurationError: `storage` is no storage.
            ValidationError: An argument is invalid; names it.
        """
        RecallRequest("-", k=k, budget_tokens=budget_tokens, filters=filters or {})
        if tokenizer_fn is not None:
            function("tokenizer_fn", tokenizer_fn, "encoding.encode")
        super().__init__(
            name=name,
            description=description,
            priority=priority,
            accept_short_term_memory=False,
            k=k,
            budget_tokens=budget_tokens,
        )
        self._storage = as_async(storage)
        self._filters = RecallFilters(**(filters or {}))
        self._tokenizer_fn = tokenizer_fn or get_tokenizer()

    @property
    def last_recall(self) -> Recall | None:
        """What was recalled last, to be passed to `episodes.complete` as `recalled`."""
        return self._last

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Return the text with fewer tokens: with fewer details of each record, and then with fewer records.

        Args:
            content: A text that the block has returned; one of the latest 100.
            tokens_to_truncate: By how many tokens it has to be shorter.

        Returns:
            The text; None if nothing of it fits.

        Raises:
            ValidationError: `budget_tokens` or `k` was set to an invalid value.
        """
        recall = self._recalls.get(content) if isinstance(content, str) else None
        if recall is None or tokens_to_truncate >= recall.tokens:
            return None
        return await self._recall(recall.task, recall.tokens - max(tokens_to_truncate, 0)) or None

    async def _aget(self, messages: list[ChatMessage] | None = None, **_: Any) -> str:
        """Return what the storage has about the newest message of the user; "" if there is none or nothing."""
        users = (one.content for one in reversed(messages or []) if one.role == MessageRole.USER)
        task = next(users, None)
        return await self._recall(task, self.budget_tokens) if task and task.strip() else ""

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Record nothing: see the class."""

    async def _recall(self, task: str, budget_tokens: int) -> str:
        recall = await self._storage.recall(
            task,
            k=self.k,
            budget_tokens=budget_tokens,
            count_tokens=lambda text: len(self._tokenizer_fn(text)),
            **self._filters,
        )
        text = str(recall)
        while len(self._recalls) >= _REMEMBERED:
            del self._recalls[next(iter(self._recalls))]
        self._recalls[text] = self._last = recall
        return text

    def __repr__(self) -> str:
        return f"RecallMemoryBlock({self._storage!r}, name={self.name!r}, k={self.k})"

    __str__ = __repr__
