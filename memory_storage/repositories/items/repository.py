"""The repository of items: JSON values by path and key, with vectors by which they are found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import CommitUnknownError, NotFoundError, UnavailableError, ValidationError
from memory_storage.models import (
    GetItem,
    Hit,
    Item,
    ItemOperation,
    ItemPath,
    ItemVector,
    ListPaths,
    PutItem,
    QueryItems,
    SearchItems,
)
from memory_storage.monitoring import operation
from memory_storage.schema import unpack_vector
from memory_storage.search.vectors import as_model_name, packed
from memory_storage.sql.documents import CHUNK_BYTES, encode
from memory_storage.sql.paging import ITERATE_PAGE, PAGE_BYTES, draining, iterate_pages
from memory_storage.sql.session import SAVE_ATTEMPTS, Repository, Row, retry_on_row_conflict
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import checked_moment, instance, size, to_list, whole

from . import sql
from .batch import Plan, StoredVector, checked_put, conditions_of, refused, vector_steps
from .rows import check_name, check_path, decode_path, encode_path, item_from_row, name_of, range_below

T = TypeVar("T")

_LOST = BatchStep("SELECT NULL")
"""Read after a lost response of a batch that also writes: the state before its writes cannot be read again."""


class ItemRepository(Repository):
    """The items of one namespace."""

    _operations = "items"

    @operation
    def put(
        self,
        path: Sequence[str],
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        vectors: Mapping[str, Sequence[float]] | None = None,
        model: str | None = None,
        version: int | None = None,
    ) -> Item:
        """Store a value under a path and a key, and return the item. `created_at` of a stored one stays.

        Args:
            path: The labels of its path, like `("users", "42")`; any text. Empty for the root.
            key: Its name within the path.
            value: Any JSON value.
            ttl: Seconds until it expires; None: it does not expire.
            vectors: Vectors by the name of the field of the value that each stands for. They replace all vectors of
                the item: without any, no search by vector finds it.
            model: The name of the embedding model of the vectors.
            version: Store it only if this is the stored version, 0 if there is none; None: in any case.

        Returns:
            The item as it is stored.

        Raises:
            ConflictError: Another version is stored.
            ValidationError: An argument is invalid or over a limit, or a vector has another dimension than those of
                the namespace by the model.
        """
        one = PutItem(path=path, key=key, value=value, ttl=ttl, vectors=vectors, model=model, version=version)
        entry, now = checked_put(one, self._session), to_micros(self._session.now())
        namespace = self._session.namespace
        parts: list[tuple[BatchStep, Sequence[Any]]] = [
            (sql.PUT_ONE.bind(1, namespace=namespace, now=now, rows=f"[{entry.json}]"), [entry]),
            *vector_steps(entry.vectors, namespace),
        ]
        again = sql.TIMES.bind(namespace=namespace, path=entry.name[0], key=entry.name[1])
        ((stored, created_at),) = self._write((), parts, again=again)
        expires_at = None if entry.ttl is None else now + entry.ttl
        row = (*entry.name, entry.document, stored, created_at, now, expires_at, entry.ttl)
        return item_from_row(row)

    @operation
    def put_many(self, items: Iterable[PutItem]) -> None:
        """Store items: all or none, in one round trip. The last one of a path and key counts; see `put`.

        Raises:
            ConflictError: Another version of an item is stored.
            ValidationError: An item is invalid; the field names it.
        """
        puts = [instance(f"items.{n}", one, PutItem, "PutItem(key=..., value=...)") for n, one in _numbered(items)]
        self._run(puts, "items")

    @operation
    def get(self, path: Sequence[str], key: str, *, refresh: bool = False) -> Item:
        """Return an item.

        Args:
            path: The labels of its path.
            key: Its key.
            refresh: Whether its time to live begins again, which makes this a write.

        Returns:
            The item.

        Raises:
            NotFoundError: It does not exist, or has expired.
        """
        item = self.find(path, key, refresh=refresh)
        if item is None:
            raise NotFoundError("item", name_of(path, key))
        return item

    @operation
    def find(self, path: Sequence[str], key: str, *, refresh: bool = False) -> Item | None:
        """Return an item, or None if it does not exist or has expired.

        Args:
            path: The labels of its path.
            key: Its key.
            refresh: Whether its time to live begins again, which makes this a write.

        Returns:
            The item, or None.

        Raises:
            ValidationError: An argument is invalid.
        """
        return cast("Item | None", self._run([GetItem(path=path, key=key, refresh=refresh)])[0])

    @operation
    def get_many(self, keys: Iterable[tuple[Sequence[str], str]], *, refresh: bool = False) -> list[Item | None]:
        """Return items in one round trip.

        Args:
            keys: Pairs of path and key.
            refresh: Whether their time to live begins again, which makes this a write.

        Returns:
            For each pair the item, or None.

        Raises:
            ValidationError: An argument is invalid; the field names the pair.
        """
        gets = [GetItem(path=path, key=key, refresh=refresh) for path, key in _pairs(keys)]
        return self._run(gets, "keys")

    @operation
    def delete(self, path: Sequence[str], key: str) -> bool:
        """Delete an item with its vectors.

        Args:
            path: The labels of its path.
            key: Its key.

        Returns:
            Whether it existed, and had not expired.

        Raises:
            ValidationError: An argument is invalid.
        """
        return self.delete_many([(path, key)]) > 0

    @operation
    def delete_many(self, keys: Iterable[tuple[Sequence[str], str]]) -> int:
        """Delete items with their vectors: all or none, in one round trip.

        Args:
            keys: Pairs of path and key. Those that do not exist are passed over.

        Returns:
            How many existed, and had not expired.

        Raises:
            ValidationError: An argument is invalid.
        """
        limits = self._session.limits
        names = [
            (encode_path(check_path(f"keys.{n}.path", path, limits)), check_name(f"keys.{n}.key", key, limits))
            for n, (path, key) in enumerate(_pairs(keys))
        ]
        values = {"keys": json.dumps(names, ensure_ascii=False), "now": to_micros(self._session.now())}
        return _live(self._session.write([sql.DELETE_COUNTED.bind(namespace=self._session.namespace, **values)]))

    @operation
    def clear(self, prefix: Sequence[str] = ()) -> int:
        """Delete every item whose path begins with these labels, with its vectors.

        Args:
            prefix: The first labels of the paths; none for the whole namespace.

        Returns:
            How many had not expired.

        Raises:
            ValidationError: `prefix` is no path.
        """
        lower, upper = range_below(check_path("prefix", prefix, self._session.limits))
        values = {"lower": lower, "upper": upper, "now": to_micros(self._session.now())}
        return _live(self._session.write([sql.CLEAR.bind(namespace=self._session.namespace, **values)]))

    @operation
    def delete_expired(self, now: datetime | None = None, *, limit: int = 10_000) -> int:
        """Delete items that have expired. They are not returned before that either; this frees their space.

        Args:
            now: When they have to have expired; by default now.
            limit: The maximum number of items, so that other writers need not wait for long: repeat it until it
                returns less.

        Returns:
            How many were deleted.

        Raises:
            ValidationError: An argument is invalid.
        """
        moment = self._session.now() if now is None else checked_moment("now", now)
        values = {"now": to_micros(moment), "limit": whole("limit", limit)}
        return len(self._session.write([sql.DELETE_EXPIRED.bind(namespace=self._session.namespace, **values)]))

    @operation
    def query(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the field's own term
        newest_first: bool = False,
        limit: int | None = None,
        offset: int = 0,
        refresh: bool = False,
    ) -> list[Item]:
        """Return a page of the items whose paths begin with these labels.

        Args:
            prefix: The first labels of the paths; none for the whole namespace.
            filter: Conditions on the values.
            newest_first: Whether those put last come first; else in the order of path and key.
            limit: The maximum number of items, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            offset: How many items are left out at the beginning.
            refresh: Whether their time to live begins again, which makes this a write.

        Returns:
            The items.

        Raises:
            ValidationError: An argument is invalid.
        """
        one = QueryItems(
            prefix=prefix, filter=filter, newest_first=newest_first, limit=limit, offset=offset, refresh=refresh
        )
        return cast("list[Item]", self._run([one])[0])

    @operation
    def search(
        self,
        vector: Sequence[float],
        *,
        model: str,
        prefix: Sequence[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        limit: int | None = None,
        offset: int = 0,
        refresh: bool = False,
    ) -> list[Hit[Item]]:
        """Return the items with the vectors nearest to the query, each once, by the nearest of its vectors.

        Every vector of the items below `prefix` that match the filter is compared: the result is exact, and has as
        many items as there are, up to `limit`.

        Args:
            vector: The query.
            model: The name of the embedding model.
            prefix: The first labels of the paths; none for the whole namespace.
            filter: Conditions on the values.
            limit: The maximum number of items, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            offset: How many items are left out at the beginning.
            refresh: Whether their time to live begins again, which makes this a write and compares twice.

        Returns:
            The hits, the most similar first; `score` and `similarity` are the cosine.

        Raises:
            ValidationError: An argument is invalid, or the vector has another dimension than those of the namespace
                by the model.
        """
        one = SearchItems(
            vector=vector, model=model, prefix=prefix, filter=filter, limit=limit, offset=offset, refresh=refresh
        )
        return cast("list[Hit[Item]]", self._run([one])[0])

    @operation
    def paths(
        self,
        *,
        prefix: Sequence[str | None] = (),
        suffix: Sequence[str | None] = (),
        max_depth: int | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[ItemPath]:
        """Return the distinct paths of items that have not expired, in their order.

        Args:
            prefix: The first labels of the paths; None stands for any label.
            suffix: Their last labels; None stands for any label.
            max_depth: How many labels are shown of longer paths, each path once.
            limit: The maximum number of paths, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            offset: How many paths are left out at the beginning.

        Returns:
            The paths.

        Raises:
            ValidationError: An argument is invalid.
        """
        one = ListPaths(prefix=prefix, suffix=suffix, max_depth=max_depth, limit=limit, offset=offset)
        return cast("list[ItemPath]", self._run([one])[0])

    @operation
    def iterate(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> Iterator[Item]:
        """Iterate over the items whose paths begin with these labels, in the order of path and key.

        Args:
            prefix: The first labels of the paths; none for the whole namespace.
            filter: Conditions on the values.

        Returns:
            The items, read in pages of 100 or about 4 MB.

        Raises:
            ValidationError: An argument is invalid.
        """
        lower, upper = range_below(check_path("prefix", prefix, self._session.limits))
        values: dict[str, Any] = {"namespace": self._session.namespace, "upper": upper}
        statement = sql.page(tuple(conditions_of(filter, values)))

        def read(cursor: tuple[str, str, bool]) -> tuple[Iterator[Item], tuple[str, str, bool] | None]:
            path, key, was_large = cursor
            page = {"path": path, "key": key, "limit": ITERATE_PAGE + 1, "page_bytes": PAGE_BYTES}
            step = statement.bind(**values, **page, now=to_micros(self._session.now()))
            rows = self._session.read(step, shrinks=was_large)
            fitting = [row[:-2] for row in rows if row[0] is not None]
            rest = next((row[-2:] for row in rows if row[0] is None), None)
            more = None if rest is None else (*rest, len(fitting) < ITERATE_PAGE)
            return draining([item_from_row(row) for row in fitting]), cast("tuple[str, str, bool] | None", more)

        yield from iterate_pages(read, (lower, "", False))

    @operation
    def iterate_vectors(self) -> Iterator[ItemVector]:
        """Iterate over the vectors of the items that have not expired, in pages of 100."""

        def read(after: int) -> tuple[Iterator[ItemVector], int | None]:
            values = {"after": after, "limit": ITERATE_PAGE, "now": to_micros(self._session.now())}
            rows = self._session.read(sql.VECTOR_PAGE.bind(namespace=self._session.namespace, **values))
            more = rows[-1][0] if len(rows) == ITERATE_PAGE else None
            return map(_vector_from_row, rows), more

        yield from iterate_pages(read, -(2**63))

    @operation
    def count(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> int:
        """Count the items whose paths begin with these labels, without those that have expired.

        Args:
            prefix: The first labels of the paths; none for the whole namespace.
            filter: Conditions on the values.

        Returns:
            Their number.

        Raises:
            ValidationError: An argument is invalid.
        """
        lower, upper = range_below(check_path("prefix", prefix, self._session.limits))
        values: dict[str, Any] = {"lower": lower, "upper": upper, "now": to_micros(self._session.now())}
        conditions = tuple(conditions_of(filter, values))
        step = sql.count(conditions).bind(namespace=self._session.namespace, **values)
        return int(self._session.read(step)[0][0])

    @operation
    def batch(self, operations: Iterable[ItemOperation]) -> list[Any]:
        """Run operations as one transaction, in one round trip.

        All of them read the state before the first write. Of several writes of one path and key the last one counts.
        If one is refused, nothing is stored.

        Args:
            operations: GetItem, PutItem, DeleteItem, QueryItems, SearchItems and ListPaths; at most 200 of the last
                three.

        Returns:
            The result of each, in their order: an item or None, items, hits or paths; None for those that write.

        Raises:
            CommitUnknownError: The connection failed. With the code "RESULT_LOST" the writes are stored, and what it
                read was lost.
            ConflictError: Another version of an item is stored than a put expects.
            ValidationError: An operation is invalid; the field names it.
        """
        return self._run(to_list(operations, "operations"), "operations")

    @operation
    def import_many(self, items: Sequence[Item]) -> int:
        """Insert copies with their versions and times; existing items (by path and key) are not changed. Idempotent.

        Returns:
            The number of new items.

        Raises:
            ValidationError: An item is invalid or over a limit; the field names it.
        """
        rows = [self._import_row(f"items.{n}", one) for n, one in _numbered(items)]
        namespace = self._session.namespace

        def write(new: list[str]) -> int:
            groups = list(chunked(new, size, most_bytes=CHUNK_BYTES))
            if groups:
                steps = [sql.IMPORT.bind(len(one), namespace=namespace, rows=f"[{','.join(one)}]") for one in groups]
                self._session.write(steps)
            return len(new)

        def unknown(new: list[str], _: RowCountError) -> list[str]:
            step = sql.KNOWN.bind(namespace=namespace, rows=f"[{','.join(new)}]")
            return _without(new, self._session.read(step))

        return retry_on_row_conflict(write, rows, unknown, "importing these items")

    @operation
    def import_vectors(self, vectors: Sequence[ItemVector]) -> int:
        """Insert copies of vectors of existing items; existing vectors are not changed. Idempotent.

        Returns:
            The number of new vectors.

        Raises:
            NotFoundError: The item of a vector does not exist.
            ValidationError: A vector has another dimension than those of the namespace by the model.
        """
        given = [self._import_vector(f"vectors.{n}", one) for n, one in enumerate(to_list(vectors, "vectors"))]
        namespace = self._session.namespace

        def write(new: list[StoredVector]) -> int:
            steps = [step for step, _ in vector_steps(new, namespace, sql.IMPORT_VECTORS)]
            if steps:
                self._session.write(steps)
            return len(new)

        def unknown(new: list[StoredVector], error: RowCountError) -> list[StoredVector]:
            rows = json.dumps([[*one.name, one.field, one.model] for one in new], ensure_ascii=False)
            for (index,) in self._session.read(sql.ABSENT.bind(namespace=namespace, rows=rows)):
                raise NotFoundError("item", name_of(decode_path(new[index].name[0]), new[index].name[1])) from error
            rest = _without(new, self._session.read(sql.KNOWN_VECTORS.bind(namespace=namespace, rows=rows)))
            for _, part in vector_steps(rest, namespace):
                if problem := refused(self._session, part):
                    raise problem from error
            return rest

        return retry_on_row_conflict(write, given, unknown, "importing these vectors")

    def _run(self, operations: Sequence[ItemOperation], at: str = "") -> list[Any]:
        if not operations:
            return []
        plan = Plan.of(operations, self._session, at=at)
        reading, parts, refreshes = plan.read_step(), plan.write_steps(), plan.refresh_steps()
        if reading is not None and not parts and not refreshes:
            return plan.results(self._session.read(reading))
        first = [*([reading] if reading is not None else []), *refreshes]
        if reading is None:
            self._write((), parts)
            return plan.results(())
        rows = self._write(first, parts, again=_LOST if parts else reading)
        if list(rows) == [(None,)]:
            raise CommitUnknownError(
                "the response was lost: the writes of the batch are stored, what it read is not known; read it again",
                code="RESULT_LOST",
            )
        return plan.results(rows)

    def _write(
        self,
        first: Sequence[BatchStep],
        parts: Sequence[tuple[BatchStep, Sequence[Any]]],
        *,
        again: BatchStep | None = None,
    ) -> Sequence[Row]:
        """Write, and explain a statement that has not stored all of its rows."""
        steps = [*first, *(step for step, _ in parts)]
        for _ in range(SAVE_ATTEMPTS):
            try:
                return self._session.write(steps, again=again)
            except RowCountError as error:
                problem = refused(self._session, parts[error.index - 1 - len(first)][1])
                if problem is not None:
                    raise problem from error
        raise UnavailableError("other writers keep changing these items; nothing was stored; try again")

    def _import_row(self, at: str, item: Any) -> str:
        instance(at, item, Item, "Item(key=..., value=...)")
        encode(Item, item, at)
        entry = checked_put(PutItem(path=item.path, key=item.key, value=item.value, ttl=item.ttl), self._session, at)
        now = self._session.now()
        times = [to_micros(item.created_at or now), to_micros(item.updated_at or now)]
        expires_at = None if item.expires_at is None else to_micros(item.expires_at)
        start = json.dumps([*entry.name, entry.ttl, max(1, item.version), *times, expires_at], ensure_ascii=False)
        return f"{start[:-1]},{entry.document}]"

    def _import_vector(self, at: str, one: Any) -> StoredVector:
        instance(at, one, ItemVector, "ItemVector(key=..., model=..., field=..., vector=...)")
        limits = self._session.limits
        name = (encode_path(check_path(f"{at}.path", one.path, limits)), check_name(f"{at}.key", one.key, limits))
        field = check_name(f"{at}.field", one.field, limits)
        return StoredVector(name, as_model_name(one.model), field, packed(one.vector, f"{at}.vector"))


def _numbered(items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(to_list(items, "items"))


def _without(rows: list[T], known: Sequence[Row]) -> list[T]:
    """Return the rows but for those whose positions are known."""
    positions = {row[0] for row in known}
    return [row for position, row in enumerate(rows) if position not in positions]


def _pairs(keys: Iterable[Any]) -> list[tuple[Any, Any]]:
    pairs = to_list(keys, "keys")
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValidationError(f"keys.{index}", "a pair of path and key", pair)
    return [(path, key) for path, key in pairs]


def _live(rows: Sequence[Row]) -> int:
    """Count the deleted items that had not expired; all of them if the acknowledgement was lost."""
    return sum(1 for row in rows if not row or row[0])


def _vector_from_row(row: Row) -> ItemVector:
    _, path, key, model, field, vector = row
    return ItemVector.model_construct(
        path=decode_path(path), key=key, model=model, field=field, vector=unpack_vector(vector)
    )
