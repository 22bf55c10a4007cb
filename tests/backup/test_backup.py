"""A backup is a snapshot of the database, while others write; restoring it yields an equal database."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

import memory_storage as ms
from memory_storage import dbapi, migrate
from memory_storage.backup import back_up, restore
from memory_storage.backup._copy import engine_of
from memory_storage.engine import make_engine
from memory_storage.schema.vector_tables import VectorSpace
from tests.checks import assert_consistent, dump
from tests.durability.processes import PROCESSES
from tests.durability.work import hold_the_lock
from tests.raising import raises

KEY = "the key of these tests"
ODD = "\u2028 \U0001f469\u200d\U0001f680 '; DROP TABLE episodes; -- \\"


def _fill(storage: ms.MemoryStorage, number: int = 30) -> None:
    episodes = [
        ms.Episode(
            task_description=f"{ODD} {n}",
            tags=["shared", f"t{n % 7}"],
            metadata={"n": n, "at": 0.1 * n},
            reward=ms.RewardScore(total=n / 7),
            steps=[ms.Step(tool="pytest", result=ms.StepOk(output=f"{ODD} words")) for _ in range(3)],
        )
        for n in range(number)
    ]
    for memory in (storage, storage.in_namespace("another")):
        memory.episodes.save_many(episodes)
        memory.patterns.save(ms.Heuristic(condition=ODD, action="a"))
        memory.patterns.save(ms.Playbook(name=ODD, steps=[ms.PlaybookStep(action=ODD)]))
        memory.embeddings.put_many([("episode", one.id, _vector(one)) for one in episodes], model="m'")
        memory.spatiotemporal.put(
            ms.SpatiotemporalEntry(owner_type="episode", owner_id=episodes[0].id, latitude=1.1, longitude=-2.2)
        )
        memory.relationships.add_many(
            [
                ms.Relationship(from_id=one.id, to_id=other.id, kind="follows", metadata={"at": ODD})
                for one, other in pairwise(episodes)
            ]
        )


def _vector(episode: ms.Episode) -> list[float]:
    numbers = random.Random(episode.id.int)
    return [numbers.uniform(-1, 1) for _ in range(32)]


@pytest.fixture(params=["memory", "file", "encrypted", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    """An encrypted file too."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "encrypted":
        return ms.Settings(database=str(request.getfixturevalue("database")), encryption_key=KEY)
    return str(request.getfixturevalue("database" if request.param == "file" else "migrated_server_url"))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "memory.backup"


@pytest.fixture(autouse=True)
def _directory(backup: Path) -> None:
    backup.parent.mkdir()


def _restored(tmp_path: Path, storage: ms.MemoryStorage) -> ms.Settings:
    return ms.Settings(database=str(tmp_path / "restored.db"), encryption_key=storage.settings.encryption_key)


def test_a_restored_database_equals_the_source_in_every_row(storage, backup, tmp_path):
    _fill(storage)
    report = back_up(storage, backup)
    assert os.listdir(backup.parent) == [backup.name]
    before = dump(storage.engine)
    assert {name: len(rows) for name, rows in before.items()}.items() <= {
        name: table.rows for name, table in report.tables.items()
    }.items()
    settings = _restored(tmp_path, storage)
    assert restore(backup, settings).tables == report.tables
    with ms.MemoryStorage.open(settings) as again:
        assert dump(again.engine) == before
        assert_consistent(again.engine)
        first = again.episodes.query(limit=1).items[0]
        assert again.episodes.similar_to(_vector(first), model="m'", k=1)[0].item == first
        again.episodes.save(ms.Episode(task_description="it continues"))
        assert_consistent(again.engine)


def test_a_diskann_index_is_not_copied_and_built_again(database, backup, tmp_path):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="diskann")) as storage:
        _fill(storage)
        space = VectorSpace("m'")
        with storage.transaction() as tx:
            tx.execute([(f"UPDATE {space.table} SET indexed = 1", ())])
        back_up(storage, backup)
    with closing(sqlite3.connect(backup)) as connection:
        objects = "SELECT name FROM sqlite_master WHERE sql LIKE '%libsql%' OR name LIKE '%shadow%'"
        assert connection.execute(objects).fetchall() == []
        assert connection.execute(f"SELECT total(indexed) FROM {space.table}").fetchall() == [(0,)]
    settings = ms.Settings(database=str(tmp_path / "restored.db"), vector_index="diskann")
    restore(backup, settings)
    with ms.MemoryStorage.open(settings) as again:
        with again.transaction() as tx:
            tx.execute([(f"UPDATE {space.table} SET indexed = 1", ())])
        assert again.embeddings.index.verify("m'").is_healthy
        assert_consistent(again.engine)


def test_a_backup_of_an_encrypted_file_has_the_same_key(database, backup, tmp_path):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), encryption_key=KEY)) as storage:
        storage.episodes.save(ms.Episode(task_description="canary"))
        back_up(storage, backup)
    assert b"canary" not in backup.read_bytes()
    with pytest.raises(ms.CredentialError, match="no key was given"):
        restore(backup, tmp_path / "restored.db")
    assert not (tmp_path / "restored.db").exists()
    restore(backup, tmp_path / "in-clear.db", encryption_key=KEY)
    assert b"canary" in (tmp_path / "in-clear.db").read_bytes()


