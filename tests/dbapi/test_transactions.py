"""When transactions begin, what they lock, and how they end."""

import threading
import time

import pytest

from memory_storage import dbapi
from tests.raising import raises


@pytest.fixture
def pair(connect):
    one, other = connect(busy_timeout=0), connect(busy_timeout=0)
    one.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    one.commit()
    return one, other


def count(connection):
    number = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    connection.rollback()
    return number


def test_opening_begins_nothing(connect):
    assert not connect().in_transaction


@pytest.mark.parametrize("sql", ["SELECT 1", "INSERT INTO t VALUES (1, 1)", "CREATE TABLE u (x)", "SAVEPOINT s"])
def test_the_first_statement_begins_a_transaction(connection, sql):
    connection.execute(sql)
    assert connection.in_transaction


@pytest.mark.parametrize("sql", ["PRAGMA user_version", "VACUUM", "ATTACH ':memory:' AS other"])
def test_what_cannot_run_in_a_transaction_begins_none(connection, sql):
    connection.execute(sql)
    assert not connection.in_transaction


def test_readers_do_not_stop_a_writer_and_keep_what_they_see(pair):
    one, other = pair
    assert one.execute("SELECT count(*) FROM t").fetchone() == (0,)
    other.execute("INSERT INTO t VALUES (1, 1)")
    other.commit()
    assert one.execute("SELECT count(*) FROM t").fetchone() == (0,)
    one.rollback()
    assert count(one) == 1


def test_a_writer_has_the_lock_from_its_first_statement(pair):
    one, other = pair
    one.execute("UPDATE t SET v = 1 WHERE id = 99")
    with raises(dbapi.OperationalError, code="SQLITE_BUSY"):
        other.execute("UPDATE t SET v = 1 WHERE id = 99")
    assert not other.in_transaction
    one.rollback()
    other.execute("UPDATE t SET v = 1 WHERE id = 99")


def test_begin_mode_decides_for_every_statement(pair):
    one, other = pair
    one.begin_mode = "IMMEDIATE"
    one.execute("SELECT 1")
    with raises(dbapi.OperationalError, code="SQLITE_BUSY"):
        other.execute("DELETE FROM t")
    one.rollback()
    other.begin_mode = "DEFERRED"
    other.execute("DELETE FROM t")
    with raises(dbapi.OperationalError, code="SQLITE_BUSY"):
        one.execute("SELECT 1")


def test_a_transaction_that_read_cannot_write_after_another_did(pair):
    one, other = pair
    one.execute("SELECT * FROM t")
    other.execute("INSERT INTO t VALUES (1, 1)")
    other.commit()
    started = time.monotonic()
    with raises(dbapi.OperationalError, code="SQLITE_BUSY", match="locked"):
        one.execute("INSERT INTO t VALUES (2, 1)")
    assert time.monotonic() - started < 4
    one.rollback()


def test_autocommit_makes_each_statement_a_transaction(pair):
    one, other = pair
    one.autocommit = True
    one.execute("INSERT INTO t VALUES (1, 1)")
    assert not one.in_transaction
    assert count(other) == 1
    one.execute("BEGIN")
    one.execute("INSERT INTO t VALUES (2, 1)")
    one.cursor().executemany("INSERT INTO t VALUES (?, 1)", [(3,), (4,)])
    one.rollback()
    assert count(other) == 1


def test_closing_rolls_back_uncommitted_changes(pair):
    one, other = pair
    one.execute("INSERT INTO t VALUES (1, 1)")
    one.close()
    assert count(other) == 0


def test_a_connection_that_is_dropped_gives_up_its_lock(path, pair):
    dropped = dbapi.connect(path)
    dropped.execute("INSERT INTO t VALUES (1, 1)")
    del dropped
    pair[0].execute("INSERT INTO t VALUES (1, 1)")


def test_commit_and_rollback_without_a_transaction_do_nothing(connection):
    connection.commit()
    connection.rollback()


def test_the_schema_is_part_of_the_transaction(connection):
    connection.execute("CREATE TABLE u (x)")
    connection.execute("DROP TABLE t")
    connection.rollback()
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_savepoints_undo_a_part(connection):
    connection.execute("INSERT INTO t VALUES (1, 1)")
    connection.execute("SAVEPOINT s")
    connection.execute("INSERT INTO t VALUES (2, 1)")
    connection.execute("ROLLBACK TO s")
    connection.execute("RELEASE s")
    connection.commit()
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]


def test_a_failed_statement_undoes_only_itself(connection):
    connection.execute("INSERT INTO t VALUES (1, 1)")
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        connection.execute("INSERT INTO t VALUES (2, 1), (1, 1)")
    connection.commit()
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]


