"""A server that sends the bytes that a test wants, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import repeat
from typing import Any

Pieces = Iterable[bytes]
PIPELINE, CURSOR = "/v3/pipeline", "/v3/cursor"


class HostileServer:
    """Answers each request to a path with the pieces that `answers[path]()` gives, until the client hangs up."""

    def __init__(self, answers: dict[str, Callable[[], Pieces]]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"libsql://127.0.0.1:{self.port}?tls=0"

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the test."""
        self._over.wait(seconds)

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            client.settimeout(5)
            while request := self._request(client):
                self.requests.append(request)
                path = request.split(b" ", 2)[1].decode()
                for piece in self.answers[path]():
                    client.sendall(piece)
                    if self._over.is_set():
                        return

    def _request(self, client: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (piece := client.recv(65536)):
                return b""
            request += piece
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += client.recv(65536)
        return head + b"\r\n\r\n" + body


@contextmanager
def hostile(pipeline: Callable[[], Pieces], cursor: Callable[[], Pieces] = list) -> Iterator[HostileServer]:
    """A server that is closed at the end."""
    server = HostileServer({PIPELINE: pipeline, CURSOR: cursor})
    try:
        yield server
    finally:
        server.close()


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


def chunked(pieces: Pieces) -> Iterator[bytes]:
    yield head("Transfer-Encoding: chunked")
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def endless(piece: bytes) -> Iterator[bytes]:
    """The piece again and again, some at a time."""
    return repeat(piece * max(1, 65536 // len(piece)))


def zipped(body: bytes) -> bytes:
    compressing = zlib.compressobj(wbits=31)
    return compressing.compress(body) + compressing.flush()


def bomb(megabytes: int) -> bytes:
    """A file of gzip that expands to that number of megabytes of spaces."""
    compressing = zlib.compressobj(9, wbits=31)
    return b"".join(compressing.compress(b" " * 1_000_000) for _ in range(megabytes)) + compressing.flush()


def result(**changes: Any) -> dict[str, Any]:
    """The result of one step that gives a row of one column."""
    given: dict[str, Any] = {
        "cols": [{"name": "x"}],
        "rows": [[{"type": "integer", "value": "1"}]],
        "affected_row_count": 0,
        "last_insert_rowid": None,
    }
    return {**given, **changes}


def reply(step: object, *, errors: object = (None,), autocommit: object = True, **changes: object) -> dict[str, Any]:
    """The reply to a batch of one step."""
    batch = {"step_results": [step], "step_errors": list(errors) if isinstance(errors, tuple) else errors}
    results = [
        {"type": "ok", "response": {"type": "batch", "result": batch}},
        {"type": "ok", "response": {"type": "get_autocommit", "is_autocommit": autocommit}},
    ]
    return {"baton": None, "base_url": None, "results": results, **changes}


def value(kind: object, content: object, key: str = "value") -> dict[str, Any]:
    """The result of one step that gives one value."""
    return result(rows=[[{"type": kind, key: content}]])


def as_json(message: object) -> bytes:
    return json.dumps(message).encode()