def test_a_plain_file_is_encrypted_by_backup_and_restore(storage, backup, tmp_path):
    storage.episodes.save(ms.Episode(task_description="canary"))
    back_up(storage, backup, encryption_key="another key")
    assert b"canary" not in backup.read_bytes()
    settings = ms.Settings(database=str(tmp_path / "restored.db"), encryption_key="another key")
    restore(backup, settings)
    with ms.MemoryStorage.open(settings) as again:
        assert again.episodes.query().items[0].task_description == "canary"


def test_the_source_is_left_before_the_indexes_are_built(storage, backup):
    _fill(storage)
    active_filters: list[int] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("CREATE INDEX"):
            active_filters.append(storage.engine.pool.checkedout())

    event.listen(Engine, "before_cursor_execute", look)
    try:
        back_up(storage, backup)
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert len(active_filters) > 10
    assert set(active_filters) == {0}  # a server ends an idle snapshot after ten seconds


@pytest.mark.slow
@pytest.mark.parametrize("target", ["file", "encrypted", "server"], indirect=True)
def test_while_four_writers_write_it_is_a_state_that_existed(storage, backup, tmp_path):
    _fill(storage, 200)
    stop, ledger = threading.Event(), [0, 0, 0, 0]

    def write(writer: int) -> None:
        memory = storage.in_namespace(f"writer-{writer}")
        while not stop.is_set():
            number = ledger[writer]
            with memory.transaction() as tx:  # both or neither, in this order
                tx.episodes.save(ms.Episode(task_description=f"{number}"))
                tx.patterns.save(ms.Heuristic(condition=f"{number}", action="a"))
            ledger[writer] = number + 1

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    try:
        while min(ledger) < 3:
            pass
        before = list(ledger)
        back_up(storage, backup)
        after = list(ledger)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    settings = _restored(tmp_path, storage)
    restore(backup, settings)
    with ms.MemoryStorage.open(settings) as again:
        assert_consistent(again.engine)
        for writer in range(4):
            memory = again.in_namespace(f"writer-{writer}")
            saved = sorted(int(one.task_description) for one in memory.episodes.iterate())
            assert saved == sorted(int(one.condition) for one in memory.patterns.iterate())
            assert saved == list(range(len(saved)))
            assert before[writer] <= len(saved) <= after[writer] + 1
    assert sum(after) > sum(before), "no writer wrote while the backup was made"


@pytest.mark.parametrize(("key", "temp_store"), [(None, 1), (KEY, 2)], ids=["plain", "encrypted"])
def test_indexes_are_sorted_in_a_file_unless_encrypted(tmp_path, key, temp_store):
    engine = engine_of(tmp_path / "new.db", dbapi.EncryptionKey.of(key), is_new=True)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == temp_store  # 1 is FILE, 2 is MEMORY


def test_it_replaces_a_file_only_with_overwrite(storage, backup):
    backup.write_text("precious")
    with pytest.raises(ms.ConfigurationError, match="already exists; choose another name"):
        back_up(storage, backup)
    assert backup.read_text() == "precious"
    back_up(storage, backup, overwrite=True)
    assert os.listdir(backup.parent) == [backup.name]


def test_the_database_itself_is_no_place_for_its_backup(database):
    with ms.MemoryStorage.open(database) as storage:
        with pytest.raises(ms.ConfigurationError, match="the database itself"):
            back_up(storage, database, overwrite=True)
        back_up(storage, database.with_name("copy"))
    with pytest.raises(ms.ConfigurationError, match="the database itself"):
        restore(database, database, force=True)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.parent.rmdir()])
def test_a_place_where_no_file_can_be_is_refused(storage, backup, make):
    make(backup)
    with pytest.raises(ms.ConfigurationError, match=r"memory\.backup"):
        back_up(storage, backup, overwrite=True)


@pytest.mark.slow
def test_a_restoration_over_a_database_keeps_that_one_aside(database, backup):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description="old"))
        back_up(storage, backup)
        storage.episodes.save(ms.Episode(task_description="newer"))
        with pytest.raises(ms.ConfigurationError, match="pass --force to replace it"):
            restore(backup, database)
        with raises(ms.UnavailableError, code="SQLITE_BUSY", match="is in use"):
            restore(backup, database, force=True)
        assert storage.episodes.count() == 2
    report = restore(backup, database, force=True)
    assert report.set_aside == database.with_name("memory.db.old-1")
    for path, number in ((database, 1), (report.set_aside, 2)):
        with ms.MemoryStorage.open(path) as opened:
            assert opened.episodes.count() == number
            assert_consistent(opened.engine)


@pytest.mark.slow
def test_a_database_that_another_process_uses_is_not_replaced(database, backup):
    with ms.MemoryStorage.open(database) as storage:
        back_up(storage, backup)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=hold_the_lock, args=(sender, database, 60))
    child.start()
    try:
        assert receiver.recv_bytes() == b"locked"
        with raises(ms.UnavailableError, code="SQLITE_BUSY", match="end the programs that use it first"):
            restore(backup, database, force=True)
    finally:
        child.kill()
        child.join()
    restore(backup, database, force=True)


