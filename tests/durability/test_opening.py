"""Opening foreign, damaged or missing files: a typed error with a remedy, and no byte is changed."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage import dbapi
from tests.checks import assert_consistent

from .processes import killed, together
from .work import open_as_nobody, open_until_killed


def _store(path: Path) -> None:
    with ms.MemoryStorage.open(path) as storage:
        storage.episodes.save(ms.Episode(task_description="mine"))


def _newer(path: Path) -> None:
    _store(path)
    _change(path, "UPDATE alembic_version SET version_num = '9999'")


def _newer_without_a_log(path: Path) -> None:
    _newer(path)
    _change(path, "PRAGMA journal_mode = DELETE")


def _change(path: Path, sql: str) -> None:
    connection = dbapi.connect(str(path))
    connection.autocommit = True
    connection.execute(sql)
    connection.close()


def _foreign(*script: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        other = sqlite3.connect(path)
        other.executescript(";".join(script))
        other.close()

    return make


_ALEMBIC = "CREATE TABLE alembic_version (version_num TEXT)"
_USERS = "CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('alice')"
_FOREIGN = {
    "another program's": _foreign(_USERS),
    "another program's in WAL mode": _foreign("PRAGMA journal_mode = WAL", _USERS),
    "one that uses Alembic": _foreign(_ALEMBIC, "INSERT INTO alembic_version VALUES ('4f1c2a')", _USERS),
    "one with a revision of our name": _foreign(_ALEMBIC, "INSERT INTO alembic_version VALUES ('0001')", _USERS),
    "one with no revision yet": _foreign(_ALEMBIC, _USERS),
}
_NEWER = {"in WAL mode": _newer, "in another mode": _newer_without_a_log}


def _cut(size: Callable[[int], int]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _store(path)
        content = path.read_bytes()
        path.write_bytes(content[: size(len(content))])

    return make


_DAMAGED = {
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(20_000)),
    "a text": lambda path: path.write_text("to do: learn to remember\n" * 50),
    "a short text": lambda path: path.write_text("to do\n"),
    "cut in the middle": _cut(lambda size: size // 2),
    "cut in a page": _cut(lambda size: size - 50_000 - 1000),
    "cut in its first page": _cut(lambda size: 1000),
    "cut in its header": _cut(lambda size: 60),
}


@pytest.mark.parametrize("make", _FOREIGN.values(), ids=_FOREIGN)
def test_another_programs_database_is_refused_untouched(database: Path, make: Callable[[Path], None]):
    make(database)
    with _untouched(database), pytest.raises(ms.SchemaError, match=r"another program \(.*users.*\): choose another"):
        ms.MemoryStorage.open(database)


@pytest.mark.parametrize("make", _NEWER.values(), ids=_NEWER)
def test_a_newer_schema_is_refused_untouched(database: Path, make: Callable[[Path], None]):
    make(database)
    with _untouched(database), pytest.raises(ms.SchemaError, match=r"newer.*upgrade the memory-storage") as caught:
        ms.MemoryStorage.open(database)
    assert caught.value.found == "9999"


@pytest.mark.parametrize("make", _DAMAGED.values(), ids=_DAMAGED)
def test_a_damaged_file_is_reported_untouched(database: Path, make: Callable[[Path], None]):
    make(database)
    with _untouched(database), pytest.raises(ms.CorruptDataError, match="restore it from a backup"):
        ms.MemoryStorage.open(database)


def test_a_refused_file_can_be_opened_once_it_is_replaced(database: Path):
    database.write_text("not a database " * 100)
    with pytest.raises(ms.CorruptDataError):
        ms.MemoryStorage.open(database)
    database.unlink()
    _store(database)


def test_an_empty_file_becomes_a_store(database: Path):
    database.touch()
    _store(database)


def test_a_directory_is_no_database(tmp_path: Path):
    with pytest.raises(ms.ConfigurationError, match="it is a directory: name a file in it"):
        ms.MemoryStorage.open(tmp_path)


def test_directories_that_are_missing_are_made(tmp_path: Path):
    _store(tmp_path / "a" / "b" / "memory.db")


def test_a_path_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ms.ConfigurationError, match=r"cannot be written: .*/file is a file, not a directory"):
        ms.MemoryStorage.open(tmp_path / "file" / "memory.db")


def test_what_half_a_migration_left_behind_is_no_obstacle(tmp_path: Path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for number in range(20):
        path = tmp_path / f"{number}.db"
        opened = killed(open_until_killed, path, after=moments.uniform(0.005, 0.2))
        with ms.MemoryStorage.open(path) as storage:
            assert storage.episodes.count() == len(opened)
            assert_consistent(storage.engine)


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A directory that every user may enter: tmp_path is the test's own."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
        os.chmod(directory, 0o755)  # so that it can be removed


def test_a_directory_that_may_not_be_written_is_refused(public: Path):
    public.chmod(0o555)
    ((error, message),) = together(open_as_nobody, [(public / "memory.db",)])
    assert error == "ConfigurationError"
    assert "check the path and its permissions" in message


def test_a_directory_that_may_not_be_made_is_refused(public: Path):
    public.chmod(0o555)
    ((error, message),) = together(open_as_nobody, [(public / "below" / "memory.db",)])
    assert error == "ConfigurationError"
    assert "cannot be written: Permission denied" in message


def test_a_file_that_may_not_be_read_is_refused_untouched(public: Path):
    path = public / "memory.db"
    _store(path)
    before = path.read_bytes()
    path.chmod(0o000)
    ((error, message),) = together(open_as_nobody, [(path,)])
    path.chmod(0o600)
    assert path.read_bytes() == before
    assert error == "ConfigurationError"
    assert "check the path and its permissions" in message


def test_read_only_files_and_directories_are_reported_untouched(public: Path):
    path = public / "memory.db"
    _store(path)
    path.chmod(0o444)
    public.chmod(0o555)
    with _untouched(path):
        ((error, message),) = together(open_as_nobody, [(path,)])
    assert error == "UnavailableError"
    assert "make the file and its directory writable" in message


def test_a_file_that_may_not_be_written_can_be_read(public: Path):
    path = public / "memory.db"
    _store(path)
    public.chmod(0o777)
    path.chmod(0o444)
    before = path.read_bytes()
    ((error, message),) = together(open_as_nobody, [(path,)])
    assert path.read_bytes() == before
    assert error == "1 episode, then UnavailableError"
    assert "make the file and its directory writable" in message


class _untouched:  # noqa: N801 - it reads as a word in a `with`
    """The file has the same bytes after the block, and no other file was created."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._before = self._state()

    def __exit__(self, *_: object) -> None:
        assert self._state() == self._before

    def _state(self) -> tuple[str, list[str]]:
        content = hashlib.sha256(self._path.read_bytes()).hexdigest()
        return content, sorted(os.listdir(self._path.parent))
