"""Unused TCP ports of this machine."""

from __future__ import annotations

import random
import socket

# Below the ports of outgoing connections, one of which could take the port between a stop and a start.
_FIRST, _LAST = 15_000, 32_000


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at the time of the call."""
    for port in random.sample(range(_FIRST, _LAST), 200):
        if _is_free(port):
            return port
    raise RuntimeError(f"200 ports between {_FIRST} and {_LAST} are all in use")


def listen(port: int | None = None) -> socket.socket:
    """Return a listening socket on 127.0.0.1, on a free port by default."""
    return socket.create_server(("127.0.0.1", free_port() if port is None else port), backlog=512)


def _is_free(port: int) -> bool:
    try:
        listen(port).close()
    except OSError:
        return False
    return True
