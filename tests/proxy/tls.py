"""The server's half of TLS between two streams of bytes."""

from __future__ import annotations

import ssl
from contextlib import suppress


class ServerTLS:
    """One connection's TLS: what came in goes to `read`, what is to go out to `write`; `outgoing` is to be sent.

    Not asyncio's: that one keeps to itself the alert which tells a client why its handshake failed.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._is_established = False

    def read(self, data: bytes) -> bytes:
        """What the client said with these bytes; ssl.SSLError if they are no TLS, or none that can be agreed on."""
        self._received.write(data)
        plain = b""
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):  # no more for now, or for good: FIN tells
            self._establish()
            while piece := self._engine.read(65_536):
                plain += piece
        return plain

    def write(self, data: bytes) -> None:
        """Say something to the client."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._engine.write(rest) :]

    def outgoing(self) -> bytes:
        """The bytes that are to be sent now."""
        return self._to_send.read()

    def close(self) -> None:
        """Say that no more comes."""
        with suppress(ssl.SSLError):  # it wants the client's answer, and gets none
            self._engine.unwrap()

    def _establish(self) -> None:
        if not self._is_established:
            self._engine.do_handshake()
            self._is_established = True
