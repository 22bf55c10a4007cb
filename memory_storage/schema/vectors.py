"""Vectors as the database has them. Knows no SQL."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

MAX_DIMENSION = 65_536
"""The engine's limit."""


def pack_vector(vector: Sequence[float]) -> bytes:
    """Floats as little-endian float32 bytes, four for each."""
    packed = array("f", vector)
    if packed.itemsize != 4:  # pragma: no cover - no platform with a native driver has another float
        raise TypeError("this platform's float is not 32 bits wide")
    return packed.tobytes()


def unpack_vector(data: bytes) -> list[float]:
    """The floats of a packed vector."""
    return array("f", data).tolist()
