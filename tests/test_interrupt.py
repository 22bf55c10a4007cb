"""Calls on a file or in memory end at request_timeout and by storage.interrupt(); nothing of them is stored."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.dbapi._engines import DEFAULT
from tests.raising import raises

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


def _settings(database: Path | str, **more: object) -> ms.Settings:
    return ms.Settings(database=str(database), local_engine="sqlite", **more)


@pytest.fixture(params=["file", "memory"])
def storage(request, database):
    target = database if request.param == "file" else ":memory:"
    with ms.MemoryStorage.open(_settings(target, request_timeout=0.3)) as storage:
        yield storage


def _endless(storage: ms.MemoryStorage) -> None:
    with storage.snapshot() as view:
        view.execute([(ENDLESS, [])])


def _endless_write(storage: ms.MemoryStorage) -> None:
    with storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description="lost"))
        tx.execute([(f"UPDATE episodes SET reward = ({ENDLESS})", [])])


@pytest.mark.parametrize("call", [_endless, _endless_write])
def test_a_call_ends_at_request_timeout_and_stores_nothing(storage, call):
    since = time.monotonic()
    with raises(ms.RequestTimeoutError, code="STATEMENT_TIMEOUT", match="request_timeout"):
        call(storage)
    assert 0.3 <= time.monotonic() - since < 5
    assert storage.episodes.count() == 0
    storage.episodes.save(ms.Episode(task_description="kept"))
    assert storage.circuit_breaker_status().state == "closed"


@pytest.mark.parametrize("call", [_endless, _endless_write])
def test_a_call_is_interrupted_from_another_thread(database, call):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        stopped: list[int] = []
        timer = threading.Timer(0.2, lambda: stopped.append(storage.in_namespace("other").interrupt()))
        timer.start()
        with raises(ms.UnavailableError, code="SQLITE_INTERRUPT", match="nothing of this call was stored"):
            call(storage)
        timer.join()
        assert stopped == [1]
        assert storage.interrupt() == 0
        assert storage.episodes.count() == 0
        assert storage.metrics()["transaction" if call is _endless_write else "snapshot"].retries == 0


def test_all_calls_of_all_threads_are_interrupted(database):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        errors: list[BaseException] = []

        def search() -> None:
            try:
                _endless(storage)
            except ms.MemoryStorageError as error:
                errors.append(error)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        stopped = 0
        until = time.monotonic() + 20
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
            stopped += storage.interrupt()
            time.sleep(0.01)
        for thread in threads:
            thread.join()
        assert [getattr(error, "code", "") for error in errors] == ["SQLITE_INTERRUPT"] * 4
        assert stopped >= 4


def test_repr_and_health_name_the_engine(database):
    for engine in ("sqlite", "libsql"):
        with ms.MemoryStorage.open(ms.Settings(database=str(database), local_engine=engine)) as storage:
            assert storage.local_engine == storage.health_check().local_engine == engine
            assert f"local_engine='{engine}'" in repr(storage)
    assert storage.local_engine is None
    assert "local_engine" not in repr(storage)


def test_diskann_and_sqlite_contradict_each_other():
    with raises(ms.ConfigurationError, match="local_engine: sqlite has no DiskANN"):
        ms.Settings(database="memory.db", local_engine="sqlite", vector_index="diskann")


@pytest.mark.slow
def test_a_file_with_diskann_needs_libsql_until_its_index_is_dropped(database):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        episodes = storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(30)])
        storage.embeddings.put_many([("episode", one.id, [n + 1.0, 1.0]) for n, one in enumerate(episodes)], model="m")
        assert storage.local_engine == "libsql"
        expected = [hit.item.id for hit in storage.episodes.similar_to([3.0, 1.0], model="m", k=5)]
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        assert storage.local_engine == "libsql"
    refused = _without_libsql("search", "e", "-d", str(database))
    assert refused.returncode != 0
    assert "needs" in refused.stderr or "libsql" in refused.stderr
    assert "index use hnsw" in refused.stderr
    used = _without_libsql("index", "use", "exact", "-d", str(database))
    assert used.returncode == 0, used.stderr
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="exact")) as storage:
        assert storage.local_engine == DEFAULT
        assert [hit.item.id for hit in storage.episodes.similar_to([3.0, 1.0], model="m", k=5)] == expected
        assert storage.health_check(deep=True).is_healthy


def _without_libsql(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; sys.modules['libsql_experimental'] = None; from memory_storage.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env={**os.environ}, check=False
    )
