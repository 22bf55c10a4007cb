"""CrewAI's storage backend on items."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.errors import ConfigurationError, ConflictError, ValidationError
from memory_storage.integrations._threads import as_async
from memory_storage.models import Hit, Item, PutItem
from memory_storage.repositories import ItemRepository
from memory_storage.session import Transaction
from memory_storage.sql.validation import refuse_unstorable, to_list, whole
from memory_storage.storage import MemoryStorage

from .criteria import Criteria, criteria, naive, scope_path
from .documents import as_vector, fields_of, mismatch, put_of, record_of, require_crewai
from .records import MEMORY_PATH, VECTOR_FIELD, VECTOR_MODEL, RecordRepository, StoredRecord

if TYPE_CHECKING:
    from crewai.memory.types import MemoryRecord, ScopeInfo

_SCHEME = "memory-storage"

T = TypeVar("T")


class MemoryStorageBackend:
    """A storage for `crewai.Memory(storage=...)`: implements CrewAI's protocol `StorageBackend`.

    A record that is saved again under its id is replaced. A search is exact: it compares every vector in the scope that
    passes the filters, and its scores are cosines. Moments are CrewAI's: naive ones are in UTC.

    Thread-safe. The asynchronous methods do not block the event loop.
    """

    def __init__(self, storage: MemoryStorage) -> None:
        """Use a storage, which the caller closes.

        Args:
            storage: The storage. The records are those of its namespace.

        Raises:
            ConfigurationError: `storage` is no MemoryStorage, or CrewAI is not installed.
        """
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        require_crewai()
        self._storage = storage
        self._owns_storage = False
        self._async: AsyncMemoryStorage | None = None

    @classmethod
    def open(cls, database: str | PathLike[str], *, namespace: str | None = None) -> Self:
        """Open a database for a backend, whose `close` closes it; CrewAI's `Memory.close` calls that.

        Args:
            database: A path, ":memory:", or the URL of a server.
            namespace: The tenant, agent or project whose records are read and written; default: "default".

        Returns:
            The backend.

        Raises:
            ConfigurationError: The database cannot be opened, or CrewAI is not installed.
        """
        require_crewai()
        backend = cls(MemoryStorage.open(database, namespace=namespace))
        backend._owns_storage = True
        return backend

    def close(self) -> None:
        """Close the database if `open` has opened it; the storage of a caller stays open."""
        if self._owns_storage:
            self._storage.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def save(self, records: list[MemoryRecord]) -> None:
        """Store records: all or none, in one round trip. The last one of an id counts.

        A record without an embedding, or with zeros only, is stored, and no search finds it.

        Args:
            records: The records. Their metadata are JSON values.

        Raises:
            EmbeddingDimensionMismatchError: CrewAI's error: an embedding has another dimension than the stored ones, or
                than another one of the records.
            ValidationError: A record is invalid or over a limit; the field names it.
        """
        puts = [put_of(f"records.{number}", record) for number, record in enumerate(to_list(records, "records"))]
        sizes = [len(vector) for put in puts for vector in (put.vectors or {}).values()]
        for size in sizes:
            if size != sizes[0]:
                raise mismatch(sizes[0], size)
        with self._mismatches(sizes[0] if sizes else 0):
            self._storage.items.put_many(puts)

    def update(self, record: MemoryRecord) -> None:
        """Replace the record with the same id, or store it if there is none.

        If it has no embedding (CrewAI leaves them out of serialized records), the stored one is kept.

        Args:
            record: The record.

        Raises:
            EmbeddingDimensionMismatchError: CrewAI's error: its embedding has another dimension than the stored ones.
            ValidationError: It is invalid or over a limit.
        """
        put = put_of("record", record)
        if not record.embedding:
            self._rewrite([put.key], lambda _: put.value, absent=put)
            return
        with self._mismatches(len(record.embedding)):
            self._storage.items.put_many([put])

    def touch_records(self, record_ids: list[str]) -> None:
        """Set `last_accessed` of records to now. CrewAI calls it for what a recall returns.

        Args:
            record_ids: Their ids; those that do not exist are passed over.

        Raises:
            UnavailableError: Another writer holds the lock for too long.
            ValidationError: An id is no text.
        """
        now = naive(self._storage._session.now()).isoformat()
        self._rewrite(_ids(record_ids), lambda item: {**fields_of(item), "last_accessed": now})

    def delete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Delete the records that meet all criteria, in one transaction; without any criterion, all records.

        Args:
            scope_prefix: A scope, with those below it.
            categories: A record has one of them. No record has one of an empty list.
            record_ids: A record has one of these ids. No record has one of an empty list.
            older_than: A record was created before; in UTC if it is naive.
            metadata_filter: Keys of the metadata and their values.

        Returns:
            How many were deleted.

        Raises:
            ValidationError: An argument is invalid.
        """
        selection = criteria(scope_prefix, categories=categories, older_than=older_than, metadata=metadata_filter)
        ids = None if record_ids is None else _ids(record_ids)
        if ids == [] or (categories is not None and not categories):
            return 0
        if not selection.checks:
            return self._records.delete(selection, ids)
        return self._storage.run(lambda tx: _delete_checked(tx, selection, ids))

    def reset(self, scope_prefix: str | None = None) -> None:
        """Delete the records of a scope and of those below it; without one, all records."""
        self.delete(scope_prefix)

    # -- reading -------------------------------------------------------------------------------------------------------

    def search(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records that are most similar to a vector. They come without their embeddings.

        Up to 1,000 records (`limits.query_maximum`) are read in one round trip, more in one snapshot. A filter by lists
        or objects in the metadata reads the records that pass the others until it has enough.

        Args:
            query_embedding: The vector. Nothing is similar to zeros only.
            scope_prefix: A scope, with those below it.
            categories: A record has at least one of them; None or an empty list for any record.
            metadata_filter: Keys of the metadata and their values.
            limit: The maximum number of records.
            min_score: The least cosine. The default leaves out the records that are opposite to the query.

        Returns:
            The records with their cosines, the most similar first.

        Raises:
            EmbeddingDimensionMismatchError: CrewAI's error: the vector has another dimension than the stored ones.
            ValidationError: An argument is invalid.
        """
        selection = criteria(scope_prefix, categories=categories, metadata=metadata_filter)
        if type(limit) is not int or limit < 0:
            raise ValidationError("limit", "a whole number from 0", limit)
        vector = as_vector("query_embedding", query_embedding)
        if vector is None or limit == 0:
            return []

        def read(items: ItemRepository, size: int, offset: int) -> list[Hit[Item]]:
            return items.search(
                vector, model=VECTOR_MODEL, prefix=MEMORY_PATH, filter=selection.conditions, limit=size, offset=offset
            )

        found: list[tuple[MemoryRecord, float]] = []
        pages = self._pages(read, limit, is_checked=bool(selection.checks))
        with self._mismatches(len(vector)), closing(pages) as hits:
            for hit in hits:
                if hit.score < min_score or len(found) == limit:
                    break
                if selection.passes(hit.item.value):
                    found.append((record_of(hit.item), hit.score))
        return found

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return a record with its embedding, or None if it does not exist."""
        found = self._records.find(_ids([record_id], "record_id"))
        return record_of(found[0].item, found[0].vector) if found else None

    def list_records(self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0) -> list[MemoryRecord]:
        """Return records without their embeddings, those that were created last first.

        Args:
            scope_prefix: A scope, with those below it; None for all.
            limit: The maximum number of records.
            offset: How many are left out at the beginning.

        Returns:
            The records.

        Raises:
            ValidationError: An argument is invalid.
        """
        selection = criteria(scope_prefix)
        whole("limit", limit, least=0)
        whole("offset", offset, least=0)

        def read(items: ItemRepository, size: int, start: int) -> list[Item]:
            return RecordRepository(items._session).newest(selection, size, offset + start)

        return [record_of(item) for item in self._pages(read, limit)] if limit else []

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return what a scope and those below it have: their records, categories, times, and its children."""
        from crewai.memory.types import ScopeInfo

        path = scope_path("scope", scope)
        summary = self._records.summary(path, criteria(scope))
        return ScopeInfo(
            path=path[:-1] or "/",
            record_count=summary.count,
            categories=list(summary.categories),
            oldest_record=summary.oldest,
            newest_record=summary.newest,
            child_scopes=summary.children,
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes directly below one that have records, themselves or below them."""
        return self._records.summary(scope_path("parent", parent), criteria(parent)).children

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return the categories of a scope and of those below it, and how many records have each."""
        return self._records.summary("/", criteria(scope_prefix)).categories

    def count(self, scope_prefix: str | None = None) -> int:
        """Count the records of a scope and of those below it; without one, all records."""
        return self._storage.items.count(MEMORY_PATH, filter=criteria(scope_prefix).conditions)

    # -- asyncio -------------------------------------------------------------------------------------------------------

    async def asave(self, records: list[MemoryRecord]) -> None:
        """Store records: see `save`."""
        await self._run(lambda: self.save(records))

    async def asearch(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records that are most similar to a vector: see `search`.

        Args:
            query_embedding: The vector.
            scope_prefix: A scope, with those below it.
            categories: A record has at least one of them; None or an empty list for any record.
            metadata_filter: Keys of the metadata and their values.
            limit: The maximum number of records.
            min_score: The least cosine.

        Returns:
            The records with their cosines, the most similar first.
        """
        return await self._run(
            lambda: self.search(query_embedding, scope_prefix, categories, metadata_filter, limit, min_score)
        )

    async def adelete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Delete the records that meet all criteria: see `delete`.

        Args:
            scope_prefix: A scope, with those below it.
            categories: A record has one of them. No record has one of an empty list.
            record_ids: A record has one of these ids. No record has one of an empty list.
            older_than: A record was created before; in UTC if it is naive.
            metadata_filter: Keys of the metadata and their values.

        Returns:
            How many were deleted.
        """
        return await self._run(lambda: self.delete(scope_prefix, categories, record_ids, older_than, metadata_filter))

    # -- shared --------------------------------------------------------------------------------------------------------

    @property
    def _records(self) -> RecordRepository:
        return RecordRepository(self._storage._session)

    async def _run(self, call: Callable[[], T]) -> T:
        """Return what a call returns, which the threads of the asynchronous adapters on the storage run."""
        if self._async is None:
            self._async = as_async(self._storage)
        return await self._async._calls.run(call)

    def _rewrite(self, ids: Sequence[str], change: Callable[[Item], Any], absent: PutItem | None = None) -> None:
        """Store records with other values and the vectors that they have.

        Args:
            ids: Their ids.
            change: Returns the new value of an item.
            absent: What to store if none of them exists.
        """

        # A put replaces the vectors, so they are read and stored again. The version detects other writers.
        def puts(records: RecordRepository) -> list[PutItem]:
            found = [_put_again(one, change(one.item)) for one in records.find(ids)]
            return found if found or absent is None else [replace(absent, version=0)]

        try:
            self._storage.items.put_many(puts(self._records))
        except ConflictError:  # again, with the lock
            self._storage.run(lambda tx: tx.items.put_many(puts(RecordRepository(tx._session))))

    def _pages(
        self, read: Callable[[ItemRepository, int, int], list[T]], limit: int, *, is_checked: bool = False
    ) -> Generator[T, None, None]:
        """Yield up to `limit` results, in one read if a page has them all; with checks, as many as there are."""
        page_size = self._storage.settings.limits.query_maximum
        if limit <= page_size and not is_checked:
            yield from read(self._storage.items, limit, 0)
            return
        with self._storage.snapshot() as view:
            offset = 0
            while is_checked or offset < limit:
                size = page_size if is_checked else min(page_size, limit - offset)
                page = read(view.items, size, offset)
                yield from page
                if len(page) < size:
                    return
                offset += size

    @contextmanager
    def _mismatches(self, dimension: int) -> Iterator[None]:
        """Raise CrewAI's error if vectors of this dimension are refused, since those stored have another one."""
        try:
            yield
        except ValidationError as error:
            # The vectors themselves are valid: they were packed before.
            stored = self._records.dimension() if error.field == "vector" else None
            if stored in (None, dimension):
                raise
            raise mismatch(stored, dimension) from error

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Self:
        """Return the backend itself: the copies of a memory, which CrewAI makes, share the storage."""
        return self

    def __repr__(self) -> str:
        return f"MemoryStorageBackend({self._storage!r})"


def memory_storage_factory(spec: str) -> MemoryStorageBackend | None:
    """Open the database of a text like "memory-storage:memory.db", for CrewAI's `set_memory_storage_factory`.

        set_memory_storage_factory(memory_storage_factory)
        memory = Memory(storage="memory-storage:memory.db")

    Args:
        spec: "memory-storage:" and a path, ":memory:", or the URL of a server, whose token is that of the environment.

    Returns:
        A backend, whose `close` (and that of the memory) closes the database; None for any other text, which CrewAI
        interprets itself.

    Raises:
        ConfigurationError: The database cannot be opened.
    """
    scheme, _, database = spec.partition(":")
    if scheme != _SCHEME:
        return None
    if not database:
        raise ConfigurationError(f"storage: {spec!r} names no database; write {_SCHEME}:memory.db")
    return MemoryStorageBackend.open(database)


def _delete_checked(tx: Transaction, selection: Criteria, ids: Sequence[str] | None) -> int:
    wanted = None if ids is None else set(ids)
    items = tx.items.iterate(MEMORY_PATH, filter=selection.conditions)
    keys = [one.key for one in items if selection.passes(one.value) and (wanted is None or one.key in wanted)]
    return tx.items.delete_many([(MEMORY_PATH, key) for key in keys])


def _put_again(stored: StoredRecord, value: Any) -> PutItem:
    item = stored.item
    vectors = {} if stored.vector is None else {VECTOR_FIELD: memoryview(stored.vector).cast("f")}
    return PutItem(
        path=MEMORY_PATH,
        key=item.key,
        value=value,
        ttl=item.ttl,
        vectors=vectors,
        model=VECTOR_MODEL,
        version=item.version,
    )


def _ids(record_ids: Sequence[str], field: str = "record_ids") -> list[str]:
    ids = to_list(record_ids, field, "a list of ids")
    for one in ids:
        if not isinstance(one, str):
            raise ValidationError(field, "an id, which is a text", one)
        refuse_unstorable(field, one)
    return ids
