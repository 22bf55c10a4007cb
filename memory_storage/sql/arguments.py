"""Arguments of public methods that no model checks: each refusal is a ValidationError that says what to give."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

from memory_storage.embedders import Embedder
from memory_storage.errors import ValidationError
from memory_storage.models import Interval

T = TypeVar("T")


def flag(field: str, value: object) -> bool:
    """Return a boolean as it is."""
    if not isinstance(value, bool):
        raise ValidationError(field, "must be True or False", value)
    return value


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some texts."""
    if not isinstance(value, str) or value not in choices:
        raise ValidationError(field, f"one of {', '.join(choices)}", value)


def instance(field: str, value: object, kind: type[T], example: str) -> T:
    """Return an object of a class as it is; the refusal shows an `example` of how to make one."""
    if not isinstance(value, kind):
        raise ValidationError(field, f"must be a {kind.__name__}, like {example}", value)
    return value


def function(field: str, value: object, example: str) -> None:
    """Refuse what cannot be called; the refusal shows an `example`."""
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
    """Return an aware moment, as a model would keep it."""
    if not isinstance(moment, datetime):
        raise ValidationError(field, "must be an aware datetime, like datetime.now(timezone.utc)", moment)
    try:
        return cast(datetime, Interval(starts_at=moment).starts_at)
    except ValidationError as error:
        raise ValidationError(field, f"{error.limit}, like datetime.now(timezone.utc)", moment) from error


def embedder(field: str, value: object) -> Embedder:
    """Return an embedder as it is. A bare function is none: it has no model."""
    if not isinstance(value, Embedder):
        example = "FunctionEmbedder(function, model=...)" if callable(value) else "HashingEmbedder()"
        raise ValidationError(field, f"must be an embedder, with a model, embed and embed_query, like {example}", value)
    return value


def aware(clock: Callable[[], datetime]) -> datetime:
    """Return what the storage's clock says."""
    moment: object = clock()
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValidationError("now", "the clock must give aware moments, like datetime.now(timezone.utc)", moment)
    return moment


def whole(field: str, value: int) -> int:
    """A whole number from 1."""
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValidationError(field, "a whole number from 1", value)
    return value
