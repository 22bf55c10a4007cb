"""What an encrypted file contains is in no other file in plain, at no time: VACUUM and sorting stay in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.backup import back_up, restore

from .processes import PROCESSES
from .work import settings_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches the descriptors of a process in /proc")

CANARY = "canary-in-the-mine"
KEY = "sesame-key-of-the-tests"
EPISODES = 400
_SORT = "SELECT length(s.output) FROM steps AS s, (SELECT seq FROM steps LIMIT 20) ORDER BY s.output || 'x'"


@contextmanager
def _watched(directory: Path) -> Iterator[list[str]]:
    """Another process looks at all that this one writes; afterwards the list has the files with the canary."""
    pipe, theirs = PROCESSES.Pipe()
    watcher = PROCESSES.Process(target=_watch, args=(theirs, os.getpid(), directory))
    watcher.start()
    theirs.close()
    assert pipe.poll(60)
    pipe.recv()
    found: list[str] = []
    try:
        yield found
    finally:
        pipe.send("stop")
        assert pipe.poll(60)
        found += pipe.recv()
        watcher.join()
        watcher.close()
        pipe.close()


def _watch(pipe: Any, pid: int, directory: Path) -> None:
    # In a process of its own: a descriptor that is closed here drops no lock of the process that is watched, and a file
    # that was removed while it is open can still be read by its descriptor.
    found: set[str] = set()
    pipe.send("watching")
    while True:
        stops = pipe.poll(0.0005)
        for descriptor in [*Path(f"/proc/{pid}/fd").iterdir(), *(directory.rglob("*") if stops else ())]:
            with suppress(OSError):
                target = str(descriptor.readlink()) if descriptor.is_symlink() else str(descriptor)
                is_database = target.endswith((".db", "-wal", "-shm", "-lock"))  # read at the end, and not each time
                if target.startswith("/") and (stops or not is_database) and CANARY.encode() in _content(descriptor):
                    found.add(target)
        if stops:
            pipe.send(sorted(found))
            return


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _fill(storage: ms.MemoryStorage) -> list[ms.Episode]:
    episodes = [
        ms.Episode(
            task_description=f"{CANARY} {number}", steps=[ms.Step(tool="t", result=ms.StepOk(output=CANARY * 200))]
        )
        for number in range(EPISODES)
    ]
    return storage.episodes.save_many(episodes)


@pytest.mark.parametrize("engine", ["sqlite", "libsql"])
def test_maintenance_of_an_encrypted_file_writes_nothing_in_plain(database, tmp_path, engine):
    settings, restored = settings_of(database, engine, KEY), settings_of(tmp_path / "restored.db", engine, KEY)
    with _watched(tmp_path) as found:
        with ms.MemoryStorage.open(settings) as storage:
            first, *_ = _fill(storage)
            with storage.engine.connect() as connection:
                assert len(connection.exec_driver_sql(_SORT).all()) == EPISODES * 20
            assert storage.forget(episode=first.id).scrubbed
            assert storage.scrub().complete
            back_up(storage, tmp_path / "backup.db")
        restore(tmp_path / "backup.db", restored)
        with ms.MemoryStorage.open(restored) as storage:
            assert storage.episodes.count() == EPISODES - 1
            assert storage.scrub().complete
    assert found == []
    connection = dbapi.connect(str(database), encryption_key=KEY, local_engine=engine)
    assert connection.execute("PRAGMA temp_store").fetchall() == [(2,)], "in memory"
    connection.close()


@pytest.mark.parametrize(("engine", "key", "sql"), [("libsql", KEY, "VACUUM"), ("sqlite", None, _SORT)])
def test_the_watcher_sees_the_temporary_files_of_both_engines(database, tmp_path, engine, key, sql):
    """SQLite encrypts those of an encrypted file, so its file here is a plain one."""
    with ms.MemoryStorage.open(settings_of(database, engine, key)) as storage:
        _fill(storage)
    connection = dbapi.connect(str(database), encryption_key=key, local_engine=engine)
    connection.autocommit = True
    for pragma in ("temp_store = FILE", "cache_size = 10"):
        connection.execute(f"PRAGMA {pragma}")
    with _watched(tmp_path) as found:
        connection.execute(sql)
    connection.close()
    assert [name for name in found if name.endswith("(deleted)")]