def test_a_commit_refused_by_a_foreign_key_can_be_rolled_back(connection):
    connection.execute("CREATE TABLE child (t REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    connection.commit()
    connection.execute("INSERT INTO child VALUES (7)")
    with pytest.raises(dbapi.IntegrityError) as caught:
        connection.commit()
    assert caught.value.code == "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT * FROM child").fetchall() == []


def test_waiting_for_a_lock_ends_when_the_lock_does(connect):
    holder, waiter = connect(), connect()
    holder.execute("CREATE TABLE t (x)")
    threading.Timer(0.2, holder.commit).start()
    started = time.monotonic()
    waiter.execute("INSERT INTO t VALUES (1)")
    assert 0.1 < time.monotonic() - started < 60


def test_waiting_for_a_lock_ends_with_the_timeout(connect):
    holder, waiter = connect(), connect(busy_timeout=0.2)
    holder.execute("CREATE TABLE t (x)")
    started = time.monotonic()
    with raises(dbapi.OperationalError, code="SQLITE_BUSY", match="locked"):
        waiter.execute("CREATE TABLE t (x)")
    assert 0.1 < time.monotonic() - started < 60


def test_autocommitted_writes_wait_too(connect):
    holder, waiter = connect(), connect()
    waiter.autocommit = True
    waiter.execute("CREATE TABLE t (x)")
    holder.execute("INSERT INTO t VALUES (1)")
    threading.Timer(0.1, holder.commit).start()
    waiter.execute("INSERT INTO t VALUES (1)")
    assert waiter.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_a_thread_that_waits_for_a_lock_does_not_stop_the_others(connect):
    holder, waiter = connect(), connect()
    holder.execute("CREATE TABLE t (x)")
    thread = threading.Thread(target=waiter.execute, args=("INSERT INTO t VALUES (1)",))
    thread.start()
    for _ in range(20):  # each would last as long as the thread waits, if that kept the interpreter's lock
        time.sleep(0.005)
    assert thread.is_alive()
    holder.commit()
    thread.join(60)
    assert not thread.is_alive()


def test_many_threads_write_without_losing_anything(connect):
    connect().execute("PRAGMA user_version")
    setup = connect()
    setup.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    setup.commit()

    def write(connection):
        for _ in range(25):
            connection.execute("INSERT INTO t (v) VALUES (1)")
            connection.commit()

    threads = [threading.Thread(target=write, args=(connect(durability="normal"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(setup) == 100


def test_statements_after_an_error_that_rolled_back_are_refused(connection):
    connection.execute("INSERT INTO t VALUES (1, 'first half')")
    with pytest.raises(dbapi.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (1, 'again')")
    for go_on in (lambda: connection.execute("INSERT INTO t VALUES (2, 'second half')"), connection.commit):
        with pytest.raises(dbapi.OperationalError, match=r"call rollback\(\)") as caught:
            go_on()
        assert caught.value.code == "TRANSACTION_LOST"
    connection.rollback()
    assert connection.execute("SELECT * FROM t").fetchall() == []


def test_after_a_rollback_statement_the_next_begins_again(connection):
    connection.execute("INSERT INTO t VALUES (1, 'undone')")
    connection.execute("ROLLBACK")
    connection.execute("INSERT INTO t VALUES (2, 'kept')")
    connection.commit()
    connection.rollback()
    assert connection.execute("SELECT id FROM t").fetchall() == [(2,)]


def test_close_releases_the_lock_despite_other_references(pair):
    one, other = pair
    one.execute("INSERT INTO t VALUES (1, 'undone')")
    native = one._transport._native  # as the traceback of an interrupt does
    one.close()
    other.execute("INSERT INTO t VALUES (2, 'kept')")
    other.commit()
    assert not native.in_transaction


def test_a_thread_waits_no_longer_than_its_own_timeout(connect, path):
    holder, patient, hasty = connect(), connect(busy_timeout=10), connect(busy_timeout=0.05)
    holder.execute("CREATE TABLE t (x)")  # it has the lock
    waiting = threading.Thread(target=patient.execute, args=("CREATE TABLE IF NOT EXISTS t (x)",))
    waiting.start()
    begin_lock = holder._transport._file.begin_lock
    while not begin_lock.locked():
        time.sleep(0.001)
    with raises(dbapi.OperationalError, code="SQLITE_BUSY", match="locked"):
        hasty.execute("CREATE TABLE u (x)")
    holder.commit()
    waiting.join()
    patient.commit()
