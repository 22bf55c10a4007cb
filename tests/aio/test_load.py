"""A thousand tasks that save, recall and are cancelled: nothing half, nothing lost, and the loop is never blocked."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections import Counter
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage

from .heartbeat import Heartbeat, heartbeat

STEPS = 5
BLOCKED_MS = 5.0


def _episode(number: int) -> ms.Episode:
    steps = [ms.Step(tool=f"tool {one}", action="run", result=ms.StepOk(output="x" * 100)) for one in range(STEPS)]
    return ms.Episode(task_description=f"Fix the flaky token refresh {number}", steps=steps)


class _Crowd:
    """Tasks that save an episode, alone or in a transaction of two, and then read."""

    def __init__(self, storage: AsyncMemoryStorage, tasks: int) -> None:
        self._storage, self._random = storage, random.Random(4)
        # Made before the measurement: the models are the caller's work on the loop.
        self.episodes = [_episode(number) for number in range(2 * tasks)]
        self.pairs = [self.episodes[2 * number : 2 * number + 2] for number in range(tasks)]
        self.acknowledged: set[UUID] = set()

    async def run(self) -> Counter[str]:
        """Run all tasks, cancel half of them at random moments, and return how many ended in which way."""
        tasks = []
        for number, pair in enumerate(self.pairs):
            tasks.append(asyncio.create_task(self._one(number, pair)))
            if number % 5 == 0:
                await asyncio.sleep(0)
        victims = self._random.sample(tasks, len(tasks) // 2)
        for victim in victims:
            await asyncio.sleep(0.002)
            victim.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return Counter(type(one).__name__ for one in results)

    async def _one(self, number: int, pair: list[ms.Episode]) -> None:
        if number % 4 == 0:
            async with self._storage.transaction() as tx:
                await tx.episodes.save(pair[0])
                await tx.episodes.save(pair[1])
            self.acknowledged |= {pair[0].id, pair[1].id}
        else:
            await self._storage.episodes.save(pair[0])
            self.acknowledged.add(pair[0].id)
        await self._storage.episodes.search(f"refresh {number}", k=3)
        await self._storage.episodes.query(limit=3)

    async def check(self) -> None:
        """Assert that what was acknowledged is stored, and what is stored is complete."""
        stored = {one.id: one async for one in self._storage.episodes.iterate()}
        assert self.acknowledged <= stored.keys()
        assert {len(one.steps) for one in stored.values()} <= {STEPS}
        for number, pair in enumerate(self.pairs):
            if number % 4 == 0:
                assert len({one.id in stored for one in pair}) == 1, "half of a transaction is stored"


async def _crowded(target: str | ms.Settings, tasks: int) -> tuple[Heartbeat, Heartbeat]:
    async with AsyncMemoryStorage.open(target) as storage:
        async with heartbeat() as idle:
            await asyncio.sleep(0.5)
        crowd = _Crowd(storage, tasks)
        # A collection of all objects stops every thread; a long-running program freezes those of its start, too.
        gc.collect()
        gc.freeze()
        try:
            async with heartbeat() as busy:
                ends = await crowd.run()
        finally:
            gc.unfreeze()
        await crowd.check()
        assert storage._storage.pool_stats().active == 0
    assert set(ends) <= {"NoneType", "CancelledError"}, ends
    assert ends["CancelledError"] >= tasks // 10
    print(f"{tasks} tasks, {ends['CancelledError']} cancelled\nidle: {idle}\nbusy: {busy}")
    return idle, busy


def test_the_heartbeat_sees_what_blocks_the_loop():
    async def main() -> Heartbeat:
        async with heartbeat() as measured:
            for _ in range(10):
                await asyncio.sleep(0.002)
                time.sleep(0.02)
        return measured

    measured = asyncio.run(main())
    assert measured.share(0.8, measured.blocked) >= 15


def test_a_hundred_tasks_save_and_are_cancelled():
    asyncio.run(_crowded(":memory:", 100))


def _blocked(target: str | ms.Settings, tasks: int) -> float:
    """Return for how many milliseconds the loop is blocked at p99, beyond what it is late with nothing to do.

    Of three times the best one, unless the first is good enough: other programs only ever add to it.
    """
    best = float("inf")
    for _ in range(3):
        idle, busy = asyncio.run(_crowded(target, tasks))
        best = min(best, busy.share(0.99, busy.blocked) - idle.share(0.99, idle.late))
        if best <= BLOCKED_MS:
            break
    return best


@pytest.mark.slow
def test_a_thousand_tasks_on_a_file_do_not_block_the_loop(migrated_file):
    assert _blocked(str(migrated_file), 1_000) <= BLOCKED_MS


@pytest.mark.slow
def test_tasks_on_a_server_do_not_block_the_loop(migrated_server_url):
    # More threads than for a file compete for the interpreter: measured are 5.0 to 6.1 ms, and with an interval of 1 ms
    # (as the guide recommends) 1.5 to 4.5. More is allowed, since other tests run at the same time.
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        assert _blocked(migrated_server_url, 300) <= 2 * BLOCKED_MS
    finally:
        sys.setswitchinterval(before)
