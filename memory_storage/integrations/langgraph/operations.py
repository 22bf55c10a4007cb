"""LangGraph's operations as operations of items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from memory_storage import models
from memory_storage.errors import ValidationError
from memory_storage.models import DeleteItem, GetItem, ItemOperation, ListPaths, PutItem, QueryItems, SearchItems
from memory_storage.repositories import ItemRepository
from memory_storage.storage import MemoryStorage

from .filters import ItemFilter, item_filter
from .index import Index, Vectors

STORE_PATH = ("langgraph", "store")
"""The path below which a store keeps its items."""


class Batch:
    """A batch of LangGraph's operations.

    Args:
        ops: The operations.
        index: What is embedded; None for no search by vectors.
        page_size: The greatest number of items that one read returns.
    """

    def __init__(self, ops: Iterable[Op], index: Index | None, page_size: int) -> None:
        self._ops, self._index, self._page_size = [_checked(op) for op in ops], index, page_size
        puts = {(tuple(op.namespace), op.key): op for op in self._ops if isinstance(op, PutOp)}
        self._puts = list(puts.values())  # the last one of each key
        self._texts = {id(op): dict(self._texts_of(op)) for op in self._puts}
        searches = {n: op for n, op in enumerate(self._ops) if isinstance(op, SearchOp)}
        self._filters = {number: item_filter(op.filter) for number, op in searches.items()}
        self.documents = list(dict.fromkeys(text for texts in self._texts.values() for text in texts.values()))
        self.queries = list(dict.fromkeys(op.query for op in searches.values() if op.query and index is not None))

    def run(self, storage: MemoryStorage, documents: Vectors, queries: Vectors) -> list[Result]:
        """Run the operations as one transaction, and return their results.

        Args:
            storage: The storage.
            documents: The vectors of `documents`.
            queries: The vectors of `queries`.
        """
        if not any(one.checks for one in self._filters.values()):
            results, refreshes = self._run(storage.items, documents, queries)
        elif self._puts:
            results, refreshes = storage.run(lambda tx: self._run(tx.items, documents, queries))
        else:
            with storage.snapshot() as view:
                results, refreshes = self._run(view.items, documents, queries)
        # Apart from the reads, which then need no lock: most items have no time to live.
        if refreshes:
            storage.items.batch(refreshes)
        return results

    def _run(
        self, items: ItemRepository, documents: Vectors, queries: Vectors
    ) -> tuple[list[Result], list[ItemOperation]]:
        """Return the results, and what refreshes the items that were read."""
        pages: dict[int, list[Any]] = {}
        operations: list[ItemOperation] = []
        spans: dict[int, slice] = {}
        for number, op in enumerate(self._ops):
            if isinstance(op, SearchOp) and self._filters[number].checks:
                pages[number] = self._checked_search(items, op, self._filters[number], queries)
            else:
                reads = self._reads(number, op, queries)
                spans[number] = slice(len(operations), len(operations) + len(reads))
                operations += reads
        values = items.batch([*operations, *(self._write(op, documents) for op in self._puts)])
        pages |= {number: values[span] for number, span in spans.items()}
        results = [_result(op, pages[number]) for number, op in enumerate(self._ops)]
        return results, self._refreshes(pages)

    def _texts_of(self, op: PutOp) -> Iterator[tuple[str, str]]:
        if self._index is not None and op.value is not None and op.index is not False:
            yield from self._index.texts(op.value, op.index)

    def _write(self, op: PutOp, documents: Vectors) -> PutItem | DeleteItem:
        path = (*STORE_PATH, *op.namespace)
        if op.value is None:
            return DeleteItem(path=path, key=op.key)
        vectors = {field: documents[text] for field, text in self._texts[id(op)].items()}
        model = None if self._index is None else self._index.model
        ttl = None if op.ttl is None else op.ttl * 60
        return PutItem(path=path, key=op.key, value=dict(op.value), ttl=ttl, vectors=vectors, model=model)

    def _reads(self, number: int, op: Op, queries: Vectors) -> list[ItemOperation]:
        if isinstance(op, GetOp):
            return [GetItem(path=(*STORE_PATH, *op.namespace), key=op.key)]
        if isinstance(op, SearchOp):
            conditions = self._filters[number].conditions
            return [self._page(op, conditions, queries, *page) for page in self._pages(op.limit, op.offset)]
        if isinstance(op, ListNamespacesOp):
            return list(self._lists(op))
        return []

    def _pages(self, limit: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield the limits and offsets of reads that together have a page of any size."""
        if limit < 0:
            raise ValidationError("limit", "a whole number from 0", limit)
        for first in range(0, limit, self._page_size):
            yield min(self._page_size, limit - first), offset + first

    def _page(
        self, op: SearchOp, conditions: dict[str, Any] | None, queries: Vectors, limit: int, offset: int
    ) -> QueryItems | SearchItems:
        prefix = (*STORE_PATH, *op.namespace_prefix)
        if self._index is None or not op.query:
            return QueryItems(prefix=prefix, filter=conditions, newest_first=True, limit=limit, offset=offset)
        vector, model = queries[op.query], self._index.model
        return SearchItems(vector=vector, model=model, prefix=prefix, filter=conditions, limit=limit, offset=offset)

    def _checked_search(self, items: ItemRepository, op: SearchOp, filter_: ItemFilter, queries: Vectors) -> list[Any]:
        """Return the page of a search whose filter the database tests only in part."""
        found: list[Any] = []
        offset, size = 0, self._page_size
        while op.limit > 0 and len(found) < op.offset + op.limit:
            (page,) = items.batch([self._page(op, filter_.conditions, queries, size, offset)])
            found += [one for one in page if filter_.passes(_item_of(one).value)]
            offset += size
            if len(page) < size:
                break
        return [found[op.offset : op.offset + op.limit]]

    def _lists(self, op: ListNamespacesOp) -> Iterator[ListPaths]:
        patterns = _patterns(op.match_conditions or ())
        if patterns is None:
            return
        prefix, suffix = patterns
        depth = None if op.max_depth is None else len(STORE_PATH) + op.max_depth
        for limit, offset in self._pages(op.limit, op.offset):
            yield ListPaths(prefix=prefix, suffix=suffix, max_depth=depth, limit=limit, offset=offset)

    def _refreshes(self, pages: Mapping[int, list[Any]]) -> list[ItemOperation]:
        """Return what begins the time to live of the items again that were read, and have one."""
        names = {
            (item.path, item.key): None
            for number, op in enumerate(self._ops)
            if isinstance(op, GetOp | SearchOp) and op.refresh_ttl
            for item in _items_in(pages[number])
            if item.ttl is not None
        }
        return [GetItem(path=path, key=key, refresh=True) for path, key in names]


