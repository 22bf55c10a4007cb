"""A server that is killed and started again, with threads that read and write: no call fails, nothing is done twice.

MEMORY_STORAGE_TEST_RESTARTS is how many restarts there are; default 2.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.testing import Sqld

RESTARTS = int(os.environ.get("MEMORY_STORAGE_TEST_RESTARTS", "2"))


def _save(storage: ms.MemoryStorage, pattern: UUID) -> None:
    storage.episodes.save(ms.Episode(task_description="written once"))


def _query(storage: ms.MemoryStorage, pattern: UUID) -> None:
    storage.episodes.query(limit=5)


def _apply(storage: ms.MemoryStorage, pattern: UUID) -> None:
    storage.patterns.record_application(pattern, success=True)


def _run(storage: ms.MemoryStorage, pattern: UUID) -> None:
    def work(tx: ms.Transaction) -> None:
        tx.episodes.count()
        tx.patterns.record_application(pattern, success=False)

    storage.run(work)


WORK = (_save, _query, _apply, _run)


class Worker:
    """Does one call after the other, and counts them by their kind."""

    def __init__(self, storage: ms.MemoryStorage) -> None:
        self.storage = storage
        self.pattern = storage.patterns.save(ms.Heuristic(condition="if", action="then")).id
        self.done = dict.fromkeys(WORK, 0)

    def work(self, over: threading.Event) -> None:
        for number in count():
            if over.is_set():
                return
            kind = WORK[number % len(WORK)]
            kind(self.storage, self.pattern)
            self.done[kind] += 1


@pytest.mark.parametrize(("threads", "away"), [(1, 0.5), (8, 0.3), (16, 1.5)])
def test_no_call_fails_over_restarts_and_no_write_is_doubled(server: Sqld, threads: int, away: float):
    settings = ms.Settings(database=server.url, retry={"max_attempts": 6})
    with ms.MemoryStorage.open(settings) as storage, ThreadPoolExecutor(threads) as pool:
        workers, over = [Worker(storage) for _ in range(threads)], threading.Event()
        jobs = [pool.submit(worker.work, over) for worker in workers]
        try:
            for _ in range(RESTARTS):
                time.sleep(random.uniform(0.2, 0.6))
                server.kill()
                time.sleep(away)
                server.start()
            time.sleep(0.3)
        finally:
            over.set()
        for job in jobs:
            job.result(60)
        assert storage.episodes.count() == sum(worker.done[_save] for worker in workers)
        for worker in workers:
            applied = storage.patterns.get(worker.pattern).effectiveness
            assert applied.success_when_applied == worker.done[_apply]
            assert applied.failure_when_applied == worker.done[_run]
        assert storage.circuit_breaker_status().failure_count == 0


def test_a_storage_opens_while_its_server_restarts(server: Sqld):
    ms.MemoryStorage.open(server.url).close()
    server.kill()
    settings = ms.Settings(database=server.url, retry={"max_attempts": 6})
    with ThreadPoolExecutor(1) as other:
        opening = other.submit(ms.MemoryStorage.open, settings)
        time.sleep(0.3)
        server.start()
        with opening.result(60) as storage:
            assert storage.episodes.count() == 0
            assert storage.metrics()["open"].retries >= 1
