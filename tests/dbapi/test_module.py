"""The module attributes that PEP 249 requires."""

from contextlib import closing

import pytest

from memory_storage import dbapi
from tests.raising import raises


def test_the_module_has_the_constants_of_pep_249():
    assert (dbapi.apilevel, dbapi.paramstyle, dbapi.threadsafety) == ("2.0", "qmark", 1)
    assert dbapi.Binary(b"x") == b"x"


@pytest.mark.parametrize("local_engine", ["libsql"], indirect=True)
def test_the_version_is_the_oldest_engines(cursor):
    assert cursor.execute("SELECT sqlite_version()").fetchone() == (dbapi.sqlite_version,)
    assert dbapi.sqlite_version == ".".join(map(str, dbapi.sqlite_version_info))


def test_everything_public_is_there():
    assert all(hasattr(dbapi, name) for name in dbapi.__all__)


def test_the_connection_carries_the_exceptions(connection):
    names = [name for name in dbapi.__all__ if name.endswith("Error") or name == "Warning"]
    for ours in ("RowCountError", "OutcomeUnknownError", "LineError", "ResponseTooLargeError"):
        names.remove(ours)  # PEP 249 does not know it
    assert len(names) == 10
    for name in names:
        assert getattr(connection, name) is getattr(dbapi, name)


def test_files_get_wal_foreign_keys_and_the_durability(connect):
    def pragmas(connection):
        return [
            connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "foreign_keys", "synchronous")
        ]

    assert pragmas(connect()) == ["wal", 1, 2]
    assert pragmas(connect(durability="normal")) == ["wal", 1, 1]


def test_an_unknown_durability_is_refused(path):
    with pytest.raises(dbapi.ProgrammingError, match="durability"):
        dbapi.connect(path, durability="none")


def test_a_file_that_cannot_be_opened_is_an_operational_error(tmp_path):
    with pytest.raises(dbapi.OperationalError) as caught:
        dbapi.connect(str(tmp_path / "missing" / "test.db"))
    assert caught.value.code == "SQLITE_CANTOPEN"


def test_a_file_that_is_no_database_is_a_database_error(tmp_path):
    (tmp_path / "text.db").write_text("this is no database at all, " * 100)
    with pytest.raises(dbapi.DatabaseError) as caught:
        dbapi.connect(str(tmp_path / "text.db"))
    assert caught.value.code == "SQLITE_NOTADB"


def test_an_encrypted_file_needs_its_key(path):
    with closing(dbapi.connect(path, encryption_key="secret")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    with raises(dbapi.DatabaseError, code="WRONG_KEY"):
        dbapi.connect(path)
    with closing(dbapi.connect(path, encryption_key="secret")) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("close", [dbapi.Connection.close, dbapi.Connection.discard])
def test_closing_and_discarding_twice_is_harmless(connect, close):
    connection = connect()
    close(connection)
    connection.close()
    connection.discard()
    with pytest.raises(dbapi.InterfaceError):
        connection.execute("SELECT 1")


def test_a_deadline_is_what_was_set(connect):
    connection = connect()
    assert connection.deadline is None
    connection.deadline = 12.5
    assert connection.deadline == 12.5
