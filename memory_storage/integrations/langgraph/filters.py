"""LangGraph's filters as those of items, with checks of what SQL cannot compare: lists and whole objects."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from memory_storage.errors import ValidationError

_ORDER = ("$gt", "$gte", "$lt", "$lte")
_ABSENT = object()
_MOST_INTEGER = 2**63 - 1

Path: TypeAlias = tuple[str, ...]
Check: TypeAlias = Callable[[Any], bool]
_Condition: TypeAlias = "tuple[dict[str, Any] | None, Check | None]"


@dataclass(frozen=True)
class ItemFilter:
    """A filter of items.

    Attributes:
        conditions: What the database tests; None for every item.
        checks: What is tested of the values that it returns.
    """

    conditions: dict[str, Any] | None = None
    checks: tuple[Check, ...] = ()

    def passes(self, value: Any) -> bool:
        """Return whether a value that the database returned passes."""
        return all(check(value) for check in self.checks)


def item_filter(wanted: Any, *, below: Path = (), also: Iterable[dict[str, Any]] = ()) -> ItemFilter:
    """Return a filter of LangGraph as one of items.

    A key with a value must have an equal one; with operators, all must hold; with an object, the values below its keys
    must be equal. None equals an absent key too. Lists are equal if their elements are.

    Args:
        wanted: The filter, or None.
        below: Where the keys are in the stored values.
        also: Further conditions of items.

    Returns:
        The filter of items.

    Raises:
        ValidationError: The filter is no dictionary, or has an unknown operator.
    """
    if wanted is not None and not isinstance(wanted, Mapping):
        raise ValidationError("filter", "a dictionary of keys and values", wanted)
    for key in wanted or {}:
        if not isinstance(key, str) or key.startswith("$"):
            raise ValidationError("filter", 'a key of the values, like {"status": {"$ne": "done"}}', key)
    parts = [part for key, value in (wanted or {}).items() for part in _conditions((*below, key), value)]
    conditions = [*also, *(condition for condition, _ in parts if condition is not None)]
    checks = tuple(check for _, check in parts if check is not None)
    if not conditions:
        return ItemFilter(None, checks)
    return ItemFilter(conditions[0] if len(conditions) == 1 else {"$and": conditions}, checks)


def _conditions(path: Path, wanted: Any) -> Iterator[_Condition]:
    if not isinstance(wanted, Mapping):
        yield _equal(path, wanted)
    elif any(str(key).startswith("$") for key in wanted):
        for operator, operand in wanted.items():
            yield _operation(path, operator, operand)
    elif not wanted:
        yield _exists(path), partial(_at, path, _has_parts_of, {})
    else:
        for key, value in wanted.items():
            yield from _conditions((*path, str(key)), value)


def _operation(path: Path, operator: Any, operand: Any) -> _Condition:
    if operator in _ORDER:
        return {_name(path): _order(operator, operand)}, None
    if operator == "$eq":
        if isinstance(operand, Mapping):
            return _exists(path), partial(_at, path, _is_same, operand)
        return _equal(path, operand)
    if operator != "$ne":
        raise ValidationError("filter", f"one of $eq, $ne, {', '.join(_ORDER)}", operator)
    if isinstance(operand, Mapping | list | tuple):
        return None, partial(_at, path, lambda value, other: not _is_same(value, other), operand)
    if operand is None:
        return {"$and": [_exists(path), {_name(path): {"$ne": None}}]}, None
    return (None if _is_never_stored(operand) else {_name(path): {"$ne": operand}}), None


def _order(operator: str, operand: Any) -> dict[str, Any]:
    """Return the comparison; with infinity, it is one with the greatest float."""
    if not isinstance(operand, int | float) or isinstance(operand, bool) or abs(operand) <= _MOST_INTEGER:
        return {operator: operand}
    if math.isnan(operand):
        return {"$in": []}
    if abs(operand) <= sys.float_info.max:
        return {operator: float(operand)}
    if operand > 0:
        return {"$lte" if operator in ("$lt", "$lte") else "$gt": sys.float_info.max}
    return {"$gte" if operator in ("$gt", "$gte") else "$lt": -sys.float_info.max}


def _equal(path: Path, wanted: Any) -> _Condition:
    if isinstance(wanted, list | tuple):
        return _exists(path), partial(_at, path, _has_parts_of, wanted)
    if _is_never_stored(wanted):
        return {_name(path): {"$in": []}}, None
    if wanted is not None:
        return {_name(path): {"$eq": wanted}}, None
    is_null = {"$or": [{_name(path): None}, {_name(path): {"$exists": False}}]}
    # What is above an absent key has to be an object.
    return is_null, partial(_at, path[:-1], lambda value, _: isinstance(value, Mapping), None) if path[1:] else None


def _is_never_stored(value: Any) -> bool:
    """Return whether no value equals this one, because JSON or the database has none like it."""
    return (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, str) and "\0" in value)


def _exists(path: Path) -> dict[str, Any]:
    return {_name(path): {"$exists": True}}


def _name(path: Path) -> str:
    """Return the key of a condition. A single key with dots is a path if no value has it literally."""
    if len(path) == 1:
        return path[0]
    return ".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in path)


def _at(path: Path, test: Callable[[Any, Any], bool], wanted: Any, value: Any) -> bool:
    """Return whether the value at a path passes a test."""
    if len(path) == 1 and isinstance(value, Mapping) and path[0] not in value:
        path = tuple(path[0].split("."))
    for part in path:
        value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return test(value, wanted)


def _has_parts_of(value: Any, wanted: Any) -> bool:
    """Return whether a value is equal, but for further keys of objects."""
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(_has_parts_of(value.get(key), inner) for key, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(_has_parts_of, value, wanted))
    return _is_same(value, wanted)


def _is_same(value: Any, wanted: Any) -> bool:
    """Return whether two values are equal as JSON, in which a boolean is no number."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(wanted, Mapping):
        return (
            isinstance(value, Mapping)
            and value.keys() == wanted.keys()
            and all(_is_same(value[key], wanted[key]) for key in wanted)
        )
    if isinstance(wanted, list | tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(_is_same, value, wanted))
    return bool(value == wanted)
