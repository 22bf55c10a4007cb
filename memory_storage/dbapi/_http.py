"""One HTTP/1.1 connection to a server, kept alive, with a deadline for each request.

Why the head of a response is parsed here, and not by urllib3's pool: urllib3 takes a tenth of a whole round trip on
loopback for writing and parsing heads; its timeouts limit one wait, not a request, so that a server that sends a byte a
second holds a caller without end; it does not say whether a request was sent before it failed, which decides whether a
write may be sent again; and it reads a body to its end, whatever its size. So a request is written in one piece, and
the common response (status 200, Content-Length, no encoding) is cut out of the buffer. Any other response goes to
`http.client`, which parses it in full. `tests/dbapi/test_http_head_fuzz.py` compares the two.

No frame of the HTTP libraries stays in a traceback: their locals hold the token.
"""

from __future__ import annotations

import io
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException, HTTPResponse, LineTooLong
from socket import gaierror, socket
from typing import Any, NamedTuple

from urllib3.util.wait import wait_for_read

from ._address import INSECURE, Origin
from ._client import Client, tls_failure_reason
from ._errors import LineError, ResponseTooLargeError, forget_frames
from ._resolver import NameServerTimeout, connected_socket
from ._response_body import LimitExceeded, TruncatedResponse, lines, raise_too_large, read_body
from ._traffic import traffic

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,12})\r\n", re.IGNORECASE)
# At the first line that is no header, as one with a space before its colon, http.client's headers end.
_PLAIN_HEAD = re.compile(rb"HTTP/1\.1 200 [^\r\n]*\r\n(?:[\w!#$%&'*+.^`|~-]+:[^\r\n]*\r\n)*")
# Of two lengths http.client takes the first, whether it is valid or not.
_NEEDS_HTTP_CLIENT = re.compile(
    rb"[\r\n](transfer-encoding|content-encoding|connection|content-length\b[\s\S]*[\r\n]content-length)\b",
    re.IGNORECASE,
)
_HEAD_BYTES = 262_144  # the largest head of a response, with the framing of its chunks
_READ_CHUNK = 1_000_000  # bytes: the largest buffer that is allocated before its content has arrived
_FAILURES = (OSError, HTTPException, LimitExceeded)
_TLS_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class RequestNotSent(LineError):  # noqa: N818 - what happened, for the transport alone
    """The request was not sent completely: nothing of it was executed."""


class ResponseMissing(LineError):  # noqa: N818
    """The request was sent, and no complete response arrived: it may have been executed."""


class ResponseOversized(ResponseMissing, ResponseTooLargeError):  # noqa: N818
    """The request was sent, and its response exceeds a limit. It is not retried: the next one would be as large."""


class ServerResponse(NamedTuple):
    """The status and the body of a response."""

    status: int
    body: bytes

    def __repr__(self) -> str:  # short: a traceback may show it, and a server may echo the token
        return f"Answer({self.status}, {len(self.body)} bytes)"


class DeadlinePassed(TimeoutError):  # noqa: N818 - a TimeoutError by another name
    """The deadline of the request has passed."""


