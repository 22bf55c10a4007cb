"""What the engine of SQLite does that libSQL's driver cannot: exact text, statements that stop, threads that run."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_storage import dbapi
from tests.backends import needs_libsql
from tests.raising import raises

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def local_engine() -> str:
    return "sqlite"


def test_a_dropped_database_frees_its_memory():
    gc.collect()  # the garbage of other tests
    before = len(apsw.connections())
    memory = dbapi.connect(":memory:", local_engine="sqlite")
    for sql in ("CREATE TABLE t (x)", "SELECT x FROM t", "PRAGMA foreign_key_check", "DELETE FROM t RETURNING x"):
        memory.execute(sql)
    memory.close()
    del memory
    gc.collect()
    assert len(apsw.connections()) == before


def test_a_statement_is_compiled_once_whatever_is_bound(connection: dbapi.Connection):
    connection.execute("CREATE INDEX ix_t ON t (id) WHERE v = 1")  # it serves one of the values
    compiled: list[object] = []
    (native,) = (one for one in apsw.connections() if list(one.execute("SELECT 1 FROM pragma_index_info('ix_t')")))
    native.authorizer = lambda *parts: compiled.append(parts) or apsw.SQLITE_OK
    try:
        connection.execute("SELECT id FROM t WHERE v = ?", (1,)).fetchall()
        assert compiled
        compiled.clear()
        for value in range(5):
            connection.execute("SELECT id FROM t WHERE v = ?", (value,)).fetchall()
        assert not compiled
    finally:
        native.authorizer = None


@pytest.mark.parametrize("text", ["a\0b", "é\0b", "\0", "\0\0x"])
def test_text_with_nul_is_kept(connection, text):
    connection.execute("INSERT INTO t VALUES (1, ?)", (text,))
    assert connection.execute("SELECT v, length(CAST(v AS BLOB)) FROM t").fetchone() == (text, len(text.encode()))


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**53 + 1, 2**31, -(2**31) - 1])
def test_integers_are_exact(connection, value):
    assert connection.execute("SELECT ?, typeof(?1)", (value,)).fetchone() == (value, "integer")


def test_text_that_is_not_utf8_is_an_error_that_leaves_the_connection_usable(connection):
    with raises(dbapi.DataError, code="NOT_UTF8", match="not UTF-8"):
        connection.execute("SELECT CAST(x'ff' AS TEXT)")
    assert connection.execute("SELECT 1").fetchone() == (1,)


NUMBERS = [0.0, -0.0, 1 / 3, 0.1 + 0.2, 1e15, 1e14, 1e16, 1e22, -1e-4, 1e-5, 5e-324, 1.7976931348623157e308, 0.5, 5.0]
TEXTS = ["", "a\"b\\c/'", "\b\t\n\f\r\x01\x1f\x7f", "é漢\U0001f469\u2028", None, 7, -(2**31)]
HALVES = [933634287152720.5, 13975939.72788325, 999999999999999.5, -2.867710743190545e17]


def _quoted(values: list[Any], engine: str) -> list[str]:
    connection = dbapi.connect(":memory:", local_engine=engine)
    try:
        return [connection.execute("SELECT json_quote(?)", (value,)).fetchone()[0] for value in values]
    finally:
        connection.close()


@needs_libsql
def test_json_quote_writes_what_libsql_writes():
    """A facet that one engine has stored is looked up by the text that the other one makes."""
    values = [*NUMBERS, *TEXTS, *HALVES]
    assert _quoted(values, "sqlite") == _quoted(values, "libsql")


@needs_libsql
@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-320, 290)), min_size=50, max_size=50))
def test_json_quote_writes_decimals_as_libsql_does(decimals):
    values = [float(f"{digits}e{power}") for digits, power in decimals]
    assert _quoted(values, "sqlite") == _quoted(values, "libsql")


def test_json_quote_refuses_a_blob(connection):
    with raises(dbapi.OperationalError, code="SQLITE_ERROR", match="BLOB"):
        connection.execute("SELECT json_quote(?)", (b"\0",))


def test_an_invalid_regular_expression_is_an_error_of_the_driver(connection):
    with raises(dbapi.OperationalError, code="SQLITE_ERROR", match="is invalid"):
        connection.execute("SELECT 'a' REGEXP '('")
    assert connection.execute("SELECT 7 REGEXP 7").fetchone() == (1,)


@needs_libsql
@pytest.mark.parametrize("number", [1 / 3, 0.1 + 0.2, 123456789.123456789, 1e22])
def test_a_number_as_text_has_the_digits_of_libsql(connection, number):
    other = dbapi.connect(":memory:", local_engine="libsql")
    sql = "SELECT CAST(? AS TEXT)"
    assert connection.execute(sql, (number,)).fetchone() == other.execute(sql, (number,)).fetchone()
    other.close()


def test_a_misspelled_column_in_double_quotes_is_no_text(connection):
    with pytest.raises(dbapi.OperationalError, match="no such column"):
        connection.execute('SELECT "vv" FROM t')


@pytest.mark.parametrize("sql", ["SELECT id, v FROM t", "DELETE FROM t RETURNING id, v", "PRAGMA foreign_key_check"])
def test_a_statement_without_rows_still_has_columns(connection, sql):
    columns = [column[0] for column in connection.execute(sql).description]
    assert columns == (["table", "rowid", "parent", "fkid"] if "PRAGMA" in sql else ["id", "v"])


def test_a_statement_without_columns_has_none(connection):
    for sql in ("INSERT INTO t VALUES (1, 2)", "PRAGMA foreign_keys = ON", "CREATE TABLE u (x)"):
        assert connection.execute(sql).description is None


@pytest.mark.parametrize("sql", [ENDLESS, f"INSERT INTO t SELECT 1, ({ENDLESS})"])
def test_a_statement_stops_at_its_deadline(connection, sql):
    connection.deadline = time.monotonic() + 0.2
    with raises(dbapi.OperationalError, code="STATEMENT_TIMEOUT", match="took too long"):
        connection.execute(sql)
    assert time.monotonic() - connection.deadline < 0.5  # measured 0.005; the machine may be busy
    connection.deadline = None
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_statement_is_interrupted_from_another_thread(connection):
    timer = threading.Timer(0.1, connection.interrupt)
    timer.start()
    with raises(dbapi.OperationalError, code="SQLITE_INTERRUPT"):
        connection.execute(ENDLESS)
    timer.join()
    assert not connection.interrupt()  # nothing runs
    connection.rollback()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_call_that_waits_for_a_lock_is_interrupted(connect):
    holder, waiter = connect(), connect(busy_timeout=30)
    holder.execute("CREATE TABLE t (x)")
    timer = threading.Timer(0.1, waiter.interrupt)
    timer.start()
    since = time.monotonic()
    with raises(dbapi.OperationalError, code="SQLITE_INTERRUPT"):
        waiter.execute("CREATE TABLE u (x)")
    assert time.monotonic() - since < 10


def test_other_threads_run_during_a_statement(connection):
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    connection.deadline = time.monotonic() + 0.5
    thread.start()
    with raises(dbapi.OperationalError, code="STATEMENT_TIMEOUT"):
        connection.execute(ENDLESS)
    done.set()
    thread.join()
    assert turns > 20  # about 400 on an idle machine; one if the statement held the GIL


_INTERRUPTED = f"""
import os, signal, sys, threading
from memory_storage import dbapi
signal.signal(signal.SIGINT, signal.default_int_handler)
connection = dbapi.connect(sys.argv[1], local_engine="sqlite")
connection.execute("CREATE TABLE t (x)")
connection.commit()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    connection.execute("INSERT INTO t {ENDLESS}")
except KeyboardInterrupt:
    connection.rollback()
    print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
