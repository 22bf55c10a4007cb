"""`MemoryStorageChatStore`: the messages of conversations, in the logs of a storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr

from memory_storage.aio import AsyncLogRepository, AsyncMemoryStorage, AsyncTransaction
from memory_storage.errors import CommitUnknownError, ValidationError
from memory_storage.integrations._threads import as_async
from memory_storage.models import LogRecord, new_id
from memory_storage.sql.validation import refuse_unstorable, whole
from memory_storage.storage import MemoryStorage

from .messages import decoded, encoded, readable, warn

_PREFIX = "llama-index"
_RECENT = 100
"""How many of the messages that were archived last are compared with those of an append that is repeated."""
_UNCONFIRMED = 1_000
"""The greatest number of conversations whose last batch is remembered after a failure."""

Divide = Callable[[list[LogRecord]], tuple[list[LogRecord], list[LogRecord]]]
"""Returns the records that stay active, and those that are taken."""


class MemoryStorageChatStore(AsyncDBChatStore):
    """A chat store for `Memory.from_defaults(chat_store=...)`: implements LlamaIndex's `AsyncDBChatStore`.

    A conversation is named by its key, the `session_id` of a `Memory`, and has active and archived messages: the logs
    `llama-index:active:<key>` and `llama-index:archived:<key>`. Each call has its whole effect or none, also if its
    task is cancelled, and none blocks the event loop. Any number of stores, tasks and processes may use one
    conversation: a batch of messages is never interleaved with another one. The store closes nothing: the caller closes
    the storage.

    It has no fields: what LlamaIndex serializes has nothing of the storage.
    """

    _storage: AsyncMemoryStorage = PrivateAttr()
    # By the name of the log: the batch whose acknowledgement is missing, and the ids of its records.
    _unconfirmed: dict[str, tuple[list[Any], list[str]]] = PrivateAttr(default_factory=dict)

    def __init__(self, storage: MemoryStorage | AsyncMemoryStorage) -> None:
        """Keep conversations in the namespace of a storage.

        The stores on a MemoryStorage share threads that run their calls; those on an AsyncMemoryStorage use its
        threads.

        Raises:
            ConfigurationError: `storage` is no storage.
        """
        super().__init__()
        self._storage = as_async(storage)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class."""
        return "MemoryStorageChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return messages of a conversation, the oldest first; those that cannot be decoded are left out and logged.

        Up to 1,000 messages and about 4 MB are read in one round trip.

        Args:
            key: The conversation.
            status: Which messages; None for the archived ones, and then the active ones.
            limit: The maximum number of messages; None for all.
            offset: How many of the oldest messages are left out; None for none.

        Returns:
            The messages.

        Raises:
            ValidationError: An argument is invalid.
        """
        names = _logs_of(key, status)
        start = whole("offset", 0 if offset is None else offset, least=0)
        stop = None if limit is None else start + whole("limit", limit, least=0)
        if len(names) == 1:
            return (await _read(self._storage.logs, names[0], stop))[start:stop]
        async with self._storage.snapshot() as view:  # one that is archived at this moment is in one of them
            both = [await _read(view.logs, name, stop) for name in names]
        return [*chain(*both)][start:stop]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Count the messages of a conversation, in one round trip, with those that cannot be decoded.

        Args:
            key: The conversation.
            status: Which messages; None for all.

        Returns:
            Their number.

        Raises:
            ValidationError: An argument is invalid.
        """
        names = _logs_of(key, status)
        if len(names) == 1:
            return await self._storage.logs.count(names[0])
        async with self._storage.snapshot() as view:
            return sum([await view.logs.count(name) for name in names])

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Append a message to a conversation: see `add_messages`.

        Args:
            key: The conversation.
            message: The message.
            status: Its status.

        Raises:
            ValidationError: An argument is invalid, or the message is over a limit.
        """
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append messages to a conversation: all or none, in one round trip, and in their order.

        If the call has failed or was cancelled, and the same messages are added next to this conversation by this
        store, those that were stored nevertheless are not added a second time.

        Args:
            key: The conversation.
            messages: The messages.
            status: Their status.

        Raises:
            ValidationError: An argument is invalid, or a message is over a limit; nothing is stored.
        """
        name, batch = _log(key, status), encoded(messages)
        if not batch:
            return
        unconfirmed = self._unconfirmed.pop(name, None)
        is_repeated = unconfirmed is not None and unconfirmed[0] == batch
        ids = unconfirmed[1] if unconfirmed and is_repeated else [str(new_id()) for _ in batch]
        recent = min(_RECENT, self._storage.settings.limits.query_maximum)
        repeat = partial(_append_rest, key=key, name=name, records=dict(zip(ids, batch, strict=True)), recent=recent)
        try:
            try:
                await (self._storage.run(repeat) if is_repeated else self._storage.logs.append(name, batch, ids=ids))
            except CommitUnknownError:  # the ids make the repetition idempotent
                await self._storage.run(repeat)
        except ValidationError:
            raise
        except BaseException:
            self._remember(name, batch, ids)
            raise

    async def set_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace all messages of a conversation, the active and the archived ones, in one transaction.

        Args:
            key: The conversation.
            messages: The new messages.
            status: Their status.

        Raises:
            ValidationError: An argument is invalid, or a message is over a limit; nothing is changed.
        """
        name, batch = _log(key, status), encoded(messages)

        async def replace(tx: AsyncTransaction) -> None:
            for one in _logs_of(key, None):
                await tx.logs.clear(one)
            await tx.logs.append(name, batch)

        await self._storage.run(replace)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete an active message and return it.

        Args:
            key: The conversation.
            idx: The place of the message among the active ones, from 0.

        Returns:
            The message; None if there are fewer.

        Raises:
            CorruptDataError: An active message cannot be decoded; nothing is changed.
            ValidationError: An argument is invalid.
        """
        place = whole("idx", idx, least=0)
        taken = await self._take(key, lambda active: (active[:place] + active[place + 1 :], active[place : place + 1]))
        return taken[0] if taken else None

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete the messages of a conversation.

        Args:
            key: The conversation.
            status: Which messages; None for all, in one transaction.

        Raises:
            ValidationError: An argument is invalid.
        """
        names = _logs_of(key, status)

        async def clear(tx: AsyncTransaction) -> None:
            for name in names:
                await tx.logs.clear(name)

        if len(names) == 1:
            await self._storage.logs.clear(names[0])
        else:
            await self._storage.run(clear)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the oldest active messages and return them. Two callers never get the same message.

        Args:
            key: The conversation.
            n: The maximum number of messages.

        Returns:
            The messages, the oldest first.

        Raises:
            CorruptDataError: An active message cannot be decoded; nothing is changed.
            ValidationError: An argument is invalid.
        """
        return await self._take(key, _oldest(n))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest active messages and return them. Two callers never archive the same message.

        Args:
            key: The conversation.
            n: The maximum number of messages.

        Returns:
            The messages, the oldest first.

        Raises:
            CorruptDataError: An active message cannot be decoded; nothing is changed.
            ValidationError: An argument is invalid.
        """
        return await self._take(key, _oldest(n), archive=_log(key, MessageStatus.ARCHIVED))

    async def get_keys(self) -> list[str]:
        """Return the keys of the conversations that have messages, in their order. A round trip reads 1,000 logs."""
        keys: set[str] = set()
        async with self._storage.snapshot() as view:
            for status in MessageStatus:
                prefix = _log("", status)
                keys.update([name.removeprefix(prefix) for name in await self._names(view.logs, prefix)])
        return sorted(keys)

    async def _names(self, logs: AsyncLogRepository, prefix: str) -> list[str]:
        names: list[str] = []
        page = self._storage.settings.limits.query_maximum
        while True:
            part = await logs.list(prefix, limit=page, offset=len(names))
            names += [info.log for info in part]
            if len(part) < page:
                return names

    async def _take(
        self,
        key: str,
        divide: Divide,
        *,
        archive: str | None = None,
    ) -> list[ChatMessage]:
        """Take messages out of the active ones, in one transaction.

        The log is cleared and the others are stored again, with their numbers. `Memory` keeps it short: `token_limit`.

        Args:
            key: The conversation.
            divide: Returns the records that stay active, and those that are taken.
            archive: The log that the taken ones are appended to.

        Returns:
            The taken messages.
        """
        name = _log(key, MessageStatus.ACTIVE)

        async def take(tx: AsyncTransaction) -> list[ChatMessage]:
            rest, taken = divide([record async for record in tx.logs.iterate(name)])
            messages = [decoded(record) for record in taken]
            if archive is not None and taken:
                ids = [record.id or str(new_id()) for record in taken]
                await tx.logs.append(archive, [record.value for record in taken], ids=ids)
            if taken:
                await tx.logs.clear(name)
                await tx.logs.import_many(rest)
            return messages

        return await self._storage.run(take)

    def _remember(self, name: str, batch: list[Any], ids: list[str]) -> None:
        while len(self._unconfirmed) >= _UNCONFIRMED:
            del self._unconfirmed[next(iter(self._unconfirmed))]
        self._unconfirmed[name] = batch, ids

    def __repr__(self) -> str:
        return f"MemoryStorageChatStore({self._storage!r})"

    __str__ = __repr__

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemoryStorageChatStore:
        """Return a store on the same storage: connections and threads cannot be copied."""
        return MemoryStorageChatStore(self._storage)


def _oldest(n: int) -> Divide:
    """Return what takes the oldest `n` records."""
    count = whole("n", n, least=0)
    return lambda active: (active[count:], active[:count])


async def _read(logs: AsyncLogRepository, name: str, most: int | None) -> list[ChatMessage]:
    """Return the oldest messages of a log, or all."""
    messages: list[ChatMessage] = []
    if most == 0:
        return messages
    async for record in logs.iterate(name, on_corrupt=warn):
        message = readable(record)
        if message is not None:
            messages.append(message)
        if len(messages) == most:
            break
    return messages


async def _append_rest(tx: AsyncTransaction, *, key: str, name: str, records: dict[str, Any], recent: int) -> None:
    """Append what an earlier attempt has not stored, by its ids. Others may have archived what it has stored."""
    archived = await tx.logs.read(_log(key, MessageStatus.ARCHIVED), latest=recent, on_corrupt=warn)
    rest = {one: value for one, value in records.items() if one not in {record.id for record in archived}}
    await tx.logs.append(name, rest.values(), ids=list(rest))


def _logs_of(key: str, status: MessageStatus | None) -> list[str]:
    """Return the names of the logs, the one with the oldest messages first."""
    both = (MessageStatus.ARCHIVED, MessageStatus.ACTIVE)
    return [_log(key, one) for one in (both if status is None else [status])]


def _log(key: str, status: MessageStatus) -> str:
    if not isinstance(key, str):
        raise ValidationError("key", "must be a string", key)
    refuse_unstorable("key", key)
    try:
        return f"{_PREFIX}:{MessageStatus(status).value}:{key}"
    except ValueError as error:
        raise ValidationError("status", "a MessageStatus: active or archived", status) from error