class Deadline:
    """When a request has to end."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. DeadlinePassed, a TimeoutError, if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise DeadlinePassed("the request took too long")
        return left

    def remaining(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self._at - time.monotonic())

    def allows(self, seconds: float) -> bool:
        """Return whether more than `seconds` are left."""
        return self._at - time.monotonic() > seconds


class Channel:
    """One HTTP connection for one thread at a time. The first request opens it, and reopens it after a failure."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._connection: _DeadlineSocket | None = None
        self._limit = client.limits.response_bytes
        self._origin = client.server.origin
        self._fixed_head = ""
        self.was_reused = False
        """Whether the last request went over a connection that an earlier request had opened."""

    def post(self, origin: Origin, path: str, body: bytes, deadline: Deadline) -> ServerResponse:
        """Send one request and read its response.

        Args:
            origin: Where to send it.
            path: The path of the URL.
            body: The body, JSON.
            deadline: When the response has to be complete.

        Raises:
            RequestNotSent: nothing was executed.
            ResponseMissing: the request may have been executed.
        """
        progress = _Progress()
        try:
            connection = self._connect(origin, deadline, progress)
            sent = progress.sent = self._send(connection, path, body)
            plain = connection.read_plain_response(self._limit) if sent else None
            if plain is not None:
                return ServerResponse(200, plain)
            with closing(_read_head(connection, self._limit)) as head:
                keeps_alive = not head.will_close
                body = read_body(head, self._limit)
            body = body if head.status == 200 else self._client.credentials.redact(body)
            response = ServerResponse(head.status, body)
        except BaseException as error:  # noqa: BLE001 - raised again, without its frames
            self.close()
            raise _transport_error(error, origin, progress)  # noqa: B904 - the cause is set, without its frames
        if response.status != 200 or not (sent and keeps_alive):
            self.close()  # the server may read the rest of this request as the next one
        return response

    @contextmanager
    def lines(
        self, origin: Origin, path: str, body: bytes, deadline: Deadline
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Send one request, and yield the status and the lines of its response as they arrive; see `post`."""
        progress = _Progress()
        try:
            connection = self._connect(origin, deadline, progress)
            progress.sent = self._send(connection, path, body)
            with closing(_read_head(connection, self._limit)) as response:
                yield response.status, lines(response, self._limit)
        except BaseException as error:  # noqa: BLE001 - as above
            raise _transport_error(error, origin, progress)  # noqa: B904 - as above
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, connection: _DeadlineSocket, path: str, body: bytes) -> bool:
        """Return whether the request was sent completely. If not, the server may still have sent a response."""
        try:
            # In one piece, so that the server wakes up once.
            connection.sendall(self._head(path, len(body)) + body)
        except (ConnectionError, ssl.SSLEOFError):
            return False
        return True

    def _head(self, path: str, size: int) -> bytes:
        # As http.client and urllib3 write it.
        lines = [f"POST {path} HTTP/1.1", self._fixed_head, f"Content-Length: {size}"]
        lines += [f"{name}: {value}" for name, value in self._client.credentials.header().items()]
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def _connect(self, origin: Origin, deadline: Deadline, progress: _Progress) -> _DeadlineSocket:
        connection = self._connection
        self.was_reused = connection is not None and origin == self._origin and connection.is_idle
        if connection is None or not self.was_reused:
            self.close()
            connection = self._connection = self._open_socket(origin, deadline, progress)
            self._origin, self._fixed_head = origin, _fixed_headers(origin)
        progress.connected = True
        connection.deadline = deadline
        connection.allowance = _HEAD_BYTES
        return connection

    def _open_socket(self, origin: Origin, deadline: Deadline, progress: _Progress) -> _DeadlineSocket:
        context = self._client.tls if origin.tls else None  # first: the CA file may be invalid
        timeout = min(self._client.connect_timeout, deadline.left())
        limit = Deadline(timeout)
        progress.seconds = timeout
        plain = connected_socket(origin.host, origin.port, limit.remaining)
        try:
            if context is None:
                return _DeadlineSocket(plain, deadline)
            progress.connected = True  # from here on, a failure is one of TLS
            plain.settimeout(limit.left())  # for the whole handshake
            return _DeadlineSocket(context.wrap_socket(plain, server_hostname=origin.tls_name), deadline)
        except BaseException:
            plain.close()
            raise


class _Progress:
    """How far a request got."""

    connected = sent = False
    seconds = 0.0
    """The timeout of the connection attempt."""


class _DeadlineSocket:
    """A socket for http.client on which no wait exceeds the deadline, however slowly the server sends."""

    def __init__(self, wrapped: Any, deadline: Deadline) -> None:
        self.deadline = deadline
        self.allowance = _HEAD_BYTES
        """How many more bytes are accepted: http.client and zlib do not count the bytes that they discard."""
        self._socket: socket = wrapped
        self._reader: io.BufferedReader | None = None

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        rest = memoryview(data)
        traffic.sent += len(rest)
        while rest:
            self._socket.settimeout(self.deadline.left())
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:  # noqa: ARG002 - always "rb"
        """Return a reader for http.client. Closing it does not close the socket."""
        reader, self._reader = self._reader or io.BufferedReader(_Reader(self), 65536), None
        return reader

    def read_plain_response(self, limit: int) -> bytes | None:
        """Return the body of the next response if it is a plain one; else None, and consume nothing.

        Plain: HTTP/1.1, status 200, a Content-Length, neither chunks nor an encoding, and a head within one read whose
        lines all are headers.
        """
        # peek() returns what one read of the socket gave. A head that is not complete in it goes to http.client.
        reader = self._reader = self._reader or io.BufferedReader(_Reader(self), 65536)
        start = reader.peek()
        end = start.find(b"\r\n\r\n") + 2
        length = _LENGTH.search(start, 0, end)
        is_plain = _PLAIN_HEAD.fullmatch(start, 0, end) and not _NEEDS_HTTP_CLIENT.search(start, 0, end)
        if length is None or not is_plain:
            return None
        if (size := int(length[1])) > limit:
            raise_too_large(limit, size)
        self.allowance += size
        reader.read(end + 2)
        body = reader.read(size) if size <= _READ_CHUNK else _read_in_chunks(reader, size)
        if len(body) != size:
            raise TruncatedResponse("the response was truncated")
        if (
            len(start) != end + 2 + size
        ):  # the buffer has more: drop it, or the next request would read it as its response
            self._reader = None
        return body

    def recv_into(self, buffer: Any) -> int:
        """Receive what is available, up to the size of the buffer."""
        self._socket.settimeout(self.deadline.left())
        size = self._socket.recv_into(buffer)
        self.allowance -= size
        traffic.received += size
        if self.allowance < 0:
            raise LimitExceeded(_HEAD_BYTES, what="framing of the response")
        return size

    @property
    def is_idle(self) -> bool:
        """Whether nothing has arrived. Between two responses it is the end of the connection, or garbage."""
        return not wait_for_read(self._socket, timeout=0.0)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def settimeout(self, seconds: float | None) -> None:
        """Ignore http.client's timeout: the deadline applies."""

    def fileno(self) -> int:
        """See `socket`."""
        return self._socket.fileno()


def _read_in_chunks(reader: io.BufferedReader, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end. Allocates memory as they arrive, where `read` would do so first."""
    body = io.BytesIO()
    while (left := size - body.tell()) and (piece := reader.read(min(left, _READ_CHUNK))):
        body.write(piece)
    return body.getvalue()


class _Reader(io.RawIOBase):
    def __init__(self, source: _DeadlineSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.recv_into(buffer)


def _read_head(connection: _DeadlineSocket, limit: int) -> HTTPResponse:
    """Read the head of the next response with http.client; its body is not read yet. The caller closes the response.

    The garbage collector closes a response and its reader in any order, of which one prints an error.
    """
    response = HTTPResponse(connection, method="POST")  # type: ignore[arg-type] # it needs makefile() alone
    try:
        response.begin()
    except BaseException as error:
        response.close()
        if type(error) in {HTTPException, LineTooLong}:  # a header is too long, or there are too many
            raise LimitExceeded(_HEAD_BYTES, what="head of the response") from None
        raise
    if response.status == 200 and response.length is None and not response.chunked:
        raise TruncatedResponse("the response was truncated in its head")  # http.client takes it for a complete one
    connection.allowance += limit
    return response


def _fixed_headers(origin: Origin) -> str:
    lines = [f"Host: {origin.address}", "Content-Type: application/json"]
    # Compression costs time, and on this machine saves none.
    return "\r\n".join(lines if origin.is_local else [*lines, "Accept-Encoding: gzip"])


def _transport_error(error: BaseException, origin: Origin, progress: _Progress) -> BaseException:
    """Return the driver's error for a failure of a request. Neither it nor its causes carry frames."""
    forget_frames(error)
    if not isinstance(error, _FAILURES):
        return error
    kind = ResponseMissing if progress.sent else RequestNotSent
    cause, code = _cause_and_code(error, progress)
    if isinstance(error, LimitExceeded):
        failure: LineError = ResponseOversized(f"{origin.address}: {cause}", code, origin.host, origin.port, cause)
        vars(failure).update(limit=error.limit, value=error.value, setting=error.setting)
    else:
        failure = kind(f"{origin.address}: {cause}", code, origin.host, origin.port, cause)
    failure.__cause__ = error
    return failure


def _cause_and_code(error: BaseException, progress: _Progress) -> tuple[str, str]:
    """Return the cause in words, and the code. They depend on how far the request got, then on the error's class."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, _TLS_CLOSED) and not progress.sent:
        return f"no trusted TLS connection: {tls_failure_reason(error)}", INSECURE
    if not progress.connected and not isinstance(error, DeadlinePassed):
        return _connect_failure(error, progress.seconds), "CONNECTION_FAILED"
    if isinstance(error, LimitExceeded):
        return str(error), "RESPONSE_LIMIT"
    if isinstance(error, TimeoutError):
        return "no response in time", "REQUEST_TIMEOUT"
    return str(error) or type(error).__name__, "CONNECTION_LOST" if progress.sent else "CONNECTION_FAILED"


def _connect_failure(error: BaseException, seconds: float) -> str:
    if isinstance(error, gaierror):
        return f"the host's name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError) and not isinstance(error, NameServerTimeout):
        return f"no connection within {seconds:.3g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
