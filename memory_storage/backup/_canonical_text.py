"""The canonical text of a row, from which the digests of a backup's manifest are computed: its `repr`, in parts.

Existing manifests depend on every character of it, so it cannot change. It is built in parts because the `repr` of a
9 MB value takes up to four times that, and the `repr` of its row would copy it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PIECE = 65_536


def canonical_parts(row: tuple[Any, ...], *, piece: int = PIECE) -> Iterator[str]:
    """Iterate over the parts of `repr(row)`.

    Args:
        row: Values as the driver returns them.
        piece: The maximum number of bytes or characters of a value in one part.
    """
    if not any(isinstance(value, bytes | str) and len(value) > piece for value in row):
        yield repr(row)
        return
    for number, value in enumerate(row):
        yield ", " if number else "("
        yield from _pieces(value, piece) if isinstance(value, bytes | str) else (repr(value),)
    yield ",)" if len(row) == 1 else ")"


def _pieces(value: bytes | str, piece: int) -> Iterator[str]:
    """Iterate over the parts of `repr(value)`.

    Python uses double quotes for a value that contains single quotes and no double quotes. Each part is given a leading
    character that makes `repr` choose the quotes of the complete value, and is cut after it.
    """
    single, double, prefix = (b"'", b'"', "b") if isinstance(value, bytes) else ("'", '"', "")
    quote, before = ('"', single) if single in value and double not in value else ("'", double)  # type: ignore[operator]
    opening = len(prefix) + 2
    yield prefix + quote
    for start in range(0, len(value), piece):
        yield repr(before + value[start : start + piece])[opening:-1]  # type: ignore[operator]
    yield quote
