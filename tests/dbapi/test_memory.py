"""In-memory databases: shared by all connections that were opened on one, which take turns."""

import gc
import threading

import pytest

from memory_storage import dbapi
from tests.raising import raises


@pytest.fixture
def memory():
    memory = dbapi.MemoryDatabase()
    connection = dbapi.connect(memory)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    return memory


def in_thread(work):
    results = []

    def run():
        try:
            results.append(work())
        except dbapi.Error as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return results[0]


def test_connections_to_one_memory_share_it_and_others_do_not(memory):
    assert dbapi.connect(memory).execute("SELECT * FROM t").fetchall() == []
    with raises(dbapi.OperationalError, code="SQLITE_ERROR", match="no such table"):
        dbapi.connect(":memory:").execute("SELECT * FROM t")


def test_a_second_transaction_in_a_thread_raises_at_once(memory):
    one, other = dbapi.connect(memory), dbapi.connect(memory)
    one.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(dbapi.OperationalError, match="do this work inside the transaction") as caught:
        other.execute("SELECT 1")
    assert caught.value.code == "THREAD_BUSY"
    one.commit()
    assert other.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_another_thread_waits_for_its_turn(memory):
    one, other = dbapi.connect(memory), dbapi.connect(memory)
    one.execute("INSERT INTO t VALUES (1)")
    threading.Timer(0.1, one.commit).start()
    assert in_thread(lambda: other.execute("SELECT * FROM t").fetchall()) == [(1,)]


def test_another_thread_waits_no_longer_than_the_timeout(memory):
    one, other = dbapi.connect(memory), dbapi.connect(memory, busy_timeout=0.05)
    one.execute("INSERT INTO t VALUES (1)")
    error = in_thread(lambda: other.execute("SELECT * FROM t"))
    assert isinstance(error, dbapi.OperationalError)
    assert error.code == "SQLITE_BUSY"
    one.rollback()


def test_a_transaction_of_another_connection_is_separate(memory):
    one, other = dbapi.connect(memory), dbapi.connect(memory)
    one.execute("INSERT INTO t VALUES (1)")
    assert one.in_transaction
    assert not other.in_transaction
    other.rollback()
    other.close()
    one.commit()


def test_closing_in_a_transaction_rolls_back_and_unlocks(memory):
    one, other = dbapi.connect(memory), dbapi.connect(memory)
    one.execute("INSERT INTO t VALUES (1)")
    one.close()
    assert other.execute("SELECT * FROM t").fetchall() == []


def test_dropping_a_connection_in_a_transaction_unlocks(memory):
    dropped = dbapi.connect(memory)
    dropped.execute("INSERT INTO t VALUES (1)")
    del dropped
    gc.collect()
    assert dbapi.connect(memory).execute("SELECT * FROM t").fetchall() == []


def test_a_transaction_can_go_on_in_another_thread(memory):
    one = dbapi.connect(memory)
    one.execute("INSERT INTO t VALUES (1)")
    in_thread(lambda: one.execute("INSERT INTO t VALUES (2)"))
    in_thread(one.commit)
    assert dbapi.connect(memory).execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_threads_that_write_in_turns_lose_nothing(memory):
    def write():
        connection = dbapi.connect(memory)
        for n in range(100):
            connection.execute("INSERT INTO t VALUES (?)", (n,))
            connection.commit()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dbapi.connect(memory).execute("SELECT count(*) FROM t").fetchone() == (400,)


def test_after_a_fork_the_copy_starts_over(memory):
    one = dbapi.connect(memory)
    one.execute("CREATE TABLE u (x)")
    memory.after_fork_in_child()
    assert not memory.native("auto").in_transaction
    memory.after_fork_in_child()  # with nothing open
    other = dbapi.connect(memory, busy_timeout=0)
    other.execute("CREATE TABLE u (x)")
    other.commit()
