"""Batches: several statements that take effect together or not at all."""

import pytest

from memory_storage import dbapi
from memory_storage.dbapi import Batch, BatchStep
from tests.raising import raises

INSERT = "INSERT INTO t VALUES (?, ?)"


def rows(connection):
    return connection.execute("SELECT id, v FROM t ORDER BY id").fetchall()


def test_a_batch_is_a_transaction_of_its_own(connection):
    connection.execute(Batch([BatchStep(INSERT, (1, "a")), BatchStep(INSERT, (2, "b"))]))
    assert not connection.in_transaction
    connection.rollback()
    assert rows(connection) == [(1, "a"), (2, "b")]


def test_a_batch_that_fails_leaves_nothing(connection):
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        connection.execute(Batch([BatchStep(INSERT, (1, "a")), BatchStep(INSERT, (1, "b"))]))
    assert not connection.in_transaction
    assert rows(connection) == []


def test_the_cursor_has_the_rows_of_the_last_step_that_has_any(connection):
    steps = [
        BatchStep("SELECT 'first'"),
        BatchStep("SELECT id FROM t WHERE v = ?", ("a",)),
        BatchStep(INSERT, (9, "z")),
    ]
    connection.execute(INSERT, (1, "a"))
    cursor = connection.execute(Batch(steps))
    assert (cursor.description[0][0], cursor.fetchall()) == ("id", [(1,)])


def test_a_batch_without_rows_has_the_count_of_its_last_step(connection):
    cursor = connection.execute(Batch([BatchStep(INSERT, (1, "a")), BatchStep("UPDATE t SET v = 'b'")]))
    assert (cursor.description, cursor.rowcount, cursor.fetchall()) == (None, 1, [])


def test_a_batch_is_text_without_values(connection):
    batch = Batch([BatchStep(INSERT, (1, "secret")), BatchStep("DELETE FROM t")])
    assert batch == f"{INSERT};\nDELETE FROM t"
    assert not batch.reads_only


@pytest.mark.parametrize("inside", [False, True])
def test_another_number_of_rows_than_expected_undoes_the_batch(connection, inside):
    if inside:
        connection.execute(INSERT, (1, "kept"))
    with raises(dbapi.RowCountError, code="ROW_COUNT") as caught:
        connection.execute(
            Batch([BatchStep(INSERT, (2, "a"), rows=1), BatchStep("DELETE FROM t WHERE id = 99", rows=1)])
        )
    error = caught.value
    assert (error.index, error.expected, error.actual, error.code) == (2, 1, 0, "ROW_COUNT")
    assert isinstance(error, dbapi.IntegrityError)
    assert rows(connection) == ([(1, "kept")] if inside else [])


def test_the_expected_number_of_rows_may_come_from_returning(connection):
    connection.execute(Batch([BatchStep(f"{INSERT} RETURNING id", (1, "a"), rows=1)]))
    assert rows(connection) == [(1, "a")]


def test_within_a_transaction_a_batch_is_a_savepoint(connection):
    connection.execute(INSERT, (1, "before"))
    connection.execute(Batch([BatchStep(INSERT, (2, "in")), BatchStep(INSERT, (3, "in"))]))
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        connection.execute(Batch([BatchStep(INSERT, (4, "undone")), BatchStep(INSERT, (1, "taken"))]))
    assert connection.in_transaction
    connection.execute(INSERT, (5, "after"))
    connection.commit()
    assert [id_ for id_, _ in rows(connection)] == [1, 2, 3, 5]


def test_an_error_that_ends_a_transaction_ends_its_savepoint(connection):
    connection.execute(INSERT, (1, "lost"))
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        connection.execute(Batch([BatchStep("INSERT OR ROLLBACK INTO t VALUES (1, 'x')")]))
    assert not connection.in_transaction
    connection.rollback()
    assert rows(connection) == []


def test_a_batch_is_checked_completely_before_it_runs(connection):
    with pytest.raises(dbapi.DataError):
        connection.execute(Batch([BatchStep(INSERT, (1, "a")), BatchStep(INSERT, (2, float("nan")))]))
    assert rows(connection) == []


@pytest.mark.parametrize("steps", [[BatchStep("SELECT 1")], [BatchStep("SELECT 1"), BatchStep("SELECT v FROM t")]])
def test_a_reading_batch_leaves_no_transaction_and_takes_no_lock(connect, steps):
    writer, reader = connect(), connect(busy_timeout=0)
    writer.execute("CREATE TABLE t (v)")
    writer.commit()
    writer.execute("INSERT INTO t VALUES (1)")
    reader.execute(Batch(steps, reads_only=True))
    assert not reader.in_transaction


def test_a_reading_batch_sees_the_transaction_it_is_in(connection):
    connection.execute(INSERT, (1, "a"))
    batch = Batch([BatchStep("SELECT 1"), BatchStep("SELECT v FROM t")], reads_only=True)
    assert connection.execute(batch).fetchall() == [("a",)]
    assert connection.in_transaction


def test_a_batch_whose_commit_is_refused_is_undone(connection):
    connection.execute("CREATE TABLE child (t REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    connection.commit()
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY"):
        connection.execute(Batch([BatchStep("INSERT INTO child VALUES (7)")]))
    assert not connection.in_transaction
    assert connection.execute("SELECT * FROM child").fetchall() == []


@pytest.mark.parametrize("local_engine", ["libsql"], indirect=True)
def test_a_batch_that_panics_breaks_the_connection(connection):
    with pytest.raises(dbapi.InterfaceError, match="panicked"):
        connection.execute(Batch([BatchStep(INSERT, (1, "a")), BatchStep("SELECT CAST(x'ff' AS TEXT)")]))
    assert not connection.usable


@pytest.mark.parametrize("reads_only", [False, True])
def test_a_batch_with_a_begin_mode_begins_a_transaction(connection, reads_only):
    connection.begin_mode = "IMMEDIATE"
    steps = [BatchStep("SELECT 1")] if reads_only else [BatchStep(INSERT, (1, "a"))]
    connection.execute(Batch(steps, reads_only=reads_only))
    assert connection.in_transaction
    connection.rollback()
    assert rows(connection) == []


def test_the_old_names_work_with_a_deprecation_warning():
    with pytest.warns(DeprecationWarning, match="BatchStep"):
        assert dbapi.Step is BatchStep
    with pytest.warns(DeprecationWarning, match="index"):
        assert dbapi.RowCountError(2, 1, 0).step == 2
    with pytest.raises(AttributeError):
        _ = dbapi.Stepp
