"""Processes that fork. Each test is a script of its own, so that it is the script that forks and not pytest."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows has not")

PRELUDE = """
import os
from memory_storage import dbapi

def in_child(work):
    # Runs it at once in a child process; the child's success is printed by the parent.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0

def rows(connection):
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x").fetchall()]

def raises(kind, work, text=""):
    try:
        work()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError("nothing was raised")

parent = dbapi.connect("test.db")
parent.execute("CREATE TABLE t (x)")
parent.execute("INSERT INTO t VALUES (0)")
parent.commit()
"""


@pytest.fixture
def script(tmp_path):
    def run(text):
        code = PRELUDE + textwrap.dedent(text)
        # Python warns of forking where there are threads, which is what these tests are about.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


def test_a_parents_connection_works_in_the_parent_only(script):
    script("""
    def child():
        assert not parent.usable and not parent.in_transaction
        raises(dbapi.InterfaceError, lambda: parent.execute("SELECT 1"), "after fork")
        raises(dbapi.InterfaceError, parent.commit, "after fork")
        parent.rollback()
        parent.close()
    in_child(child)
    parent.execute("INSERT INTO t VALUES (1)")
    parent.commit()
    assert rows(parent) == [0, 1]
    """)


def test_what_a_child_commits_outlives_the_parents_connection(script):
    # SQLite takes no locks for a file of which it believes that this process has them already.
    script("""
    to_parent, from_child = os.pipe()
    to_child, from_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        child = dbapi.connect("test.db")
        child.execute("INSERT INTO t VALUES (1)")
        child.commit()
        os.write(from_child, b"x")
        os.read(to_child, 1)
        child.execute("INSERT INTO t VALUES (2)")
        child.commit()
        os._exit(0)
    os.read(to_parent, 1)
    parent.close()
    os.write(from_parent, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert rows(dbapi.connect("test.db")) == [0, 1, 2]
    """)


@pytest.mark.parametrize("sql", ["SELECT x FROM t", "UPDATE t SET x = 0"])
def test_a_transaction_open_at_the_fork_stays_the_parents(script, sql):
    script(f"""
    parent.execute("{sql}")
    def child():
        own = dbapi.connect("test.db", busy_timeout=0.1)
        assert rows(own) == [0]
        own.rollback()
        if "{sql}".startswith("SELECT"):
            own.execute("INSERT INTO t VALUES (1)")
            own.commit()
        else:
            raises(dbapi.OperationalError, lambda: own.execute("INSERT INTO t VALUES (1)"), "locked")
    in_child(child)
    assert parent.in_transaction
    parent.commit()
    parent.execute("INSERT INTO t VALUES (2)")
    parent.commit()
    assert rows(parent)[-1] == 2
    assert parent.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    """)


def test_a_forked_child_copies_memory_without_the_transaction(script):
    script("""
    memory = dbapi.MemoryDatabase()
    one = dbapi.connect(memory)
    one.execute("CREATE TABLE t (x)")
    one.commit()
    one.execute("INSERT INTO t VALUES (1)")
    def child():
        other = dbapi.connect(memory, busy_timeout=0.1)
        assert rows(other) == []
        other.execute("INSERT INTO t VALUES (2)")
        other.commit()
        assert rows(other) == [2]
    in_child(child)
    one.commit()
    assert rows(one) == [1]
    """)


@pytest.mark.slow
@pytest.mark.parametrize(("url", "rows_in_the_end"), [("libsql:///engine.db", 3), ("libsql://", 1)])
def test_an_engine_works_on_in_parent_and_child(script, url, rows_in_the_end):
    script(f"""
    from sqlalchemy import create_engine, text
    engine = create_engine("{url}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    def write():
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
            assert connection.execute(text("SELECT count(*) FROM t")).scalar() >= 1
    in_child(write)
    write()
    in_child(write)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == {rows_in_the_end}
    """)
