"""The proxy as tests see it. The work is in `_relay`, the way there in `_links`."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any

from typing_extensions import Self

from .connection import REPLIES, REQUESTS
from .links import Link, ProcessLink, ThreadLink


class Proxy:
    """A TCP proxy before 127.0.0.1:`target_port`, which counts, delays, cuts, swallows and refuses.

    It listens on a free port as soon as it is made, and until `close` or the end of its block. Faults may be set at
    any time, from any thread; what is asked of it has happened when the call returns. With `record` it keeps the
    requests. With `own_process` it runs in a process of its own: a client that holds the GIL while it waits, as the
    native drivers do, would wait for ever for a proxy in its process. With `tls` it speaks TLS to clients, and plain
    to the target.
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
        """Drop every connection and stop listening. Twice does no harm."""
        self._link.close()

    @property
    def url(self) -> str:
        """The URL of the database behind the proxy."""
        return f"libsql://127.0.0.1:{self.port}?tls=0"

    @property
    def target_port(self) -> int:
        """Where new connections are carried to; may be set."""
        return int(self._link.get("target_port"))

    @target_port.setter
    def target_port(self, port: int) -> None:
        self._link.set("target_port", port)

    @property
    def latency(self) -> float:
        """Seconds by which what clients send is delayed: what a round trip takes longer. It limits no throughput."""
        return float(self._link.get("latency"))

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._link.set("latency", seconds)

    @property
    def throttle(self) -> float | None:
        """Bytes a second that each connection carries in each direction; None for as many as there are."""
        value: float | None = self._link.get("throttle")
        return value

    @throttle.setter
    def throttle(self, bytes_a_second: float | None) -> None:
        self._link.set("throttle", bytes_a_second)

    @property
    def deaf(self) -> bool:
        """Whether connections are accepted and whatever comes is swallowed, both ways.

        A connection that lost something stays deaf; those that are made later are carried again.
        """
        return bool(self._link.get("deaf"))

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        self._link.set("deaf", deaf)

    def cut_request_after(self, size: int | None, *, reset: bool = True, times: int = 1) -> None:
        """Cut the next connection that sends something, when `size` bytes of that have reached the server.

        With 0 the server sees nothing of it. Both sides are closed, by RST, or by FIN if not `reset`. This happens to
        as many connections as `times` says; None takes back what has not happened yet.
        """
        self._link.call("arm", REQUESTS, size, reset, times)

    def cut_reply_after(self, size: int | None, *, reset: bool = True, times: int = 1) -> None:
        """Cut the next connection that is sent something by the server, when `size` bytes of that have reached it.

        With 0 the server has done what it was asked, and the client hears nothing. The rest as for `cut_request_after`.
        """
        self._link.call("arm", REPLIES, size, reset, times)

    def cut_all(self, *, reset: bool = True) -> None:
        """Cut every open connection now."""
        self._link.call("cut_all", reset)

    def refuse(self) -> None:
        """Stop listening: who connects is refused. Connections that are open stay."""
        self._link.call("refuse")

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._link.call("accept")

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return int(self._link.get("connections"))

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return int(self._link.get("open_connections"))

    @property
    def round_trips(self) -> int:
        """How many HTTP/1.1 requests clients began to send; 0 for anything else, like TLS that passes through."""
        return int(self._link.get("round_trips"))

    @property
    def requests(self) -> list[tuple[str, bytes]]:
        """The whole requests that came in, if they are recorded: each as "METHOD path" and its body."""
        found: list[Any] = self._link.get("requests")
        return [(head, body) for head, body in found]

    @property
    def bytes_sent(self) -> int:
        """How many bytes went to the server."""
        return int(self._link.get("bytes_sent"))

    @property
    def bytes_received(self) -> int:
        """How many bytes went to clients."""
        return int(self._link.get("bytes_received"))

    @property
    def cuts(self) -> int:
        """How many connections were cut on purpose."""
        return int(self._link.get("cuts"))

    def reset_counts(self) -> None:
        """Count, and record, anew."""
        self._link.call("reset_counts")


def _link(target_port: int, *, record: bool, own_process: bool, tls: ssl.SSLContext | None) -> Link:
    if not own_process:
        return ThreadLink(target_port, record=record, tls=tls)
    if tls is not None:
        raise ValueError("a proxy with TLS is one of this process: its certificate cannot travel")
    return ProcessLink(target_port, record=record)
