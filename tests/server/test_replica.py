"""A replica of a server: it reads there and writes through it, sees its own writes, and never waits without end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.testing import Sqld

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT count(*) FROM n"


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqld]:
    with Sqld(directory=tmp_path_factory.mktemp("primary"), grpc=True) as server:
        ms.MemoryStorage.open(server.url).close()  # first, since it wants a database that is empty
        yield server


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, primary: Sqld) -> Iterator[Sqld]:
    with Sqld(directory=tmp_path_factory.mktemp("replica"), primary=primary) as server:
        yield server


def test_writes_through_a_replica_are_read_by_the_whole_pool(replica: Sqld):
    with ms.MemoryStorage.open(replica.url) as storage, ms.MemoryStorage.open(replica.url) as again:
        for number in range(30):
            saved = storage.episodes.save(ms.Episode(task_description="a", steps=[ms.Step(tool="t", action="a")]))
            with storage.snapshot() as other:  # so that the next one is another connection
                assert other.episodes.get(saved.id) == saved
                assert storage.episodes.get(saved.id) == saved
            assert storage.episodes.count() == number + 1
        with again.transaction() as tx:
            assert tx.episodes.count() == 30
            tx.episodes.delete(saved.id)
            assert tx.episodes.count() == 29
        assert again.episodes.count() == 29


def test_errors_of_the_primary_have_their_class(replica: Sqld):
    connection = dbapi.connect(replica.url)
    connection.execute("CREATE TABLE sole_match (x UNIQUE)")
    connection.execute("INSERT INTO sole_match VALUES (1)")
    with pytest.raises(dbapi.IntegrityError) as caught:
        connection.execute("INSERT INTO sole_match VALUES (1)")
    assert caught.value.code == "SQLITE_CONSTRAINT_UNIQUE"
    connection.close()


def connected(server: Sqld) -> tuple[dbapi.Connection, dbapi.Connection, dbapi.Server]:
    """Two connections that share what they have seen, and that."""
    address = dbapi.Server.parse(server.url)
    return dbapi.connect(address), dbapi.connect(address), address


def test_a_missing_replica_state_is_awaited_once_for_two_seconds(replica: Sqld):
    first, second, address = connected(replica)
    (client,) = address.clients.values()
    for connection in (first, second):
        connection.autocommit = True
    taken, started = 0.0, time.monotonic()
    while taken < 1:  # a replica that has just begun hands its reads on to the primary
        client.replication.advance(
            "999999999"
        )  # as after a crash of the primary, whose log restarts, with lower numbers
        began = time.monotonic()
        assert first.execute("SELECT 1").fetchone() == (1,)
        taken = time.monotonic() - began
        assert began - started < 20, "it never waited"
    assert 1.9 < taken < 6
    began = time.monotonic()
    for connection in (first, second):
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert time.monotonic() - began < 1.5
    for connection in (first, second):
        connection.close()


def test_a_slow_read_on_a_primary_is_not_restarted(primary: Sqld):
    first, second, address = connected(primary)
    (client,) = address.clients.values()
    for connection in (first, second):
        connection.autocommit = True
    first.execute("CREATE TABLE IF NOT EXISTS one (x)")
    first.execute("INSERT INTO one VALUES (1)")
    assert client.replication.is_primary
    index, rows = client.replication.index, 1_000_000
    taken = 0.0
    while taken < 2.5:  # as many rows as take so long on this machine
        began = time.monotonic()
        assert second.execute(SLOW.format(rows)).fetchone() == (rows,)
        taken = time.monotonic() - began
        rows = int(rows * min(10, 3 / taken + 0.2))
    assert client.replication.index == index, "it was forgotten: the read was begun again"
    for connection in (first, second):
        connection.close()


def test_a_replica_is_not_taken_for_a_primary(replica: Sqld):
    first, second, address = connected(replica)
    (client,) = address.clients.values()
    first.execute("CREATE TABLE IF NOT EXISTS two (x)")
    first.execute("INSERT INTO two VALUES (1)")
    first.commit()
    assert (client.replication.is_primary, client.replication.index is not None) == (False, True)
    assert second.execute("SELECT count(*) FROM two").fetchone() == (1,)
    for connection in (first, second):
        connection.close()
