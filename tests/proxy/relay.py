"""The part of a proxy that lives in an event loop: it accepts connections and forwards each to the target.

Every method is called in the loop's thread. `links` starts that thread, and talks to it.
"""

from __future__ import annotations

import asyncio
import ssl

from memory_storage.testing._ports import listen

from .connection import Connection
from .traffic import Traffic


class Relay(Traffic):
    """A listening socket, and the connections that came in by it."""

    def __init__(self, target_port: int, *, record: bool, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(target_port, record=record, tls=tls)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()

    @property
    def open_connections(self) -> int:
        """The number of clients that are connected now."""
        return len(self._open)

    async def accept(self) -> None:
        """Listen; after `refuse`, on the same port."""
        if self._server is None:
            listening = listen(self.port or None)
            self.port = listening.getsockname()[1]
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._connection, sock=listening)

    async def refuse(self) -> None:
        """Stop listening, so that new connections are refused. Open ones stay."""
        if self._server is not None:
            server, self._server = self._server, None
            # A server that is closed between the accept of a connection and its first callback drops that connection's
            # transport without closing it (before Python 3.12): accept nothing more, and let those callbacks run.
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            await asyncio.sleep(0)
            server.close()

    def cut_all(self, reset: bool) -> None:
        """Cut every open connection now."""
        for connection in tuple(self._open):
            connection.cut(reset=reset)

    async def close(self) -> None:
        """Stop listening, drop every connection, and wait until all are closed."""
        await self.refuse()
        for connection in tuple(self._open):
            connection.drop()
        while self._open:
            await asyncio.sleep(0.001)

    def _connection(self) -> asyncio.Protocol:
        return Connection(self, on_open=self._opened, on_close=self._open.discard).client

    def _opened(self, connection: Connection) -> None:
        self.connections += 1
        self._open.add(connection)
