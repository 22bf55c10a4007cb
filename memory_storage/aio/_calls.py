"""How coroutines call a storage: single calls by a bounded number of threads, a transaction by a thread of its own.

The threads for calls and those for transactions are separate, so that transactions that are open can always continue:
their statements need none of the threads that wait for the locks that they hold. Of the pool's connections one is left
over, for what a task reads outside of the transaction that it has open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, finalize, ref

from sqlalchemy import Engine

from memory_storage import pool
from memory_storage.dbapi import Unpicklable
from memory_storage.errors import ConfigurationError, MemoryStorageError, UnavailableError
from memory_storage.session import Transaction
from memory_storage.settings import Settings

from ._workers import Job, Workers

T = TypeVar("T")

FILE_WORKERS = 2
"""Threads for the calls of a file: one more than what a long call occupies. Small calls are mostly Python, and hold the
interpreter that the event loop waits for. With 4 threads 600 tasks on a file took no less time, and the loop waited for
22 ms at the 99th percentile; with 2 for 5 ms."""

_BROKEN = "a call of this transaction was cancelled while it ran; nothing of the transaction is stored; run it again"
_ABANDONED = "the transaction was abandoned; nothing of it is stored"
_NOT_OPEN = "the transaction is not open; use it inside its `async with` block"
_CLOSED = "the storage is closed; open it again"
_CHUNK_ITEMS = 100
_CHUNK_SECONDS = 0.002  # a page, or a large item, ends a chunk: then no more than one page is in memory


class Caller(Protocol):
    """Runs calls of the synchronous storage for coroutines."""

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which a thread runs."""
        ...


