"""A cursor's results and their description."""

import pytest

from memory_storage import dbapi
from tests.raising import raises


def test_rows_are_fetched_one_by_one_in_pieces_or_all(cursor):
    cursor.execute("VALUES (1), (2), (3), (4), (5), (6)")
    assert cursor.fetchone() == (1,)
    assert cursor.fetchmany() == [(2,)]
    assert cursor.fetchmany(2) == [(3,), (4,)]
    assert next(iter(cursor)) == (5,)
    assert cursor.fetchall() == [(6,)]
    assert cursor.fetchone() is None
    assert cursor.fetchmany(3) == cursor.fetchall() == []


def test_arraysize_is_the_default_of_fetchmany(cursor):
    cursor.arraysize = 2
    assert cursor.execute("VALUES (1), (2), (3)").fetchmany() == [(1,), (2,)]


def test_sizes_are_accepted_and_ignored(cursor):
    cursor.setinputsizes([1])
    cursor.setoutputsize(1)
    cursor.setoutputsize(1, 0)


@pytest.mark.parametrize(
    ("sql", "columns", "rowcount"),
    [
        ("SELECT id AS a, v FROM t", ["a", "v"], -1),
        ("SELECT 1 AS x, 2 AS x", ["x", "x"], -1),
        ("SELECT id FROM t WHERE id > 99", ["id"], -1),
        ("INSERT INTO t (v) VALUES ('x'), ('y')", None, 2),
        ("REPLACE INTO t (id, v) VALUES (1, 'x')", None, 1),
        ("UPDATE t SET v = 'z'", None, 3),
        ("UPDATE t SET v = 'z' WHERE id = 99", None, 0),
        ("DELETE FROM t WHERE id < 3", None, 2),
        ("INSERT INTO t (v) VALUES ('x'), ('y') RETURNING id", ["id"], 2),
        ("UPDATE t SET v = 'z' RETURNING id, v", ["id", "v"], 3),
        ("DELETE FROM t WHERE id = 99 RETURNING id", ["id"], 0),
        ("WITH n AS (SELECT 7) INSERT INTO t SELECT *, 'x' FROM n", None, 1),
        ("CREATE TABLE u (x)", None, -1),
        ("CREATE TABLE u AS SELECT * FROM t", None, -1),
        ("ALTER TABLE t ADD COLUMN w", None, -1),
        ("PRAGMA user_version", ["user_version"], -1),
        ("PRAGMA user_version = 1", None, -1),
        ("SAVEPOINT s", None, -1),
    ],
)
def test_description_and_rowcount_fit_the_statement(cursor, sql, columns, rowcount):
    cursor.executemany("INSERT INTO t (v) VALUES (?)", [("a",), ("b",), ("c",)])
    cursor.execute(sql)
    description = cursor.description
    assert (description and [column[0] for column in description]) == columns
    assert description is None or all(column[1:] == (None,) * 6 for column in description)
    assert cursor.rowcount == rowcount


def test_rowcount_of_executemany_is_the_sum(cursor):
    cursor.executemany("INSERT INTO t (v) VALUES (?)", ((n,) for n in range(5)))
    assert cursor.rowcount == 5
    cursor.executemany("UPDATE t SET v = 0 WHERE id > ?", [(0,), (4,), (9,)])
    assert (cursor.rowcount, cursor.description) == (6, None)


def test_executemany_of_nothing_changes_nothing(cursor):
    cursor.executemany("INSERT INTO t (v) VALUES (?)", [])
    assert (cursor.rowcount, cursor.description, cursor.fetchall()) == (-1, None, [])


def test_executemany_is_not_for_reading(cursor):
    with pytest.raises(dbapi.ProgrammingError, match="change rows"):
        cursor.executemany("SELECT ?", [(1,)])


def test_executemany_without_transactions_is_all_or_nothing(connection):
    connection.autocommit = True
    cursor = connection.cursor()
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        cursor.executemany("INSERT INTO t VALUES (?, 0)", [(1,), (2,), (1,)])
    assert cursor.execute("SELECT * FROM t").fetchall() == []
    cursor.executemany("INSERT INTO t VALUES (?, 0)", [(1,), (2,)])
    assert not connection.in_transaction
    assert cursor.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_lastrowid_is_that_of_the_last_insert(cursor):
    assert cursor.execute("INSERT INTO t VALUES (41, 'x')").lastrowid == 41
    assert cursor.execute("INSERT INTO t (v) VALUES ('x') RETURNING id").lastrowid == 42
    assert cursor.executemany("INSERT INTO t (v) VALUES (?)", [("x",), ("x",)]).lastrowid == 44


def test_rowcount_and_lastrowid_outlive_the_cursor(cursor):
    cursor.execute("INSERT INTO t VALUES (41, 'x')")
    cursor.close()
    assert (cursor.rowcount, cursor.lastrowid) == (1, 41)


def test_an_insert_returning_runs_once_whatever_is_fetched(cursor):
    cursor.execute("INSERT INTO t (v) VALUES ('x') RETURNING id")
    assert cursor.fetchall() == [(1,)]
    assert [cursor.fetchall(), cursor.fetchone(), cursor.fetchmany(5)] == [[], None, []]
    assert cursor.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_an_unfetched_returning_insert_fails_at_once_and_commits(connection):
    connection.execute("INSERT INTO t VALUES (1, 'x') RETURNING id")
    with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
        connection.execute("INSERT INTO t VALUES (1, 'y') RETURNING id")
    connection.commit()
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, "x")]


def test_a_failed_statement_leaves_no_old_rows_behind(cursor):
    cursor.execute("VALUES (1), (2)")
    with raises(dbapi.OperationalError, code="SQLITE_ERROR"):
        cursor.execute("SELECT * FROM nowhere")
    assert (cursor.description, cursor.rowcount) == (None, -1)
    assert cursor.fetchall() == []


def test_two_cursors_read_concurrently_while_the_table_changes(connection):
    one, two = connection.cursor(), connection.cursor()
    one.execute("VALUES (1), (2)")
    two.execute("VALUES (3), (4)")
    assert [one.fetchone(), two.fetchone(), one.fetchone(), two.fetchone()] == [(1,), (3,), (2,), (4,)]
    one.executemany("INSERT INTO t VALUES (?, 0)", [(1,), (2,)])
    one.execute("SELECT id FROM t")
    for (id_,) in one:
        two.execute("DELETE FROM t WHERE id = ?", (id_,))
    connection.commit()


def test_a_script_runs_in_the_transaction_of_its_connection(connection):
    script = "INSERT INTO t VALUES (1, ';'); -- a remark; with a semicolon\n INSERT INTO t VALUES (2, NULL);;"
    connection.cursor().executescript(script)
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT * FROM t").fetchall() == []
