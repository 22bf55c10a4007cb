"""LangGraph's checkpoints on items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from typing_extensions import Self

from memory_storage import models
from memory_storage.errors import ConflictError
from memory_storage.models import GetItem, ItemPath, PutItem, QueryItems
from memory_storage.session import Transaction
from memory_storage.storage import MemoryStorage

from .checkpoints import (
    CHECKPOINTS,
    THREADS_PATH,
    WRITES,
    Documents,
    checkpoint_config,
    checkpoint_key,
    label,
    namespace_of,
    thread_path,
)
from .filters import ItemFilter, item_filter
from .running import AsyncRunner

__all__ = ["THREADS_PATH", "MemoryStorageSaver"]

# The class has a method of the name `list`.
_Items: TypeAlias = list[models.Item]
_Tuples: TypeAlias = list[CheckpointTuple]

_CHUNK = 100
_ATTEMPTS = 5


@dataclass(frozen=True)
class _Listing:
    """Which checkpoints `list` yields."""

    prefix: ItemPath
    filter: ItemFilter
    limit: int | None

    @classmethod
    def of(
        cls,
        config: RunnableConfig | None,
        filter_: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> _Listing:
        prefix: ItemPath = THREADS_PATH
        also: list[dict[str, Any]] = [{"id": {"$exists": True}}]  # pending writes have none
        if config is not None:
            prefix = (*thread_path(config), CHECKPOINTS)
            if config["configurable"].get("checkpoint_ns") is not None:
                prefix = (*prefix, namespace_of(config))
            if checkpoint_id := get_checkpoint_id(config):
                also = [{"id": checkpoint_id}]
        if before is not None and (checkpoint_id := get_checkpoint_id(before)):
            also.append({"id": {"$lt": checkpoint_id}})
        return cls(prefix, item_filter(filter_, below=("metadata",), also=also), limit)

    def is_read_at_once(self, page_size: int) -> bool:
        """Whether one read of the database has all of them."""
        return self.limit is not None and self.limit <= page_size and not self.filter.checks


class MemoryStorageSaver(BaseCheckpointSaver[int]):
    """A checkpointer of LangGraph in the namespace of a storage. A checkpoint and a pending write are one item each.

    The latest checkpoint of a thread is the one with the greatest ID, which LangGraph makes from the time.
    """

    def __init__(self, storage: MemoryStorage, *, serde: SerializerProtocol | None = None) -> None:
        """Use a storage, which the caller closes after the saver.

        Args:
            storage: The storage.
            serde: Serializes checkpoints and writes; default: LangGraph's.

        Raises:
            ConfigurationError: `storage` is no MemoryStorage.
        """
        super().__init__(serde=serde)
        self._runner, self._storage = AsyncRunner(storage), storage
        self._page_size = storage.settings.limits.query_maximum

    @classmethod
    @contextmanager
    def from_conn_string(cls, conn_string: str) -> Iterator[Self]:
        """Open a database for a saver, and close it at the end of the block.

        Args:
            conn_string: A path, ":memory:", or the URL of a server.

        Yields:
            The saver.
        """
        with MemoryStorage.open(conn_string) as storage:
            yield cls(storage)

    @property
    def _documents(self) -> Documents:
        return Documents(self.serde)  # `with_allowlist` replaces the serializer of a copy

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint with its pending writes: the one that is named, or the latest of the thread.

        One round trip if it is named, else two.
        """
        checkpoint_id = get_checkpoint_id(config)
        checkpoints = (*thread_path(config), CHECKPOINTS, namespace_of(config))
        if checkpoint_id is None:
            latest = self._storage.items.query(checkpoints, limit=1)
            tuples = self._with_writes(latest, config)
            return tuples[0] if tuples else None
        key = checkpoint_key(checkpoint_id)
        read = self._read_writes(config, checkpoint_id)
        item, writes = self._storage.items.batch([GetItem(path=checkpoints, key=key), read])
        if item is None:
            return None
        return self._documents.tuple(item, self._all_writes(read, writes), config["configurable"]["thread_id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint as `get_tuple` does, without blocking the event loop."""
        return await self._runner.run(partial(self.get_tuple, config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as in LangGraph
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints with their pending writes, of each thread and namespace the latest first.

        Args:
            config: The thread, and its namespace; None for all.
            filter: Values of the metadata, or operators as in a search of the store.
            before: A checkpoint: only those with lower IDs.
            limit: The maximum number of checkpoints.

        Yields:
            The checkpoints, read in pages; the pending writes of a page are one read.
        """
        listing = _Listing.of(config, filter, before, limit)
        items = self._items(listing)
        for chunk in _chunks(items):
            yield from self._with_writes(chunk, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints as `list` does, without blocking the event loop.

        Args:
            config: The thread, and its namespace; None for all.
            filter: Values of the metadata, or operators.
            before: A checkpoint: only those with lower IDs.
            limit: The maximum number of checkpoints.

        Yields:
            The checkpoints.
        """
        work = partial(self.list, config, filter=filter, before=before, limit=limit)
        async for one in self._runner.iterate(work):
            yield one

    def _items(self, listing: _Listing) -> Iterator[models.Item]:
        if listing.limit is not None and listing.limit <= 0:
            return iter(())
        items, filter_ = self._storage.items, listing.filter
        if listing.is_read_at_once(self._page_size):
            return iter(items.query(listing.prefix, filter=filter_.conditions, limit=listing.limit))
        every = items.iterate(listing.prefix, filter=filter_.conditions)
        return islice((item for item in every if filter_.passes(item.value)), listing.limit)

    def _with_writes(self, items: Sequence[models.Item], config: RunnableConfig | None) -> _Tuples:
        """Return checkpoints with their writes, which are one read."""
        reads = [QueryItems(prefix=_writes_of(item), limit=self._page_size) for item in items]
        found = self._storage.items.batch(reads)
        tuples = _Tuples()
        for item, read, writes in zip(items, reads, found, strict=True):
            thread_id = item.path[len(THREADS_PATH)] if config is None else config["configurable"]["thread_id"]
            tuples.append(self._documents.tuple(item, self._all_writes(read, writes), thread_id))
        return tuples

    def _read_writes(self, config: RunnableConfig, checkpoint_id: str) -> QueryItems:
        prefix = (*thread_path(config), WRITES, namespace_of(config), checkpoint_id)
        return QueryItems(prefix=prefix, limit=self._page_size)

    def _all_writes(self, read: QueryItems, first: _Items) -> _Items:
        """Return the writes of a checkpoint, of which a read had the first page."""
        writes, last = first, first
        while len(last) == self._page_size:
            (last,) = self._storage.items.batch([replace(read, offset=len(writes))])
            writes = writes + last
        return writes

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - of the interface
    ) -> RunnableConfig:
        """Store a checkpoint, in one round trip.

        Args:
            config: The thread, the namespace, and the checkpoint before it.
            checkpoint: The checkpoint.
            metadata: Its metadata.
            new_versions: The versions of its channels; not used, since a checkpoint has all of its values.

        Returns:
            What names the checkpoint.
        """
        namespace, checkpoint_id = namespace_of(config), checkpoint["id"]
        path = (*thread_path(config), CHECKPOINTS, namespace)
        known = get_checkpoint_metadata(config, metadata)
        document = self._documents.checkpoint(checkpoint, known, get_checkpoint_id(config))
        self._storage.items.put(path, checkpoint_key(checkpoint_id), document)
        return checkpoint_config(config["configurable"]["thread_id"], namespace, checkpoint_id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint as `put` does, without blocking the event loop.

        Args:
            config: The thread, the namespace, and the checkpoint before it.
            checkpoint: The checkpoint.
            metadata: Its metadata.
            new_versions: Not used.

        Returns:
            What names the checkpoint.
        """
        return await self._runner.run(partial(self.put, config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the pending writes of a task: all or none, in one round trip. Idempotent.

        Of a task a write with the same position is stored once; errors, interrupts and the like replace what is stored.

        Args:
            config: What names the checkpoint.
            writes: Channels and values.
            task_id: The task.
            task_path: Where the task is in the graph; writes are sorted by it.
        """
        checkpoint_id = get_checkpoint_id(config)
        checkpoint_key(checkpoint_id)  # refuses what cannot be one
        path = (*thread_path(config), WRITES, namespace_of(config), str(checkpoint_id))
        positions = [WRITES_IDX_MAP.get(write[0], index) for index, write in enumerate(writes)]
        self._put_new(
            path,
            [
                self._documents.write(path, (task_id, task_path), position, write)
                for position, write in zip(positions, writes, strict=True)
            ],
        )

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the pending writes of a task as `put_writes` does, without blocking the event loop.

        Args:
            config: What names the checkpoint.
            writes: Channels and values.
            task_id: The task.
            task_path: Where the task is in the graph.
        """
        await self._runner.run(partial(self.put_writes, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete the checkpoints and writes of a thread, in one round trip."""
        self._storage.items.clear((*THREADS_PATH, label("thread_id", thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete the checkpoints and writes of a thread, without blocking the event loop."""
        await self._runner.run(partial(self.delete_thread, thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy the checkpoints and writes of a thread, as one transaction.

        Args:
            source_thread_id: The thread.
            target_thread_id: The other thread; what it has stays, but for equal checkpoints.
        """
        source, target = ((*THREADS_PATH, label("thread_id", one)) for one in (source_thread_id, target_thread_id))

        def copy(tx: Transaction) -> None:
            for chunk in _chunks(tx.items.iterate(source)):
                copies = [(item, (*target, *item.path[len(source) :])) for item in chunk]
                tx.items.put_many(PutItem(path=path, key=item.key, value=item.value) for item, path in copies)

        if source != target:
            self._storage.run(copy)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread as `copy_thread` does, without blocking the event loop.

        Args:
            source_thread_id: The thread.
            target_thread_id: The other thread.
        """
        await self._runner.run(partial(self.copy_thread, source_thread_id, target_thread_id))

    def _put_new(self, path: ItemPath, puts: Sequence[PutItem]) -> None:
        """Store the writes of a checkpoint that are not stored yet."""
        for attempt in range(_ATTEMPTS):
            try:
                self._storage.items.put_many(puts)
            except ConflictError:  # some were stored before: those stay as they are
                if attempt == _ATTEMPTS - 1:
                    raise
                once = [put for put in puts if put.version == 0]
                stored = self._storage.items.get_many((path, put.key) for put in once)
                keys = {item.key for item in stored if item is not None}
                puts = [put for put in puts if put.version is None or put.key not in keys]
            else:
                return


def _chunks(items: Iterator[models.Item]) -> Iterator[_Items]:
    """Yield the items in lists of up to 100."""
    while chunk := _Items(islice(items, _CHUNK)):
        yield chunk


def _writes_of(checkpoint: models.Item) -> ItemPath:
    """Return the path of the writes of a checkpoint."""
    *thread, _, namespace = checkpoint.path
    document: Any = checkpoint.value
    return (*thread, WRITES, namespace, document["id"])
