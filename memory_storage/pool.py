"""Adds checkout tracking, wait statistics and the closing of idle connections to SQLAlchemy's QueuePool."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from .dbapi import Gate, Unpicklable, register_after_fork
from .models.health import PoolStats

_STATEMENT_LENGTH = 60


@dataclass(frozen=True)
class Holder:
    """The holder of a connection: the thread, since how many seconds, and the last statement on the connection."""

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
    """SQLAlchemy's pool with counters of checkouts and waits. The counters survive `Engine.dispose`."""

    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"  # the logger that users configure
    checks_liveness = True  # by the listener of `track_checkouts`; the dialect then adds none of its own

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counts = _Counts()
        self._checkouts: _Checkouts | None = None
        self.after_fork_in_child()
        register_after_fork(self)

    def connect(self) -> PoolProxiedConnection:
        """See `Pool.connect`."""
        # No overflow is allowed. So without an idle connection, and with all of them created, this call will wait.
        if self.overflow() >= 0 and not self.checkedin():
            return self._wait()
        connection = super().connect()
        with self._counting:
            self._counts.acquired += 1
        return connection

    def lend(self) -> Any:
        """Return the record of an idle connection for `take_back`; None if `connect` has to be called.

        A checkout of SQLAlchemy's makes a proxy and runs the events of the pool, which takes longer than a small read.
        """
        checkouts, dispatch = self._checkouts, self.dispatch
        if checkouts is None or not self.checkedin() or len(dispatch.checkout) > 1 or len(dispatch.checkin) > 1:
            return None
        record = self._do_get()
        connection = record.dbapi_connection
        if connection is None or not checkouts.lend(connection):
            self._do_return_conn(record)
            return None
        self._counts.acquired += 1  # without the lock: a checkout that is not counted does no harm
        return record

    def take_back(self, record: Any) -> None:
        """Return a connection that was lent. No transaction is open on it."""
        if self._checkouts is not None:
            self._checkouts.on_checkin(record.dbapi_connection, record)
        self._do_return_conn(record)

    def recreate(self) -> CountingPool:
        """See `Pool.recreate`."""
        again: Any = super().recreate()
        again._counts, again._counting, again._checkouts = self._counts, self._counting, self._checkouts
        return again  # type: ignore[no-any-return]

    def stats(self) -> PoolStats:
        """Return the counters as one consistent snapshot."""
        with self._counting:
            return PoolStats(
                size=self.size(),
                active=self.checkedout(),
                idle=self._idle(),
                total_acquired=self._counts.acquired,
                waits=self._counts.waits,
                wait_seconds=self._counts.wait_seconds,
                timeouts=self._counts.timeouts,
                overflow=max(0, self.overflow()),
            )

    def fill(self, connections: int) -> None:
        """Open idle connections, up to `connections` or the size of the pool."""
        opened = [self.connect() for _ in range(min(connections, self.size()))]
        for connection in opened:
            connection.close()

    def after_fork_in_child(self) -> None:
        """Create a new lock: the old one may be held by a thread of the parent process."""
        self._counting = threading.Lock()

    def _idle(self) -> int:
        """Return how many connections are open and idle."""
        # The pool's queue also has the records of connections that were closed as idle.
        records: Any = self._pool
        found = [record.dbapi_connection for record in list(records.queue)]
        return sum(connection is not None and getattr(connection, "usable", True) for connection in found)

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
    """Return the statistics of an engine's pool; of another class than `CountingPool`, its current sizes only."""
    pool: Any = engine.pool
    if isinstance(pool, CountingPool):
        return pool.stats()
    size, active, idle, overflow = (
        getattr(pool, name, int)() for name in ("size", "checkedout", "checkedin", "overflow")
    )
    return PoolStats(size=size, active=active, idle=idle, overflow=max(0, overflow))


def fill(engine: Engine, connections: int) -> None:
    """Open idle connections ahead of use, up to `connections` or the size of the pool."""
    pool: Any = engine.pool
    if isinstance(pool, CountingPool):
        pool.fill(connections)


class CallerGate(Gate, Protocol):
    """A gate for the connections of callers. Calls that passed the circuit breaker already need none."""

    @property
    def thread(self) -> AdmittedThread:
        """The state of the current thread."""
        ...

    @property
    def refuse_if_open(self) -> Callable[[], None]:
        """Raises CircuitOpenError while the circuit is open."""
        ...