def _checked(op: Op) -> Op:
    validate_op_namespace(op)
    if isinstance(op, PutOp) and not (op.value is None or isinstance(op.value, Mapping)):
        raise ValidationError("value", "a dictionary, or None to delete the item", op.value)
    if isinstance(op, GetOp | PutOp | SearchOp | ListNamespacesOp):
        return op
    raise ValidationError("ops", "GetOp, PutOp, SearchOp or ListNamespacesOp", op)


def _item_of(one: models.Item | models.Hit[models.Item]) -> models.Item:
    return one.item if isinstance(one, models.Hit) else one


def _items_in(pages: Sequence[Any]) -> Iterator[models.Item]:
    for page in pages:
        for one in page if isinstance(page, list) else [page]:
            if one is not None:
                yield _item_of(one)


def _result(op: Op, pages: list[Any]) -> Result:
    if isinstance(op, GetOp):
        (item,) = pages
        return None if item is None else Item(**_fields(item))
    if isinstance(op, SearchOp):
        return [
            SearchItem(**_fields(_item_of(one)), score=one.score if isinstance(one, models.Hit) else None)
            for page in pages
            for one in page
        ]
    if isinstance(op, ListNamespacesOp):
        return [path[len(STORE_PATH) :] for page in pages for path in page]
    return None


def _fields(item: models.Item) -> dict[str, Any]:
    return {
        "namespace": item.path[len(STORE_PATH) :],
        "key": item.key,
        "value": cast("dict[str, Any]", item.value),
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def _patterns(conditions: Iterable[MatchCondition]) -> tuple[list[str | None], list[str | None]] | None:
    """Return the first and the last labels of the paths that match all conditions; None if none can."""
    prefix: list[str | None] = []
    reversed_suffix: list[str | None] = []
    for condition in conditions:
        labels = [None if label == "*" else label for label in condition.path]
        if condition.match_type not in ("prefix", "suffix"):
            raise ValidationError("match_conditions", "the match types prefix and suffix", condition.match_type)
        is_prefix = condition.match_type == "prefix"
        if not _merge(prefix if is_prefix else reversed_suffix, labels if is_prefix else labels[::-1]):
            return None
    # A suffix is one of the namespace, not of the path above it.
    prefix += [None] * (len(reversed_suffix) - len(prefix))
    return [*STORE_PATH, *prefix], reversed_suffix[::-1]


def _merge(pattern: list[str | None], labels: Sequence[str | None]) -> bool:
    """Add labels to a pattern; False if no path matches both."""
    pattern += [None] * (len(labels) - len(pattern))
    for position, label in enumerate(labels):
        if label is not None and pattern[position] not in (None, label):
            return False
        pattern[position] = label or pattern[position]
    return True
