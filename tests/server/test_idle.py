"""Connections and transactions that wait for too long: what the server takes back, it takes back whole.

The server closes a stream after ten idle seconds, and a transaction of five when another writer waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, exc, text

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.backup import back_up
from memory_storage.importers import export_lines
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .raw import client

IDLE = 12.0
PAUSE = 11.5
OLD = 6.0


def used_left_and_used_again_through_the_driver(url: str, table: str) -> None:
    connection = dbapi.connect(url)
    for wait in (IDLE, 0):
        connection.execute(f"SELECT count(*) FROM {table}")
        connection.commit()
        connection.execute(f"INSERT INTO {table} VALUES ('kept')")
        connection.commit()
        time.sleep(wait)
    connection.close()


def used_left_and_used_again_through_core(url: str, table: str) -> None:
    engine = create_engine(url)
    for wait in (IDLE, 0):
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO {table} VALUES ('kept')"))
        time.sleep(wait)
    engine.dispose()


def left_within_a_transaction_through_the_driver(url: str, table: str) -> None:
    connection = dbapi.connect(url)
    connection.execute(f"INSERT INTO {table} VALUES ('lost')")
    time.sleep(IDLE)
    with pytest.raises(dbapi.OperationalError) as caught:
        connection.execute(f"INSERT INTO {table} VALUES ('lost too')")
    assert caught.value.code == "TRANSACTION_LOST"
    refused_until_rolled_back(connection, table)


def committed_too_late_through_the_driver(url: str, table: str) -> None:
    connection = dbapi.connect(url)
    connection.execute(f"INSERT INTO {table} VALUES ('lost')")
    time.sleep(IDLE)
    with pytest.raises(dbapi.OperationalError) as caught:
        connection.commit()
    assert not isinstance(caught.value, dbapi.OutcomeUnknownError)
    refused_until_rolled_back(connection, table)


def refused_until_rolled_back(connection: dbapi.Connection, table: str) -> None:
    for refused in (
        lambda: connection.execute(f"INSERT INTO {table} VALUES ('refused')"),
        lambda: connection.execute("SELECT 1"),
        lambda: connection.execute(dbapi.Batch([dbapi.BatchStep(f"INSERT INTO {table} VALUES ('refused')")])),
        lambda: connection.cursor().executemany(f"INSERT INTO {table} VALUES (?)", [("refused",)]),
        connection.commit,
    ):
        with raises(dbapi.OperationalError, code="TRANSACTION_LOST", match="rollback"):
            refused()
    connection.rollback()
    for value in ("kept", "kept"):
        connection.execute(f"INSERT INTO {table} VALUES (?)", (value,))
    connection.commit()
    connection.close()


def left_within_a_transaction_through_core(url: str, table: str) -> None:
    engine = create_engine(url)

    def insert_slowly() -> None:
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO {table} VALUES ('lost')"))
            time.sleep(IDLE)
            connection.execute(text(f"INSERT INTO {table} VALUES ('lost too')"))

    with pytest.raises(exc.OperationalError, match="transaction was lost"):
        insert_slowly()
    assert engine.pool.checkedout() == 0
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} VALUES ('kept'), ('kept')"))
    engine.dispose()


WAITING = [
    used_left_and_used_again_through_the_driver,
    used_left_and_used_again_through_core,
    left_within_a_transaction_through_the_driver,
    committed_too_late_through_the_driver,
    left_within_a_transaction_through_core,
]


def databases(sqld: Sqld, prefix: str, count: int) -> list[str]:
    """The names of new databases, each with a table."""
    names = [f"{prefix}-{number}" for number in range(count)]
    for name in names:
        sqld.create_namespace(name)
        with client(sqld.port, path=f"/dev/{name}") as raw:
            raw.run("CREATE TABLE t (v)")
    return names


@pytest.mark.slow
def test_an_idle_connection_works_an_idle_transaction_fails(sqld: Sqld):
    # At the same time, so each in a database of its own: the lock is one a database.
    names = databases(sqld, "idle", len(WAITING))
    with ThreadPoolExecutor(len(WAITING)) as threads:
        jobs = [threads.submit(wait, sqld.url_of(name), "t") for wait, name in zip(WAITING, names, strict=True)]
        for job in jobs:
            job.result()
    for name in names:
        with client(sqld.port, path=f"/dev/{name}") as raw:
            assert raw.run("SELECT v FROM t") == [["kept"], ["kept"]], name
        sqld.delete_namespace(name)


def robbed_through_the_driver(url: str) -> None:
    connection = dbapi.connect(url)
    connection.execute("INSERT INTO t VALUES ('lost 1')")
    time.sleep(OLD)
    with raises(dbapi.OperationalError, code="TRANSACTION_TIMEOUT"):
        connection.execute(dbapi.Batch([dbapi.BatchStep("INSERT INTO t VALUES ('lost 2')")]))
    with raises(dbapi.OperationalError, code="TRANSACTION_LOST", match="rollback"):
        connection.execute("INSERT INTO t VALUES ('lost 3')")
    with raises(dbapi.OperationalError, code="TRANSACTION_LOST", match="rollback"):
        connection.commit()
    connection.rollback()
    connection.execute("INSERT INTO t VALUES ('kept')")
    connection.commit()
    connection.close()


def robbed_before_its_commit_through_the_driver(url: str) -> None:
    connection = dbapi.connect(url)
    connection.cursor().executemany("INSERT INTO t VALUES (?)", [("lost 1",), ("lost 2",)])
    time.sleep(OLD)
    with pytest.raises(dbapi.OperationalError) as caught:
        connection.commit()
    assert not isinstance(caught.value, dbapi.OutcomeUnknownError)
    connection.rollback()
    connection.execute("INSERT INTO t VALUES ('kept')")
    connection.commit()
    connection.close()


def robbed_through_core(url: str) -> None:
    engine = create_engine(url)

    def insert_slowly() -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES ('lost 1')"))
            time.sleep(OLD)
            try:
                connection.execute(text("INSERT INTO t VALUES ('lost 2')"))
            finally:
                with raises(exc.PendingRollbackError):
                    connection.execute(text("INSERT INTO t VALUES ('lost 3')"))

    with raises(exc.OperationalError, code="TRANSACTION_TIMEOUT"):
        insert_slowly()
    assert engine.pool.checkedout() == 0
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES ('kept')"))
    engine.dispose()


ROBBED = [robbed_through_the_driver, robbed_before_its_commit_through_the_driver, robbed_through_core]


@pytest.mark.slow
def test_an_old_transaction_fails_when_another_writer_waits(sqld: Sqld):
    def other_writer(url: str) -> None:
        time.sleep(0.5)
        connection = dbapi.connect(url)
        connection.execute("INSERT INTO t VALUES ('another')")
        connection.commit()
        connection.close()

    names = databases(sqld, "old", len(ROBBED))
    with ThreadPoolExecutor(2 * len(names)) as threads:
        jobs = [threads.submit(robbed, sqld.url_of(name)) for robbed, name in zip(ROBBED, names, strict=True)]
        jobs += [threads.submit(other_writer, sqld.url_of(name)) for name in names]
        for job in jobs:
            job.result()
    for name in names:
        with client(sqld.port, path=f"/dev/{name}") as raw:
            assert raw.run("SELECT v FROM t ORDER BY v") == [["another"], ["kept"]], name
        sqld.delete_namespace(name)


def export_slowly(url: str, _: Path) -> None:
    with ms.MemoryStorage.open(url) as storage:
        lines = export_lines(storage)
        first = [next(lines) for _ in range(50)]
        storage.in_namespace("default").episodes.save(ms.Episode(task_description="after the snapshot"))
        time.sleep(PAUSE)
        assert len([*first, *lines]) == COUNT + 2  # and the header and the end


def iterate_slowly_in_a_transaction(url: str, _: Path) -> None:
    with ms.MemoryStorage.open(url) as storage:
        with storage.transaction() as tx:
            for number, _episode in enumerate(tx.episodes.iterate()):
                if number == 0:
                    time.sleep(PAUSE)
            tx.episodes.save(ms.Episode(task_description="the last statement"))
        assert storage.episodes.count() == COUNT + 1


def iterate_slowly_without_one(url: str, _: Path) -> None:
    with ms.MemoryStorage.open(url) as storage:
        found = 0
        for _episode in storage.episodes.iterate():
            if found == 0:
                time.sleep(PAUSE)
            found += 1
        assert found == COUNT


def back_up_slowly(url: str, target: Path) -> None:
    pauses = iter([PAUSE])  # before the rest of the tables is read

    with ms.MemoryStorage.open(url) as storage:
        report = back_up(storage, target, progress=lambda what, done, total: time.sleep(next(pauses, 0)))
        assert report.tables["episodes"].rows == COUNT


def lose_the_lock_to_another_writer(url: str, _: Path) -> None:
    def work(tx: ms.Transaction) -> None:
        tx.episodes.save(ms.Episode(task_description="lost"))
        others.append(threads.submit(storage.episodes.save, ms.Episode(task_description="another")))
        time.sleep(PAUSE)
        tx.episodes.save(ms.Episode(task_description="lost too"))

    others: list[Future[ms.Episode]] = []
    with ms.MemoryStorage.open(url) as storage, ThreadPoolExecutor(1) as threads:
        with pytest.raises(ms.UnavailableError) as caught, storage.transaction() as tx:
            work(tx)
        assert caught.value.code == "TRANSACTION_LOST"
        others[0].result()
        assert {one.task_description for one in storage.episodes.iterate()} == {"", "another"}


SLOW = [
    export_slowly,
    iterate_slowly_in_a_transaction,
    iterate_slowly_without_one,
    back_up_slowly,
    lose_the_lock_to_another_writer,
]
COUNT = 120  # pages of a hundred


@pytest.mark.slow
def test_a_pause_of_the_caller_ends_no_transaction_of_a_storage(sqld: Sqld, tmp_path: Path):
    names = [f"slow-{number}" for number in range(len(SLOW))]
    for name in names:
        sqld.create_namespace(name)
        with ms.MemoryStorage.open(sqld.url_of(name)) as storage:
            storage.episodes.save_many([ms.Episode(task_description="") for _ in range(COUNT)])
    with ThreadPoolExecutor(len(SLOW)) as threads:
        jobs = [threads.submit(one, sqld.url_of(name), tmp_path / name) for one, name in zip(SLOW, names, strict=True)]
        for job in jobs:
            job.result()
    for name in names:
        sqld.delete_namespace(name)


def test_a_broken_stream_loses_its_transaction_only(server: Sqld, proxy: Callable[..., Proxy]):
    line = proxy(server.port)
    connection = dbapi.connect(line.url, timeout=3.0)
    connection.execute("CREATE TABLE t (v)")
    connection.commit()
    connection.execute("INSERT INTO t VALUES ('lost')")
    server.kill()
    server.start()
    with pytest.raises(dbapi.OperationalError) as caught:
        connection.execute("INSERT INTO t VALUES ('lost too')")
    assert caught.value.code == "TRANSACTION_LOST"
    refused_until_rolled_back(connection, "t")
    with client(server.port) as raw:
        assert raw.run("SELECT v FROM t") == [["kept"], ["kept"]]
