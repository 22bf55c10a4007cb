"""The pool's figures."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import memory_storage as ms
from memory_storage import pool


def test_connections_in_use_idle_and_waited_for(target: str):
    settings = ms.Settings(database=target, pool={"max_connections": 1, "connect_timeout": 0.05})
    with ms.MemoryStorage.open(settings) as storage:
        before = storage.pool_stats()
        assert (before.size, before.active, before.waits, before.timeouts, before.overflow) == (1, 0, 0, 0, 0)
        storage.episodes.count()
        assert storage.pool_stats().total_acquired == before.total_acquired + 1
        assert (storage.pool_stats().active, storage.pool_stats().idle) == (0, 1)
        with storage.snapshot() as view:
            view.episodes.count()
            assert (storage.pool_stats().active, storage.pool_stats().idle) == (1, 0)
            with pytest.raises(ms.PoolTimeoutError):
                storage.episodes.count()
        found = storage.pool_stats()
        assert (found.waits, found.timeouts, found.total_acquired) == (1, 1, before.total_acquired + 2)
        assert found.wait_seconds >= 0.05


def test_a_wait_that_ends_well_is_no_timeout(database):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), pool={"max_connections": 1})) as storage:
        view = storage.snapshot()
        view.__enter__()
        waiting = threading.Thread(target=storage.episodes.count)
        waiting.start()
        while not storage.engine.pool._pool.not_empty._waiters:  # the thread is not waiting yet
            time.sleep(0.001)
        time.sleep(0.06)
        view.__exit__(None, None, None)
        waiting.join()
        assert (storage.pool_stats().waits, storage.pool_stats().timeouts) == (1, 0)
        assert storage.pool_stats().wait_seconds > 0.05


def test_the_counters_survive_a_new_pool(database):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.count()
        before = storage.pool_stats()
        storage.engine.dispose()
        storage.episodes.count()
        assert storage.pool_stats().total_acquired == before.total_acquired + 1


def test_a_pool_of_the_callers_own_tells_what_it_knows(database):
    ms.MemoryStorage.open(database).close()
    engine = create_engine(f"libsql:///{database}")
    storage = ms.MemoryStorage(engine, ms.Settings(database=str(database)))
    storage.episodes.count()
    assert (storage.pool_stats().active, storage.pool_stats().idle, storage.pool_stats().total_acquired) == (0, 1, 0)
    engine.dispose()
    engine = create_engine(f"libsql:///{database}", poolclass=NullPool)
    assert pool.stats(engine) == ms.models.PoolStats(size=0, active=0, idle=0)
