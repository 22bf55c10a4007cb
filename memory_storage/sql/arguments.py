"""Validation of arguments that no model checks. Each ValidationError says what to pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

from memory_storage.embedders import Embedder
from memory_storage.errors import ValidationError
from memory_storage.models import Interval

T = TypeVar("T")

MAX_K = 1_000
"""The most results of one search."""


def flag(field: str, value: object) -> bool:
    """Return a boolean as it is."""
    if not isinstance(value, bool):
        raise ValidationError(field, "must be True or False", value)
    return value


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """ValidationError if a value is not one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValidationError(field, f"one of {', '.join(choices)}", value)


def instance(field: str, value: object, kind: type[T], example: str) -> T:
    """Return an instance of a class; the ValidationError shows an `example` of how to make one."""
    if not isinstance(value, kind):
        raise ValidationError(field, f"must be a {kind.__name__}, like {example}", value)
    return value


def function(field: str, value: object, example: str) -> None:
    """ValidationError, with an `example`, if a value is not callable."""
    if not callable(value):
        raise ValidationError(field, f"must be a function, like {example}", value)


def finite(field: str, value: Any) -> float:
    """Return a number that is neither infinite nor too large for a float."""
    try:
        is_finite = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise ValidationError(field, "a finite number", value)
    return float(value)


def checked_moment(field: str, moment: object) -> datetime:
    """Return an aware datetime, normalised as models do."""
    if not isinstance(moment, datetime):
        raise ValidationError(field, "must be an aware datetime, like datetime.now(timezone.utc)", moment)
    try:
        return cast(datetime, Interval(starts_at=moment).starts_at)
    except ValidationError as error:
        raise ValidationError(field, f"{error.limit}, like datetime.now(timezone.utc)", moment) from error


def embedder(field: str, value: object) -> Embedder:
    """Return an embedder; ValidationError for a bare function, which has no model."""
    if not isinstance(value, Embedder):
        example = "FunctionEmbedder(function, model=...)" if callable(value) else "HashingEmbedder()"
        raise ValidationError(field, f"must be an embedder, with a model, embed and embed_query, like {example}", value)
    return value


def aware(clock: Callable[[], datetime]) -> datetime:
    """Return the time of the storage's clock; ValidationError if it is naive."""
    moment: object = clock()
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValidationError("now", "the clock must give aware moments, like datetime.now(timezone.utc)", moment)
    return moment


def whole(field: str, value: int) -> int:
    """Return an int from 1 to 2**31 - 1."""
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValidationError(field, "a whole number from 1", value)
    return value


def check_k(k: int) -> int:
    """Return the number of results of a search; ValidationError if it is not from 1 to 1,000."""
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise ValidationError("k", f"a whole number from 1 to {MAX_K:,}", k)
    return k
