"""The exception class of each failure, and its attributes."""

import pickle
from contextlib import closing

import pytest

from memory_storage import dbapi
from memory_storage.dbapi._encryption import with_path
from memory_storage.dbapi._errors import _BY_TEXT, from_message
from tests.backends import needs_libsql
from tests.raising import raises

SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (
    id INTEGER PRIMARY KEY, parent REFERENCES parent, name TEXT UNIQUE, age INTEGER NOT NULL CHECK (age > 0));
CREATE TABLE strict (n INTEGER) STRICT;
INSERT INTO child VALUES (1, NULL, 'Ann', 1);
"""


@pytest.mark.parametrize(
    ("sql", "kind", "code"),
    [
        ("INSERT INTO child VALUES (2, NULL, 'Ann', 1)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
        ("INSERT INTO child VALUES (1, NULL, 'Bob', 1)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
        ("INSERT INTO child VALUES (2, 7, 'Bob', 1)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY"),
        ("INSERT INTO child VALUES (2, NULL, 'Bob', NULL)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
        ("INSERT INTO child VALUES (2, NULL, 'Bob', 0)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
        ("INSERT INTO child VALUES ('two', NULL, 'Bob', 1)", dbapi.IntegrityError, "SQLITE_MISMATCH"),
        ("INSERT INTO strict VALUES ('two')", dbapi.IntegrityError, "SQLITE_CONSTRAINT_DATATYPE"),
        ("SELECT * FROM nowhere", dbapi.OperationalError, "SQLITE_ERROR"),
        ("SELEKT 1", dbapi.OperationalError, "SQLITE_ERROR"),
        ("SELECT 'unterminated", dbapi.OperationalError, "SQLITE_ERROR"),
        ("SELECT zeroblob(2000000000)", dbapi.DataError, "SQLITE_TOOBIG"),
    ],
)
def test_the_engines_refusals_are_pep_249_exceptions_with_a_code(cursor, sql, kind, code):
    cursor.executescript(SCHEMA)
    with pytest.raises(kind) as caught:
        cursor.execute(sql)
    assert caught.value.code == code
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("sql", "parameters", "kind", "message"),
    [
        ("SELECT ?", (2**63,), dbapi.DataError, "64 bits"),
        ("SELECT ?", (-(2**63) - 1,), dbapi.DataError, "64 bits"),
        ("SELECT ?", (float("nan"),), dbapi.DataError, "NaN"),
        ("SELECT ?", ("\ud800",), dbapi.DataError, "surrogate"),
        ("SELECT ?", (object(),), dbapi.ProgrammingError, "'object'"),
        ("SELECT ?", (), dbapi.ProgrammingError, "takes 1 parameters, 0"),
        ("SELECT ?", (1, 2), dbapi.ProgrammingError, "takes 1 parameters, 2"),
        ("SELECT ?3", (1,), dbapi.ProgrammingError, "takes 3 parameters, 1"),
        ("SELECT ?", "x", dbapi.ProgrammingError, "sequence"),
        ("SELECT ?", {"a": 1}, dbapi.ProgrammingError, "sequence"),
        ("SELECT 1; SELECT 2", (), dbapi.ProgrammingError, "one statement"),
        ("SELECT :name", (), dbapi.ProgrammingError, "qmark"),
        ("", (), dbapi.ProgrammingError, "empty"),
        (" ; -- nothing", (), dbapi.ProgrammingError, "empty"),
    ],
)
def test_what_cannot_be_right_is_refused_before_it_runs(cursor, sql, parameters, kind, message):
    with pytest.raises(kind, match=message):
        cursor.execute(sql, parameters)


@pytest.mark.parametrize("local_engine", ["libsql"], indirect=True)
@pytest.mark.parametrize("text", ["a\0b", "é\0b"])
def test_libsql_refuses_text_that_it_would_cut(cursor, text):
    with pytest.raises(dbapi.DataError, match="NUL"):
        cursor.execute("SELECT ?", (text,))


def test_vectors_of_two_dimensions_are_a_data_error(cursor):
    with raises(dbapi.DataError, code="SQLITE_ERROR", match="1 != 2"):
        cursor.execute("SELECT vector_distance_cos(vector('[1]'), vector('[1,2]'))")


def test_a_damaged_page_is_a_database_error_with_its_code(tmp_path):
    path = tmp_path / "damaged.db"
    with closing(dbapi.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (v)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with closing(dbapi.connect(str(path))) as connection, raises(dbapi.DatabaseError, code="SQLITE_CORRUPT"):
        connection.execute("SELECT * FROM t")


def test_a_refused_parameter_is_counted_from_one(cursor):
    with pytest.raises(dbapi.DataError, match="parameter 2"):
        cursor.execute("SELECT ?, ?", (1, 2**64))


def test_a_refused_statement_begins_no_transaction(connection):
    with pytest.raises(dbapi.ProgrammingError):
        connection.execute("INSERT INTO t VALUES (?, ?)", (1,))
    assert not connection.in_transaction


def test_a_closed_cursor_is_a_programming_error(cursor):
    cursor.close()
    for use in (lambda: cursor.execute("SELECT 1"), cursor.fetchone, cursor.fetchall, lambda: list(cursor)):
        with pytest.raises(dbapi.ProgrammingError, match="cursor is closed"):
            use()


def test_a_closed_connection_is_an_interface_error(connection, cursor):
    connection.close()
    connection.close()
    assert not connection.usable
    assert not connection.in_transaction
    for use in (connection.cursor, connection.commit, connection.rollback, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(dbapi.InterfaceError, match="connection is closed"):
            use()


@pytest.mark.parametrize("local_engine", ["libsql"], indirect=True)
def test_a_native_panic_breaks_the_connection_and_rolls_back(connection):
    connection.execute("INSERT INTO t VALUES (1, 'lost')")
    with raises(dbapi.InterfaceError, code="PANIC", match="panicked"):
        connection.execute("SELECT CAST(x'ff' AS TEXT)")
    assert not connection.usable
    connection.rollback()
    for use in (connection.commit, lambda: connection.execute("SELECT 1")):
        with pytest.raises(dbapi.InterfaceError, match="panicked"):
            use()


@pytest.mark.parametrize("local_engine", ["libsql"], indirect=True)
def test_after_a_panic_others_can_write_at_once(connect):
    one, other = connect(), connect(busy_timeout=0)
    one.execute("CREATE TABLE t (x)")
    with pytest.raises(dbapi.InterfaceError):
        one.execute("SELECT CAST(x'ff' AS TEXT)")
    other.execute("CREATE TABLE t (x)")


@needs_libsql
def test_a_memory_database_survives_a_panic():
    memory = dbapi.MemoryDatabase()
    one = dbapi.connect(memory, local_engine="libsql")
    other = dbapi.connect(memory, busy_timeout=0)
    one.execute("CREATE TABLE t (x)")
    one.commit()
    one.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(dbapi.InterfaceError):
        one.execute("SELECT CAST(x'ff' AS TEXT)")
    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("text", [text for text, _, _ in _BY_TEXT])
def test_every_known_message_has_a_class_and_a_code(text):
    error = from_message(f"prefix: {text} suffix")
    assert isinstance(error, dbapi.Error)
    assert error.code.startswith(("SQLITE_", "VECTOR_INDEX"))


@pytest.mark.parametrize(
    "error",
    [dbapi.IntegrityError("UNIQUE constraint failed: t.x", "SQLITE_CONSTRAINT_UNIQUE"), dbapi.RowCountError(2, 1, 0)],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.code, vars(copy)) == (str(error), error.code, vars(error))


def test_an_interrupt_in_the_native_driver_propagates(connection, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    connection.autocommit = True
    with monkeypatch.context() as patch:
        patch.setattr(connection._transport._native, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            connection.execute("SELECT 1")
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_error_that_is_the_files_fault_names_the_file(tmp_path):
    error = with_path(from_message("file is not a database"), str(tmp_path / "gone.db"))
    assert error.code == "SQLITE_NOTADB"
    assert "gone.db" in str(error)
