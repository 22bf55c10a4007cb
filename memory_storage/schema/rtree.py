"""How the R*Trees store namespaces, positions and times.

`spatiotemporal_rtree` has every position, `spatiotemporal_spans` every interval longer than a microsecond. An R*Tree
holds 32-bit floats, rounded outwards, so a search checks its rows against the exact columns. It splits a node where the
sum of the sides becomes least, and inserts a row into the node that grows least. Therefore:

- The namespace is a dimension, with numbers far larger than degrees: each namespace has its own nodes.
- Times are scaled down until positions decide, and every row is so long in time that time does not enlarge a node.
  With times in microseconds the nodes would be slices of time, and a search for a place would read all of them.
"""

from __future__ import annotations

FOREVER = 300_000_000_000_000_000
"""Microseconds since the epoch, beyond the year 9999: the end of an open interval; -FOREVER is its start."""

_PRIME = 8_388_593  # a 32-bit float has halves up to 2 ** 23
_FACTORS = (1, 131, 131 * 131, 131 * 131 * 131)
_SCALE = "1e-20"
_HALF = 0.001


def number(namespace: str) -> int:
    """Return the number of a namespace, as the triggers compute it, from its last 4 characters. It is not unique."""
    return (
        sum(ord(letter) * factor for letter, factor in zip(reversed(namespace[-4:]), _FACTORS, strict=False)) % _PRIME
    )


def beginning(micros: str) -> str:
    """Return SQL for the lower bound of a box in time, in `spatiotemporal_rtree`."""
    return f"({micros} * {_SCALE} - {_HALF})"


def ending(micros: str) -> str:
    """Return SQL for the upper bound of a box in time, in `spatiotemporal_rtree`."""
    return f"({micros} * {_SCALE} + {_HALF})"


def scaled(micros: str) -> str:
    """Return SQL for a time in `spatiotemporal_spans`."""
    return f"({micros} * {_SCALE})"
