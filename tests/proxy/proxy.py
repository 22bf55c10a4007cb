"""The proxy as tests see it. `relay` does the work, in the thread or the process of a `links.Link`."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any

from typing_extensions import Self

from .links import Link, ProcessLink, ThreadLink
from .traffic import REPLIES, REQUESTS


class Proxy:
    """A TCP proxy in front of 127.0.0.1:`target_port` that counts, delays, cuts, swallows and refuses.

    It listens on a free port from its construction until `close` or the end of its block. Faults may be set at any
    time, from any thread; they are in force when the call returns.

    Args:
        target_port: The port on 127.0.0.1 that connections are forwarded to.
        latency: Seconds by which requests are delayed.
        record: Whether to keep the requests.
        own_process: Whether to run in a process of its own. A client that holds the GIL while it waits, as the native
            drivers do, would block a proxy in its process.
        tls: A context to speak TLS to clients with; the target is spoken to in plain text.
    """

    def __init__(
        self,
        target_port: int,
        *,
        latency: float = 0.0,
        record: bool = False,
        own_process: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._link = _link(target_port, record=record, own_process=own_process, tls=tls)
        self.port: int = self._link.get("port")
        if latency:
            self.latency = latency

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection and stop listening. Idempotent."""
        self._link.close()

    @property
    def url(self) -> str:
        """The URL of the database behind the proxy."""
        return f"libsql://127.0.0.1:{self.port}?tls=0"

    @property
    def target_port(self) -> int:
        """The port that new connections are forwarded to; may be set."""
        return int(self._link.get("target_port"))

    @target_port.setter
    def target_port(self, port: int) -> None:
        self._link.set("target_port", port)

    @property
    def latency(self) -> float:
        """Seconds by which requests are delayed, and so each round trip. Throughput stays unlimited."""
        return float(self._link.get("latency"))

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._link.set("latency", seconds)

    @property
    def throttle(self) -> float | None:
        """Bytes per second of each connection in each direction; None for no limit."""
        value: float | None = self._link.get("throttle")
        return value

    @throttle.setter
    def throttle(self, bytes_a_second: float | None) -> None:
        self._link.set("throttle", bytes_a_second)

    @property
    def deaf(self) -> bool:
        """Whether connections are accepted and all bytes swallowed, in both directions.

        A connection that lost bytes stays deaf; connections made after `deaf = False` are forwarded again.
        """
        return bool(self._link.get("deaf"))

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        self._link.set("deaf", deaf)

    def cut_request_after(self, size: int | None, *, reset: bool = True, times: int = 1) -> None:
        """Cut the next connections that send something.

        Args:
            size: The number of bytes that still reach the server; None disarms.
            reset: Whether both sides are closed by RST; else by FIN.
            times: The number of connections that are cut.
        """
        self._link.call("arm", REQUESTS, size, reset, times)

    def cut_reply_after(self, size: int | None, *, reset: bool = True, times: int = 1) -> None:
        """Cut the next connections that the server responds on.

        Args:
            size: The number of bytes that still reach the client. With 0 the server has executed the request, and the
                client receives nothing. None disarms.
            reset: Whether both sides are closed by RST; else by FIN.
            times: The number of connections that are cut.
        """
        self._link.call("arm", REPLIES, size, reset, times)

    def cut_all(self, *, reset: bool = True) -> None:
        """Cut every open connection now."""
        self._link.call("cut_all", reset)

    def refuse(self) -> None:
        """Stop listening, so that new connections are refused. Open ones stay."""
        self._link.call("refuse")

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._link.call("accept")

    @property
    def connections(self) -> int:
        """The number of accepted connections."""
        return int(self._link.get("connections"))

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return int(self._link.get("open_connections"))

    @property
    def round_trips(self) -> int:
        """The number of HTTP/1.1 requests that clients began to send; other protocols, like TLS, count as 0."""
        return int(self._link.get("round_trips"))

    @property
    def requests(self) -> list[tuple[str, bytes]]:
        """The complete requests, if they are recorded: each as "METHOD path" and its body."""
        found: list[Any] = self._link.get("requests")
        return [(head, body) for head, body in found]

    @property
    def bytes_sent(self) -> int:
        """The number of bytes forwarded to the server."""
        return int(self._link.get("bytes_sent"))

    @property
    def bytes_received(self) -> int:
        """The number of bytes forwarded to clients."""
        return int(self._link.get("bytes_received"))

    @property
    def cuts(self) -> int:
        """The number of connections that a fault cut."""
        return int(self._link.get("cuts"))

    def reset_counts(self) -> None:
        """Set every counter to zero, and drop the recorded requests."""
        self._link.call("reset_counts")


def _link(target_port: int, *, record: bool, own_process: bool, tls: ssl.SSLContext | None) -> Link:
    if not own_process:
        return ThreadLink(target_port, record=record, tls=tls)
    if tls is not None:
        raise ValueError("a proxy with TLS is one of this process: its certificate cannot travel")
    return ProcessLink(target_port, record=record)
