"""A restored database replaces the old one by one rename, and leaves no temporary file."""

from __future__ import annotations

import os
import random
import stat
import time
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.backup import _replacement, back_up, restore
from memory_storage.doctor import check
from memory_storage.schema.vector_tables import EXACT_SCAN_MAX
from memory_storage.search.hnsw import sidecar_names
from tests.durability.processes import PROCESSES, killed

KILLS = int(os.environ.get("STRESS_RESTORE_KILLS", "4"))


@pytest.fixture
def backup(database: Path, tmp_path: Path) -> Path:
    """A backup of two episodes; the database has one more by now."""
    path = tmp_path / "backups" / "copy"
    path.parent.mkdir()
    with ms.MemoryStorage.open(database) as storage:
        _save(storage, "one", "two")
        back_up(storage, path)
        _save(storage, "three")
    return path


def _save(storage: ms.MemoryStorage, *tasks: str) -> None:
    storage.episodes.save_many([ms.Episode(task_description=task) for task in tasks])


def _tasks(database: Path) -> set[str]:
    with ms.MemoryStorage.open(database) as storage:
        return {one.task_description for one in storage.episodes.iterate()}


def _names(database: Path) -> set[str]:
    return {path.name for path in database.parent.iterdir() if path.is_file()}


OLD, NEW = {"one", "two", "three"}, {"one", "two"}


def _restore(sender: Any, backup: Path, database: Path) -> None:
    sender.send_bytes(b"begun")
    restore(backup, database, force=True)
    time.sleep(60)


@pytest.mark.slow
def test_a_killed_restore_leaves_the_old_file_or_the_new_one(backup, database):
    for _ in range(KILLS):
        for old in database.parent.glob("memory.db.old-*"):
            old.unlink()
        killed(_restore, backup, database, after=random.uniform(0, 0.25), from_first_byte=True)
        assert check(ms.Settings(database=str(database))).findings == []
        tasks = _tasks(database)
        assert tasks in (OLD, NEW)
        if tasks == NEW:
            with ms.MemoryStorage.open(database) as storage:
                _save(storage, "three")
    restore(backup, database, force=True)
    assert _tasks(database) == NEW
    left = {name for name in _names(database) if ".old-" not in name}
    assert left == {"memory.db"}


@pytest.mark.slow
def test_the_link_of_a_killed_restore_is_removed_by_the_next(backup, database):
    os.link(database, database.with_name("memory.db.old-1"))
    report = restore(backup, database, force=True)
    assert report.set_aside == database.with_name("memory.db.old-1")
    assert (_tasks(database), _tasks(report.set_aside)) == (NEW, OLD)


@pytest.mark.parametrize("function", ["sync", "_link_or_copy", "sync_directory"])
def test_a_failed_restore_leaves_everything_as_it_was(backup, database, monkeypatch, function):
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_replacement, function, fail)
    with pytest.raises(ms.ConfigurationError, match="; nothing was replaced"):
        restore(backup, database, force=True)
    assert _names(database) == {"memory.db"}
    assert _tasks(database) == OLD


def test_the_path_always_leads_to_a_database(backup, database, monkeypatch):
    seen = []

    def look(path: Path) -> None:
        seen.append(database.stat().st_size > 0 and not list(database.parent.glob("memory.db-*l")))

    monkeypatch.setattr(_replacement, "sync_directory", look)
    restore(backup, database, force=True)
    assert seen == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_an_orphaned_log_is_not_applied_to_the_new_database(backup, database, suffix):
    holder = PROCESSES.Process(target=_leave_a_log, args=(database,))
    holder.start()
    holder.join(60)
    log = database.with_name("memory.db-wal").read_bytes()
    assert len(log) > 4096
    for path in database.parent.glob("memory.db*"):
        path.unlink()
    database.with_name(f"memory.db{suffix}").write_bytes(log)
    restore(backup, database)
    assert _tasks(database) == NEW
    assert check(ms.Settings(database=str(database))).findings == []
    assert database.with_name(f"memory.db.old-1{suffix}").read_bytes() == log


def _leave_a_log(database: Path) -> None:
    storage = ms.MemoryStorage.open(database)
    _save(storage, *("in the log" for _ in range(50)))
    os._exit(0)


@pytest.mark.slow
def test_the_log_of_the_old_database_is_in_it_and_not_in_the_new(backup, database):
    holder = PROCESSES.Process(target=_leave_a_log, args=(database,))
    holder.start()
    holder.join(60)
    report = restore(backup, database, force=True)
    assert _tasks(database) == NEW
    assert _tasks(report.set_aside) == OLD | {"in the log"}


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_restored_database_has_the_permissions_of_the_old_one(backup, database, mode):
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    database.chmod(mode)
    restore(backup, database, force=True)
    assert stat.S_IMODE(database.stat().st_mode) == mode


def test_a_link_to_a_database_stays_a_link(backup, database, tmp_path):
    link = tmp_path / "backups" / "link.db"
    link.symlink_to(database)
    restore(backup, link, force=True)
    assert link.is_symlink()
    assert _tasks(database) == NEW


@pytest.mark.slow
def test_sidecars_move_along_with_a_restored_database(database, tmp_path):
    settings = ms.Settings(database=str(database), vector_index="hnsw")
    with ms.MemoryStorage.open(settings) as storage:
        episodes = storage.episodes.save_many([ms.Episode(task_description="t") for _ in range(EXACT_SCAN_MAX + 10)])
        vectors = [[random.gauss(0, 1) for _ in range(4)] for _ in episodes]
        rows = [("episode", one.id, vector) for one, vector in zip(episodes, vectors, strict=True)]
        storage.embeddings.put_many(rows, model="m")
        back_up(storage, tmp_path / "copy")
    (tmp_path / f"{database.name}.0123456789abcdef.usearch").write_bytes(b"of the old one")
    restore(tmp_path / "copy", settings, force=True)
    (sidecar,) = sidecar_names(database)
    assert _names(database) == {"copy", "memory.db", "memory.db.old-1", sidecar}
    with ms.MemoryStorage.open(settings) as storage:
        assert storage.embeddings.index.status()[0].indexed == EXACT_SCAN_MAX + 10


def test_what_a_killed_restore_left_is_deleted_by_the_next(backup, database):
    left = [database.with_name(f"memory.db.{name}") for name in ("4711.part", "0a1b.part-wal", "0a1b.part-lock")]
    for path in left:
        path.write_bytes(b"x")
    others = database.with_name("memory.db.part")
    others.write_bytes(b"x")
    restore(backup, database, force=True)
    assert not [path for path in left if path.exists()]
    assert others.exists()


@pytest.mark.slow
def test_a_second_restore_of_a_path_is_refused(backup, database):
    from memory_storage._files import MaintenanceLock

    with MaintenanceLock(database).exclusive(0), pytest.raises(ms.UnavailableError) as raised:
        restore(backup, database, force=True)
    assert raised.value.code == "MAINTENANCE"
    assert _tasks(database) == OLD
