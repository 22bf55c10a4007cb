"""A list whose items are decoded on first access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


class LazyList(Sequence[T]):
    """A sequence that reads and compares like a list, and decodes its items on first access."""

    __slots__ = ("_items", "_read")

    def __init__(self, read: Callable[[], list[T]]) -> None:
        self._read: Callable[[], list[T]] | None = read
        self._items: list[T] = []

    @property
    def is_decoded(self) -> bool:
        """Whether the items are decoded already."""
        return self._read is None

    def as_list(self) -> list[T]:
        """Return the decoded items. Concurrent first accesses may both decode; the results are equal."""
        read = self._read
        if read is not None:
            self._items = read()
            self._read = None
        return self._items

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self.as_list()[index]

    def __len__(self) -> int:
        return len(self.as_list())

    def __iter__(self) -> Iterator[T]:
        return iter(self.as_list())

    def __add__(self, other: Sequence[T]) -> list[T]:
        return [*self.as_list(), *other]

    def __radd__(self, other: Sequence[T]) -> list[T]:
        return [*other, *self.as_list()]

    def __eq__(self, other: object) -> bool:
        return bool(self.as_list() == _as_list(other))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __reduce__(self) -> tuple[object, ...]:
        return _from_list, (self.as_list(),)

    def __repr__(self) -> str:
        return repr(self.as_list())


class ListOrLazyList:
    """Annotates a `Sequence` field that takes and writes a list, and may hold a `LazyList`."""

    def __init__(self, item: type[Any]) -> None:
        self._item = item

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        items = handler.generate_schema(list[self._item])  # type: ignore[name-defined]
        return core_schema.json_or_python_schema(
            json_schema=items,
            python_schema=core_schema.no_info_before_validator_function(_as_list, items),
            serialization=core_schema.plain_serializer_function_ser_schema(_as_list, return_schema=items),
        )


def _as_list(items: Any) -> Any:
    return items.as_list() if isinstance(items, LazyList) else items


def _from_list(items: list[T]) -> LazyList[T]:
    return LazyList(lambda: items)
