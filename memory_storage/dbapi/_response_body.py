"""Reads and decompresses the body of an HTTP response in bounded memory.

A server, or an impostor, may announce any size, send more than it announced, or send a small body that
expands to a large one. Each of these is refused before the memory is allocated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, LineTooLong
from io import BytesIO
from typing import NoReturn

_CHUNK_BYTES = 65_536  # bytes
_GZIP = 16 + zlib.MAX_WBITS


class LimitExceeded(Exception):  # noqa: N818 - for the transport alone
    """The response exceeds `limit` bytes.

    `value` is the announced size, or None; `setting` the option that holds the limit, or "" where it is fixed.
    """

    def __init__(self, limit: int, value: int | None = None, *, what: str = "response", setting: str = "") -> None:
        size = "" if value is None else f" (announced: {value:,})"
        advice = (
            f"read less at once, or raise the limit (setting: {setting})" if setting else "is this a libSQL server?"
        )
        super().__init__(f"the {what} is larger than {limit:,} bytes{size}: {advice}")
        self.limit, self.value, self.setting = limit, value, setting


class TruncatedResponse(HTTPException):
    """The response ended early."""


def raise_too_large(limit: int, value: int | None = None) -> NoReturn:
    """Raise LimitExceeded for a body of `value` bytes, if that was announced."""
    raise LimitExceeded(limit, value, setting="max_response_bytes")


def read_body(response: HTTPResponse, limit: int) -> bytes:
    """Return the body, decompressed.

    Args:
        response: A response whose body was not read.
        limit: The largest size, in bytes.

    Raises:
        LimitExceeded: the body exceeds the limit.
        HTTPException: its encoding is unknown, or its content is not in that encoding.
    """
    body = BytesIO()
    for chunk in _limited_chunks(response, limit):
        body.write(chunk)
    return body.getvalue()


def lines(response: HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield the lines of the body, decompressed, as they arrive. Raises as `read_body`."""
    parts: list[bytes] = []
    for chunk in _limited_chunks(response, limit):
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for other in others:
            yield b"".join(parts)
            parts = [other]
    if rest := b"".join(parts):
        yield rest


def _limited_chunks(response: HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield chunks whose total size is within the limit."""
    # Refuse an announced size before reading; a compressed or chunked body is counted as it is read.
    if response.length is not None and response.length > limit:
        raise_too_large(limit, response.length)
    size = 0
    for chunk in _decoded_chunks(response):
        size += len(chunk)
        if size > limit:
            raise_too_large(limit)
        yield chunk


def _decoded_chunks(response: HTTPResponse) -> Iterator[bytes]:
    raw = _raw_chunks(response)
    encoding = ", ".join(response.headers.get_all("content-encoding", ["identity"])).strip().lower()
    if encoding == "identity":
        yield from raw
    elif encoding in {"gzip", "x-gzip"}:
        yield from _gunzip(raw)
    else:  # also gzip within gzip, which expands twice
        raise HTTPException("the response has a content encoding that was not requested")


def _raw_chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            yield chunk
    except LineTooLong:
        raise LimitExceeded(_CHUNK_BYTES, what="size of a chunk, or a trailer,") from None
    if response.length:  # http.client does not check that all of Content-Length arrived
        raise TruncatedResponse("the response was truncated")


def _gunzip(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks of at most `_CHUNK_BYTES`, however much one of `raw` expands to."""
    decompressor = zlib.decompressobj(_GZIP)
    try:
        for data in raw:
            rest = data
            while rest:
                if decompressor.eof:  # a gzip body may have several members
                    decompressor = zlib.decompressobj(_GZIP)
                if chunk := decompressor.decompress(rest, _CHUNK_BYTES):
                    yield chunk
                rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        while chunk := decompressor.decompress(decompressor.unconsumed_tail, _CHUNK_BYTES):
            yield chunk
    except zlib.error:
        raise HTTPException("the response is not gzip, as its Content-Encoding says") from None
    if not decompressor.eof:
        raise TruncatedResponse("the response was truncated")
