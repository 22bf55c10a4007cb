"""The pool: holders of connections, and the closing of idle ones, on a file and on a server."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
from sqlalchemy import Engine

import memory_storage as ms
from memory_storage import dbapi, pool
from memory_storage.engine import make_engine


@pytest.fixture(params=["file", "server"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("database" if request.param == "file" else "migrated_server_url"))


def _settings(target: str, **values: object) -> ms.Settings:
    return ms.Settings(database=target, pool=ms.PoolSettings(**values))


def _open(engine: Engine) -> int:
    """How many of the pool's connections can be used at once."""
    return sum(record.dbapi_connection.usable for record in list(engine.pool._pool.queue) if record.dbapi_connection)


def _eventually(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _used_by(engine: Engine, threads: int) -> None:
    """Fill the pool with a number of idle connections."""
    connections = [engine.connect() for _ in range(threads)]
    for connection in connections:
        connection.exec_driver_sql("SELECT 1").all()
        connection.close()


def test_an_exhausted_pool_lists_holders_and_operations(target):
    with ms.MemoryStorage.open(_settings(target, max_connections=2, connect_timeout=0.2)) as storage:
        ready, release = threading.Barrier(3), threading.Event()

        def hold() -> None:
            with storage.snapshot() as view:
                view.episodes.count()
                ready.wait()
                release.wait()

        threads = [threading.Thread(target=hold, name=f"holder-{number}") for number in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        try:
            with pytest.raises(ms.PoolTimeoutError, match=r"holder-\d for \d+\.\d s, 'SELECT count") as caught:
                storage.episodes.count()
            with pytest.raises(ms.PoolTimeoutError, match=r"holder-\d for"), storage.transaction():
                pass
        finally:
            release.set()
            for thread in threads:
                thread.join()
        assert sorted(holder.thread for holder in caught.value.holders) == ["holder-0", "holder-1"]
        assert all(0 <= holder.seconds < 60 for holder in caught.value.holders)
        assert pool.holders(storage.engine) == []
        assert storage.episodes.count() == 0


def test_idle_connections_are_closed_and_replaced_on_demand(target):
    engine = make_engine(_settings(target, idle_timeout=0.2))
    _used_by(engine, 3)
    assert _open(engine) == 3
    _eventually(lambda: _open(engine) == 0)
    _used_by(engine, 3)
    assert _open(engine) == 3
    engine.dispose()


def test_the_configured_idle_connections_stay_open(target):
    engine = make_engine(_settings(target, idle_timeout=0.05, min_idle=2))
    _used_by(engine, 4)
    _eventually(lambda: _open(engine) == 2)
    time.sleep(0.2)
    assert _open(engine) == 2
    engine.dispose()


def test_fewer_than_may_stay_all_stay(target):
    engine = make_engine(_settings(target, idle_timeout=0.05, min_idle=5))
    _used_by(engine, 3)
    time.sleep(0.3)
    _used_by(engine, 1)
    assert _open(engine) == 3
    engine.dispose()


def test_a_connection_in_use_is_not_closed_however_long_it_takes(target):
    engine = make_engine(_settings(target, idle_timeout=0.05))
    with engine.connect() as connection:
        _used_by(engine, 1)
        time.sleep(0.3)
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()


def test_no_thread_gets_a_connection_that_is_being_closed(target):
    with ms.MemoryStorage.open(_settings(target, max_connections=4, idle_timeout=0.005)) as storage:
        failures = []

        def read() -> None:
            for number in range(60):
                try:
                    storage.episodes.count()
                except ms.MemoryStorageError as error:
                    failures.append(error)
                time.sleep(0.004 + number % 3 / 1000)

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert storage.engine.pool.checkedout() == 0


def test_a_closed_storage_leaves_no_thread_behind(target):
    before = set(threading.enumerate())
    with ms.MemoryStorage.open(target) as storage:
        storage.episodes.count()
    _eventually(lambda: set(threading.enumerate()) <= before)


def test_a_dropped_storage_leaves_no_thread_and_no_connection(target):
    before = set(threading.enumerate())
    storage = ms.MemoryStorage.open(target)
    storage.episodes.save(ms.Episode(task_description="kept"))
    _used_by(storage.engine, 3)
    gone = [weakref.ref(storage), weakref.ref(storage.engine)]
    del storage
    gc.collect()
    assert [one() for one in gone] == [None, None]
    assert not dbapi.is_open_here(target)
    _eventually(lambda: set(threading.enumerate()) <= before)
    with ms.MemoryStorage.open(target) as again:
        assert again.episodes.count() == 1


def test_many_storages_share_one_thread(target):
    before = set(threading.enumerate())
    storages = [ms.MemoryStorage.open(_settings(target, idle_timeout=600)) for _ in range(5)]
    for storage in storages:
        storage.episodes.count()
    # By its name: a storage that another test has left to the garbage collector may keep it running.
    assert [thread.name for thread in threading.enumerate()].count("memory-storage pool") == 1
    for storage in storages:
        storage.close()
    _eventually(lambda: set(threading.enumerate()) <= before)


def test_the_thread_serves_a_short_and_a_long_timeout(target):
    long, short = (make_engine(_settings(target, idle_timeout=seconds)) for seconds in (600, 0.1))
    _used_by(long, 1)
    _used_by(short, 2)
    _eventually(lambda: _open(short) == 0)
    assert _open(long) == 1
    long.dispose()
    short.dispose()


@pytest.mark.parametrize("collects", [True, False])
def test_an_abandoned_transaction_is_rolled_back(storage: ms.MemoryStorage, collects: bool):
    abandoned = storage.transaction()
    abandoned.__enter__()
    abandoned.episodes.save(ms.Episode(task_description="never committed"))
    with pytest.raises(ms.UnavailableError, match="this thread already has an open transaction"):
        storage.episodes.save(ms.Episode(task_description="while it is open"))
    del abandoned
    if collects:
        gc.collect()
        assert storage.engine.pool.checkedout() == 0
    storage.episodes.save(ms.Episode(task_description="afterwards"))
    assert [one.task_description for one in storage.episodes.iterate()] == ["afterwards"]
    with storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description="in another one"))
    assert storage.episodes.count() == 2


