"""`AsyncMemoryStorage` and `AsyncTransaction`: what of the mirror is not generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TypeVar
from weakref import finalize

from sqlalchemy import Engine
from typing_extensions import Self

from memory_storage.errors import ConfigurationError, MemoryStorageError, ValidationError
from memory_storage.monitoring import Meter
from memory_storage.resilience import CircuitBreaker
from memory_storage.session import Transaction
from memory_storage.settings import Settings
from memory_storage.sql.session import Row
from memory_storage.storage import MemoryStorage

from ._calls import Calls, Hold, TransactionCalls
from ._repositories import AsyncMemoryStorageMethods, AsyncRepositories

T = TypeVar("T")


class AsyncMemoryStorage(AsyncMemoryStorageMethods):
    """An agent's memory in one namespace of one database, for asyncio: the methods of `MemoryStorage`, to be awaited.

    Threads of its own run the calls in the order in which they were made: by default half as many as the pool has
    connections, and 2 for a file. A further call waits, and takes no thread. Each open transaction has a thread
    until its block ends.

    A task that is cancelled, or whose time is up, withdraws a call that has not begun. One that has begun is
    interrupted, and awaited: it is stored completely or not at all, and no thread runs it any longer.
    """

    def __init__(self, storage: MemoryStorage, *, workers: int | None = None) -> None:
        """Use an existing storage. Most callers want `open`.

        Args:
            storage: The storage. The caller closes it, after this one.
            workers: The most threads for single calls. Default: half of `pool.max_connections`, and at most 2 for a
                file.

        Raises:
            ConfigurationError: It is no MemoryStorage, or has fewer connections than `workers`.
        """
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        calls = Calls(workers)
        calls.use(storage.settings, storage.engine)
        self._attach(calls, storage, closes=None)

    def _attach(self, calls: Calls, storage: MemoryStorage, *, closes: Callable[[], None] | None) -> None:
        super().__init__(calls, lambda: storage)
        self._calls, self._storage, self._closes = calls, storage, closes
        self._is_view = False

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine of the database. Its calls block: use it in a thread."""
        return self._storage.engine

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self._storage.settings

    @property
    def namespace(self) -> str:
        """The namespace whose rows are read and written."""
        return self._storage.namespace

    @property
    def vector_index(self) -> str:
        """Where searches get their candidates: "hnsw", "diskann" or "exact"."""
        return self._storage.vector_index

    @property
    def circuit_breaker(self) -> CircuitBreaker:
        """The circuit breaker of this database, shared by all namespaces: state, `reset` and listeners."""
        return self._storage.circuit_breaker

    @property
    def meter(self) -> Meter:
        """Operation metrics of all namespaces, as exported by `memory_storage.monitoring`."""
        return self._storage.meter

    @property
    def local_engine(self) -> str | None:
        """The engine with which the file is open: "sqlite" or "libsql"; None for a server, or once it is closed."""
        return self._storage.local_engine

    def in_namespace(self, namespace: str) -> Self:
        """Return a view of another namespace of the same database. Closing the view does not close the storage."""
        return self._view(self._storage.in_namespace(namespace))

    def acting_as(self, actor: str) -> Self:
        """Return a view of this storage whose writes are attributed to `actor` in the audit log.

        Closing the view does not close the storage.
        """
        return self._view(self._storage.acting_as(actor))

    def _view(self, storage: MemoryStorage) -> Self:
        view = type(self).__new__(type(self))
        view._attach(self._calls, storage, closes=None)
        view._is_view = True
        return view

    def transaction(self) -> AsyncTransaction:
        """Return a transaction: `async with storage.transaction() as tx: await tx.episodes.save(...)`.

        A clean exit of the block commits; an exception, also the cancellation of the task, rolls all of it back.
        """
        return AsyncTransaction(self._calls, self._storage.transaction, read_only=False)

    def snapshot(self) -> AsyncTransaction:
        """Return a read-only transaction: `async with storage.snapshot() as view: view.episodes.iterate()`.

        It sees the state of the database at its first read; concurrent writes of other clients are not visible. On a
        server it is kept alive until the block ends, also while the caller is idle.
        """
        return AsyncTransaction(self._calls, self._storage.snapshot, read_only=True)

    async def run(self, work: Callable[[AsyncTransaction], Awaitable[T]]) -> T:
        """Await `work(tx)` in a transaction, retrying all of it when a lock or connection failure rolled it back.

        The settings under `retry` limit the attempts. `work` is not retried when the transaction may have been
        committed (CommitUnknownError), nor while the circuit breaker is open (CircuitOpenError).

        Args:
            work: A coroutine function that takes the transaction; may be called several times.

        Returns:
            What `work` returns.
        """
        if not callable(work):
            raise ValidationError("work", "must be a coroutine function that takes the transaction", work)
        hold: Hold[T] = Hold(self._calls, self._storage.run)
        while (sync := await hold.begin()) is not None:
            tx = self.transaction()
            tx._caller.use(hold, sync)
            try:
                value = await work(tx)
            except BaseException as error:  # noqa: BLE001 - raised by `hold.result`, unless the work is run again
                tx._caller.leave().end(error=error)
            else:
                tx._caller.leave().end(value, tx._caller.problem)
        return await hold.result()

    def interrupt(self) -> int:
        """Stop the calls that run on this database now, in any namespace, of all tasks and threads.

        See `MemoryStorage.interrupt`.

        Returns:
            How many calls are stopped. One that ends at this moment may still return its result.
        """
        return self._storage.interrupt()

    async def close(self) -> None:
        """Run the calls that wait, end the threads, and close the storage that `open` has opened, for all namespaces.

        An open transaction is rolled back. Later calls raise UnavailableError. An in-memory database is lost.
        """
        if not self._is_view:
            await self._calls.close(self._closes or _close_nothing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._storage!r}"


