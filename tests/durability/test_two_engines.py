"""One file and both local engines: one of them at a time in a process, both at a time in two processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage import dbapi
from tests.backends import needs_libsql
from tests.raising import raises

from .open_files import SPELLINGS, make_spellings, spelled
from .processes import in_fork, together
from .work import ENGINES, insert_two

pytestmark = needs_libsql


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that opens the file first."""
    name: str = request.param
    return name


@pytest.fixture
def other(engine: str) -> str:
    """The engine that opens the file second."""
    return ENGINES[engine == ENGINES[0]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the table t, of one row; the working directory is above it."""
    make_spellings(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "there" / "memory.db"
    connection = dbapi.connect(str(path), local_engine="sqlite")
    connection.execute("CREATE TABLE t (x)")
    _insert(connection, 0)
    connection.close()
    return path


@pytest.fixture
def first(path: Path, engine: str) -> Iterator[dbapi.Connection]:
    """A connection to the file by the first engine."""
    connection = dbapi.connect(str(path), local_engine=engine)
    yield connection
    connection.close()


@contextmanager
def _in_memory(engine: str) -> Iterator[dbapi.Connection]:
    connection = dbapi.connect(":memory:", local_engine=engine)
    connection.autocommit = True
    yield connection
    connection.close()


def _insert(connection: dbapi.Connection, value: int) -> None:
    connection.execute("INSERT INTO t VALUES (?)", (value,))
    connection.commit()


def _rows(path: Path | str, engine: str) -> list[int]:
    connection = dbapi.connect(str(path), local_engine=engine)
    try:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
    finally:
        connection.close()


def _is_refused(path: Path | str, engine: str, *, by: str) -> None:
    with raises(dbapi.DatabaseError, code="OTHER_ENGINE", match=f"open with the engine '{engine}'.*close what has it"):
        dbapi.connect(str(path), local_engine=by)


def _settings(path: Path | str, engine: str) -> ms.Settings:
    return ms.Settings(database=str(path), local_engine=engine, vector_index="exact")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_other_engine_is_refused_by_any_name_of_the_file(tmp_path, path, first, engine, other, spelling):
    name = spelled(tmp_path, spelling)
    _is_refused(name, engine, by=other)
    assert dbapi.engine_of(name) == engine
    assert _rows(name, engine) == _rows(name, "auto") == [0]
    _insert(first, 1)
    assert _rows(path, engine) == [0, 1]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_other_engine_is_refused_where_any_name_was_opened(tmp_path, path, engine, other, spelling):
    connection = dbapi.connect(spelled(tmp_path, spelling), local_engine=engine)
    _is_refused(path, engine, by=other)
    connection.close()
    assert _rows(path, other) == [0]


def test_another_case_of_the_name_is_the_file_that_it_leads_to(path, first, engine, other):
    name = path.with_name("MEMORY.DB")
    if name.exists():  # the file system folds case
        _is_refused(name, engine, by=other)
    else:
        dbapi.connect(str(name), local_engine=other).close()
        assert dbapi.engine_of(path) == engine


def test_the_other_engine_is_refused_in_another_thread(path, first, engine, other):
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            _is_refused(path, engine, by=other)
        except BaseException as error:  # noqa: BLE001 - the test fails by it
            errors.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    assert errors == []


def test_the_other_engine_opens_the_file_once_all_is_closed(path, engine, other):
    connections = [dbapi.connect(str(path), local_engine=engine) for _ in range(3)]
    for number, connection in enumerate(connections, 1):
        _is_refused(path, engine, by=other)
        _insert(connection, number)
        connection.close()
    for name in (other, engine, other):
        assert dbapi.engine_of(path) is None
        assert _rows(path, name) == [0, 1, 2, 3]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_other_engine_may_not_attach_the_file(tmp_path, path, first, other, spelling):
    with _in_memory(other) as connection:
        for sql, values in (
            ("ATTACH ? AS o", [spelled(tmp_path, spelling)]),
            (f"/* of t */ attach database '{spelled(tmp_path, spelling)}' as \"o\"", []),
            (f'ATTACH "{spelled(tmp_path, spelling)}" AS o', []),
        ):
            with raises(dbapi.DatabaseError, match=f"'{other}' was asked for; nothing", code="OTHER_ENGINE"):
                connection.execute(sql, values)
            assert len(connection.execute("PRAGMA database_list").fetchall()) == 1


def test_the_same_engine_may_attach_the_file(path, first, engine):
    with _in_memory(engine) as connection:
        connection.execute("ATTACH ? AS o", (str(path),))
        assert connection.execute("SELECT x FROM o.t").fetchall() == [(0,)]


def test_a_bare_name_is_attached_as_the_file_of_that_name(tmp_path, engine, other, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with _in_memory(engine) as connection, _in_memory(other) as another:
        for number, name in enumerate(("bare", "[b r]", "`as`", '"c""d"', "'e''f'")):
            connection.execute(f"ATTACH {name} AS o{number}")
            with raises(dbapi.DatabaseError, code="OTHER_ENGINE"):
                another.execute(f"ATTACH {name} AS o{number}")
        files = {Path(row[2]).name for row in connection.execute("PRAGMA database_list").fetchall() if row[2]}
        assert files == {"bare", "b r", "as", 'c"d', "e'f"} == {one.name for one in tmp_path.iterdir() if one.is_file()}


@pytest.mark.parametrize("name", ["", ":memory:", None])
def test_a_temporary_database_may_be_attached(engine, name):
    with _in_memory(engine) as connection:
        connection.execute("ATTACH ? AS o", (name,))
        assert connection.execute("SELECT count(*) FROM o.sqlite_master").fetchall() == [(0,)]


@pytest.mark.parametrize("name", [7, b"7", "7"])
def test_a_number_and_bytes_name_a_file_too(engine, other, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with _in_memory(engine) as connection, _in_memory(other) as another:
        connection.execute("ATTACH ? AS o", (name,))
        with raises(dbapi.DatabaseError, code="OTHER_ENGINE"):
            another.execute("ATTACH '7' AS o")


def test_an_attached_file_binds_its_engine_until_the_connection_is_closed(tmp_path, path, engine, other):
    connection = dbapi.connect(str(tmp_path / "another.db"), local_engine=engine)
    connection.execute("ATTACH ? || 'memory.db' AS o", (f"{path.parent}/",))
    _is_refused(path, engine, by=other)
    connection.execute("INSERT INTO o.t VALUES (1)")
    _is_refused(path, engine, by=other)
    connection.commit()
    connection.execute("DETACH o")
    connection.close()
    assert dbapi.engine_of(path) is None
    assert _rows(path, other) == [0, 1]


def test_a_refused_engine_leaves_the_locks_of_the_first(path, first, engine, other):
    first.execute("INSERT INTO t VALUES (1)")  # holds the write lock
    for _ in range(3):
        _is_refused(path, engine, by=other)

    _in_another_process(path, engine, "SQLITE_BUSY")
    _in_another_process(path, other, "SQLITE_BUSY")
    first.commit()
    _in_another_process(path, other, "")
    assert _rows(path, engine) == [0, 1, 2]


def _in_another_process(path: Path, engine: str, code: str) -> None:
    """A process that opens the file by an engine, and writes."""
    assert together(insert_two, [(path, engine)]) == [code]


@pytest.mark.parametrize("spelling", ["", "file:", "relative", "file:relative", "linked"])
def test_the_facade_refuses_the_other_engine(tmp_path, engine, other, spelling):
    make_spellings(tmp_path)
    path = tmp_path / "there" / "memory.db"
    relative = os.path.relpath(path)
    name = {
        "": str(path),
        "file:": f"file:{path}",
        "relative": relative,
        "file:relative": f"file:{relative}",
        "linked": str(tmp_path / "linked" / "memory.db"),
    }[spelling]
    with ms.MemoryStorage.open(_settings(path, engine)) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="kept"))
        with raises(ms.ConfigurationError, match=f"use local_engine='{engine}' or 'auto'"):
            ms.MemoryStorage.open(_settings(name, other))
        with ms.MemoryStorage.open(_settings(name, "auto")) as same:
            assert same.episodes.get(episode.id) == episode
    with ms.MemoryStorage.open(_settings(name, other)) as storage:
        assert storage.episodes.get(episode.id) == episode


def test_a_database_in_memory_keeps_the_engine_of_its_first_connection(engine, other):
    memory = dbapi.MemoryDatabase()
    connection = dbapi.connect(memory, local_engine=engine)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    with raises(dbapi.DatabaseError, code="OTHER_ENGINE", match="the database in memory"):
        dbapi.connect(memory, local_engine=other)
    connection.close()
    with raises(dbapi.DatabaseError, code="OTHER_ENGINE"):
        dbapi.connect(memory, local_engine=other)
    assert dbapi.connect(memory).execute("SELECT * FROM t").fetchall() == []


def test_a_child_chooses_its_engine_and_keeps_to_it(path, first, engine, other):
    def child(mine: str, refused: str) -> None:
        connection = dbapi.connect(str(path), local_engine=mine)
        _is_refused(path, mine, by=refused)
        _insert(connection, 1)
        _is_refused(path, mine, by=refused)
        connection.close()
        assert _rows(path, refused)[0] == 0

    in_fork(lambda: child(engine, other))
    in_fork(lambda: child(other, engine))  # two processes may use two engines
    _is_refused(path, engine, by=other)
    _insert(first, 2)
    assert _rows(path, engine) == [0, 1, 1, 2]


def test_a_write_transaction_at_a_fork_binds_the_file_to_its_engine(path, first, engine, other):
    first.execute("INSERT INTO t VALUES (1)")

    def child() -> None:
        # The engine of the inherited connection believes that it holds the locks, so no other may come near the file.
        _is_refused(path, engine, by=other)
        assert _rows(path, engine) == [0]
        _is_refused(path, engine, by=other)

    in_fork(child)
    first.commit()
    _in_another_process(path, other, "")
    assert _rows(path, engine) == [0, 1, 2]


def test_a_storage_at_a_fork_lets_the_child_continue_with_its_engine(tmp_path, engine, other):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(_settings(path, engine)) as storage:
        storage.episodes.save(ms.Episode(task_description="the parent's"))

        def child() -> None:
            storage.episodes.save(ms.Episode(task_description="the child's"))
            with raises(ms.ConfigurationError, match=f"use local_engine='{engine}'"):
                ms.MemoryStorage.open(_settings(path, other))
            storage.close()
            with ms.MemoryStorage.open(_settings(path, other)) as mine:
                mine.episodes.save(ms.Episode(task_description="the child's, by the other engine"))

        in_fork(child)
        assert storage.episodes.count() == 3
