"""The body of an HTTP response, decompressed in bounded memory. Opens nothing.

A server, or what stands in its place, may announce any size, send more than it announced, or send little that expands
to much. Each of these ends here, before the memory is taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, LineTooLong
from io import BytesIO
from typing import NoReturn

_PIECE = 65_536  # bytes
_GZIP = 16 + zlib.MAX_WBITS


class TooLarge(Exception):  # noqa: N818 - for the transport alone
    """The response exceeds `limit` bytes, that of the option `setting` if it is one. `value`: as announced, or None."""

    def __init__(self, limit: int, value: int | None = None, *, what: str = "response", setting: str = "") -> None:
        size = "" if value is None else f" (announced: {value:,})"
        advice = (
            f"read less at once, or raise the limit (setting: {setting})" if setting else "is this a libSQL server?"
        )
        super().__init__(f"the {what} is larger than {limit:,} bytes{size}: {advice}")
        self.limit, self.value, self.setting = limit, value, setting


class BrokenOff(HTTPException):
    """The response ended before its end."""


def refuse_larger(limit: int, value: int | None = None) -> NoReturn:
    """Raise TooLarge for a body."""
    raise TooLarge(limit, value, setting="max_response_bytes")


def whole(response: HTTPResponse, limit: int) -> bytes:
    """Return the body, decompressed.

    Args:
        response: The response, whose body was not read.
        limit: The largest size, in bytes.

    Raises:
        TooLarge: the body exceeds the limit.
        HTTPException: its encoding is unknown, or it is not in that encoding.
    """
    body = BytesIO()
    for piece in _decoded(response, limit):
        body.write(piece)
    return body.getvalue()


def lines(response: HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield the lines of the body, decompressed, as they come. Raises as `whole`."""
    parts: list[bytes] = []
    for piece in _decoded(response, limit):
        first, *others = piece.split(b"\n")
        parts.append(first)
        for other in others:
            yield b"".join(parts)
            parts = [other]
    if rest := b"".join(parts):
        yield rest


def _decoded(response: HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield pieces whose sum is within the limit."""
    if response.length is not None and response.length > limit:
        refuse_larger(limit, response.length)
    size = 0
    for piece in _decompressed(response):
        size += len(piece)
        if size > limit:
            refuse_larger(limit)
        yield piece


def _decompressed(response: HTTPResponse) -> Iterator[bytes]:
    raw = _raw(response)
    encoding = ", ".join(response.headers.get_all("content-encoding", ["identity"])).strip().lower()
    if encoding == "identity":
        yield from raw
    elif encoding in {"gzip", "x-gzip"}:
        yield from _gunzipped(raw)
    else:  # also gzip within gzip, which was not asked for: it multiplies twice
        raise HTTPException("the response has a content encoding that was not asked for")


def _raw(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except LineTooLong:
        raise TooLarge(_PIECE, what="size of a chunk, or a trailer,") from None
    if response.length:  # http.client takes what it got for all of it
        raise BrokenOff("the response broke off")


def _gunzipped(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces of at most `_PIECE` bytes, however much one of `raw` expands to."""
    unpacking = zlib.decompressobj(_GZIP)
    try:
        for data in raw:
            rest = data
            while rest:
                if unpacking.eof:  # a file of gzip may have several members
                    unpacking = zlib.decompressobj(_GZIP)
                if piece := unpacking.decompress(rest, _PIECE):
                    yield piece
                rest = unpacking.unused_data if unpacking.eof else unpacking.unconsumed_tail
        while piece := unpacking.decompress(unpacking.unconsumed_tail, _PIECE):
            yield piece
    except zlib.error:
        raise HTTPException("the response is not in gzip, as it says") from None
    if not unpacking.eof:
        raise BrokenOff("the response broke off")
