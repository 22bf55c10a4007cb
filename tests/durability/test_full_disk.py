"""A full or failing disk: a typed error, no partial write, and recovery when there is space."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

import memory_storage as ms
from tests.checks import assert_consistent, dump
from tests.raising import raises

from .processes import together
from .work import settings_of


@contextmanager
def _no_room(storage: ms.MemoryStorage) -> Iterator[None]:
    """The engine itself says that the disk is full as soon as the file would have to grow."""

    def limit(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite makes it the size that the file has

    def no_limit(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1073741823")

    event.listen(storage.engine, "checkout", limit)
    yield
    event.remove(storage.engine, "checkout", limit)
    event.listen(storage.engine, "checkout", no_limit)


@pytest.fixture(params=["memory", "file"])
def target(request: pytest.FixtureRequest, local_engine: str) -> ms.Settings:
    """Local backends only: a server has its own disk."""
    database = ":memory:" if request.param == "memory" else request.getfixturevalue("database")
    return settings_of(database, local_engine)


def _big(number: int = 0) -> ms.Episode:
    return ms.Episode(task_description=f"episode {number}", steps=[ms.Step(tool="t", action="word " * 20_000)])


def test_a_full_disk_is_unavailable_and_stores_nothing(storage: ms.MemoryStorage):
    storage.episodes.save(_big())
    before = dump(storage.engine)
    with _no_room(storage):
        with pytest.raises(
            ms.UnavailableError, match="the disk is full; nothing of this call was stored; free some space"
        ) as caught:
            storage.episodes.save_many([_big(number) for number in range(5)])
        assert caught.value.code == "SQLITE_FULL"
        with pytest.raises(ms.UnavailableError), storage.transaction() as tx:  # noqa: PT012 - which call it is, is open
            tx.episodes.save(ms.Episode(task_description="a small one that fits"))
            tx.episodes.save_many([_big(number) for number in range(5)])
        assert dump(storage.engine) == before
    assert storage.episodes.save(_big(6)).version == 1
    assert_consistent(storage.engine)


def test_a_block_resumed_after_a_full_disk_is_all_or_nothing(storage: ms.MemoryStorage):
    storage.episodes.save(_big())
    with _no_room(storage), suppress(ms.UnavailableError), storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description="first half"))
        with raises(ms.UnavailableError, code="SQLITE_FULL"):
            tx.episodes.save_many([_big(number) for number in range(5)])
        tx.episodes.save(ms.Episode(task_description="second half"))
    stored = {found.task_description for found in storage.episodes.iterate()} - {"episode 0"}
    assert stored in (set(), {"first half", "second half"})
    assert_consistent(storage.engine)


def test_a_failing_disk_is_unavailable_and_stores_nothing(database: Path, local_engine: str):
    (outcome,) = together(write_over_the_size_limit, [(database, local_engine, False)])
    assert outcome == ("SQLITE_IOERR", 1, 2)
    with ms.MemoryStorage.open(database) as storage:
        assert storage.episodes.count() == 2
        assert_consistent(storage.engine)


def test_a_block_whose_commit_fails_leaves_the_connection_usable(database: Path, local_engine: str):
    assert together(write_over_the_size_limit, [(database, local_engine, True)]) == [("SQLITE_IOERR", 1, 2)]


def write_over_the_size_limit(barrier: object, path: Path, engine: str, in_block: bool) -> tuple[str, int, int]:
    """Write with and without a limit to the size of files; the error's code, and the episodes then and afterwards.

    In a block the statement succeeds, since only the commit writes.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ms.MemoryStorage.open(settings_of(path, engine)) as storage:
        storage.episodes.save(_big())
        size = path.with_name(path.name + "-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
        is_saved = False
        try:
            with storage.transaction() if in_block else nullcontext(storage) as target:
                target.episodes.save(_big(1))
                is_saved = True
        except ms.UnavailableError as error:
            assert is_saved == in_block
            code, then = error.code, storage.episodes.count()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        storage.episodes.save(_big(2))
        return code, then, storage.episodes.count()
