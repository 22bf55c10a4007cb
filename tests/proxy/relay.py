"""Carrying bytes between a client and a server, with faults: the part of a proxy that lives in an event loop.

Every method is called in the loop's thread. Who starts that thread, and talks to it, is in `_proxy`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from memory_storage.testing._ports import listen

from .connection import REPLIES, REQUESTS, Connection
from .requests import RequestReader


class Relay:
    """Accepts connections and carries each to the target. Its public attributes may be set at any time."""

    def __init__(self, target_port: int, *, record: bool, tls: ssl.SSLContext | None = None) -> None:
        self.latency = 0.0
        self.throttle: float | None = None
        self.deaf = False
        self.target_port = target_port
        self.requests: list[tuple[str, bytes]] = []
        self.keeps_requests = record
        self.port = 0
        self.tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()
        self._faults: dict[str, deque[tuple[int, bool]]] = {REQUESTS: deque(), REPLIES: deque()}
        self.reset_counts()

    def reset_counts(self) -> None:
        """Start counting, and recording, anew."""
        self.connections = self.round_trips = self.bytes_sent = self.bytes_received = self.cuts = 0
        self.requests.clear()

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    async def accept(self) -> None:
        """Listen; after `refuse`, on the same port."""
        if self._server is None:
            listening = listen(self.port or None)
            self.port = listening.getsockname()[1]
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Connection(self).client, sock=listening)

    def refuse(self) -> None:
        """Stop listening: who connects is refused. Connections that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def arm(self, direction: str, after: int | None, reset: bool, times: int) -> None:
        """Let the next connections that carry bytes in a direction be cut; None disarms."""
        faults = self._faults[direction]
        faults.clear()
        if after is not None:
            faults.extend([(after, reset)] * times)

    def claim(self, direction: str) -> tuple[int, bool] | None:
        """The fault that the asking connection shall have, if one is armed."""
        faults = self._faults[direction]
        return faults.popleft() if faults else None

    def cut_all(self, reset: bool) -> None:
        """Cut every open connection now."""
        for connection in tuple(self._open):
            connection.cut(reset=reset)

    async def close(self) -> None:
        """Stop listening, drop every connection, and wait until they are gone."""
        self.refuse()
        for connection in tuple(self._open):
            connection.drop()
        while self._open:
            await asyncio.sleep(0.001)

    def opened(self, connection: Connection) -> None:
        """Count a connection that was accepted."""
        self.connections += 1
        self._open.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection whose ends are both closed."""
        self._open.discard(connection)

    def saw(self, reader: RequestReader, began: int) -> None:
        """Count, and perhaps keep, requests that came in."""
        self.round_trips += began
        self.requests += reader.take()

    def carried(self, direction: str, size: int) -> None:
        """Count bytes that were handed on."""
        if direction == REQUESTS:
            self.bytes_sent += size
        else:
            self.bytes_received += size