def _close_nothing() -> None:
    """Leave a storage open that the caller has opened."""


class AsyncTransaction(AsyncRepositories):
    """A transaction: a clean exit of the block commits, an exception rolls back. See `Transaction`.

    A thread holds it open until the block ends; the calls of several tasks on it run one at a time. A call that is
    cancelled while it runs ends the transaction: it cannot commit afterwards.
    """

    _caller: TransactionCalls

    def __init__(self, calls: Calls, opens: Callable[[], Transaction], *, read_only: bool) -> None:
        caller = TransactionCalls(read_only=read_only)
        super().__init__(caller, lambda: caller.transaction)
        self._calls, self._opens = calls, opens

    @property
    def namespace(self) -> str:
        """The namespace whose rows it reads and writes."""
        return self._caller.transaction.namespace

    @property
    def actor(self) -> str:
        """Whom the audit log names."""
        return self._caller.transaction.actor

    def now(self) -> datetime:
        """Return the current time by the storage's clock, aware."""
        return self._caller.transaction.now()

    async def execute(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[list[Row]]:
        """Run your own SQL, all statements or none, in one round trip.

        The statements are not restricted to the namespace.

        Args:
            statements: Pairs of SQL, with `?` for each value, and the values.

        Returns:
            The rows of each statement.
        """
        return await self._caller.run(lambda: self._caller.transaction.execute(statements))

    async def __aenter__(self) -> Self:
        # Not a method: an object that its thread holds could not be abandoned.
        hold: Hold[None] = Hold(self._calls, partial(_run_once, self._opens))
        sync = await hold.begin()
        if sync is None:
            await hold.result()  # raises why it did not begin
            raise MemoryStorageError("the transaction did not begin")
        self._caller.use(hold, sync)
        self._abandoned = finalize(self, hold.abandon)
        self._abandoned.atexit = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abandoned.detach()
        problem = self._caller.problem
        hold = self._caller.leave()
        hold.end(error=error or problem)
        try:
            await hold.result()
        except BaseException as failure:
            if failure is not error:
                raise
            error.__traceback__ = traceback  # without the frames of the thread
        finally:
            del error, problem  # a traceback that has this frame would keep them in a cycle


def _run_once(opens: Callable[[], Transaction], work: Callable[[Transaction], T]) -> T:
    with opens() as transaction:
        return work(transaction)
