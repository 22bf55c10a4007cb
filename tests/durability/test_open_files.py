"""One file under several names, keys, threads and processes: no lock and no acknowledged write is lost."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.importers import import_file
from memory_storage_report import collect, write_page

from .open_files import SPELLINGS, Worker, make_spellings, spelled, use, workers

INTERLEAVINGS = int(os.environ.get("MEMORY_STORAGE_INTERLEAVINGS", "25"))
RACES = int(os.environ.get("MEMORY_STORAGE_OPENING_RACES", "2"))
RIGHT = "the key of the file"
KEYS = {"wrong": (RIGHT, "another key"), "missing": (RIGHT, None), "superfluous": (None, "a key")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_spellings(tmp_path)
    return tmp_path


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "there" / "memory.db"


def _settings(path: str | Path, key: str | None) -> ms.Settings:
    return ms.Settings(database=str(path), encryption_key=key)


def _rows(path: Path, key: str | None) -> list[int]:
    connection = dbapi.connect(str(path), encryption_key=key)
    try:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
    finally:
        connection.close()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", KEYS)
def test_another_key_for_an_open_file_is_a_credential_error(directory, path, monkeypatch, spelling, key):
    right, other = KEYS[key]
    monkeypatch.chdir(directory)
    with ms.MemoryStorage.open(_settings(path, right)) as storage:
        storage.episodes.save(ms.Episode(task_description="kept"))
        with pytest.raises(ms.CredentialError, match=r"this process has it open with.*encryption_key") as caught:
            ms.MemoryStorage.open(_settings(spelled(directory, spelling), other))
        assert caught.value.__cause__.code == "OTHER_KEY"
        assert storage.episodes.count() == 1


@pytest.mark.parametrize("key", KEYS)
def test_a_refused_key_takes_no_lock_and_loses_no_save(directory, path, key):
    right, other = KEYS[key]
    with workers(directory, 1) as (worker,):
        assert worker.ask("open", 0, "plain", right) == ""
        assert worker.ask("write", 0, 0) == ""
        for spelling in SPELLINGS:
            assert worker.ask("open", 1, spelling, other) == "OTHER_KEY"
            assert worker.has_locks(path)
        assert use(directory, right) == ""
        assert Path(f"{path}-wal").exists(), "another process took the file for unused"
        for value in range(1, 20):
            assert worker.ask("write", 0, value) == ""
    assert _rows(path, right) == list(range(20))


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_key_after_a_crash_leaves_the_log_alone(directory, path, key):
    right, other = KEYS[key]
    with workers(directory, 1) as (worker,):
        worker.ask("open", 0, "plain", right)
        for value in range(20):
            assert worker.ask("write", 0, value) == ""
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    kind = ms.ConfigurationError if key == "superfluous" else ms.CredentialError
    for _ in range(2):
        with pytest.raises(kind, match=r"not encrypted, but|encrypted with another key|encrypted, and no key"):
            ms.MemoryStorage.open(_settings(path, other))
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before
    assert _rows(path, right) == list(range(20))


def test_a_wrong_key_after_a_crash_beside_an_open_descriptor(directory, path):
    with workers(directory, 1) as (worker,):
        worker.ask("open", 0, "plain", RIGHT)
        assert worker.ask("write", 0, 7) == ""
    with path.open("rb"):
        with pytest.raises(ms.CredentialError, match="encrypted with another key"):
            ms.MemoryStorage.open(_settings(path, "another key"))
        assert _rows(path, RIGHT) == [7]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_names_of_a_file_share_its_log_and_its_rows(directory, path, monkeypatch, spelling):
    monkeypatch.chdir(directory)
    with ms.MemoryStorage.open(path) as storage:
        first = storage.episodes.save(ms.Episode(task_description="by one name"))
        with ms.MemoryStorage.open(spelled(directory, spelling)) as other:
            second = other.episodes.save(ms.Episode(task_description="by another"))
            assert other.episodes.get(first.id) == first
            assert storage.episodes.get(second.id) == second
        third = storage.episodes.save(ms.Episode(task_description="when the other is closed"))
    with ms.MemoryStorage.open(path) as again:
        assert {one.id for one in again.episodes.iterate()} == {first.id, second.id, third.id}
    assert not (directory / "hard.db-wal").exists()


def test_a_file_that_was_moved_is_not_opened_by_its_new_name(path):
    with ms.MemoryStorage.open(path) as storage:
        storage.episodes.count()
        moved = path.rename(path.with_name("moved.db"))
        with pytest.raises(ms.UnavailableError, match=r"memory\.db: the file was removed while it was open") as caught:
            ms.MemoryStorage.open(moved)
        assert caught.value.code == "FILE_GONE"
        assert not path.exists()
        moved.rename(path)
        assert storage.episodes.count() == 0


@pytest.mark.parametrize("change", ["removed", "replaced by another one"])
def test_a_log_that_is_exchanged_while_it_is_open_is_noticed(path, change):
    with ms.MemoryStorage.open(path) as storage:
        storage.episodes.save(ms.Episode(task_description="in the log"))
        log = Path(f"{path}-wal")
        content = log.read_bytes()
        log.unlink()
        if change != "removed":
            log.write_bytes(content)
        for call in (storage.episodes.count, lambda: storage.episodes.save(ms.Episode(task_description="lost"))):
            with pytest.raises(ms.UnavailableError, match=f"its log was {change} while it was open") as caught:
                call()
            assert caught.value.code == "FILE_GONE"


def test_leaving_write_ahead_logging_and_coming_back_is_no_loss(path):
    connection = dbapi.connect(str(path))
    connection.autocommit = True
    for mode in ("DELETE", "WAL", "DELETE", "WAL"):
        assert connection.execute(f"PRAGMA journal_mode = {mode}").fetchall() == [(mode.lower(),)]
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert _rows(path, None) == [1] * 4


def test_a_log_that_the_engine_removes_itself_is_no_loss(path):
    idle, other = dbapi.connect(str(path)), dbapi.connect(str(path))
    other.execute("SELECT 1").fetchall()
    other.close()  # the idle one has read nothing yet: it does not use the log
    assert idle.execute("SELECT 1").fetchall() == [(1,)]
    _write_one(idle)
    idle.close()
    assert _rows(path, None) == [1]


def _write_one(connection: dbapi.Connection) -> None:
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()


def test_importing_the_open_database_itself_takes_no_lock(directory, path):
    with ms.MemoryStorage.open(path) as storage:
        storage.episodes.save(ms.Episode(task_description="kept"))
        for name in (path, Path(f"{path}-wal"), directory / "linked" / "memory.db"):
            with pytest.raises(ms.ConfigurationError, match="this process has it open as a database"):
                import_file(storage, name)
        assert use(directory, None) != "SQLITE_BUSY"
        assert Path(f"{path}-wal").exists()


def test_a_report_is_not_written_over_the_open_database(path):
    with ms.MemoryStorage.open(path) as storage:
        with pytest.raises(ms.ConfigurationError, match="this process has it open as a database"):
            write_page(collect(storage), path)
        assert storage.episodes.count() == 0


def test_a_dropped_connection_beside_an_opening_thread_is_closed(path):
    dbapi.connect(str(path)).close()

    def open_and_drop() -> None:
        for _ in range(50):
            connection = dbapi.connect(str(path))
            connection.execute("SELECT 1")
            del connection

    threads = [threading.Thread(target=open_and_drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not Path(f"{path}-wal").exists(), "a connection is open still"
    assert not dbapi.is_open_here(path)


@pytest.mark.parametrize("number", range(RACES))
def test_opens_that_race_leave_every_connection_its_lock(directory, path, number):
    """Threads open and close by every name and with every key; afterwards another process must see the lock."""
    with workers(directory, 1) as (worker,):
        assert worker.ask("open", 0, "plain", RIGHT) == ""
        assert worker.ask("write", 0, number) == ""
        assert worker.ask("race", RIGHT) == ""
        assert worker.ask("close", 0) == ""
        assert worker.has_locks(path)
        assert use(directory, RIGHT) == ""
        assert Path(f"{path}-wal").exists()
        for value in range(100, 110):
            assert worker.ask("write", "kept", value) == ""
    assert _rows(path, RIGHT) == sorted([number, *range(100, 110)])


_PROCESS, _SLOT, _SPELLING = st.integers(0, 1), st.integers(0, 2), st.sampled_from(SPELLINGS)
_KEY = st.sampled_from(("right", "right", "wrong", "none"))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), _PROCESS, _SLOT, _SPELLING, _KEY),
        st.tuples(st.just("write"), _PROCESS, _SLOT),
        st.tuples(st.sampled_from(("close", "forget")), _PROCESS, _SLOT),
        st.tuples(st.just("fork"), _PROCESS, _SPELLING, _KEY),
        st.tuples(st.just("kill"), _PROCESS),
    ),
    min_size=4,
    max_size=14,
)


@pytest.fixture(scope="module")
def crew() -> Iterator[tuple[Path, list[Worker]]]:
    """A directory for directories, and two processes that serve all examples, but for those that are killed."""
    with tempfile.TemporaryDirectory() as directory, workers(Path(directory), 2) as processes:
        yield Path(directory), processes


@settings(max_examples=INTERLEAVINGS)
@given(steps=_STEPS, encrypted=st.booleans())
def test_no_interleaving_loses_a_lock_or_an_acknowledged_row(crew, steps, encrypted):
    home, processes = crew
    directory = Path(tempfile.mkdtemp(dir=home))
    make_spellings(directory)
    for process in processes:
        process.enter(directory)
    model = _Model(directory, processes, RIGHT if encrypted else None)
    for step, *arguments in steps:
        getattr(model, step)(*arguments)
        model.check_locks()
    model.check_rows()


class _Model:
    """What is acknowledged, and which connections are open."""

    def __init__(self, directory, processes, key) -> None:
        self._directory, self._processes, self._right = directory, processes, key
        self._path = directory / "there" / "memory.db"
        self._rows: list[int] = []
        self._next = 0
        self._write_by(0, 0, "plain")  # so that there is a file of which a key can be wrong
        self.close(0, 0)

    def open(self, process, slot, spelling, key) -> None:
        worker = self._processes[process]
        if slot in worker.open or self._is_apart(worker, spelling):
            return
        answer = worker.ask("open", slot, spelling, self._key(key))
        if self._key(key) == self._right:
            assert answer == ""
            worker.open[slot] = spelling
        else:
            assert answer == ("OTHER_KEY" if worker.open else self._refusal(key))

    def write(self, process, slot) -> None:
        worker = self._processes[process]
        if slot in worker.open:
            self._next += 1
            assert worker.ask("write", slot, self._next) == ""
            self._rows.append(self._next)

    def close(self, process, slot, how="close") -> None:
        worker = self._processes[process]
        if worker.open.pop(slot, None):
            assert worker.ask(how, slot) == ""

    def forget(self, process, slot) -> None:
        self.close(process, slot, "forget")

    def fork(self, process, spelling, key) -> None:
        worker = self._processes[process]
        if self._is_apart(worker, spelling) or spelling == "hard link":
            return
        values = [self._next + 1, self._next + 2]
        self._next += 2
        answer = worker.ask("fork", spelling, self._key(key), values)
        if self._key(key) == self._right:
            assert answer == ""
            self._rows += values
        else:
            assert answer == "REFUSED"

    def kill(self, process) -> None:
        self._processes[process].kill()
        self._processes[process] = Worker(self._directory)

    def check_locks(self) -> None:
        for worker in self._processes:
            assert not worker.open or worker.has_locks(self._path)

    def check_rows(self) -> None:
        assert _rows(self._path, self._right) == self._rows

    def _write_by(self, process, slot, spelling) -> None:
        self.open(process, slot, spelling, "right")
        self.write(process, slot)

    def _key(self, key) -> str | None:
        if key == "right":
            return self._right
        return "another key" if key == "wrong" or self._right is None else None

    def _refusal(self, key) -> str:
        return "NOT_ENCRYPTED" if self._right is None else "WRONG_KEY"

    def _is_apart(self, worker, spelling) -> bool:
        """Whether it is a hard link that would get a log of its own: only within a process that is prevented."""
        return spelling == "hard link" and not worker.open