def test_a_damaged_database_is_replaced_and_kept(database, backup):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description="old"))
        back_up(storage, backup)
    database.write_bytes(b"noise" * 5_000)
    report = restore(backup, database, force=True)
    assert report.set_aside is not None
    assert report.set_aside.read_bytes() == b"noise" * 5_000
    with ms.MemoryStorage.open(database) as again:
        assert again.episodes.count() == 1


def _swap_a_byte(path: Path) -> None:
    content = path.read_bytes()
    at = content.rindex(b"canary")
    path.write_bytes(content[:at] + b"C" + content[at + 1 :])


def _delete_a_row(path: Path) -> None:
    connection = dbapi.connect(str(path))
    connection.execute("DELETE FROM episodes")
    connection.commit()
    connection.close()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a byte": _swap_a_byte,
    "a row": _delete_a_row,
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "all of it": lambda path: path.write_bytes(b"x" * 10_000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_changed_backup_is_refused_and_replaces_nothing(tmp_path, backup, damage):
    with ms.MemoryStorage.open(":memory:") as storage:
        storage.episodes.save(ms.Episode(task_description="canary"))
        back_up(storage, backup)
    damage(backup)
    with pytest.raises(ms.CorruptDataError):
        restore(backup, tmp_path / "restored.db")
    assert not list(tmp_path.glob("restored*"))


def save_in_0001(engine: Any) -> None:
    """An episode as the first schema has it: the repositories know only the last one."""
    episode = ms.Episode(task_description="old", started_at=datetime.fromtimestamp(10**9, timezone.utc))
    document = episode.model_dump_json(exclude={"version", "created_at", "updated_at", "archived_at", "steps"})
    names = "namespace, id, version, task_type, domain, complexity, started_at, created_at, updated_at, document"
    values = ("default", str(episode.id), 1, "other", "general", "moderate", 10**15, 10**15, 10**15, document)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO episodes ({names}) VALUES ({', '.join('?' * 10)})", values)


def test_an_older_schema_is_backed_up_as_it_is(database, backup, tmp_path):
    settings = ms.Settings(database=str(database))
    engine = make_engine(settings)
    migrate.upgrade(engine, "0001")
    old = ms.MemoryStorage(engine, settings)
    save_in_0001(engine)
    back_up(old, backup)
    engine.dispose()
    restore(backup, tmp_path / "restored.db")
    assert migrate.look(tmp_path / "restored.db") == "0001"
    with ms.MemoryStorage.open(tmp_path / "restored.db") as upgraded:
        assert upgraded.episodes.count() == 1
        assert_consistent(upgraded.engine)


def test_a_failure_leaves_no_half_of_a_file(storage, backup):
    storage.episodes.save(ms.Episode(task_description="one"))

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(storage, backup, progress=stop)
    assert os.listdir(backup.parent) == []


def test_progress_counts_rows_up_to_their_number(storage, backup):
    _fill(storage)
    seen: dict[str, list[tuple[int, int]]] = {}
    report = back_up(
        storage, backup, progress=lambda what, done, total: seen.setdefault(what, []).append((done, total))
    )
    assert set(seen) == {"copied", "verified"}
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1] == (report.rows, report.rows)


def test_a_server_and_memory_are_restored_by_other_means(storage, backup):
    back_up(storage, backup)
    for place in (":memory:", "libsql://db.example.io"):
        with pytest.raises(ms.ConfigurationError, match="local file"):
            restore(backup, place)
    with pytest.raises(ms.ConfigurationError, match="there is no such backup"):
        restore(backup.with_name("missing"), backup.with_name("new.db"))


@pytest.mark.slow
def test_the_commands_back_up_and_restore(tmp_path, monkeypatch, backup):
    from typer.testing import CliRunner

    from memory_storage.cli import app

    def command(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    database = tmp_path / "memory.db"
    monkeypatch.setenv("MEMORY_STORAGE_ENCRYPTION_KEY", KEY)
    with ms.MemoryStorage.open(database) as storage:
        _fill(storage, 3)
    made = command("backup", backup, "--database", database, "--json")
    assert json.loads(made.stdout)["rows"]["episodes"] == 6
    assert command("backup", backup, "--database", database).exit_code == 3
    assert command("backup", backup, "--database", database, "--force").exit_code == 0
    assert command("restore", backup, "--database", database).exit_code == 3
    replaced = command("restore", backup, "--database", database, "--force")
    assert "the previous database is in" in " ".join(replaced.stdout.split())
    assert command("restore", backup, "--database", tmp_path / "new.db").exit_code == 0
    assert command("restore", backup.with_name("missing"), "--database", tmp_path / "newer.db").exit_code == 3
    monkeypatch.delenv("MEMORY_STORAGE_ENCRYPTION_KEY")
    refused = command("restore", backup, "--database", tmp_path / "newer.db")
    assert (refused.exit_code, "no key was given" in refused.stderr) == (3, True)