"""


@pytest.mark.skipif(not hasattr(os, "kill") or sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_is_heard_during_a_statement(tmp_path: Path):
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "memory.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


@needs_libsql
@pytest.mark.parametrize(
    "sql",
    [
        'SELECT JSON_QUOTE(JSON_EXTRACT(\'{"a": {"b": [1, ")"]}}\', \'$.a\'))',
        "SELECT json_quote(json_extract('[1.5]', '$[0]')), json_quote('x'), json_quote(NULL), 'json_quote(1)'",
        "SELECT json_quote(0.1 + 0.2), json_quote(value) FROM json_each('[0.1, \"x\", null]')",
        "SELECT json_quote(json('[1]')) FROM (SELECT 1) WHERE json_quote('a') = '\"a\"'",
    ],
)
def test_json_quote_keeps_json_as_the_other_engine_does(connection, sql):
    with closing(dbapi.connect(":memory:", local_engine="libsql")) as other:
        assert connection.execute(sql).fetchall() == other.execute(sql).fetchall()


def test_an_online_backup_copies_a_database_in_use(connection, tmp_path):
    connection.cursor().executemany("INSERT INTO t VALUES (?, zeroblob(3000))", [(number,) for number in range(300)])
    connection.commit()
    seen: list[tuple[int, int]] = []
    with closing(dbapi.connect(str(tmp_path / "copy.db"), local_engine="sqlite")) as target:
        connection.backup(target, pages=50, progress=lambda done, total: seen.append((done, total)))
        assert target.execute("SELECT count(*) FROM t").fetchone() == (300,)
    assert len(seen) > 3
    assert seen[-1][0] == seen[-1][1]


@needs_libsql
def test_an_online_backup_needs_sqlite_on_both_sides(connection):
    with closing(dbapi.connect(":memory:", local_engine="libsql")) as other:
        for source, target in ((connection, other), (other, connection)):
            with raises(dbapi.NotSupportedError, code="NO_BACKUP"):
                source.backup(target)


def test_a_native_connection_that_is_closed_says_so(connection):
    connection._transport._native.close()
    with raises(dbapi.InterfaceError, code="SQLITE_MISUSE", match="closed"):
        connection.execute("SELECT 1")


def test_a_build_of_apsw_without_a_cipher_refuses_a_key(tmp_path, monkeypatch):
    monkeypatch.delattr(apsw, "mc_version")
    with raises(dbapi.NotSupportedError, code="NO_CIPHER", match="apsw-sqlite3mc"):
        dbapi.connect(str(tmp_path / "memory.db"), encryption_key="secret", local_engine="sqlite")


def test_a_missing_driver_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "libsql_experimental", None)
    monkeypatch.delitem(sys.modules, "memory_storage.dbapi._libsql", raising=False)
    monkeypatch.delattr(dbapi, "_libsql", raising=False)
    with raises(dbapi.NotSupportedError, code="NO_DRIVER", match=r"pip install 'memory-storage\[libsql\]'"):
        dbapi.connect(":memory:", local_engine="libsql")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_during_statements_of_other_threads_leaves_a_usable_child(tmp_path: Path):
    stop = threading.Event()

    def write(name: str) -> None:
        connection = dbapi.connect(str(tmp_path / name), local_engine="sqlite", durability="normal")
        connection.autocommit = True
        connection.execute("CREATE TABLE t (x)")
        while not stop.is_set():
            connection.execute("INSERT INTO t VALUES (zeroblob(20000))")
        connection.close()

    threads = [threading.Thread(target=write, args=(f"{number}.db",)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            assert _child_writes(tmp_path / f"child-{number}.db") == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _child_writes(path: Path) -> int:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status
    signal.alarm(20)  # a child that waits for a mutex of the parent's threads would wait for good
    try:
        connection = dbapi.connect(str(path), local_engine="sqlite")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
        os._exit(0)
    finally:
        os._exit(1)
