"""Erasure, place by place: where a byte of a record can be, and that a scrub leaves none there."""

from __future__ import annotations

import ctypes
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.doctor import check, repair
from memory_storage.models import new_id
from memory_storage.search.hnsw import sidecar_names

DIMENSION = 16
SIGNS = [(-1.0) ** (n * n // 3) for n in range(DIMENSION)]
QUANTIZED = [bytes(int(scale * sign) % 256 for sign in SIGNS) for scale in (31, 32)]  # as a graph has it: 127 / 4


def _storage(database: Path, **fields: Any) -> ms.MemoryStorage:
    storage = ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="hnsw", **fields))
    storage._context.memory.exact_scan_max = 50
    return storage


def _fill(storage: ms.MemoryStorage, count: int = 200) -> ms.Episode:
    """Others' vectors, and one whose quantized bytes are known."""
    episodes = storage.episodes.save_many([ms.Episode(task_description="other") for _ in range(count)])
    vectors = [[random.gauss(0, 1) for _ in range(DIMENSION)] for _ in episodes]
    person = storage.episodes.save(ms.Episode(task_description="person"))
    owned = [("episode", one.id, vector) for one, vector in zip(episodes, vectors, strict=True)]
    storage.embeddings.put_many([*owned, ("episode", person.id, SIGNS)], model="m")
    storage.embeddings.index.catch_up("m")
    return person


def _sidecars(database: Path) -> list[Path]:
    return [database.with_name(name) for name in sidecar_names(database)]


def _has_canary(database: Path) -> bool:
    return any(one in path.read_bytes() for path in _sidecars(database) for one in QUANTIZED)


def test_a_graph_with_erased_vectors_is_not_written_at_close(database):
    with _storage(database) as first:
        person = _fill(first)
        second = _storage(database)
        second.embeddings.index.catch_up("m", progress=None)
        second.embeddings.put_many(
            [("episode", one.id, [random.gauss(0, 1) for _ in range(DIMENSION)]) for one in _more(second, 100)],
            model="m",
        )
        second.episodes.similar_to(SIGNS, model="m", k=3)  # it has the vector in memory
        assert _has_canary(database)

        assert first.forget(episode=person.id).scrubbed

        assert not _has_canary(database)
        for path in _sidecars(database):
            path.unlink()  # nothing that could be spared
        second.close()
        assert not _has_canary(database)
    assert not _has_canary(database)


def _more(storage: ms.MemoryStorage, count: int) -> list[ms.Episode]:
    return storage.episodes.save_many([ms.Episode(task_description="more") for _ in range(count)])


def test_a_graph_with_erased_vectors_is_built_again_by_catch_up(database):
    with _storage(database) as first, _storage(database) as second:
        person = _fill(first)
        second.embeddings.index.catch_up("m")
        assert first.forget(episode=person.id).scrubbed
        for path in _sidecars(database):
            path.unlink()
        second.embeddings.index.catch_up("m")
        status = second.embeddings.index.status()[0]
        assert (status.indexed, status.removed) == (200, 0)
        assert second.embeddings.index.verify("m").is_healthy


def test_a_graph_with_deleted_vectors_is_kept_until_a_scrub(database):
    with _storage(database) as storage:
        person = _fill(storage)
        storage.episodes.delete(person.id)
        assert _has_canary(database)
        _more_vectors(storage)
    assert _sidecars(database)
    with _storage(database) as storage:
        assert storage.embeddings.index.status()[0].indexed == 300
        assert storage.scrub().complete
        assert not _has_canary(database)


def _more_vectors(storage: ms.MemoryStorage) -> None:
    rows = [("episode", one.id, [random.gauss(0, 1) for _ in range(DIMENSION)]) for one in _more(storage, 100)]
    storage.embeddings.put_many(rows, model="m")
    storage.embeddings.index.catch_up("m")


@pytest.mark.parametrize("source", ["hnsw", "diskann", "exact"])
def test_sidecars_of_killed_processes_and_other_models_go(database, source):
    with _storage(database) as storage:
        person = _fill(storage)
        sidecar = _sidecars(database)[0]
        content = sidecar.read_bytes()
    left = [
        sidecar.with_name(f"{sidecar.name}.0123abcd.tmp"),
        sidecar.with_name(f"{database.name}.0123456789abcdef.usearch"),
        sidecar.with_name(f"{database.name}.4711.part"),
        sidecar.with_name(f"{database.name}.0123abcd.part-wal"),
        sidecar.with_name(f"{database.name}.4711.part.0123456789abcdef.usearch"),
    ]
    others = [sidecar.with_name(f"other-{sidecar.name}"), sidecar.with_name(f"{database.name}.notes")]
    for path in (*left, *others):
        path.write_bytes(content)
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index=source)) as storage:
        assert storage.forget(episode=person.id).scrubbed
    assert not [path for path in left if path.exists()]
    assert all(path.read_bytes() == content for path in others)
    assert not _has_canary(database)