def test_an_abandoned_transaction_holds_up_no_maintenance(database):
    with ms.MemoryStorage.open(_settings(str(database))) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="kept"))
        abandoned = storage.transaction()
        abandoned.__enter__()
        abandoned.embeddings.put("episode", episode.id, [1.0, 0.0], model="m")
        del abandoned
        gc.collect()
        assert storage.scrub().complete
        assert not database.with_name("memory.db-lock").exists()


def test_an_abandoned_snapshot_in_memory_gives_its_turn_back():
    with ms.MemoryStorage.open(":memory:") as storage:
        view = storage.snapshot()
        view.__enter__()
        assert view.episodes.count() == 0
        del view
        assert storage.episodes.count() == 0


def test_min_idle_connections_are_opened_ahead(target):
    with ms.MemoryStorage.open(_settings(target, max_connections=6, min_idle=5)) as storage:
        assert _open(storage.engine) == storage.pool_stats().idle == 5
        assert storage.pool_stats().active == 0
        with storage.transaction() as tx:
            tx.episodes.count()
            assert (storage.pool_stats().active, storage.pool_stats().idle) == (1, 4)


def test_idle_counts_open_connections(target):
    with ms.MemoryStorage.open(_settings(target, idle_timeout=0.1, min_idle=1)) as storage:
        _used_by(storage.engine, 4)
        assert storage.pool_stats().idle == 4
        _eventually(lambda: _open(storage.engine) == 1)
        assert storage.pool_stats().idle == 1
        storage.episodes.count()
        assert storage.pool_stats().idle == 1