class AdmittedThread(Protocol):
    """Of the current thread: whether the connection that it takes is for a call that was admitted already."""

    is_admitted: bool


def track_checkouts(engine: Engine, *, idle_timeout: float | None, min_idle: int) -> None:
    """Record who holds the connections of an engine's pool, and close idle ones.

    Args:
        engine: An engine on a `CountingPool`.
        idle_timeout: Seconds after which an idle connection is closed; None for never.
        min_idle: How many idle connections stay open.
    """
    checkouts = _Checkouts(idle_timeout, min_idle)
    _all_checkouts[engine] = checkouts
    if isinstance(engine.pool, CountingPool):
        engine.pool._checkouts = checkouts
    event.listen(engine, "checkout", checkouts.on_checkout)
    event.listen(engine, "checkin", checkouts.on_checkin)
    event.listen(engine, "close", checkouts.on_close)
    event.listen(engine, "detach", checkouts.on_close)


def set_gate(engine: Engine, gate: CallerGate) -> None:
    """Put a gate before the connections that are checked out from now on, unless their call was admitted already."""
    checkouts = _all_checkouts[engine]
    checkouts.gate = gate
    event.listen(engine, "engine_connect", checkouts.on_connect)


def holders(engine: Engine) -> list[Holder]:
    """Return the holders of this engine's connections, the longest checkout first."""
    checkouts = _all_checkouts.get(engine)
    return checkouts.holders() if checkouts else []


def interrupt(engine: Engine, *, thread: int | None = None) -> int:
    """Interrupt the statements that run on this engine's connections, and return their number.

    Args:
        engine: The engine.
        thread: Only those of the thread with this identifier; no other thread can take their connections until they
            are interrupted.
    """
    checkouts = _all_checkouts.get(engine)
    if checkouts is None:
        return 0
    if thread is not None:
        return checkouts.interrupt(thread)
    return sum(connection.interrupt() for connection in checkouts.in_use())


def local_engine(engine: Engine) -> str | None:
    """Return the local engine of the open connections: "sqlite" or "libsql"; None without any, or for a server."""
    checkouts = _all_checkouts.get(engine)
    found = [connection.local_engine for connection in checkouts.all()] if checkouts else []
    return next(filter(None, found), None)


class _Checkouts:
    """The connections of one pool that are in use, and those that are idle, the longest idle first."""

    def __init__(self, idle_timeout: float | None, min_idle: int) -> None:
        self._idle_timeout = math.inf if idle_timeout is None else idle_timeout
        self.gate: CallerGate | None = None
        self._min_idle = min_idle
        self._lock = threading.RLock()  # re-entrant: the garbage collector may check a connection in at any point
        self._in_use: dict[Any, tuple[int, float]] = {}
        self._idle: dict[Any, float] = {}
        weakref.finalize(self, _reaper.wake).atexit = False

    def on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        with self._lock:
            self._idle.pop(connection, None)
            self._in_use[connection] = (threading.get_ident(), time.monotonic())
        # The one check of a checkout. It comes after the connection is marked as in use: an idle one may be closed at
        # any moment. SQLAlchemy then replaces it.
        if not connection.usable:
            raise exc.DisconnectionError("the connection was closed while it was idle, or is another process's")
        if self.gate is not None:
            connection.gate = None if self.gate.thread.is_admitted else self.gate

    def lend(self, connection: Any) -> bool:
        """Mark a connection as in use, without a gate; False if it was closed, or is another process's."""
        with self._lock:
            self._idle.pop(connection, None)
            self._in_use[connection] = (threading.get_ident(), time.monotonic())
        if connection.usable:
            connection.gate = None  # the call was admitted before
            return True
        with self._lock:
            self._in_use.pop(connection, None)
        return False

    def on_connect(self, connection: Connection) -> None:
        if self.gate is None or self.gate.thread.is_admitted:
            return
        try:
            self.gate.refuse_if_open()
        except BaseException:
            connection.close()
            raise

    def on_checkin(self, connection: Any, record: Any) -> None:  # noqa: ARG002 - also
        if connection is not None and connection.begin_mode:
            # Else the next call on it would begin a transaction, leave it open, and lose its write.
            connection.begin_mode, connection.keep_alive = "", False
        with self._lock:
            self._in_use.pop(connection, None)
            if connection is not None:
                self._idle[connection] = time.monotonic()
                if len(self._idle) > self._min_idle and self._idle_timeout < math.inf:
                    _reaper.schedule(self, self._idle_timeout)

    def on_close(self, connection: Any, record: Any) -> None:  # noqa: ARG002 - also
        with self._lock:
            self._in_use.pop(connection, None)
            self._idle.pop(connection, None)
            if not self._idle:
                _reaper.forget(self)

    def in_use(self) -> list[Any]:
        """Return the connections that are checked out."""
        with self._lock:
            return list(self._in_use)

    def interrupt(self, thread: int) -> int:
        """Interrupt the statements of one thread, and return their number."""
        with self._lock:  # a connection that is returned at this moment may be lent to another thread afterwards
            return sum(connection.interrupt() for connection, (holder, _) in self._in_use.items() if holder == thread)

    def all(self) -> list[Any]:
        """Return the open connections."""
        with self._lock:
            return [*self._in_use, *self._idle]

    def holders(self) -> list[Holder]:
        now = time.monotonic()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        with self._lock:
            active_filters = list(self._in_use.items())
        return [
            Holder(
                names.get(thread, f"thread {thread}"),
                now - since,
                " ".join(connection.last_statement.split())[:_STATEMENT_LENGTH],
            )
            for connection, (thread, since) in active_filters
        ]

    def close_idle(self) -> float | None:
        """Close connections that were idle for `idle_timeout`. The pool replaces a closed one at its next checkout.

        Returns:
            Seconds until the next one is due, or None.
        """
        with self._lock:
            limit = time.monotonic() - self._idle_timeout
            idle = list(self._idle.items())
            old = [connection for connection, since in idle[: max(0, len(idle) - self._min_idle)] if since <= limit]
            for connection in old:
                del self._idle[connection]
                connection.discard()
            if len(self._idle) > self._min_idle:
                return max(0.01, next(iter(self._idle.values())) - limit)
            return None

    def after_fork_in_child(self) -> None:
        """Forget all connections: they belong to the parent process."""
        self._lock = threading.RLock()
        self._in_use, self._idle = {}, {}


