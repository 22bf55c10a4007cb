"""Vectors in the format of the database: 32-bit floats, little-endian."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

MAX_DIMENSION = 65_536
"""The engine's limit."""


def pack_vector(vector: Sequence[float]) -> bytes:
    """Return the floats as little-endian 32-bit floats, 4 bytes each."""
    packed = array("f", vector)
    if packed.itemsize != 4:  # pragma: no cover - no platform with a native driver has another float
        raise TypeError("this platform's float is not 32 bits wide")
    return packed.tobytes()


def unpack_vector(data: bytes) -> list[float]:
    """Return the floats of a packed vector."""
    return array("f", data).tolist()
