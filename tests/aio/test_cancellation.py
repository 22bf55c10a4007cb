"""A task that is cancelled: its call is stored completely or not at all, and no thread runs it afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from tests.raising import raises
from tests.test_interrupt import ENDLESS


def _episode(text: str = "Fix the flaky token refresh") -> ms.Episode:
    return ms.Episode(task_description=text, steps=[ms.Step(tool="grep", action="search")])


@pytest.fixture(params=["file", "memory"])
def local_target(request, migrated_file):
    return ms.Settings(database=str(migrated_file) if request.param == "file" else ":memory:", local_engine="sqlite")


async def _until(condition) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within 5 s")


class _Holder:
    """A task that holds the write lock until `release`."""

    def __init__(self, storage: AsyncMemoryStorage) -> None:
        self._storage, self._end, self._held = storage, asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._storage.transaction() as tx:
            await tx.episodes.count()
            self._held.set()
            await self._end.wait()

    async def __aenter__(self) -> None:
        await self._held.wait()

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await self._task


def test_a_call_that_waits_for_a_lock_ends_when_its_time_is_up(local_target):
    async def main():
        async with AsyncMemoryStorage.open(local_target) as storage:
            async with _Holder(storage):
                since = time.monotonic()
                with raises(asyncio.TimeoutError):
                    await asyncio.wait_for(storage.episodes.save(_episode("lost")), 0.1)
                assert time.monotonic() - since < 5
            await storage.episodes.save(_episode("kept"))
            assert [one.task_description async for one in storage.episodes.iterate()] == ["kept"]
            assert storage._storage.pool_stats().active == 0

    asyncio.run(main())


def test_a_call_that_has_not_begun_is_never_begun(local_target):
    async def main():
        async with AsyncMemoryStorage.open(local_target, workers=1) as storage:
            async with _Holder(storage):
                first = asyncio.create_task(storage.episodes.save(_episode("first")))
                await asyncio.sleep(0.05)
                second = asyncio.create_task(storage.episodes.save(_episode("second")))
                await asyncio.sleep(0.05)
                second.cancel()
                since = time.monotonic()
                with raises(asyncio.CancelledError):
                    await second
                assert time.monotonic() - since < 5
            await first
            assert [one.task_description async for one in storage.episodes.iterate()] == ["first"]

    asyncio.run(main())


def test_a_statement_that_runs_is_interrupted(local_target):
    async def main():
        async with AsyncMemoryStorage.open(local_target) as storage, storage.snapshot() as view:
            task = asyncio.create_task(view.execute([(ENDLESS, [])]))
            await asyncio.sleep(0.2)
            task.cancel()
            task.cancel()
            since = time.monotonic()
            with raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - since < 5
            assert await view.episodes.count() == 0  # a snapshot can be read further

    asyncio.run(main())


def test_no_call_of_another_task_is_interrupted(local_target):
    async def main():
        async with AsyncMemoryStorage.open(local_target) as storage:
            others = [asyncio.create_task(storage.episodes.save(_episode(str(n)))) for n in range(100)]
            victims = [asyncio.create_task(storage.episodes.query(limit=10)) for _ in range(100)]
            for victim in victims:
                await asyncio.sleep(0.002)
                victim.cancel()
            assert len(await asyncio.gather(*others)) == 100
            results = await asyncio.gather(*victims, return_exceptions=True)
            failures = [one for one in results if isinstance(one, Exception)]
            assert failures == []

    asyncio.run(main())


def test_a_transaction_with_a_cancelled_call_cannot_commit(local_target):
    async def main():
        async with AsyncMemoryStorage.open(local_target) as storage:
            with raises(ms.UnavailableError, match="a call of this transaction was cancelled while it ran"):
                async with storage.transaction() as tx:
                    await tx.episodes.save(_episode())
                    update = f"UPDATE episodes SET reward = ({ENDLESS})"
                    with raises(asyncio.TimeoutError):
                        await asyncio.wait_for(tx.execute([(update, [])]), 0.2)
                    with raises(ms.UnavailableError, match="was cancelled while it ran"):
                        await tx.episodes.save(_episode())
            assert await storage.episodes.count() == 0
            assert (await storage.episodes.save(_episode())).version == 1

    asyncio.run(main())


@pytest.mark.parametrize("runs", [False, True], ids=["block", "run"])
def test_a_cancelled_block_is_rolled_back(target, runs):
    async def main():
        async with AsyncMemoryStorage.open(target) as storage:
            saved = asyncio.Event()

            async def work(tx) -> None:
                await tx.episodes.save(_episode())
                saved.set()
                await asyncio.sleep(60)

            async def block() -> None:
                async with storage.transaction() as tx:
                    await work(tx)

            task = asyncio.create_task(storage.run(work) if runs else block())
            await saved.wait()
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            assert await storage.episodes.count() == 0
            assert storage.settings.pool.max_connections >= storage._storage.pool_stats().idle
            assert storage._storage.pool_stats().active == 0

    asyncio.run(main())


def test_a_task_that_waits_for_a_transaction_can_be_cancelled(local_target):
    async def main():
        settings = local_target.model_copy(update={"pool": ms.PoolSettings(max_connections=2)})
        async with AsyncMemoryStorage.open(settings) as storage:

            async def write(text: str) -> None:
                async with storage.transaction() as tx:
                    await tx.episodes.save(_episode(text))

            async with _Holder(storage):
                waiting = [asyncio.create_task(write(str(number))) for number in range(5)]
                await asyncio.sleep(0.05)
                for task in waiting[1:]:
                    task.cancel()
                results = await asyncio.gather(*waiting[1:], return_exceptions=True)
                assert {type(one) for one in results} == {asyncio.CancelledError}
            await waiting[0]
            assert [one.task_description async for one in storage.episodes.iterate()] == ["0"]

    asyncio.run(main())


def test_opening_can_be_cancelled(database):
    async def main():
        task = asyncio.ensure_future(AsyncMemoryStorage.open(database)._open())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with raises(asyncio.CancelledError):
            await task
        async with AsyncMemoryStorage.open(database) as storage:
            assert await storage.episodes.count() == 0

    asyncio.run(main())
