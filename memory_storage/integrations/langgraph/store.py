"""LangGraph's long-term store on items."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from weakref import finalize, ref

from langgraph.store.base import BaseStore, IndexConfig, Op, Result, TTLConfig
from typing_extensions import Self

from memory_storage.storage import MemoryStorage

from .index import Index, Vectors
from .operations import STORE_PATH, Batch
from .running import AsyncRunner

__all__ = ["STORE_PATH", "MemoryStorageStore"]

_log = logging.getLogger(__name__)
_SWEEP_LIMIT = 10_000
_SWEEP_MINUTES = 5.0


class MemoryStorageStore(BaseStore):
    """A store of LangGraph in the namespace of a storage: values by namespace and key, found by filters and vectors.

    A batch is one transaction: its reads see the state before its puts, the last put of a key counts, and if one is
    refused, nothing is stored. Texts are embedded before it begins. Values are JSON, and read back equal.

    Expired items are never returned, whatever `omit_expired` says. A search that compares lists or whole objects reads
    all items that pass the rest of its filter.
    """

    supports_ttl = True

    def __init__(
        self, storage: MemoryStorage, *, index: IndexConfig | None = None, ttl: TTLConfig | None = None
    ) -> None:
        """Use a storage, which the caller closes after the store.

        Args:
            storage: The storage.
            index: What is embedded, and how. `embed` may be a function, also a coroutine function, LangChain's
                Embeddings, an Embedder, or a name like "openai:text-embedding-3-small"; by default the storage's
                embedder. None: no search by vectors.
            ttl: When items expire, in minutes.

        Raises:
            ConfigurationError: `storage` is no MemoryStorage, or `index` is invalid.
        """
        self._runner = AsyncRunner(storage)
        self._storage = storage
        self._index = Index.of(index, storage)
        self.index_config = index
        self.embeddings = None if self._index is None else self._index.embeddings
        self.ttl_config = ttl
        self._sweeper: threading.Thread | None = None
        self._stopping = threading.Event()
        finalize(self, self._stopping.set)

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, conn_string: str, *, index: IndexConfig | None = None, ttl: TTLConfig | None = None
    ) -> Iterator[Self]:
        """Open a database for a store, and close it at the end of the block.

        Args:
            conn_string: A path, ":memory:", or the URL of a server.
            index: As for the class.
            ttl: As for the class.

        Yields:
            The store.
        """
        with MemoryStorage.open(conn_string) as storage:
            store = cls(storage, index=index, ttl=ttl)
            try:
                yield store
            finally:
                store.stop_ttl_sweeper()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations as one transaction, in one round trip.

        A second one refreshes the items that were read, if they have a time to live.

        Args:
            ops: The operations.

        Returns:
            The result of each, in their order.

        Raises:
            InvalidNamespaceError: A namespace is invalid.
            ValidationError: Another part of an operation is invalid, or a vector has a wrong dimension; nothing was
                stored.
        """
        batch = self._batch(ops)
        return batch.run(self._storage, *self._embed(batch))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations as `batch` does, without blocking the event loop.

        Args:
            ops: The operations.

        Returns:
            The result of each, in their order.
        """
        batch = self._batch(ops)
        documents, queries = await self._aembed(batch)
        return await self._runner.run(lambda: batch.run(self._storage, documents, queries))

    def _batch(self, ops: Iterable[Op]) -> Batch:
        return Batch(ops, self._index, self._storage.settings.limits.query_maximum)

    def _embed(self, batch: Batch) -> tuple[Vectors, Vectors]:
        if (index := self._index) is None:
            return {}, {}
        texts, queries = batch.documents, batch.queries
        documents = index.embeddings.embed_documents(texts) if texts else []
        found = [index.embeddings.embed_query(query) for query in queries]
        return index.checked(texts, documents), index.checked(queries, found)

    async def _aembed(self, batch: Batch) -> tuple[Vectors, Vectors]:
        if (index := self._index) is None:
            return {}, {}
        texts, queries = batch.documents, batch.queries
        documents = await index.embeddings.aembed_documents(texts) if texts else []
        found = [await index.embeddings.aembed_query(query) for query in queries]
        return index.checked(texts, documents), index.checked(queries, found)

    # -- expiry --------------------------------------------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Delete the expired items of the storage's namespace, and return how many there were.

        They are not returned before that either; this frees their space.
        """
        total = 0
        while deleted := self._storage.items.delete_expired(limit=_SWEEP_LIMIT):
            total += deleted
        return total

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Delete expired items by a thread from time to time. Without a `ttl` configuration it does nothing.

        Args:
            sweep_interval_minutes: Minutes between two times; default: the configuration's, or 5.

        Returns:
            A future that is done when the thread has ended; to cancel it ends the thread.
        """
        future: Future[None] = Future()
        if not self.ttl_config:
            future.set_result(None)
            return future
        stopping = self._stopping  # the future must not keep the store alive
        future.add_done_callback(lambda one: stopping.set() if one.cancelled() else None)
        if self._sweeper is not None and self._sweeper.is_alive():
            return future
        stopping.clear()
        minutes = float(sweep_interval_minutes or self.ttl_config.get("sweep_interval_minutes") or _SWEEP_MINUTES)
        arguments: tuple[Any, ...] = (ref(self), stopping, minutes * 60, future)
        self._sweeper = threading.Thread(target=_sweep, args=arguments, name="memory-storage sweeper", daemon=True)
        self._sweeper.start()
        return future

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """End the thread that deletes expired items.

        Args:
            timeout: The most seconds to wait for its end; None for no limit.

        Returns:
            Whether it has ended.
        """
        sweeper = self._sweeper
        if sweeper is None:
            return True
        self._stopping.set()
        sweeper.join(timeout)
        if sweeper.is_alive():
            return False
        self._sweeper = None
        return True


def _sweep(store: ref[MemoryStorageStore], stopping: threading.Event, seconds: float, future: Future[None]) -> None:
    """Sweep until the store is garbage, or is to stop."""
    while not stopping.wait(seconds) and (one := store()) is not None:
        try:
            one.sweep_ttl()
        except Exception:  # noqa: BLE001 - the next sweep may work
            _log.exception("expired items could not be deleted; the next attempt is in %g s", seconds)
        del one
    if not future.cancelled():
        future.set_result(None)
