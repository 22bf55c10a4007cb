"""Concurrent scrubs of one file exclude each other, and writers only wait for the lock."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage._files import MaintenanceLock
from memory_storage.doctor import check
from memory_storage.schema.vector_tables import PRESETS, VectorSpace
from tests.durability.processes import PROCESSES, killed, together

ROUNDS = int(os.environ.get("STRESS_SCRUB_ROUNDS", "1"))
KILLS = int(os.environ.get("STRESS_SCRUB_KILLS", "2"))
DIMENSION = 16
FEW = 60  # vectors: with more, the workers have an index


def _settings(database: Path, **fields: Any) -> ms.Settings:
    return ms.Settings(database=str(database), vector_index="diskann", **fields)


def _vector() -> list[float]:
    return [random.gauss(0, 1) for _ in range(DIMENSION)]


def _with_small_indexes() -> None:
    """Have a model's vectors indexed from `FEW` on, in this process."""
    from memory_storage.models import embedding
    from memory_storage.search import vector_sql

    vector_sql.EXACT_SCAN_MAX = embedding.EXACT_SCAN_MAX = FEW


def _put(storage: ms.MemoryStorage, count: int, model: str = "m") -> list[ms.Episode]:
    episodes = storage.episodes.save_many([ms.Episode(task_description=f"task {n}") for n in range(count)])
    storage.embeddings.put_many([("episode", one.id, _vector()) for one in episodes], model=model)
    return episodes


def _scrub(barrier: Any, database: Path, times: int) -> list[bool]:
    _with_small_indexes()
    with ms.MemoryStorage.open(_settings(database)) as storage:
        barrier.wait(60)
        return [storage.scrub().complete for _ in range(times)]


def _write(barrier: Any, database: Path, times: int) -> list[bool]:
    _with_small_indexes()
    with ms.MemoryStorage.open(_settings(database)) as storage:
        barrier.wait(60)
        for number in range(8 * times):
            first, *_ = _put(storage, 5, model=f"model {number % (2 * times)}")
            storage.episodes.similar_to(_vector(), model="m", k=3)
            storage.forget(episode=first.id, scrub=False)
        return [True]


def _schema(database: Path) -> set[tuple[str, str]]:
    with ms.MemoryStorage.open(_settings(database)) as storage, storage.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'vectors!_%'ESCAPE'!'"
        )
        return {(kind, name) for kind, name in rows if not name.startswith("libsql_")}


def _indexed_models(database: Path) -> tuple[set[str], set[str]]:
    """The vector indexes that the models ask for, and those that there are."""
    with ms.MemoryStorage.open(_settings(database)) as storage, storage.engine.connect() as connection:
        wanted = {VectorSpace(model.name).index for model in storage.embeddings.index.status()}
        sql = "SELECT name FROM sqlite_master WHERE sql LIKE '%libsql_vector_idx%'"
        return wanted, set(connection.exec_driver_sql(sql).scalars())


@pytest.mark.parametrize("number", range(ROUNDS))
def test_four_processes_scrub_while_two_write(database, number):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        _put(storage, FEW + 20)
    before = _schema(database)

    together(_work, [(database, _scrub)] * 4 + [(database, _write)] * 2, timeout=300)

    report = check(_settings(database))
    assert report.findings == []
    assert _schema(database) >= before
    wanted, present = _indexed_models(database)
    assert present == wanted
    assert not list(database.parent.glob("*-lock"))


def _work(barrier: Any, database: Path, work: Any) -> list[bool]:
    return work(barrier, database, 2)  # type: ignore[no-any-return]


def test_vector_ddl_after_another_vacuum_sees_the_new_schema(database):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        _put(storage, 50)
    # In a process of its own: with the old schema it ends by SIGSEGV, or drops another index than its own.
    child = PROCESSES.Process(target=_empty_after_a_vacuum, args=(database,))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert check(_settings(database)).findings == []


def _empty_after_a_vacuum(database: Path) -> None:
    from memory_storage.dbapi import BatchStep

    with ms.MemoryStorage.open(_settings(database)) as storage:
        storage.embeddings.index.status()
        program = "import sys, memory_storage as ms; ms.MemoryStorage.open(sys.argv[1]).scrub()"
        subprocess.run([sys.executable, "-c", program, database], check=True, timeout=120)
        steps = [BatchStep(sql) for sql in VectorSpace("m").empty_index(PRESETS["balanced"])]
        storage._session.write(steps)


