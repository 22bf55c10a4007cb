"""Validation of the arguments of analytics."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

from memory_storage.errors import ValidationError
from memory_storage.models.analytics import Dimension
from memory_storage.sql.validation import choice, finite

LONGEST_SEQUENCE = 10


def check_dimension(dimension: Dimension, field: str = "dimension") -> None:
    """Raise ValidationError if the dimension does not exist."""
    choice(field, dimension, get_args(Dimension))


def check_period(field: str, period: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
    """Return the period. Raise ValidationError if it is not a period, or empty."""
    try:
        since, until = period
        is_empty = since >= until
    except (TypeError, ValueError) as error:
        raise ValidationError(field, "(since, until), two aware moments", period) from error
    if is_empty:
        raise ValidationError(field, "since comes before until", period)
    return since, until


def check_lengths(field: str, length: int | tuple[int, int]) -> tuple[int, int]:
    """Return the minimum and the maximum length of a sequence."""
    lengths = length if isinstance(length, tuple) else (length, length)
    if not (len(lengths) == 2 and all(type(one) is int for one in lengths) and 1 <= lengths[0] <= lengths[1]):
        raise ValidationError(field, "a whole number, or two: the shortest and the longest", length)
    if lengths[1] > LONGEST_SEQUENCE:
        raise ValidationError(field, f"at most {LONGEST_SEQUENCE} tools", length)
    return lengths


def finite_or_none(field: str, value: float | None) -> float | None:
    """Return None or a finite number; raise ValidationError otherwise."""
    return None if value is None else finite(field, value)
