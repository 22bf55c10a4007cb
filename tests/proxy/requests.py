"""Find the HTTP/1.1 requests in a stream of bytes."""

from __future__ import annotations

from collections.abc import Generator

_Parsing = Generator[None, None, bytes]

_LONGEST_HEAD = 65_536


class RequestReader:
    """Reads what a client sends, piece by piece, however it is cut up.

    `heads` counts the requests that began, `take` hands over those that are whole. A stream that is no HTTP/1.1 has
    none, and is not looked at further.
    """

    def __init__(self, *, keep_bodies: bool) -> None:
        self.heads = 0
        self._keep_bodies = keep_bodies
        self._whole: list[tuple[str, bytes]] = []
        self._unread = bytearray()
        self._parser: Generator[None, None, None] | None = self._parse()
        next(self._parser)

    def feed(self, data: bytes) -> None:
        """Read the next piece."""
        if self._parser is None:
            return
        self._unread += data
        try:
            next(self._parser)
        except (StopIteration, ValueError):
            self._parser = None
            self._unread.clear()

    def take(self) -> list[tuple[str, bytes]]:
        """The requests that were completed since the last time, each as "METHOD path" and its body."""
        whole, self._whole = self._whole, []
        return whole

    def _parse(self) -> Generator[None, None, None]:
        while True:
            head = yield from self._until(b"\r\n\r\n")
            first, _, rest = head.decode("latin-1").partition("\r\n")
            method, path, version = first.split(" ")  # a ValueError says: not HTTP
            if not version.startswith("HTTP/1."):
                return
            self.heads += 1
            body = yield from self._body(_headers(rest))
            if self._keep_bodies:
                self._whole.append((f"{method} {path}", body))

    def _body(self, headers: dict[str, str]) -> _Parsing:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return (yield from self._chunks())
        return (yield from self._bytes(int(headers.get("content-length", "0"))))

    def _chunks(self) -> _Parsing:
        body = b""
        while True:
            line = yield from self._until(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += yield from self._bytes(size)
            yield from self._until(b"\r\n")
            if size == 0:
                return body

    def _until(self, end: bytes) -> _Parsing:
        while (at := self._unread.find(end)) < 0:
            if len(self._unread) > _LONGEST_HEAD:
                raise ValueError("no end of a head in sight")
            yield
        return self._cut(at + len(end))[:at]

    def _bytes(self, size: int) -> _Parsing:
        while len(self._unread) < size:
            yield
        return self._cut(size)

    def _cut(self, size: int) -> bytes:
        piece = bytes(self._unread[:size])
        del self._unread[:size]
        return piece


def _headers(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
