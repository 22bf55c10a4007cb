"""Validate vectors, and pack them as 32-bit floats."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Set
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.schema import pack_vector
from memory_storage.schema.vectors import MAX_DIMENSION

LONGEST = 1e15
"""The largest Euclidean norm of a vector; its inverse is the smallest: the engine squares norms as 32-bit floats."""


def packed(vector: Any, field: str = "vector") -> bytes:
    """Return a vector as little-endian 32-bit floats.

    Args:
        vector: A sequence of numbers, or a one-dimensional array or buffer of 32-bit or 64-bit floats.
        field: The name that an error gives it.

    Raises:
        ValidationError: not a sequence of numbers, empty or too long, NaN or infinite, or a norm out of range.
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
    # An array of floats is copied as a whole, without converting each number in Python.
    try:
        view = memoryview(vector)
    except TypeError:
        return pack_vector(vector)
    if view.ndim == 1 and view.format in {"f", "<f"}:
        return view.tobytes()
    if view.ndim == 1 and view.format in {"d", "<d"}:
        return array("f", array("d", view.tobytes())).tobytes()
    return pack_vector(vector)
