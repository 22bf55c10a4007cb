"""A batch of operations as statements: what it reads is one statement, which runs before those that write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from memory_storage.dbapi import BatchStep, chunked
from memory_storage.errors import ConflictError, ValidationError
from memory_storage.models import (
    DeleteItem,
    GetItem,
    Hit,
    Item,
    ItemOperation,
    ItemPath,
    ListPaths,
    PutItem,
    QueryItems,
    SearchItems,
)
from memory_storage.search.vectors import as_model_name, packed, wrong_dimension
from memory_storage.sql.documents import CHUNK_BYTES, encode_value
from memory_storage.sql.paging import check_limit
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import SqlTemplate, from_micros, to_micros
from memory_storage.sql.validation import flag, join_field, most_bytes, size, to_list, too_large, whole

from . import sql
from .rows import (
    check_name,
    check_path,
    decode_path,
    encode_path,
    item_from_row,
    name_of,
    range_below,
    ttl_micros,
)

MOST_READS = 200
"""Queries, searches and lists of paths in one batch: each is a part of one statement, and the engine takes 500."""

_MOST_OFFSET = 2**31 - 1

Name = tuple[str, str]
"""The encoded path and the key of an item."""


class StoredVector(NamedTuple):
    """A vector to store: the item, the model, the field and the packed floats."""

    name: Name
    model: str
    field: str
    vector: bytes


@dataclass(frozen=True)
class Entry:
    """A put, checked."""

    name: Name
    path: ItemPath
    document: str
    ttl: int | None
    version: int | None
    vectors: tuple[StoredVector, ...] = ()

    @property
    def json(self) -> str:
        """The element of `rows`."""
        start = json.dumps([*self.name, self.ttl, self.version], ensure_ascii=False)
        return f"{start[:-1]},{self.document}]"


def checked_put(operation: PutItem, session: SessionProtocol, at: str = "") -> Entry:
    """Return a put as it is stored.

    Args:
        operation: The put.
        session: Its limits hold.
        at: The path that an error gives it.

    Raises:
        ValidationError: A field is invalid, or over a limit.
    """
    limits = session.limits
    path = check_path(join_field(at, "path"), operation.path, limits)
    key = check_name(join_field(at, "key"), operation.key, limits)
    document = encode_value(join_field(at, "value"), operation.value)
    name = (encode_path(path), key)
    if (bytes_ := sum(map(size, (*name, document)))) > most_bytes(limits, session.max_value_bytes):
        raise too_large(join_field(at, "value"), bytes_, limits, session.max_value_bytes)
    version = operation.version
    if version is not None and (type(version) is not int or not 0 <= version < 2**53):
        raise ValidationError(
            join_field(at, "version"), "a version, 0 for an item that is not stored, or None", version
        )
    vectors = tuple(_checked_vectors(operation, name, session, at))
    return Entry(name, path, document, ttl_micros(join_field(at, "ttl"), operation.ttl), version, vectors)


def _checked_vectors(operation: PutItem, name: Name, session: SessionProtocol, at: str) -> Iterator[StoredVector]:
    if operation.vectors is None:
        return
    field_ = join_field(at, "vectors")
    if not isinstance(operation.vectors, Mapping):
        raise ValidationError(field_, "a mapping of fields to vectors", operation.vectors)
    if not operation.vectors:
        return
    model = as_model_name(operation.model)  # type: ignore[arg-type] # it is checked
    for part, vector in operation.vectors.items():
        yield StoredVector(name, model, check_name(field_, part, session.limits), packed(vector, f"{field_}.{part}"))


def put_steps(entries: Sequence[Entry], namespace: str, now: int) -> Iterator[tuple[BatchStep, Sequence[Any]]]:
    """Yield the statements that store items and their vectors, each with the entries or vectors that it stores."""
    for group in chunked(entries, lambda one: size(one.json), most_bytes=CHUNK_BYTES):
        rows = f"[{','.join(one.json for one in group)}]"
        yield sql.PUT.bind(len(group), namespace=namespace, now=now, rows=rows), group
    yield from vector_steps([one for entry in entries for one in entry.vectors], namespace)


def vector_steps(
    vectors: Sequence[StoredVector], namespace: str, statement: SqlTemplate = sql.ADD_VECTORS
) -> Iterator[tuple[BatchStep, Sequence[StoredVector]]]:
    """Yield the statements that store vectors, each with those that it stores: all of them, or it rolls back.

    Args:
        vectors: The vectors.
        namespace: That of their items.
        statement: `sql.ADD_VECTORS` or `sql.IMPORT_VECTORS`.

    Raises:
        ValidationError: Two vectors of one model have different dimensions.
    """
    groups: dict[str, list[StoredVector]] = {}
    for one in vectors:
        groups.setdefault(one.model, []).append(one)
    for model, group in groups.items():
        bytes_ = len(group[0].vector)
        for one in group:
            if len(one.vector) != bytes_:
                raise wrong_dimension(model, bytes_ // 4, len(one.vector) // 4)
        for part in chunked(group, lambda one: len(one.vector), most_bytes=CHUNK_BYTES):
            values = {
                "rows": json.dumps([[*one.name, one.field] for one in part], ensure_ascii=False),
                "vectors": b"".join(one.vector for one in part),
            }
            yield statement.bind(len(part), namespace=namespace, model=model, size=bytes_, **values), part


def refused(session: SessionProtocol, part: Sequence[Any]) -> Exception | None:
    """Return why a statement of `put_steps` has not stored all of its part; None if that has changed since."""
    if isinstance(part[0], StoredVector):
        one = part[0]
        ((stored,),) = session.read(sql.SIZE.bind(namespace=session.namespace, model=one.model))
        return (
            None if stored in (None, len(one.vector)) else wrong_dimension(one.model, stored // 4, len(one.vector) // 4)
        )
    rows = f"[{','.join(one.json for one in part)}]"
    now = to_micros(session.now())
    for index, actual in session.read(sql.VERSIONS.bind(namespace=session.namespace, now=now, rows=rows)):
        entry = part[index]
        name = name_of(entry.path, entry.name[1])
        detail = f"version {entry.version} was given, but it is not stored" if actual is None else ""
        return ConflictError("item", name, expected=entry.version or 0, actual=actual, detail=detail)
    return None


@dataclass
class Plan:
    """The statements of a batch, and how its results are read.

    Attributes:
        session: Where it runs.
        now: Its time, in microseconds.
        entries: The puts by the name of the item, the last one of each.
        deleted: The names that are deleted.
    """

    session: SessionProtocol
    now: int
    entries: dict[Name, Entry] = field(default_factory=dict)
    deleted: dict[Name, None] = field(default_factory=dict)
    _parts: list[str] = field(default_factory=list)
    _values: dict[str, Any] = field(default_factory=dict)
    _gets: list[tuple[str, str, int]] = field(default_factory=list)
    _refreshed: list[tuple[str, str]] = field(default_factory=list)
    _refreshes: list[str] = field(default_factory=list)
    _decoders: list[Callable[[list[Row]], Any]] = field(default_factory=list)
    _refreshing: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, operations: Sequence[ItemOperation], session: SessionProtocol, *, at: str = "") -> Plan:
        """Return the plan of operations.

        Args:
            operations: The operations.
            session: Where they run.
            at: The path that an error gives them; empty for a single one.

        Raises:
            ValidationError: One of them is invalid; the field names it.
        """
        plan = cls(session, to_micros(session.now()))
        for number, one in enumerate(operations):
            add = _ADD.get(type(one))
            if add is None:
                names = ", ".join(kind.__name__ for kind in _ADD)
                raise ValidationError(f"{at}.{number}" if at else "operations", f"one of {names}", one)
            plan._decoders.append(_nothing)
            add(plan, number, one, f"{at}.{number}" if at else "")
        if len(plan._parts) > MOST_READS:
            raise ValidationError("operations", f"at most {MOST_READS} that read by a path", len(plan._parts))
        return plan

    @property
    def writes(self) -> bool:
        """Whether it stores or deletes items."""
        return bool(self.entries or self.deleted)

    def read_step(self) -> BatchStep | None:
        """Return the statement that reads; None if there is nothing to read."""
        parts = [*([sql.GET] if self._gets else []), *self._parts]
        return self._bind("\nUNION ALL\n".join(parts), self._gets) if parts else None

    def refresh_steps(self) -> list[BatchStep]:
        """Return the statements by which the time to live of what was read begins again."""
        steps = [self._bind(sql.REFRESH + sql.GIVEN_KEYS, self._refreshed)] if self._refreshed else []
        return steps + [self._bind(f"{sql.REFRESH}i.seq IN (SELECT seq FROM ({rows}))") for rows in self._refreshes]

    def write_steps(self) -> list[tuple[BatchStep, Sequence[Any]]]:
        """Return the statements that write, each with what it stores."""
        namespace = self.session.namespace
        steps = list(put_steps(list(self.entries.values()), namespace, self.now))
        if self.deleted:
            keys = json.dumps(list(self.deleted), ensure_ascii=False)
            steps.append((sql.DELETE.bind(namespace=namespace, keys=keys), ()))
        return steps

    def results(self, rows: Sequence[Row]) -> list[Any]:
        """Return the result of each operation."""
        found: list[list[Row]] = [[] for _ in self._decoders]
        for row in rows:
            found[row[0]].append(row[1:])
        return [decode(sorted(of, key=itemgetter(0))) for decode, of in zip(self._decoders, found, strict=True)]

    def _bind(self, text: str, keys: Sequence[Any] = ()) -> BatchStep:
        values = {"namespace": self.session.namespace, "now": self.now, **self._values}
        return sql.template(text).bind(**values, keys=json.dumps(list(keys), ensure_ascii=False))

    def _item(self, row: Row, *, refreshed: bool) -> Item:
        item = item_from_row(row[1:9])
        if refreshed and row[8] is not None:
            item.__dict__["expires_at"] = from_micros(self.now + row[8])  # it is not shared yet
        return item

    # -- one for each operation ----------------------------------------------------------------------------------------

    def _name(self, one: GetItem | DeleteItem, at: str) -> Name:
        limits = self.session.limits
        path = check_path(join_field(at, "path"), one.path, limits)
        return encode_path(path), check_name(join_field(at, "key"), one.key, limits)

    def _get(self, number: int, one: GetItem, at: str) -> None:
        name, refresh = self._name(one, at), flag(join_field(at, "refresh"), one.refresh)
        self._gets.append((*name, number))
        if refresh:
            self._refreshed.append(name)
        self._decoders[-1] = lambda rows: self._item(rows[0], refreshed=refresh) if rows else None

    def _put(self, number: int, one: PutItem, at: str) -> None:  # noqa: ARG002 - the same for each operation
        entry = checked_put(one, self.session, at)
        self.deleted.pop(entry.name, None)
        self.entries.pop(entry.name, None)  # the last one counts, and stands where it was given
        self.entries[entry.name] = entry

    def _delete(self, number: int, one: DeleteItem, at: str) -> None:  # noqa: ARG002
        name = self._name(one, at)
        self.entries.pop(name, None)
        self.deleted[name] = None

    def _query(self, number: int, one: QueryItems, at: str) -> None:
        newest_first = flag(join_field(at, "newest_first"), one.newest_first)
        conditions = self._page(number, one, at)
        order = "updated_at DESC, seq DESC" if newest_first else 'path, "key"'
        rows = sql.listed(number, conditions, newest_first=newest_first)
        self._add_items(number, rows, order, refresh=one.refresh)
        self._decoders[-1] = lambda rows: [self._item(row, refreshed=one.refresh) for row in rows]

    def _search(self, number: int, one: SearchItems, at: str) -> None:
        vector, model = packed(one.vector, join_field(at, "vector")), as_model_name(one.model)
        conditions = self._page(number, one, at)
        self._values |= {f"vector{number}": vector, f"model{number}": model, f"size{number}": len(vector)}
        self._parts.append(sql.size_of(number))
        self._add_items(number, sql.nearest(number, conditions), "distance, seq", refresh=one.refresh)

        def decode(rows: list[Row]) -> list[Hit[Item]]:
            stored = rows[0][-1]
            if stored not in (None, len(vector)):
                raise wrong_dimension(model, stored // 4, len(vector) // 4)
            return [
                Hit(self._item(row, refreshed=one.refresh), score=1 - row[-1], similarity=1 - row[-1])
                for row in rows[1:]
            ]

        self._decoders[-1] = decode

    def _add_items(self, number: int, rows: str, order: str, *, refresh: bool) -> None:
        self._parts.append(sql.items_of(number, rows, order))
        if flag("refresh", refresh):
            self._refreshes.append(rows)

    def _page(self, number: int, one: QueryItems | SearchItems, at: str) -> list[str]:
        """Bind the range, the page and the filter of an operation, and return the conditions of the filter."""
        prefix = check_path(join_field(at, "prefix"), one.prefix, self.session.limits)
        self._bind_range(number, prefix, one.limit, one.offset, at)
        return conditions_of(one.filter, self._values)

    def _bind_range(self, number: int, prefix: ItemPath, limit: int | None, offset: int, at: str) -> None:
        lower, upper = range_below(prefix)
        if type(offset) is not int or not 0 <= offset <= _MOST_OFFSET:
            raise ValidationError(join_field(at, "offset"), "a whole number from 0", offset)
        names = {"lower": lower, "upper": upper, "limit": check_limit(limit, self.session.limits), "offset": offset}
        self._values |= {f"{name}{number}": value for name, value in names.items()}

    def _paths(self, number: int, one: ListPaths, at: str) -> None:
        prefix = self._pattern(join_field(at, "prefix"), one.prefix)
        suffix = self._pattern(join_field(at, "suffix"), one.suffix)
        known = prefix[: prefix.index(None)] if None in prefix else prefix  # the index finds what begins with these
        self._bind_range(number, tuple(label for label in known if label is not None), one.limit, one.offset, at)
        patterns = {"start": prefix if len(known) < len(prefix) else (), "end": suffix}
        patterns = {name: labels for name, labels in patterns.items() if labels}
        for name, labels in patterns.items():
            escaped = [label if label is None else encode_path([label])[:-1] for label in labels]
            self._values[f"{name}{number}"] = json.dumps(escaped, ensure_ascii=False)
        if one.max_depth is not None:
            self._values[f"depth{number}"] = whole(join_field(at, "max_depth"), one.max_depth)
        self._parts.append(sql.paths(number, is_cut=one.max_depth is not None, patterns=tuple(patterns)))
        self._decoders[-1] = lambda rows: [decode_path(row[1]) for row in rows]

    def _pattern(self, at: str, labels: Any) -> list[str | None]:
        given = to_list(labels, at, "a sequence of labels")
        names = iter(check_path(at, [label for label in given if label is not None], self.session.limits))
        return [label if label is None else next(names) for label in given]


def conditions_of(filter: Mapping[str, Any] | None, values: dict[str, Any]) -> list[str]:  # noqa: A002 - as in the API
    """Return the conditions of a filter on the values of items `i`, and bind their values."""
    if filter is None:
        return []
    from memory_storage.sql.document_filters import document_conditions

    return document_conditions(filter, document="i.document", values=values, field="filter")


def _nothing(rows: list[Row]) -> None:
    """Return the result of an operation that only writes."""


_ADD: dict[type, Callable[[Plan, int, Any, str], None]] = {
    GetItem: Plan._get,
    PutItem: Plan._put,
    DeleteItem: Plan._delete,
    QueryItems: Plan._query,
    SearchItems: Plan._search,
    ListPaths: Plan._paths,
}