def test_a_sidecar_from_before_a_scrub_is_not_used(database):
    with _storage(database) as storage:
        person = _fill(storage)
        sidecar = _sidecars(database)[0]
        old = sidecar.read_bytes()
        assert storage.forget(episode=person.id).scrubbed
    sidecar.write_bytes(old)  # from another copy
    with _storage(database) as storage:
        storage.embeddings.index.catch_up("m")
        assert not _has_canary(database)


def test_an_erased_sidecar_is_mapped_by_no_process(database):
    with _storage(database) as first:
        person = _fill(first)
    with _storage(database) as first, _storage(database) as second:
        assert second.embeddings.index.status()[0].indexed == 201
        first.forget(episode=person.id)
        maps = Path("/proc/self/maps").read_text()
        assert not [line for line in maps.splitlines() if ".usearch" in line]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_sidecar_has_the_permissions_of_its_database(database, mode):
    with _storage(database) as storage:
        storage.episodes.count()
        database.chmod(mode)
        _fill(storage)
        assert [stat.S_IMODE(path.stat().st_mode) for path in _sidecars(database)] == [mode]


CANARY = "zqcanary-of-a-person"
KEY = "the key of these tests"
_WORK = """
import sys
from pathlib import Path
import memory_storage as ms
from memory_storage.backup import back_up, restore
from memory_storage.doctor import check, repair
from memory_storage.engine import make_engine
from sqlalchemy import Engine, event

@event.listens_for(Engine, "connect")
def keep_little(connection, record):
    connection.execute("PRAGMA cache_size = 10")  # pages: what does not fit goes to a temporary file, if to any

path, key, work = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = ms.Settings(database=str(path), encryption_key=key)
if work == "leak":  # by libSQL's engine: SQLite's encrypts its temporary files
    settings = settings.model_copy(update={"local_engine": "libsql"})
    engine = make_engine(settings)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA temp_store = FILE")
        connection.exec_driver_sql("VACUUM")
else:
    with ms.MemoryStorage.open(settings) as storage:
        storage.forget(episode=storage.episodes.query(limit=1).items[0].id)
        storage.scrub()
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("SELECT document FROM steps ORDER BY document || random()").fetchall()
            # A statement that may have to be undone keeps the old pages.
            connection.exec_driver_sql("UPDATE OR ABORT steps SET document = document WHERE episode_id <> 'x'")
        back_up(storage, path.with_name("copy"))
    restore(path.with_name("copy"), settings.model_copy(update={"database": str(path.with_name("again.db"))}))
    restore(path.with_name("copy"), settings, force=True)
    repair(settings)
    check(settings)
"""


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 2 MB about a person."""
    path = tmp_path_factory.mktemp("encrypted") / "memory.db"
    with ms.MemoryStorage.open(ms.Settings(database=str(path), encryption_key=KEY)) as storage:
        step = ms.Step(tool=CANARY, result=ms.StepOk(output=CANARY * 2_000))
        for _ in range(30):
            steps = [step.model_copy(update={"id": new_id()}) for _ in range(2)]
            storage.episodes.save(ms.Episode(task_description=CANARY, tags=[CANARY], steps=steps))
    return path


class _Watch:
    """What is created in a directory, reported by the kernel: a file that is deleted immediately is not missed."""

    def __init__(self, directory: Path) -> None:
        self._kernel = ctypes.CDLL(None, use_errno=True)
        self._queue = self._kernel.inotify_init1(os.O_NONBLOCK)
        assert self._kernel.inotify_add_watch(self._queue, os.fsencode(directory), 0x100) >= 0  # IN_CREATE

    def created(self) -> int:
        """How many bytes of events there are: none if nothing was created."""
        try:
            return len(os.read(self._queue, 65536))
        except BlockingIOError:
            return 0
        finally:
            os.close(self._queue)


def _in_clear(pid: int) -> Iterator[str]:
    """The deleted files that a process has open in which the canary is."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(link)
            if (
                name.endswith("(deleted)")
                and stat.S_ISREG(link.stat().st_mode)
                and CANARY.encode() in link.read_bytes()
            ):
                yield name
        except OSError:  # closed by now
            continue


