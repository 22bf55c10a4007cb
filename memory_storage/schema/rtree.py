"""How the R*Trees have namespaces, positions and times. Knows no statement.

`spatiotemporal_rtree` has every position, `spatiotemporal_spans` every interval that is more than a moment. An R*Tree
holds 32-bit floats, rounded outwards: what it finds has to be checked against the exact columns. It splits its nodes
where that makes the sum of their sides least, and puts a row into the node that it enlarges least. So

- the namespace is a side of its own: a number far larger than degrees, and each namespace has nodes of its own;
- times are made so small that positions decide, and every row is so much longer than their differences that time does
  not enlarge a node. With times in microseconds the nodes would be slices of time, and a search for a place would
  read all of them.
"""

from __future__ import annotations

FOREVER = 300_000_000_000_000_000
"""Microseconds since the epoch, beyond year 9999; what has no end ends here, and -FOREVER is before all."""

_PRIME = 8_388_593  # a 32-bit float has halves up to 2 ** 23
_FACTORS = (1, 131, 131 * 131, 131 * 131 * 131)
_SCALE = "1e-20"
_HALF = 0.001


def number(namespace: str) -> int:
    """The number of a namespace, as the triggers compute it. Several may share one; what they end with tells it."""
    return (
        sum(ord(letter) * factor for letter, factor in zip(reversed(namespace[-4:]), _FACTORS, strict=False)) % _PRIME
    )


def beginning(micros: str) -> str:
    """SQL for the side of a box in `spatiotemporal_rtree` at which it begins in time."""
    return f"({micros} * {_SCALE} - {_HALF})"


def ending(micros: str) -> str:
    """SQL for the side of a box in `spatiotemporal_rtree` at which it ends in time."""
    return f"({micros} * {_SCALE} + {_HALF})"


def scaled(micros: str) -> str:
    """SQL for a moment in `spatiotemporal_spans`."""
    return f"({micros} * {_SCALE})"
