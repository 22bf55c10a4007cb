"""For every fault of the file, each call names it with a remedy, and causes no further damage."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.doctor import check
from tests.checks import assert_consistent
from tests.raising import raises

from .processes import PROCESSES, together
from .test_full_disk import _no_room
from .work import hold_the_lock, open_as_nobody


def _episode() -> ms.Episode:
    return ms.Episode(task_description="kept", steps=[ms.Step(tool="t", action="word " * 2_000)])


def _store(path: Path, number: int = 3) -> None:
    with ms.MemoryStorage.open(path) as storage:
        for _ in range(number):
            storage.episodes.save(_episode())


def _error(kind: type[BaseException], call: Callable[[], Any], **facts: str) -> BaseException:
    with raises(kind, **facts) as caught:
        call()
    return caught.value


CALLS: dict[str, Callable[[ms.MemoryStorage], Any]] = {
    "read": lambda storage: storage.episodes.count(),
    "write": lambda storage: storage.episodes.save(_episode()),
    "transaction": lambda storage: storage.run(lambda tx: tx.episodes.save(_episode())),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_file_removed_while_open_accepts_no_more_writes(database, call):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(_episode())
        kept = database.with_name("kept.db")
        database.rename(kept)
        for _ in range(3):
            error = _error(ms.UnavailableError, lambda: call(storage), code="FILE_GONE")
            assert str(error).startswith(f"{database}: the file was removed while it was open: nothing of this call")
            assert "close the storage, and open it again" in str(error)
            assert not database.exists()
        kept.rename(database)  # a backup program had moved it
        assert storage.episodes.count() == 1
        storage.episodes.save(_episode())
        assert_consistent(storage.engine)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_replaced_file_receives_no_writes_of_the_old_one(database, tmp_path, call):
    other = tmp_path / "other.db"
    _store(other, number=5)
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(_episode())
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink()
        other.replace(database)
        before = database.read_bytes()
        error = _error(ms.UnavailableError, lambda: call(storage), code="FILE_GONE")
        assert str(error).startswith(f"{database}: the file was replaced by another one while it was open")
        error = _error(ms.UnavailableError, lambda: ms.MemoryStorage.open(database), code="FILE_GONE")
        assert "replaced" in str(error)
    assert database.read_bytes() == before
    with ms.MemoryStorage.open(database) as again:
        assert again.episodes.count() == 5
        assert_consistent(again.engine)


def test_a_transaction_on_a_removed_file_is_not_committed(database):
    with ms.MemoryStorage.open(database) as storage:

        def work() -> None:
            with storage.transaction() as tx:
                tx.episodes.save(_episode())
                database.rename(database.with_name("gone.db"))

        assert "the file was removed" in str(_error(ms.UnavailableError, work, code="FILE_GONE"))
    shutil.copy(database.with_name("gone.db"), database)
    with ms.MemoryStorage.open(database) as again:
        assert again.episodes.count() == 0


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def _noise(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + random.Random(7).randbytes(len(content) - 8192))


@pytest.mark.parametrize("damage", [_truncate, _noise])
def test_every_call_that_meets_damage_names_the_file(database, damage):
    _store(database)
    damage(database)
    before = database.read_bytes()
    errors = []
    for call in CALLS.values():
        try:
            with ms.MemoryStorage.open(database) as storage:
                call(storage)
        except ms.MemoryStorageError as error:
            errors.append(error)
    assert errors
    for error in errors:
        assert isinstance(error, ms.CorruptDataError)
        assert str(error).startswith(f"{database}: ")
        assert "restore it from a backup" in str(error)
    assert database.read_bytes() == before


@pytest.mark.slow
def test_a_file_locked_by_another_process_is_named(database):
    _store(database)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=hold_the_lock, args=(sender, database, 10))
    child.start()
    try:
        assert receiver.recv_bytes() == b"locked"
        settings = ms.Settings(database=str(database), request_timeout=0.3, retry=ms.RetrySettings(max_attempts=1))
        with ms.MemoryStorage.open(settings) as impatient:
            error = _error(ms.UnavailableError, lambda: impatient.episodes.save(_episode()), code="SQLITE_BUSY")
            assert str(error).startswith(f"{database}: database is locked")
            assert "request_timeout" in str(error)
            assert impatient.episodes.count() == 3  # readers do not wait
        with ms.MemoryStorage.open(database) as patient:  # 30 s by default
            patient.episodes.save(_episode())
            assert patient.episodes.count() == 4
            assert_consistent(patient.engine)
    finally:
        child.kill()
        child.join()


def test_a_full_disk_is_named(database):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(_episode())
        with _no_room(storage):
            episodes = [_episode() for _ in range(50)]
            error = _error(ms.UnavailableError, lambda: storage.episodes.save_many(episodes), code="SQLITE_FULL")
        assert str(error).startswith(f"{database}: ")
        assert "free some space" in str(error)
        assert storage.episodes.count() == 1
        assert_consistent(storage.engine)
    assert check(storage.settings).is_healthy


def test_a_directory_is_named(tmp_path):
    error = _error(ms.ConfigurationError, lambda: ms.MemoryStorage.open(tmp_path))
    assert str(tmp_path) in str(error)
    assert "it is a directory: name a file in it" in str(error)
    assert os.listdir(tmp_path) == []


def test_another_programs_file_is_named(database):
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE users (name TEXT)")
    other.close()
    before = database.read_bytes()
    error = _error(ms.SchemaError, lambda: ms.MemoryStorage.open(database))
    assert str(error).startswith(f"{database}: ")
    assert "choose another one" in str(error)
    assert database.read_bytes() == before


@pytest.mark.parametrize("locked_out", ["the file and its directory", "the file"])
def test_what_may_not_be_written_or_read_is_named(tmp_path, locked_out):
    place = Path(tmp_path.anchor) / "tmp" / f"memory-storage-{os.getpid()}-{random.SystemRandom().randrange(10**9)}"
    place.mkdir(mode=0o755)
    try:
        database = place / "memory.db"
        _store(database)
        before = database.read_bytes()
        database.chmod(0o444 if locked_out.endswith("directory") else 0o000)
        place.chmod(0o555 if locked_out.endswith("directory") else 0o755)
        ((_, message),) = together(open_as_nobody, [(database,)])
        assert str(database) in message
        assert "writable" in message or "check the path and its permissions" in message
        place.chmod(0o755)
        assert database.read_bytes() == before
    finally:
        place.chmod(0o755)
        shutil.rmtree(place)
