"""Threads that run the calls of coroutines, first come, first served, and what a coroutine awaits of a call.

Nothing here waits for a lock on the event loop: a call is put into a `SimpleQueue`, the threads hand its result to the
loop, and the loop only tries the locks that it shares with them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, NoReturn, TypeVar, cast

from memory_storage.dbapi import Unpicklable, register_after_fork

T = TypeVar("T")

_INTERRUPT_EVERY = 0.05  # seconds: a call of several statements may be between two of them when it is interrupted
_PAUSE = 0.0001  # seconds between two calls of a thread
_JOIN_EVERY = 0.001  # seconds


class Job(Generic[T]):
    """A call, and its outcome. Made and awaited on the event loop, run by a thread.

    Args:
        work: The call.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._change: asyncio.Future[None] = self._loop.create_future()
        self._work: Callable[[], T] | None = work
        self._context = copy_context()  # a tracer finds the span of the task in it
        self._begun, self._ended = threading.Lock(), threading.Lock()  # held from these moments on
        self._thread = 0
        self._outcome: tuple[T | None, BaseException | None] | None = None

    def __call__(self) -> None:
        """Run the call in this thread, unless it was withdrawn."""
        work, self._work = self._work, None
        if not self._begun.acquire(blocking=False) or work is None:
            return
        self._thread = threading.get_ident()
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = self._context.run(work), None
        except BaseException as error:  # noqa: BLE001 - the task raises it
            outcome = None, error
        del work  # what it holds, like a transaction, is released before the task continues
        # An interrupt is for this call: the thread begins no other one while it is under way.
        self._ended.acquire()
        with suppress(RuntimeError):  # the loop is closed, and nothing awaits the outcome
            self._loop.call_soon_threadsafe(self._deliver, outcome)

    async def result(self, interrupt: Callable[[int], object] | None = None) -> T:
        """Return what the call returns.

        A task that is cancelled withdraws a call that has not begun. One that has begun is interrupted, if it can be,
        and awaited: when the CancelledError is raised, no thread runs it.

        Args:
            interrupt: Interrupts the statement that a thread runs; without it a cancelled call runs to its end.
        """
        try:
            await self._change
        except asyncio.CancelledError as cancellation:
            if self.withdraw():
                raise
            await self._end(interrupt)
            self._raise_cancelled(cancellation)
        return self._value()

    def withdraw(self) -> bool:
        """Have no thread run the call; False if one has begun."""
        return self._begun.acquire(blocking=False)

    @property
    def has_begun(self) -> bool:
        """Whether a thread has run the call of a task that was cancelled."""
        return bool(self._thread)

    async def outcome(self) -> T:
        """Return what the call returns, also to a task that is cancelled: that error is raised afterwards."""
        cancellation: asyncio.CancelledError | None = None
        try:
            await self._change
        except asyncio.CancelledError as error:
            cancellation = error
            await self._end(None)
        if cancellation is not None:
            self._raise_cancelled(cancellation)
        return self._value()

    async def _end(self, interrupt: Callable[[int], object] | None) -> None:
        """Wait for the end of the call, however often the task is cancelled. `request_timeout` limits the wait."""
        while self._outcome is None:
            if interrupt is not None and self._thread and self._ended.acquire(blocking=False):
                try:
                    interrupt(self._thread)
                finally:
                    self._ended.release()
            self._change = self._loop.create_future()
            timer = self._loop.call_later(_INTERRUPT_EVERY, _wake, self._change)
            with suppress(asyncio.CancelledError):
                await self._change
            timer.cancel()

    def _deliver(self, outcome: tuple[T | None, BaseException | None]) -> None:
        self._outcome = outcome
        _wake(self._change)

    def _value(self) -> T:
        value, error = self._outcome or (None, None)
        self._outcome = None, None  # the traceback of an error must not keep it in a cycle
        if error is None:
            return cast("T", value)
        try:
            raise error
        finally:
            del error

    def _raise_cancelled(self, cancellation: asyncio.CancelledError) -> NoReturn:
        _, error = self._outcome or (None, None)
        self._outcome = None, None
        try:
            raise cancellation from error
        finally:
            del error, cancellation


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Workers(Unpicklable):
    """Up to a number of threads that take jobs from one queue, in its order. They start when there are jobs for them.

    Args:
        limit: The most threads.
        name: The beginning of their names.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.limit, self._name = limit, name
        self.after_fork_in_child()
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Start without threads and jobs: both stay in the parent process."""
        self._jobs: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._lock = threading.Lock()  # only threads of this object wait for it
        self._threads: list[threading.Thread] = []
        self._busy = 0

    def submit(self, job: Callable[[], Any]) -> None:
        """Have a thread run a job, after those that were submitted before."""
        self._jobs.put(job)
        if not self._threads:  # later ones are started by threads: to start one waits until it runs
            self._start()

    def stop(self) -> None:
        """End the threads, after the jobs that were submitted before. Later jobs would not be run."""
        self._jobs.put(None)

    async def join(self) -> None:
        """Wait until the threads have ended after `stop`, however often the task is cancelled."""
        cancellation: asyncio.CancelledError | None = None
        while any(thread.is_alive() for thread in self._threads):
            try:
                await asyncio.sleep(_JOIN_EVERY)
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            raise cancellation

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name} {len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left: the others take the jobs
            self._threads.remove(thread)
            if not self._threads:
                raise

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._busy += 1
                is_last_idle = self._busy == len(self._threads) < self.limit
                if is_last_idle:
                    self._start()
            job()
            # Without the pause a thread keeps the interpreter for its next call: with two threads on a file the loop
            # then waited 7 ms at the 99th percentile and 20 ms at most, instead of 5 and 6 ms.
            time.sleep(_PAUSE)
            del job  # it may hold a transaction that was abandoned
            with self._lock:
                self._busy -= 1
        self._jobs.put(None)  # for the next thread
