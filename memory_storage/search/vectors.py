"""Vectors as they come in: checked and packed. Knows no SQL."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Set
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.schema import pack_vector
from memory_storage.schema.vectors import MAX_DIMENSION

LONGEST = 1e15
"""Of a vector; 1 by it is the shortest: the engine squares it as a 32-bit float."""


def packed(vector: Any, field: str = "vector") -> bytes:
    """The bytes of a sequence of numbers, or of an array of them, as 32-bit floats.

    ValidationError if it is none, if it is too long or too short, or has NaN or infinity in it.
    """
    if isinstance(vector, str | bytes | bytearray | Mapping | Set):
        raise ValidationError(field, "a sequence of numbers", vector)
    try:
        data = _as_floats(vector)
        dimension, length = len(data) // 4, math.hypot(*memoryview(data).cast("f"))
    except (TypeError, OverflowError, ValueError) as error:
        raise ValidationError(field, "a sequence of numbers", vector) from error
    if not 1 <= dimension <= MAX_DIMENSION:
        raise ValidationError(field, f"1 to {MAX_DIMENSION:,} numbers", dimension)
    if not math.isfinite(length):
        raise ValidationError(field, "finite 32-bit numbers only", "NaN or infinity")
    if not 1 / LONGEST <= length <= LONGEST:
        raise ValidationError(field, f"a length from {1 / LONGEST:g} to {LONGEST:g}", length)
    return data


def _as_floats(vector: Any) -> bytes:
    """An array of 32-bit or 64-bit floats is taken as a whole, without a look at each number."""
    try:
        view = memoryview(vector)
    except TypeError:
        return pack_vector(vector)
    if view.ndim == 1 and view.format in {"f", "<f"}:
        return view.tobytes()
    if view.ndim == 1 and view.format in {"d", "<d"}:
        return array("f", array("d", view.tobytes())).tobytes()
    return pack_vector(vector)
