"""One connection through a proxy: its two ends, and a lane for each direction. Lives in the relay's event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from .requests import RequestReader
from .tls import ServerTLS
from .traffic import REPLIES, REQUESTS, Traffic

_PIECE_SECONDS = 0.02  # a throttled stream trickles in pieces of that long
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST and not FIN


class Connection:
    """A client's connection and ours to the target, and a lane for each direction."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        on_open: Callable[[Connection], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        self.traffic = traffic
        self._on_open, self._on_close = on_open, on_close
        self.client = _End(self, traffic.tls)
        self.server = _End(self, None)
        self._requests = _Lane(self, REQUESTS)
        self._replies = _Lane(self, REPLIES)
        self._reader = RequestReader(keep_bodies=traffic.keeps_requests)
        self._connecting: asyncio.Task[None] | None = None
        self._swallows = traffic.deaf
        self._is_dropped = False

    @property
    def swallows(self) -> bool:
        """Whether incoming bytes are lost. Stays true once the proxy was deaf: later ones would be half a message."""
        self._swallows = self._swallows or self.traffic.deaf
        return self._swallows

    def made(self, end: _End) -> None:
        if end is self.server:
            self._requests.open(end)
            return
        self._on_open(self)
        self._replies.open(end)
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(lambda _: self._settle())

    def received(self, end: _End, data: bytes) -> None:
        if end is self.client:
            self._look_at(data)
        if data and not self.swallows:
            self._lane_from(end).push(data)

    def ended(self, end: _End) -> None:
        if not self.swallows:
            self._lane_from(end).finish()

    def lost(self, end: _End) -> None:
        """One end is closed: close the other; the client's, after what is still on its way to it."""
        if end is self.client:
            self.drop()
        elif not self.swallows:
            self._replies.finish(close=True)
        self._settle()

    def ended_one_way(self) -> None:
        """Close both ends if both have said that no more comes."""
        if self._requests.has_ended and self._replies.has_ended:
            self.drop()

    def cut(self, *, reset: bool) -> None:
        """Close both ends at once, by RST or by FIN."""
        if not self._is_dropped:
            self.traffic.cuts += 1
            for end in (self.client, self.server):
                end.close(reset=reset)
            self.drop()

    def drop(self) -> None:
        """Close both ends, whatever is still on its way."""
        self._is_dropped = True
        self._requests.stop()
        self._replies.stop()
        if self._connecting is not None:
            self._connecting.cancel()
        for end in (self.client, self.server):
            end.close(reset=False)

    def _lane_from(self, end: _End) -> _Lane:
        return self._requests if end is self.client else self._replies

    def _look_at(self, data: bytes) -> None:
        before = self._reader.heads
        self._reader.feed(data)
        self.traffic.count_requests(self._reader, self._reader.heads - before)

    async def _connect(self) -> None:
        if self.swallows:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, "127.0.0.1", self.traffic.target_port)
        except OSError:
            self.client.close(reset=True)

    def _settle(self) -> None:
        pending = self._connecting is not None and not self._connecting.done()
        if self.client.is_closed and self.server.is_closed and not pending:
            self._on_close(self)


class _End(asyncio.Protocol):
    """One of the two sockets of a connection, and the TLS on it if there is any."""

    def __init__(self, connection: Connection, context: ssl.SSLContext | None) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._tls = None if context is None else ServerTLS(context)

    @property
    def is_closed(self) -> bool:
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._connection.received(self, data)
        elif not self._connection.swallows:
            self._connection.received(self, self._decrypted(self._tls, data))

    def eof_received(self) -> bool:
        self._connection.ended(self)
        return True  # keep the other direction

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connection.lost(self)

    def write(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._tls.outgoing()
        self._send(data)

    def finish(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._tls is not None:
            self._tls.close()
            self._send(self._tls.outgoing())
        with suppress(OSError):  # it is gone already
            self._transport.write_eof()

    def close(self, *, reset: bool) -> None:
        if self._transport is None:
            return
        if reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _decrypted(self, tls: ServerTLS, data: bytes) -> bytes:
        try:
            plain = tls.read(data)
        except ssl.SSLError:
            self._send(tls.outgoing())  # the alert
            self.close(reset=False)
            return b""
        self._send(tls.outgoing())
        return plain


class _Lane:
    """One direction of a connection: what came in, and when it is due to go out."""

    def __init__(self, connection: Connection, direction: str) -> None:
        self._connection = connection
        self._traffic = connection.traffic
        self._direction = direction
        self._waiting: deque[tuple[float, bytes | _Ending]] = deque()
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sink: _End | None = None
        self._fault: tuple[int, bool] | None = None
        self._is_finished = False
        self.has_ended = False

    def open(self, sink: _End) -> None:
        """Say where it goes to."""
        self._sink = sink
        self._flush()

    def push(self, data: bytes) -> None:
        """Let bytes through, as far as a fault allows."""
        if self._is_finished:
            return
        self._fault = self._fault or self._traffic.claim(self._direction)
        if self._fault is None:
            self._send(data)
        else:
            self._send_until_cut(data, *self._fault)

    def finish(self, *, close: bool = False) -> None:
        """Hand on that no more comes, after what is on its way."""
        self._wait(_Ending(close=close))

    def stop(self) -> None:
        """Forget what is on its way."""
        self._is_finished = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _send_until_cut(self, data: bytes, left: int, reset: bool) -> None:
        self._send(data[:left])
        self._fault = (left - len(data), reset)
        if len(data) >= left:
            self._wait(_Ending(cut=True, reset=reset))
            self._is_finished = True

    def _send(self, data: bytes) -> None:
        throttle = self._traffic.throttle
        size = max(1, int(throttle * _PIECE_SECONDS)) if throttle else len(data)
        for start in range(0, len(data), size or 1):
            piece = data[start : start + size]
            self._wait(piece, len(piece) / throttle if throttle else 0.0)

    def _wait(self, what: bytes | _Ending, seconds: float = 0.0) -> None:
        latency = self._traffic.latency if self._direction == REQUESTS else 0.0
        # Never before what came earlier, though the latency was lowered since.
        self._last_due = max(self._last_due, asyncio.get_running_loop().time() + latency) + seconds
        self._waiting.append((self._last_due, what))
        self._flush()

    def _flush(self) -> None:
        if self._sink is None:
            return
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0][0] <= loop.time():
            self._let_go(self._sink, self._waiting.popleft()[1])
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._waiting[0][0], self._flush) if self._waiting else None

    def _let_go(self, sink: _End, what: bytes | _Ending) -> None:
        if isinstance(what, bytes):
            sink.write(what)
            self._traffic.count_bytes(self._direction, len(what))
        elif what.cut:
            self._connection.cut(reset=what.reset)
        elif what.close:
            sink.close(reset=False)
        else:
            sink.finish()
            self.has_ended = True
            self._connection.ended_one_way()


class _Ending:
    """What comes after the last byte of a lane: FIN for one direction, for both, or a cut."""

    def __init__(self, *, close: bool = False, cut: bool = False, reset: bool = False) -> None:
        self.close = close
        self.cut = cut
        self.reset = reset
