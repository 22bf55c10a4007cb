"""How many writes may be on their way to a server at once. Sends nothing.

A server does one write at a time, and does not bear many that wait for their turn: it has been seen to hold up all of
them for seconds (sqld 0.24.32). So they wait here. As in TCP Vegas, the window grows while answers come as quickly as
the quickest did lately, and shrinks when they take longer: then they would only wait at the other end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ._errors import BUSY_CODES, OperationalError
from ._fork import register_after_fork

_AT_FIRST = 3.0
_AT_MOST = 64.0
_SLOW = 1.5  # times the quickest
_FORGETTING = 1.02  # of the quickest, with every answer: lines change


class WriteWindow:
    """The places for writes, shared by the connections to a server."""

    def __init__(self) -> None:
        self._size = _AT_FIRST
        self._quickest = float("inf")
        self._shrunk_at = float("-inf")
        self.after_fork_in_child()
        register_after_fork(self)

    @contextmanager
    def place(self, seconds: float) -> Iterator[None]:
        """Have a place for the block. OperationalError if none comes free within `seconds`."""
        place, took = object(), None
        try:
            self._enter(place, seconds)
            start = time.monotonic()
            yield
            took = time.monotonic() - start
        except OperationalError as error:
            if error.code in HELD_UP and place in self._taken:
                self._shrink(0.5)
            raise
        finally:
            self._leave(place, took)

    def after_fork_in_child(self) -> None:
        """Nobody has a place: whoever had one is not there."""
        self._taken: set[object] = set()
        self._free = threading.Condition(threading.Lock())

    def _enter(self, place: object, seconds: float) -> None:
        with self._free:
            if not self._free.wait_for(lambda: len(self._taken) < int(self._size), seconds):
                raise OperationalError("database is locked: this process has too many writes to do", "SQLITE_BUSY")
            self._taken.add(place)

    def _leave(self, place: object, took: float | None) -> None:
        with self._free:
            if took is not None:
                self._adapt(took)
            self._taken.discard(place)
            self._free.notify(max(1, int(self._size) - len(self._taken)))

    def _adapt(self, took: float) -> None:
        self._quickest = min(self._quickest * _FORGETTING, took)
        if took <= _SLOW * self._quickest:
            if len(self._taken) >= int(self._size):  # it was full, so more may be tried
                self._size = min(_AT_MOST, self._size + 1 / self._size)
        elif time.monotonic() - took > self._shrunk_at:  # else it left when the window was still larger
            self._shrink(0.8)

    def _shrink(self, factor: float) -> None:
        self._size = max(1.0, self._size * factor)
        self._shrunk_at = time.monotonic()


HELD_UP = BUSY_CODES | {"TRANSACTION_TIMEOUT", "TRANSACTION_BUSY"}
"""The codes of a write that did not get its turn, and did nothing."""