async def iterate(caller: Caller, items: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Yield the items of an iterator that threads advance, some items at a time."""
    iterator: Iterator[T] | None = None
    is_exhausted, failure = False, None

    def pull() -> list[T]:
        nonlocal iterator, is_exhausted, failure
        iterator = items() if iterator is None else iterator
        chunk: list[T] = []
        until = time.monotonic() + _CHUNK_SECONDS
        try:
            while len(chunk) < _CHUNK_ITEMS and (not chunk or time.monotonic() < until):
                chunk.append(next(iterator))
        except StopIteration:
            is_exhausted = True
        except Exception as error:  # noqa: BLE001 - raised below, after the items before it
            failure, is_exhausted = error, True
        chunk.reverse()
        return chunk

    while not is_exhausted:
        chunk = await caller.run(pull)
        while chunk:
            yield chunk.pop()  # it may be large: it is not held here while the caller has it
    if failure is not None:
        raise failure


class Lease:
    """One thread for as long as a task has a transaction open. It runs the calls of that task one after the other.

    Args:
        task: The task.
        interrupt: Interrupts the statement that a thread runs.
    """

    def __init__(self, task: asyncio.Task[Any], interrupt: Callable[[int], object]) -> None:
        self.task = ref(task)
        self.interrupt = interrupt
        self.is_closed = False
        self.holds: list[Hold[Any]] = []
        self._jobs: SimpleQueue[Callable[[], Any] | _End | None] = SimpleQueue()

    def serve(self, hold: Hold[Any] | None = None) -> _End | None:
        """Run calls in this thread, until the end of a hold, or the release of the lease."""
        while (job := self._jobs.get()) is not None:
            if not isinstance(job, _End):
                job()
                del job  # it may hold the transaction
            elif job.hold is hold:
                return job
            elif hold is not None and job.hold.depth < hold.depth:  # the outer one ends before this one
                self._jobs.put(job)
                return _End(hold, error=UnavailableError("the outer transaction has ended; nothing was stored"))
        return None

    def submit(self, work: Callable[[], T]) -> Job[T]:
        """Have the thread run a call, after those that were submitted before."""
        if self.is_closed:
            raise UnavailableError(_CLOSED)
        job = Job(work)
        self._jobs.put(job)
        return job

    def end(self, hold: Hold[Any], value: object = None, error: BaseException | None = None) -> None:
        """End a hold: commit, and return a value, or roll back with an error."""
        self._jobs.put(_End(hold, value, error))

    def release(self) -> None:
        """Let the thread serve another lease."""
        self._jobs.put(None)

    def close(self) -> None:
        """Roll the open transactions back, and refuse calls."""
        self.is_closed = True
        for hold in reversed(self.holds):
            self.end(hold, error=UnavailableError(_CLOSED))
        self.release()


class Hold(Generic[T]):
    """A transaction that a thread holds open while a task uses it: each attempt of it, if it is retried.

    Args:
        calls: Where the thread is leased.
        runs: Runs a work in a transaction, as `MemoryStorage.run` does, and returns its result.
    """

    def __init__(self, calls: Calls, runs: Callable[[Callable[[Transaction], T]], T]) -> None:
        self._calls, self.lease = calls, calls.lease()
        self._begun: asyncio.Queue[Transaction | None] = asyncio.Queue()
        loop, lease, begun = asyncio.get_running_loop(), self.lease, self._begun

        def work(tx: Transaction) -> T:
            loop.call_soon_threadsafe(begun.put_nowait, tx)
            end = lease.serve(self)
            if end is None:
                raise UnavailableError(_ABANDONED)
            if end.error is not None:
                raise end.error
            value: T = end.value
            return value

        def whole() -> T:
            try:
                return runs(work)
            finally:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(begun.put_nowait, None)

        self.depth = len(lease.holds)  # of transactions that the task has open
        lease.holds.append(self)
        self._job: Job[T] = self.lease.submit(whole)

    async def begin(self) -> Transaction | None:
        """Return the transaction of the next attempt, or None if it has ended. Cancelled, it is rolled back."""
        try:
            return await self._begun.get()
        except asyncio.CancelledError as cancellation:
            if not self._job.withdraw():
                self.lease.end(self, error=cancellation)
                with suppress(BaseException):
                    await self._job.outcome()
            self._release()
            raise

    def end(self, value: object = None, error: BaseException | None = None) -> None:
        """Commit, or roll back with an error."""
        self.lease.end(self, value, error)

    def abandon(self) -> None:
        """Roll back a transaction whose block does not end: its object is collected as garbage."""
        self.end(error=UnavailableError(_ABANDONED))
        self._release()

    async def result(self) -> T:
        """Return what the work returns, once the transaction has ended, also to a task that is cancelled."""
        try:
            return await self._job.outcome()
        finally:
            self._release()

    def _release(self) -> None:
        self.lease.holds.remove(self)
        self._calls.release(self.lease)


class TransactionCalls(Unpicklable):
    """Runs the calls on a transaction, by the thread that holds it open.

    Args:
        read_only: Whether it is a snapshot, of which a call may fail.
    """

    def __init__(self, *, read_only: bool) -> None:
        self._read_only = read_only
        self._hold: Hold[Any] | None = None
        self._transaction: Transaction | None = None
        self._is_broken = False

    def use(self, hold: Hold[Any], transaction: Transaction) -> None:
        """Run the calls of the block that begins."""
        if self._hold is not None:
            raise MemoryStorageError("the transaction is already open; use it in one `async with` block at a time")
        self._hold, self._transaction, self._is_broken = hold, transaction, False

    def leave(self) -> Hold[Any]:
        """Refuse further calls, and return what holds the transaction open."""
        hold, self._hold, self._transaction = self._hold, None, None
        if hold is None:
            raise MemoryStorageError(_NOT_OPEN)
        return hold

    @property
    def transaction(self) -> Transaction:
        """The open transaction."""
        if self._transaction is None:
            raise MemoryStorageError(_NOT_OPEN)
        return self._transaction

    @property
    def problem(self) -> UnavailableError | None:
        """Why the transaction cannot be committed, or None."""
        return UnavailableError(_BROKEN) if self._is_broken else None

    async def run(self, work: Callable[[], T]) -> T:
        """See `Caller`."""
        if self._hold is None:
            raise MemoryStorageError(_NOT_OPEN)
        if (problem := self.problem) is not None:
            raise problem
        lease = self._hold.lease
        job = lease.submit(work)
        try:
            return await job.result(lease.interrupt)
        except asyncio.CancelledError:
            # The engine may have rolled the transaction back, and whether the call is a part of it is unknown.
            self._is_broken |= job.has_begun and not self._read_only
            raise


class Calls(Unpicklable):
    """Runs the calls of one database, for all namespaces.

    Args:
        workers: The most threads for single calls; None for the default.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ConfigurationError(f"workers: must be a whole number from 1 on, not {workers!r}")
        self._wanted = workers
        self._single, self._leased = Workers(1, "memory-storage call"), Workers(1, "memory-storage transaction")
        self._engine: Engine | None = None
        self._leases: WeakKeyDictionary[asyncio.Task[Any], Lease] = WeakKeyDictionary()
        self._is_closed = False
        finalize(self, _stop, self._single, self._leased).atexit = False

    def use(self, settings: Settings, engine: Engine) -> None:
        """Set the number of threads by the connections of the storage, once it is open."""
        connections = settings.pool.max_connections
        if self._wanted is not None and self._wanted > connections:
            raise ConfigurationError(
                f"workers: {self._wanted} threads need as many connections, and the pool has {connections}; raise "
                "pool.max_connections"
            )
        most = connections if settings.server else FILE_WORKERS
        self._single.limit = self._wanted or max(1, min(most, connections // 2))
        self._leased.limit = max(1, connections - self._single.limit - 1)
        self._engine = engine

    async def run(self, work: Callable[[], T]) -> T:
        """See `Caller`. A call of a task with an open transaction is run by the thread of that."""
        return await self._submit(work).result(self._interrupt)

    async def finish(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, as `run` does, but a task that is cancelled does not interrupt or withdraw it."""
        return await self._submit(work).outcome()

    def _submit(self, work: Callable[[], T]) -> Job[T]:
        # That thread is idle, else the task would not make the call. So a task never waits for a thread while it holds
        # one, and a nested write is refused there as in a program with threads.
        lease = self.lease_of_task()
        if lease is not None:
            return lease.submit(work)
        if self._is_closed:
            raise UnavailableError(_CLOSED)
        job = Job(work)
        self._single.submit(job)
        return job

    def lease_of_task(self) -> Lease | None:
        """Return the lease of the current task, if it has a transaction open."""
        task = asyncio.current_task()
        return None if task is None else self._leases.get(task)

    def lease(self) -> Lease:
        """Return a thread for a transaction of the current task: the one that it has, or a further one."""
        if self._is_closed:
            raise UnavailableError(_CLOSED)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a transaction begins in a task of asyncio")
        lease = self._leases.get(task)
        if lease is None:
            lease = self._leases[task] = Lease(task, self._interrupt)
            self._leased.submit(lease.serve)
        return lease

    def release(self, lease: Lease) -> None:
        """Return a thread, unless another transaction of the task is open."""
        if not lease.holds:
            task = lease.task()
            if task is not None:
                self._leases.pop(task, None)
            lease.release()

    async def close(self, close: Callable[[], None]) -> None:
        """Run the calls that wait, roll open transactions back, end the threads, and close the storage.

        Args:
            close: Closes the storage.
        """
        if self._is_closed:
            return
        self._is_closed = True
        for lease in list(self._leases.values()):
            lease.close()
        self._leased.stop()
        self._single.stop()
        last = Workers(1, "memory-storage close")
        try:
            await self._leased.join()
        finally:
            try:
                await self._single.join()
            finally:
                job = Job(close)
                last.submit(job)
                last.stop()
                try:
                    await job.outcome()
                finally:
                    await last.join()

    def _interrupt(self, thread: int) -> None:
        if self._engine is not None:
            pool.interrupt(self._engine, thread=thread)


@dataclass(frozen=True)
class _End:
    hold: Hold[Any]
    value: Any = None
    error: BaseException | None = None


def _stop(*groups: Workers) -> None:
    for group in groups:
        group.stop()
