"""A clock that is set, outages, and threads that do something at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import memory_storage as ms
from memory_storage.resilience import CircuitBreaker

T = TypeVar("T")

THREADS = 32

OUTAGE = ms.UnavailableError("no server", code="CONNECTION_FAILED")
CONFLICT = ms.ConflictError("episode", None, expected=1, actual=2)
BUSY = ms.UnavailableError("database is locked", code="SQLITE_BUSY")
CANCELLED = KeyboardInterrupt()


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += seconds


class Circuit:
    """A breaker with its clock, and all that its listeners heard."""

    def __init__(self, **settings: object) -> None:
        self.clock = Clock()
        self.breaker = CircuitBreaker(ms.CircuitBreakerSettings(**settings), clock=self.clock)
        self.heard: list[tuple[str, str]] = []
        self.breaker.add_listener(lambda old, new: self.heard.append((old, new)))

    def admitted(self, calls: int = THREADS, *, early: bool = False) -> list[int]:
        """The tickets of the admitted calls among `count` concurrent ones."""
        return [ticket for ticket in at_once(calls, partial(self._ticket, early=early)) if ticket is not None]

    def record(self, tickets: list[int], error: BaseException | None = None) -> None:
        """They end, all at once."""
        waiting = list(tickets)
        at_once(len(tickets), lambda: self.breaker.record(waiting.pop(), error))

    def go(self, error: BaseException | None = None, *, calls: int = THREADS) -> int:
        """Run concurrent calls that all end so; return how many were admitted."""
        tickets = self.admitted(calls)
        self.record(tickets, error)
        return len(tickets)

    def opened(self) -> Circuit:
        """The same, open."""
        self.go(OUTAGE)
        assert self.breaker.state == "open"
        self.heard.clear()
        return self

    def half_open(self) -> list[int]:
        """The tickets of those who try."""
        self.clock.advance(60)
        return self.admitted()

    def _ticket(self, *, early: bool) -> int | None:
        try:
            return self.breaker.acquire(early=early, max_wait=0)  # its clock stands still
        except ms.CircuitOpenError:
            return None


def at_once(threads: int, work: Callable[[], T]) -> list[T]:
    """Return the results of `work` in threads that start at the same time."""
    if not threads:
        return []
    barrier = threading.Barrier(threads)

    def one(_: int) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))
