"""The asynchronous storage on each backend: calls, transactions, views, closing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage, AsyncTransaction
from memory_storage.aio._calls import iterate
from tests.backends import in_memory
from tests.raising import raises

_DAMAGE = "UPDATE episodes SET document = '{' WHERE id = ?"

Work = Callable[[AsyncMemoryStorage], Awaitable[Any]]


_earlier: set[threading.Thread] = set()
"""Threads from before the test: adapters of other tests keep theirs until they are collected as garbage."""


@pytest.fixture(autouse=True)
def _know_the_earlier_threads() -> Iterator[None]:
    _earlier.update(threading.enumerate())
    yield
    _earlier.clear()


def _threads() -> list[str]:
    names = [one.name for one in threading.enumerate() if one not in _earlier]
    return [one for one in names if one.startswith(("memory-storage call", "memory-storage tr"))]


@pytest.fixture
def run(target) -> Callable[[Work], Any]:
    """Runs a coroutine function with a storage on each backend; no thread is left over."""

    def once(work: Work) -> Any:
        async def main() -> Any:
            async with AsyncMemoryStorage.open(target) as storage:
                result = await work(storage)
            assert _threads() == []
            return result

        return asyncio.run(main())

    return once


def _episode(text: str = "Fix the flaky token refresh") -> ms.Episode:
    return ms.Episode(task_description=text, steps=[ms.Step(tool="grep", action="search")])


def test_calls_return_what_the_storage_returns(run):
    async def work(storage):
        saved = await storage.episodes.save(_episode())
        assert await storage.episodes.get(saved.id) == saved
        assert (await storage.episodes.query(task_type="other")).items == [saved]
        assert await storage.embeddings.index.status() == []
        assert (await storage.spatiotemporal.episodes.within(ms.Box(south=0, north=1, west=0, east=1))).items == []
        assert (await storage.health_check()).status == "healthy"
        assert storage.namespace == storage.settings.namespace
        with raises(ms.NotFoundError, match="episode"):
            await storage.episodes.get(ms.Episode(task_description="").id)

    run(work)


def test_a_storage_is_opened_by_await_too(target):
    async def main():
        storage = await AsyncMemoryStorage.open(target, workers=1)
        await storage.episodes.save(_episode())
        await storage.close()
        await storage.close()
        with raises(ms.UnavailableError, match="the storage is closed"):
            await storage.episodes.count()
        with raises(ms.UnavailableError, match="the storage is closed"):
            async with storage.transaction():
                pass

    asyncio.run(main())
    assert _threads() == []


def test_iterate_yields_all_in_order_and_stops_early(run):
    async def work(storage):
        saved = await storage.episodes.save_many([_episode(str(number)) for number in range(250)])
        found = [one.id async for one in storage.episodes.iterate(direction="oldest_first")]
        assert sorted(found) == sorted(one.id for one in saved)
        async for _ in storage.episodes.iterate():
            break
        with raises(ms.ValidationError, match="direction"):
            async for _ in storage.episodes.iterate(direction="sideways"):
                pass

    run(work)


def test_an_error_of_an_iterator_comes_after_the_items_before_it():
    class InThisThread:
        async def run(self, work):
            return work()

    def items():
        yield from range(150)
        raise ms.CorruptDataError("unreadable", table="episodes")

    async def main():
        read = []
        with raises(ms.CorruptDataError, match="unreadable"):
            async for one in iterate(InThisThread(), items):
                read.append(one)
        assert read == list(range(150))

    asyncio.run(main())


def test_a_transaction_commits_or_rolls_back(run):
    async def work(storage):
        async with storage.transaction() as tx:
            await tx.episodes.save(_episode("kept"))
            assert [one.task_description async for one in tx.episodes.iterate()] == ["kept"]
            assert tx.namespace == storage.namespace
        with raises(ZeroDivisionError, match="division"):
            async with storage.transaction() as tx:
                await tx.episodes.save(_episode("lost"))
                1 / 0  # noqa: B018
        with raises(ms.MemoryStorageError, match="inside its `async with` block"):
            await tx.episodes.count()
        assert [one.task_description async for one in storage.episodes.iterate()] == ["kept"]

    run(work)


def test_a_snapshot_sees_one_moment(run):
    async def work(storage):
        await storage.episodes.save(_episode())
        async with storage.snapshot() as view:
            assert await view.episodes.count() == 1
            with raises(ms.MemoryStorageError, match="read-only"):
                await view.episodes.save(_episode())

    run(work)


def test_a_write_outside_of_the_open_transaction_is_refused_and_a_read_is_not(migrated_file):
    async def main():
        async with AsyncMemoryStorage.open(migrated_file) as storage, storage.transaction() as tx:
            await tx.episodes.save(_episode())
            with raises(ms.UnavailableError, match="nested write"):
                await storage.episodes.save(_episode())
            with raises(ms.UnavailableError, match="nested write"):
                async with storage.transaction():
                    pass
            async with storage.snapshot() as view:
                assert await view.episodes.count() == 0
            assert await storage.episodes.count() == 0

    asyncio.run(main())


def test_run_retries_the_work_when_a_lock_rolled_it_back(run):
    async def work(storage):
        attempts = []

        async def save(tx: AsyncTransaction) -> int:
            attempts.append(await tx.episodes.save(_episode()))
            if len(attempts) < 3:
                raise ms.UnavailableError("locked", code="SQLITE_BUSY")
            return len(attempts)

        assert await storage.run(save) == 3
        assert await storage.episodes.count() == 1
        with raises(ms.ValidationError, match="coroutine function"):
            await storage.run(None)

    run(work)


def test_views_share_the_threads_and_do_not_close_the_storage(run):
    async def work(storage):
        async with storage.in_namespace("other") as other:
            await other.acting_as("agent").episodes.save(_episode())
        assert await storage.in_namespace("other").episodes.count() == 1
        assert await storage.episodes.count() == 0
        assert len([name for name in _threads() if "call" in name]) <= 5

    run(work)


@in_memory
def test_an_existing_storage_is_left_open(storage):
    async def main():
        async with AsyncMemoryStorage(storage) as mirror:
            await mirror.episodes.save(_episode())

    asyncio.run(main())
    assert storage.episodes.count() == 1
    assert _threads() == []
    with raises(ms.ConfigurationError, match="must be a MemoryStorage"):
        AsyncMemoryStorage("memory.db")
    for workers, problem in ((0, "from 1 on"), (11, "the pool has 10")):
        with raises(ms.ConfigurationError, match=problem):
            AsyncMemoryStorage(storage, workers=workers)


def test_more_transactions_than_threads_end(run):
    async def work(storage):
        async def one(number: int) -> None:
            async with storage.transaction() as tx:
                await tx.episodes.save(_episode(str(number)))
                await asyncio.sleep(0.001)

        async def read() -> None:
            async with storage.snapshot() as view:
                await view.episodes.count()
                await asyncio.sleep(0.001)

        await asyncio.gather(*(one(number) for number in range(30)), *(read() for _ in range(30)))
        assert await storage.episodes.count() == 30

    run(work)


def test_transactions_that_also_read_outside_do_not_wait_for_each_other(migrated_file):
    async def main():
        settings = ms.Settings(database=str(migrated_file), pool=ms.PoolSettings(max_connections=3))
        async with AsyncMemoryStorage.open(settings) as storage:

            async def one(number: int) -> None:
                async with storage.transaction() as tx:
                    await tx.episodes.save(_episode(str(number)))
                    assert await storage.episodes.count() == await storage.episodes.count(archived=False)

            saves = [storage.episodes.save(_episode("outside")) for _ in range(20)]
            await asyncio.wait_for(asyncio.gather(*map(one, range(20)), *saves), 20)
            assert await storage.episodes.count() == 40

    asyncio.run(main())


def test_an_abandoned_transaction_is_rolled_back(migrated_file):
    async def main():
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            tx = await storage.transaction().__aenter__()
            await tx.episodes.save(_episode())
            del tx
            gc.collect()
            assert await asyncio.wait_for(storage.episodes.save(_episode("later")), 10)
            assert await storage.episodes.count() == 1

    asyncio.run(main())


def test_closing_rolls_an_open_transaction_back(migrated_file):
    async def main():
        storage = await AsyncMemoryStorage.open(migrated_file)
        with raises(ms.UnavailableError, match="the storage is closed"):
            async with storage.transaction() as tx:
                await tx.episodes.save(_episode())
                await storage.close()
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            assert await storage.episodes.count() == 0

    asyncio.run(main())
    assert _threads() == []


def test_closing_runs_the_calls_that_wait(migrated_file):
    async def main():
        storage = await AsyncMemoryStorage.open(migrated_file)
        saves = [asyncio.create_task(storage.episodes.save(_episode())) for _ in range(20)]
        await asyncio.sleep(0)
        await storage.close()
        assert len(await asyncio.gather(*saves)) == 20

    asyncio.run(main())
    with ms.MemoryStorage.open(migrated_file) as storage:
        assert storage.episodes.count() == 20


@in_memory
def test_a_call_runs_in_the_context_of_its_task(storage):
    name: ContextVar[str] = ContextVar("name")
    seen = []

    def report(error: ms.CorruptDataError) -> None:
        seen.append(name.get())

    async def main():
        async with AsyncMemoryStorage(storage) as mirror:
            saved = await mirror.episodes.save(_episode())
            async with mirror.transaction() as tx:
                await tx.execute([(_DAMAGE, [str(saved.id)])])
            name.set("task")
            assert [one async for one in mirror.episodes.iterate(on_corrupt=report)] == []

    asyncio.run(main())
    assert seen == ["task"]


@in_memory
def test_one_storage_serves_several_event_loops(storage):
    mirror = AsyncMemoryStorage(storage)

    async def save() -> None:
        await mirror.episodes.save(_episode())

    loops = [threading.Thread(target=asyncio.run, args=(save(),)) for _ in range(4)]
    for one in loops:
        one.start()
    for one in loops:
        one.join()
    asyncio.run(mirror.close())
    assert storage.episodes.count() == 4


def test_a_recorded_run_is_the_current_one_of_its_task(run):
    async def work(storage):
        async with storage.record("outer") as outer:
            async with outer.timed_step("grep") as step:
                step.output = "found"
            async with storage.record("inner") as inner:
                await inner.step("pytest", output="passed")
        assert step.stored is not None
        assert (await storage.episodes.get(inner.id)).metadata == {"parent_episode": str(outer.id)}
        async with storage.record("later") as later:
            pass
        assert (await storage.episodes.get(later.id)).metadata == {}
        assert str(await storage.recall("outer")) != ""

    run(work)


def test_a_recorded_run_of_a_cancelled_task_is_abandoned(run):
    async def work(storage):
        entered = asyncio.Event()

        async def agent() -> None:
            async with storage.record("interrupted"):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(agent())
        await entered.wait()
        task.cancel()
        with raises(asyncio.CancelledError):
            await task
        assert [type(one.outcome) async for one in storage.episodes.iterate()] == [ms.Abstained]

    run(work)
