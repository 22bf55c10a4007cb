"""Items: JSON values under a path and a key; and the operations of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import Field

from .display import short_repr, shortened
from .model import Finite, Model, Timestamp, Version

ItemPath = tuple[str, ...]
"""The labels of a path, from the root. A label is any text without NUL."""


class Item(Model):
    """A JSON value that is stored under a path and a key.

    Attributes:
        path: the labels of its path, like `("users", "42")`; empty for the root.
        key: its name within the path.
        value: any JSON value.
        ttl: seconds from a put, or a read that refreshes it, until it expires; None if it does not expire.
        version: 1 after the first put; each further one adds 1.
        created_at: when it was first put.
        updated_at: when it was last put.
        expires_at: from when on it is not returned; None if it does not expire.
    """

    path: ItemPath = ()
    key: str
    value: pydantic.JsonValue
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    version: Version = 0
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    expires_at: Timestamp | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"path={values.get('path', ())!r}", f"version={values.get('version', 0)}"]
        return short_repr("Item", values.get("key"), shortened(repr(values.get("value"))), facts)

    __str__ = __repr__


class ItemVector(Model):
    """A vector of an item, by which searches find it.

    Attributes:
        path: the labels of the item's path.
        key: the key of the item.
        model: the name of the embedding model, 1 to 200 characters.
        field: the part of the value that the vector stands for.
        vector: the numbers; finite, at least one.
    """

    path: ItemPath = ()
    key: str
    model: Annotated[str, Field(min_length=1, max_length=200)]
    field: str
    vector: Annotated[list[Finite], Field(min_length=1)]

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"model={values.get('model')!r}", f"dimension={len(values.get('vector', ()))}"]
        return short_repr("ItemVector", values.get("key"), str(values.get("field")), facts)

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class GetItem:
    """Read an item: see `items.find`.

    Attributes:
        path: the labels of its path.
        key: its key.
        refresh: whether its time to live begins again.
    """

    path: Sequence[str] = ()
    key: str
    refresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PutItem:
    """Store an item: see `items.put`.

    Attributes:
        path: the labels of its path.
        key: its key.
        value: any JSON value.
        ttl: seconds until it expires; None: it does not expire.
        vectors: vectors by the name of the field that each stands for; they replace those stored before.
        model: the name of the model of the vectors.
        version: the version that is stored, 0 if none may be; None: any.
    """

    path: Sequence[str] = ()
    key: str
    value: Any
    ttl: float | None = None
    vectors: Mapping[str, Sequence[float]] | None = None
    model: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteItem:
    """Delete an item: see `items.delete`.

    Attributes:
        path: the labels of its path.
        key: its key.
    """

    path: Sequence[str] = ()
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryItems:
    """Read the items below a path: see `items.query`.

    Attributes:
        prefix: the first labels of their paths.
        filter: conditions on the values.
        newest_first: whether those put last come first; else in the order of path and key.
        limit: the maximum number of items.
        offset: how many items are left out at the beginning.
        refresh: whether their time to live begins again.
    """

    prefix: Sequence[str] = ()
    filter: Mapping[str, Any] | None = None
    newest_first: bool = False
    limit: int | None = None
    offset: int = 0
    refresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchItems:
    """Find the items below a path that are most similar to a vector: see `items.search`.

    Attributes:
        vector: the query.
        model: the name of the model of the vectors.
        prefix: the first labels of their paths.
        filter: conditions on the values.
        limit: the maximum number of items.
        offset: how many items are left out at the beginning.
        refresh: whether their time to live begins again.
    """

    vector: Sequence[float]
    model: str
    prefix: Sequence[str] = ()
    filter: Mapping[str, Any] | None = None
    limit: int | None = None
    offset: int = 0
    refresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPaths:
    """List the paths of items: see `items.paths`.

    Attributes:
        prefix: the first labels; None stands for any label.
        suffix: the last labels; None stands for any label.
        max_depth: how many labels are shown of longer paths.
        limit: the maximum number of paths.
        offset: how many paths are left out at the beginning.
    """

    prefix: Sequence[str | None] = ()
    suffix: Sequence[str | None] = ()
    max_depth: int | None = None
    limit: int | None = None
    offset: int = 0


ItemOperation = GetItem | PutItem | DeleteItem | QueryItems | SearchItems | ListPaths
