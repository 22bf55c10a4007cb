"""Fuzz: the fast parser of response heads agrees with http.client, or leaves the response to it."""

from __future__ import annotations

import socket
from http.client import HTTPException, HTTPResponse

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory_storage.dbapi._http import Deadline, _DeadlineSocket
from memory_storage.dbapi._response_body import LimitExceeded

STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 404 No",
        b"HTTP/1.1 100 Go",
        b"",
    ]
)
NAMES = st.sampled_from(
    [b"Content-Length", b"content-length", b"X-Content-Length", b"Transfer-Encoding", b"Connection", b"X", b" Folded"]
)
VALUES = st.one_of(
    st.integers(0, 12).map(lambda size: str(size).encode()),
    st.sampled_from([b"chunked", b"close", b"keep-alive", b"-1", b"+3", b"1_0", b"0x2", b" 3 ", b"3,3", b"", b"gzip"]),
)
SEPARATORS = st.sampled_from([b": ", b":", b" : ", b":\t"])
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A response whose head is right, odd or wrong."""
    lines = [draw(STATUS_LINES), draw(ENDS)]
    for _ in range(draw(st.integers(0, 4))):
        lines += [draw(NAMES), draw(SEPARATORS), draw(VALUES), draw(ENDS)]
    return b"".join(lines) + draw(ENDS) + draw(st.binary(max_size=16))


def fast(data: bytes) -> bytes | type[Exception] | None:
    """What the fast parser makes of a response: its body, None to leave it to http.client, or the error's class."""
    server, client = socket.socketpair()
    with server, client:
        server.sendall(data)
        server.shutdown(socket.SHUT_WR)
        try:
            return _DeadlineSocket(client, Deadline(5)).read_plain_response(10)
        except (HTTPException, LimitExceeded) as error:
            return type(error)


def reference(data: bytes) -> tuple[int, bytes]:
    """What http.client reads."""
    server, client = socket.socketpair()
    with server, client:
        server.sendall(data)
        server.shutdown(socket.SHUT_WR)
        response = HTTPResponse(client, method="POST")
        response.begin()
        return response.status, response.read()


@given(responses())
@settings(max_examples=500, deadline=None)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: chunked\r\nContent-Length: 0\r\n\r\n\x00")
@example(b"HTTP/1.1 200 OK\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n\x00")
@example(b"HTTP/1.1 200 OK\r\nX-Content-Length : 0\r\nContent-Length: 0\r\n\r\n\x00")
@pytest.mark.slow
def test_fuzzed_heads_are_parsed_as_http_client_parses_them(data: bytes):
    body = fast(data)
    if isinstance(body, bytes):
        assert reference(data) == (200, body)


def test_a_plain_response_takes_the_fast_path():
    assert fast(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") == b"{}"
    assert fast(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{}") is LimitExceeded
