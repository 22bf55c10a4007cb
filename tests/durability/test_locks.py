"""Waiting for the lock of another process and for a connection of the pool; closing while others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import memory_storage as ms
from tests.checks import assert_consistent

from .processes import PROCESSES
from .work import hold_the_lock


@contextmanager
def _locked_for(path: Path, seconds: float) -> Iterator[None]:
    """Another process holds the write lock."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=hold_the_lock, args=(sender, path, seconds))
    child.start()
    with receiver, sender:
        assert receiver.poll(60)
        yield
    child.kill()
    child.join()
    child.close()


def _open(path: Path, request_timeout: float) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(ms.Settings(database=str(path), request_timeout=request_timeout))


def test_a_lock_that_is_held_for_too_long_is_unavailable_in_time(database: Path):
    with _open(database, 0.5) as storage:
        storage.episodes.save(ms.Episode(task_description="before"))
        with _locked_for(database, 60):
            began = time.monotonic()
            with pytest.raises(ms.UnavailableError, match="request_timeout") as caught:
                storage.episodes.save(ms.Episode(task_description="too late"))
            assert 0.45 <= time.monotonic() - began < 30
            assert caught.value.code == "SQLITE_BUSY"
            assert storage.episodes.count() == 1, "readers do not wait"
        assert storage.episodes.save(ms.Episode(task_description="after")).version == 1
        assert_consistent(storage.engine)


def test_a_transaction_meets_the_lock_at_its_first_statement(database: Path):
    with _open(database, 0.2) as storage, _locked_for(database, 60):
        with pytest.raises(ms.UnavailableError) as caught, storage.transaction() as tx:
            tx.episodes.count()
        assert caught.value.code == "SQLITE_BUSY"


def test_a_lock_that_is_released_in_time_is_waited_for(database: Path):
    with _open(database, 20) as storage, _locked_for(database, 0.3):
        assert storage.episodes.save(ms.Episode(task_description="patient")).version == 1


def test_run_repeats_the_work_while_the_lock_is_held(database: Path):
    with _open(database, 0.1) as storage, _locked_for(database, 2):
        attempts = []

        def work(tx: ms.Transaction) -> ms.Episode:
            attempts.append(1)
            return tx.episodes.save(ms.Episode(task_description="again"))

        settings = ms.RetrySettings(max_attempts=50, initial_backoff=0.01)
        patient = ms.MemoryStorage(storage.engine, storage.settings.model_copy(update={"retry": settings}))
        assert patient.run(work).version == 1
        assert len(attempts) > 1


@pytest.mark.slow
def test_other_threads_go_on_while_one_waits_for_a_lock(database: Path):
    with _open(database, 3) as storage, _locked_for(database, 60), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(storage.episodes.save, ms.Episode(task_description="waits"))
        ticks, longest, last = 0, 0.0, time.monotonic()
        while not waiting.done():
            time.sleep(0.001)
            storage.episodes.count()
            ticks, longest, last = ticks + 1, max(longest, time.monotonic() - last), time.monotonic()
        assert isinstance(waiting.exception(), ms.UnavailableError)
    assert ticks > 20
    assert longest < 2


def test_a_pool_that_is_used_up_names_its_setting(database: Path):
    pool = ms.PoolSettings(max_connections=1, connect_timeout=0.1)
    with ms.MemoryStorage.open(ms.Settings(database=str(database), pool=pool)) as storage:
        with storage.transaction() as tx:
            tx.episodes.count()
            with pytest.raises(ms.PoolTimeoutError, match=r"pool\.max_connections.*pool\.connect_timeout"):
                storage.episodes.count()
        assert storage.episodes.count() == 0


def test_closing_while_others_work_gives_them_typed_errors_only(storage: ms.MemoryStorage):
    started = threading.Barrier(5)

    def work(_: int) -> list[BaseException]:
        started.wait()
        failures: list[BaseException] = []
        until = time.monotonic() + 0.5
        while time.monotonic() < until and len(failures) < 100:
            try:
                storage.episodes.save(ms.Episode(task_description="while it is closed"))
                with storage.transaction() as tx:
                    tx.episodes.count()
            except BaseException as error:  # noqa: BLE001 - of every kind: that is the question
                failures.append(error)
        return failures

    with ThreadPoolExecutor(4) as threads:
        done = threads.map(work, range(4))
        started.wait()
        for _ in range(5):
            time.sleep(0.05)
            storage.close()
    failures = [error for errors in done for error in errors]
    assert [error for error in failures if not isinstance(error, ms.MemoryStorageError)] == []