class _IdleReaper:
    """Closes the idle connections of all pools, in one thread that ends when none is due. Holds pools weakly."""

    _thread: threading.Thread | None

    def __init__(self) -> None:
        self.after_fork_in_child()

    def schedule(self, checkouts: _Checkouts, seconds: float) -> None:
        """Schedule a pass over these checkouts, unless one is scheduled already."""
        with self._lock:
            if checkouts in self._due:
                return
            self._due[checkouts] = time.monotonic() + seconds
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="memory-storage pool", daemon=True)
                # If no thread can be started now, the next checkin tries again.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
                if self._thread is None:
                    del self._due[checkouts]
        self.wake()

    def forget(self, checkouts: _Checkouts) -> None:
        """Cancel the scheduled pass over these checkouts."""
        with self._lock:
            known = self._due.pop(checkouts, None)
        if known is not None:
            self.wake()

    def wake(self) -> None:
        """Make the thread look at the schedule again. Takes no lock: the garbage collector calls it."""
        if self._thread is not None:
            self._wakeups.put(None)

    def after_fork_in_child(self) -> None:
        """Start without a thread and a schedule: both stay in the parent process."""
        self._lock = threading.RLock()
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._due: weakref.WeakKeyDictionary[_Checkouts, float] = weakref.WeakKeyDictionary()
        self._thread = None

    def _run(self) -> None:
        while (seconds := self._seconds_to_next()) is not None:
            with suppress(Empty):
                self._wakeups.get(timeout=seconds)
                continue  # the schedule has changed
            self._close_due()

    def _seconds_to_next(self) -> float | None:
        with self._lock:
            moments = list(self._due.values())
            if not moments:
                self._thread = None
                return None
            return max(0.0, min(moments) - time.monotonic())

    def _close_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [checkouts for checkouts, moment in self._due.items() if moment <= now]
            for checkouts in due:
                del self._due[checkouts]
        for checkouts in due:
            seconds = checkouts.close_idle()
            if seconds is not None:
                self.schedule(checkouts, seconds)


_reaper = _IdleReaper()
_all_checkouts: weakref.WeakKeyDictionary[Engine, _Checkouts] = weakref.WeakKeyDictionary()


def _after_fork_in_child() -> None:
    _reaper.after_fork_in_child()
    for engine, checkouts in list(_all_checkouts.items()):
        checkouts.after_fork_in_child()
        engine.dispose(close=False)  # else the pool would count the parent's checkouts for good


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
