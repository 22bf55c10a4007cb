"""Resolves a host name and connects a socket within a deadline.

`socket.getaddrinfo` has no timeout, and waits ten seconds and more for an unreachable name server. So names are
resolved in a thread of their own, which the caller abandons at its deadline. Concurrent lookups of one name share one.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence

from ._fork import register_after_fork


class NameServerTimeout(TimeoutError):  # noqa: N818 - a TimeoutError by another name
    """The name server did not respond in time."""


_Address = tuple[int, int, int, str, tuple[object, ...]]


def connected_socket(host: str, port: int, remaining: Callable[[], float]) -> socket.socket:
    """Connect to the first address of the host that accepts.

    Args:
        host: A name, or an address without brackets.
        port: The TCP port.
        remaining: Returns the seconds that are left.

    Raises:
        socket.gaierror: the name cannot be resolved.
        TimeoutError: no connection in time; NameServerTimeout if the name server did not respond.
        OSError: the last address refused the connection.
    """
    # One address after another: a host may have IPv6 addresses that this machine cannot reach.
    problem: OSError = TimeoutError()
    for address in _lookups.addresses(host, port, remaining):
        seconds = remaining()
        if seconds <= 0:
            raise TimeoutError
        try:
            return _connect(address, seconds)
        except OSError as error:
            problem = error
    raise problem


def _connect(address: _Address, seconds: float) -> socket.socket:
    family, kind, protocol, _, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(seconds)
        # Nagle's algorithm would hold the last packet of a request back until the server has acknowledged the others.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect(where)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve(host: str, port: int) -> Sequence[_Address]:
    found: Sequence[_Address] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return found


class _Lookup:
    """One lookup by the system's resolver, in a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._done = threading.Event()
        self._addresses: Sequence[_Address] = ()
        self._problem: OSError | UnicodeError | None = None

    def start(self, on_done: Callable[[], object]) -> None:
        """Start the lookup. `on_done` is called in its thread when it ends."""
        threading.Thread(target=self._run, args=(on_done,), name="memory-storage-resolver", daemon=True).start()

    def result(self, seconds: float) -> Sequence[_Address]:
        """Wait for the addresses for at most `seconds`. Raises as `connected_socket`."""
        if not self._done.wait(max(0.0, seconds)):
            raise NameServerTimeout(f"the name server did not respond within {seconds:.3g} s")
        if isinstance(self._problem, UnicodeError):  # a label of more than 63 characters
            raise socket.gaierror(socket.EAI_NONAME, str(self._problem))
        if self._problem is not None:  # a copy: threads that share the error would share its traceback
            raise type(self._problem)(*self._problem.args)
        return self._addresses

    def _run(self, on_done: Callable[[], object]) -> None:
        try:
            self._addresses = _resolve(*self._target)
        except (OSError, UnicodeError) as error:
            self._problem = error.with_traceback(None)
        finally:
            on_done()
            self._done.set()


class _Lookups:
    """The lookups in progress."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Start without lookups: their threads belong to the parent process."""
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, host: str, port: int, remaining: Callable[[], float]) -> Sequence[_Address]:
        """Return the addresses of a host; see `connected_socket`."""
        if is_ip_address(host):
            return _resolve(host, port)
        target = (host, port)
        with self._lock:
            lookup = self._running.get(target)
            if lookup is None:
                lookup = _Lookup(host, port)
                lookup.start(lambda: self._end(target, lookup))
                self._running[target] = lookup
        return lookup.result(remaining())

    def _end(self, target: tuple[str, int], lookup: _Lookup | None) -> None:
        with self._lock:  # held by `addresses` until the lookup is listed
            if self._running.get(target) is lookup:
                del self._running[target]


def is_ip_address(host: str) -> bool:
    """Return whether a host is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# One for the process: threads of different engines share the lookups of a name.
_lookups = _Lookups()