def _watched(database: Path, work: str) -> tuple[int, set[str]]:
    """Events of temporary files while a process works on an encrypted database, and its deleted files in plain text."""
    temporary = database.with_name("temporary")
    temporary.mkdir()
    watch, clear = _Watch(temporary), set()
    command = [sys.executable, "-c", _WORK, str(database), KEY, work]
    environment = {**os.environ, "TMPDIR": str(temporary), "SQLITE_TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment) as child:
        while child.poll() is None:
            clear.update(_in_clear(child.pid))
            time.sleep(0.001)
    assert child.returncode == 0
    return watch.created(), clear


@pytest.mark.slow
def test_nothing_of_an_encrypted_file_is_written_in_clear(encrypted, tmp_path):
    database = tmp_path / "memory.db"
    database.write_bytes(encrypted.read_bytes())
    assert _watched(database, "all of it") == (0, set())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"memory.db", "copy", "again.db", "memory.db.old-1"} == {path.name for path in files}
    assert not [path.name for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_the_watch_sees_a_temporary_file(encrypted, tmp_path):
    database = tmp_path / "memory.db"
    database.write_bytes(encrypted.read_bytes())
    created, _ = _watched(database, "leak")
    assert created


def _quarantined(database: Path) -> dict[str, int]:
    """How many rows each table of quarantined rows has."""
    settings = ms.Settings(database=str(database))
    with ms.MemoryStorage.open(settings) as storage, storage.engine.connect() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name LIKE 'quarantined_%'").scalars()
        return {name: connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar_one() for name in names}


def _damaged(storage: ms.MemoryStorage, canary: str) -> ms.Episode:
    """An episode of which the doctor can read nothing, with steps, vectors, places and a pattern about it."""
    step = ms.Step(tool=canary, result=ms.StepOk(output=canary))
    episode = storage.episodes.save(ms.Episode(task_description=canary, tags=[canary], steps=[step]))
    owners = [("episode", episode.id), ("step", step.id)]
    vectors = [[random.gauss(0, 1) for _ in range(DIMENSION)] for _ in owners]
    storage.embeddings.put_many([(*pair, one) for pair, one in zip(owners, vectors, strict=True)], model="m")
    place = ms.SpatiotemporalEntry(
        owner_type="episode", owner_id=episode.id, latitude=1.5, longitude=2.5, place_name=canary
    )
    storage.spatiotemporal.put(place)
    storage.patterns.save(ms.Heuristic(condition=canary, action="a", evidence=[episode.id]))
    with storage.engine.begin() as connection:
        for table in ("episodes", "steps", "patterns"):
            triggers = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
            for name, _ in triggers:
                connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
            connection.exec_driver_sql(
                f"UPDATE {table} SET document = '{{' || document WHERE namespace = ? AND instr(document, ?)",
                (storage.namespace, canary),
            )
            for _, sql in triggers:
                connection.exec_driver_sql(sql)
    return episode


def _has(database: Path, canary: str) -> list[str]:
    return [path.name for path in database.parent.iterdir() if canary.encode() in path.read_bytes()]


def test_quarantined_rows_of_an_erased_episode_are_erased(database):
    settings = ms.Settings(database=str(database))
    with ms.MemoryStorage.open(settings) as storage:
        mine, theirs = _damaged(storage, "zqmine"), _damaged(storage, "zqtheirs")
        elsewhere = _damaged(storage.in_namespace("elsewhere"), "zqelsewhere")
    repair(settings)
    before = _quarantined(database)
    assert {"quarantined_episodes", "quarantined_steps", "quarantined_embeddings", "quarantined_patterns"} <= {*before}
    assert _has(database, "zqmine")

    with ms.MemoryStorage.open(settings) as storage:
        assert storage.forget(episode=mine.id).scrubbed

    assert not _has(database, "zqmine")
    assert not _has(database, str(mine.id))
    assert not _has(database, str(mine.steps[0].id))
    assert _has(database, "zqtheirs")
    assert _has(database, "zqelsewhere")
    after = _quarantined(database)
    assert {name: after[name] for name in before} == {name: count * 2 // 3 for name, count in before.items()}
    with ms.MemoryStorage.open(settings) as storage:
        storage.forget(namespace="elsewhere")
        storage.forget(namespace="default")
    assert not any(_quarantined(database).values())
    for canary in ("zqtheirs", "zqelsewhere", str(theirs.id), str(elsewhere.id)):
        assert not _has(database, canary)
    assert check(settings).findings == []


def test_an_export_is_for_its_owner_and_follows_no_link(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from memory_storage import _files
    from memory_storage.cli import app

    database, precious, exported = tmp_path / "memory.db", tmp_path / "precious", tmp_path / "export.jsonl"
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description="private"))
    command = ["export", "--database", str(database), "-o"]
    assert CliRunner().invoke(app, [*command, str(exported)]).exit_code == 0
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600

    precious.write_text("precious")
    monkeypatch.setattr(_files, "token_hex", lambda _: "guessed")
    (tmp_path / "second.jsonl.guessed.part").symlink_to(precious)
    assert CliRunner().invoke(app, [*command, str(tmp_path / "second.jsonl")]).exit_code == 3
    assert precious.read_text() == "precious"
