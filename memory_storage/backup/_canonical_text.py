"""The canonical text of a row, in pieces, of which the digest in a backup's manifest is computed.

The manifests of all backups depend on it, so it cannot spell otherwise; but a value of nine megabytes has a `repr` of
up to four times that, and the row's would hold it once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PIECE = 65_536


def canonical_parts(row: tuple[Any, ...], *, piece: int = _PIECE) -> Iterator[str]:
    """Iterate over the parts of `repr(row)`.

    Args:
        row: Values as the driver returns them.
        piece: The number of bytes or characters of a value that one part spells at most.
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

    It is in double quotes if there are single ones in it and no double ones. A part is spelled with a character before
    it that has the same quotes chosen.
    """
    single, double, prefix = (b"'", b'"', "b") if isinstance(value, bytes) else ("'", '"', "")
    quote, before = ('"', single) if single in value and double not in value else ("'", double)  # type: ignore[operator]
    opening = len(prefix) + 2
    yield prefix + quote
    for start in range(0, len(value), piece):
        yield repr(before + value[start : start + piece])[opening:-1]  # type: ignore[operator]
    yield quote
