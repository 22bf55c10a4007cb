"""What SQLAlchemy's pool does not keep: who holds its connections, who waited, and how long the others were idle."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event, exc
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from .dbapi import Unpicklable, tell_in_child
from .models.health import PoolStats

_STATEMENT_LENGTH = 60


@dataclass(frozen=True)
class Holder:
    """Who has a connection: the thread that took it, for how many seconds, and the last statement it ran."""

    thread: str
    seconds: float
    statement: str

    def __str__(self) -> str:
        doing = f", {self.statement!r}" if self.statement else ""
        return f"{self.thread} for {self.seconds:.1f} s{doing}"


@dataclass
class _Counts:
    acquired: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0


class CountingPool(Unpicklable, QueuePool):
    """SQLAlchemy's pool, which also counts what it was asked for; on, after it was disposed of and made anew."""

    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"  # where its log is looked for

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counts = _Counts()
        self.after_fork_in_child()
        tell_in_child(self)

    def connect(self) -> PoolProxiedConnection:
        """See `Pool.connect`."""
        if self.overflow() >= 0 and not self.checkedin():  # all are made, for it may not overflow; and all are out
            return self._wait()
        connection = super().connect()
        with self._counting:
            self._counts.acquired += 1
        return connection

    def recreate(self) -> CountingPool:
        """See `Pool.recreate`."""
        again: Any = super().recreate()
        again._counts, again._counting = self._counts, self._counting
        return again  # type: ignore[no-any-return]

    def stats(self) -> PoolStats:
        """All figures, at one moment."""
        with self._counting:
            return PoolStats(
                size=self.size(),
                active=self.checkedout(),
                idle=self.checkedin(),
                total_acquired=self._counts.acquired,
                waits=self._counts.waits,
                wait_seconds=self._counts.wait_seconds,
                timeouts=self._counts.timeouts,
                overflow=max(0, self.overflow()),
            )

    def after_fork_in_child(self) -> None:
        """The lock may be a thread's that is not there."""
        self._counting = threading.Lock()

    def _wait(self) -> PoolProxiedConnection:
        since, acquired, timeouts = time.monotonic(), 0, 0
        try:
            connection = super().connect()
            acquired = 1
            return connection
        except exc.TimeoutError:
            timeouts = 1
            raise
        finally:
            with self._counting:
                self._counts.acquired += acquired
                self._counts.timeouts += timeouts
                self._counts.waits += 1
                self._counts.wait_seconds += time.monotonic() - since


def stats(engine: Engine) -> PoolStats:
    """The figures of an engine's pool. A pool that is not ours knows no more than what it has now."""
    pool: Any = engine.pool
    if isinstance(pool, CountingPool):
        return pool.stats()
    size, active, idle, overflow = (
        getattr(pool, name, int)() for name in ("size", "checkedout", "checkedin", "overflow")
    )
    return PoolStats(size=size, active=active, idle=idle, overflow=max(0, overflow))


def watch(engine: Engine, *, idle_timeout: float, min_idle: int) -> None:
    """Keep the books of an engine's pool, and close what was idle for `idle_timeout` seconds; `min_idle` may stay."""
    books = _Books(idle_timeout, min_idle)
    _all_books[engine] = books
    event.listen(engine, "checkout", books.taken)
    event.listen(engine, "checkin", books.given_back)
    event.listen(engine, "close", books.closed)
    event.listen(engine, "detach", books.closed)


def holders(engine: Engine) -> list[Holder]:
    """Who has the connections of this engine, the longest first."""
    books = _all_books.get(engine)
    return books.holders() if books else []


class _Books:
    """The connections of a pool that are in use, and those that are idle, the longest idle first."""

    def __init__(self, idle_timeout: float, min_idle: int) -> None:
        self._idle_timeout = idle_timeout
        self._min_idle = min_idle
        self._lock = threading.RLock()  # a connection may be given back by the garbage collector, in any line of ours
        self._taken: dict[Any, tuple[int, float]] = {}
        self._idle: dict[Any, float] = {}
        self._sweeper: threading.Timer | None = None

    def taken(self, connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        with self._lock:
            self._idle.pop(connection, None)
            self._taken[connection] = (threading.get_ident(), time.monotonic())
        if not connection.usable:  # it was closed between the pool's look and this one
            raise exc.DisconnectionError("the connection was closed while it was idle")

    def given_back(self, connection: Any, record: Any) -> None:  # noqa: ARG002 - also
        with self._lock:
            self._taken.pop(connection, None)
            if connection is not None:
                self._idle[connection] = time.monotonic()
                self._sweep_later(self._idle_timeout)

    def closed(self, connection: Any, record: Any) -> None:  # noqa: ARG002 - also
        with self._lock:
            self._taken.pop(connection, None)
            self._idle.pop(connection, None)
            if self._sweeper is not None and not self._idle:
                self._sweeper.cancel()
                self._sweeper = None

    def holders(self) -> list[Holder]:
        now = time.monotonic()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        with self._lock:
            taken = list(self._taken.items())
        return [
            Holder(
                names.get(thread, f"thread {thread}"),
                now - since,
                " ".join(connection.last_statement.split())[:_STATEMENT_LENGTH],
            )
            for connection, (thread, since) in taken
        ]

    def sweep(self) -> None:
        """Close what was idle for too long. A pool that gets a closed connection opens another one."""
        with self._lock:
            self._sweeper = None
            limit = time.monotonic() - self._idle_timeout
            idle = list(self._idle.items())
            old = [connection for connection, since in idle[: max(0, len(idle) - self._min_idle)] if since <= limit]
            for connection in old:
                del self._idle[connection]
                connection.discard()
            if len(self._idle) > self._min_idle:
                self._sweep_later(max(0.01, next(iter(self._idle.values())) - limit))

    def start_over(self) -> None:
        """In a child process: its threads are gone, and its connections are the parent's."""
        self._lock = threading.RLock()
        self._taken, self._idle, self._sweeper = {}, {}, None

    def _sweep_later(self, seconds: float) -> None:
        if self._sweeper is None and len(self._idle) > self._min_idle:
            sweeper = threading.Timer(seconds, _sweep, [weakref.ref(self)])
            sweeper.daemon = True
            with suppress(RuntimeError):  # no thread can be started: then the next one to be given back tries again
                sweeper.start()
                self._sweeper = sweeper


def _sweep(books: weakref.ref[_Books]) -> None:
    found = books()
    if found is not None:
        found.sweep()


_all_books: weakref.WeakKeyDictionary[Engine, _Books] = weakref.WeakKeyDictionary()


def _after_fork_in_child() -> None:
    for engine, books in list(_all_books.items()):
        books.start_over()
        engine.dispose(close=False)  # else what the parent's threads had taken would be missing for ever


os.register_at_fork(after_in_child=_after_fork_in_child)