def test_a_second_scrub_says_that_another_one_is_running(database):
    settings = _settings(database, request_timeout=0.3)
    with ms.MemoryStorage.open(settings) as storage:
        episode = _put(storage, 3)[0]
        with MaintenanceLock(database).exclusive(1):
            with pytest.raises(ms.UnavailableError) as raised:
                storage.scrub()
            assert raised.value.code == "MAINTENANCE"
            forgotten = storage.forget(episode=episode.id)
            assert not forgotten.scrubbed
            assert "another process or thread scrubs" in forgotten.why
            with pytest.raises(ms.UnavailableError) as raised:
                storage.embeddings.index.rebuild("m")
            assert raised.value.code == "MAINTENANCE"
        assert storage.scrub().complete


def test_no_index_is_created_during_a_scrub(database):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        _put(storage, 3)
        index = storage.embeddings.index
        with MaintenanceLock(database).exclusive(1):
            index.drop_all()
            with ms.MemoryStorage.open(_settings(database)) as other:  # repairs what is missing, but now
                _put(other, 3, model="new")
                with other.transaction() as tx:
                    _put(tx, 3, model="newer")
            assert _vector_indexes(storage) == 0
            index.recreate_all()
        assert _vector_indexes(storage) == 3
        assert check(_settings(database)).findings == []


def test_a_transaction_that_adds_a_model_delays_a_scrub(database):
    settings = _settings(database, request_timeout=0.3)
    with ms.MemoryStorage.open(settings) as storage:
        with storage.transaction() as tx:
            _put(tx, 3, model="new")
            with pytest.raises(ms.UnavailableError) as raised, MaintenanceLock(database).exclusive(0.1):
                pass
            assert raised.value.code == "MAINTENANCE"
        with MaintenanceLock(database).exclusive(0.1):
            pass
        assert _vector_indexes(storage) == 1


def _vector_indexes(storage: ms.MemoryStorage) -> int:
    with storage.engine.connect() as connection:
        sql = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%libsql_vector_idx%'"
        return int(connection.exec_driver_sql(sql).scalar_one())


def _scrub_for_ever(sender: Any, database: Path) -> None:
    _with_small_indexes()
    with ms.MemoryStorage.open(_settings(database)) as storage:
        sender.send_bytes(b"begun")
        while True:
            storage.scrub()


def test_a_scrub_that_is_killed_loses_no_index(database):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        _put(storage, FEW + 20)
    before = _schema(database)
    for _ in range(KILLS):
        killed(_scrub_for_ever, database, after=random.uniform(0, 0.3), from_first_byte=True)
        assert _schema(database) >= before
        wanted, present = _indexed_models(database)
        assert present == wanted
        assert check(_settings(database)).findings == []
    with ms.MemoryStorage.open(_settings(database)) as storage:
        assert storage.scrub().complete
    assert not list(database.parent.glob("*-lock"))


def test_the_next_write_recreates_an_index_lost_by_a_scrub(database):
    with ms.MemoryStorage.open(_settings(database)) as storage:
        _put(storage, FEW + 20)
    child = PROCESSES.Process(target=_write_without_an_index, args=(database,))
    child.start()
    child.join(120)
    assert child.exitcode == 0


def _write_without_an_index(database: Path) -> None:
    _with_small_indexes()
    with ms.MemoryStorage.open(_settings(database)) as storage:
        storage.embeddings.index.drop_all()  # by another process, which is then killed
        _put(storage, 3)
        assert storage.embeddings.index.status()[0].pending == 0
        assert storage.embeddings.index.verify("m").is_healthy


def test_the_lock_is_free_when_its_holder_is_killed(database):
    killed(_hold, database, after=0.05, from_first_byte=True)
    with MaintenanceLock(database).exclusive(0.0):
        pass
    assert not list(database.parent.glob("*-lock"))


def test_a_child_process_does_not_prolong_the_lock(database):
    lock = MaintenanceLock(database)
    with lock.exclusive(0.0):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with lock.exclusive(0.0):
            pass
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _hold(sender: Any, database: Path) -> None:
    with MaintenanceLock(database).exclusive(1):
        sender.send_bytes(b"held")
        time.sleep(60)
