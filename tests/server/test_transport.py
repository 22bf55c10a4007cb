"""Statements and values over the network: values are read back equal or refused, and the cost is known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory_storage import dbapi
from memory_storage.dbapi import Batch, BatchStep
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .raw import client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqld]:
    """A server without namespaces: below those there are no cursors."""
    with Sqld(directory=tmp_path_factory.mktemp("transport")) as server:
        yield server


@pytest.fixture
def line(shared: Sqld, proxy: Callable[..., Proxy]) -> Proxy:
    """What counts the round trips."""
    with client(shared.port) as raw:
        raw.run("DROP TABLE IF EXISTS child", "DROP TABLE IF EXISTS t")
        raw.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE, CHECK (v IS NOT 'bad'))")
        raw.run("CREATE TABLE child (t INTEGER NOT NULL REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)")
    return proxy(shared.port, record=True)


@pytest.fixture
def connect(line: Proxy) -> Iterator[Callable[..., dbapi.Connection]]:
    """Connects through the proxy, as often as one likes."""
    opened: list[dbapi.Connection] = []

    def open_one(**options: object) -> dbapi.Connection:
        opened.append(dbapi.connect(line.url, **{"timeout": 20.0, **options}))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Callable[..., dbapi.Connection]) -> dbapi.Connection:
    """One connection."""
    return connect()


@pytest.fixture
def autocommitting(connect: Callable[..., dbapi.Connection]) -> dbapi.Connection:
    """One on which every statement is a transaction of its own."""
    made = connect()
    made.autocommit = True
    return made


def rows_of(shared: Sqld, sql: str = "SELECT count(*) FROM t") -> object:
    with client(shared.port) as raw:
        return raw.run(sql)[0][0]


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            0,
            2**63 - 1,
            -(2**63),
            2**53 + 1,
            0.1,
            -0.0,
            5e-324,
            1.7976931348623157e308,
            1e22,
            "",
            "a",
            "żółć 𝄞 \u2028 \\u0041 \" ' \r\n\t \x01 \ufeff",
            "x" * 1_000_000,
            b"",
            b"\x00\xff",
            bytes(range(256)) * 1000,
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_each_is_read_back_equal_with_its_type(self, connection: dbapi.Connection, value: object):
        connection.execute("INSERT INTO t (v) VALUES (?)", (value,))
        for found in connection.execute("SELECT v, ? FROM t", (value,)).fetchone() or ():
            assert (type(found), repr(found)) == (type(value), repr(value))

    def test_infinity_is_refused_before_anything_is_sent(self, connection: dbapi.Connection, line: Proxy):
        with pytest.raises(dbapi.DataError, match="infinity"):
            connection.execute("SELECT ?", (float("inf"),))
        assert line.round_trips == 0

    def test_reading_an_infinity_is_refused_as_its_sign_is_lost(self, connection: dbapi.Connection):
        with pytest.raises(dbapi.DataError, match="infinite"):
            connection.execute("SELECT 9e999")

    def test_a_row_may_be_wide(self, connection: dbapi.Connection):
        found = connection.execute(f"SELECT {', '.join(f'{n} AS c{n}' for n in range(1000))}")
        assert found.fetchone() == tuple(range(1000))
        assert [column[0] for column in found.description or ()] == [f"c{n}" for n in range(1000)]

    @pytest.mark.parametrize("autocommit", [True, False])
    def test_returning_gives_its_rows_and_counts_them(
        self, connection: dbapi.Connection, shared: Sqld, autocommit: bool
    ):
        connection.autocommit = autocommit
        cursor = connection.execute("INSERT INTO t (v) VALUES (1), (2) RETURNING id, v * 2")
        assert (cursor.rowcount, cursor.fetchall()) == (2, [(1, 2), (2, 4)])
        connection.commit()
        assert rows_of(shared) == "2"

    def test_counts_and_row_ids_are_returned(self, connection: dbapi.Connection):
        inserted = connection.execute("INSERT INTO t VALUES (?, 1)", (2**62,))
        assert (inserted.rowcount, inserted.lastrowid, inserted.description) == (1, 2**62, None)
        assert connection.execute("UPDATE t SET v = 3").rowcount == 1
        assert connection.execute("SELECT 1").rowcount == -1


class TestErrors:
    @pytest.mark.parametrize(
        ("sql", "kind", "code"),
        [
            ("INSERT INTO t VALUES (1, 5)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
            ("INSERT INTO t (v) VALUES (7)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
            ("INSERT INTO t (v) VALUES ('bad')", dbapi.IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
            ("INSERT INTO child VALUES (NULL)", dbapi.IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
            ("INSERT INTO t VALUES ('x', 1)", dbapi.IntegrityError, "SQLITE_MISMATCH"),
            ("SELECT * FROM nothing", dbapi.OperationalError, "SQLITE_ERROR"),
            ("SELEC 1", dbapi.OperationalError, "SQLITE_ERROR"),
            ("INSERT INTO t (v) VALUES (zeroblob(6000000))", dbapi.DataError, "SQLITE_TOOBIG"),
            ("CREATE TEMP TABLE x (y)", dbapi.NotSupportedError, "SQL_PARSE_ERROR"),
            ("SELECT ?", dbapi.ProgrammingError, ""),
            ("SELECT 1; SELECT 2", dbapi.ProgrammingError, ""),
        ],
    )
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_each_has_its_class_and_code_and_the_connection_works(
        self, connection: dbapi.Connection, sql: str, kind: type[dbapi.Error], code: str, autocommit: bool
    ):
        connection.autocommit = autocommit
        connection.execute("INSERT INTO t VALUES (1, 7)")
        with raises(kind, code=code):
            connection.execute(sql)
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (int(autocommit),)

    def test_a_commit_that_a_constraint_refuses_stores_nothing(self, connection: dbapi.Connection, shared: Sqld):
        connection.execute("INSERT INTO t VALUES (1, 1)")
        connection.execute("INSERT INTO child VALUES (99)")
        with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY"):
            connection.commit()
        with raises(dbapi.OperationalError, code="TRANSACTION_LOST", match="rollback"):
            connection.execute("INSERT INTO t VALUES (2, 2)")
        connection.rollback()
        connection.execute("INSERT INTO t VALUES (3, 3)")
        connection.commit()
        assert rows_of(shared, "SELECT group_concat(id) FROM t") == "3"


class TestMuch:
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_five_thousand_rows_take_few_requests(
        self, connection: dbapi.Connection, line: Proxy, shared: Sqld, autocommit: bool
    ):
        connection.autocommit = autocommit
        done = connection.cursor().executemany("INSERT INTO t VALUES (?, ?)", ((n, f"v{n}") for n in range(5000)))
        assert done.rowcount == 5000
        connection.commit()
        assert line.round_trips <= 6
        assert rows_of(shared) == "5000"

    @pytest.mark.parametrize("autocommit", [True, False])
    @pytest.mark.slow
    def test_a_batch_of_more_than_16_megabytes_is_all_or_nothing(
        self, connection: dbapi.Connection, line: Proxy, shared: Sqld, autocommit: bool
    ):
        connection.autocommit = autocommit
        much = [BatchStep("INSERT INTO t VALUES (?, ?)", (n, f"{n}" + "x" * 3_000_000)) for n in range(7)]
        with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
            connection.execute(Batch([*much, BatchStep("INSERT INTO t VALUES (?, 'twice')", (6,))]))
        connection.rollback()
        assert rows_of(shared) == "0"
        line.reset_counts()
        connection.execute(Batch(much))
        assert line.round_trips == 2
        connection.commit()
        assert rows_of(shared) == "7"

    def test_a_failed_chunked_batch_rolls_back_its_transaction(self, connection: dbapi.Connection, shared: Sqld):
        connection.execute("INSERT INTO t VALUES (100, 100)")
        much = [BatchStep("INSERT INTO t VALUES (?, ?)", (n, f"{n}" + "x" * 3_000_000)) for n in range(7)]
        with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
            connection.execute(Batch([*much, BatchStep("INSERT INTO t VALUES (?, 'twice')", (6,))]))
        with raises(dbapi.OperationalError, code="TRANSACTION_LOST", match="rollback"):
            connection.commit()
        connection.rollback()
        assert rows_of(shared) == "0"

    @pytest.mark.parametrize("begin", ["autocommit", "first", "later", "immediate", "batch"])
    def test_a_result_over_10_megabytes_is_read_completely(
        self, connection: dbapi.Connection, line: Proxy, shared: Sqld, begin: str
    ):
        with client(shared.port) as raw:
            for number in range(3):
                raw.run(f"INSERT INTO t VALUES ({number}, {number} || hex(zeroblob(2400000)))")
        connection.autocommit = begin == "autocommit"
        connection.begin_mode = "IMMEDIATE" if begin == "immediate" else ""
        if begin == "later":
            connection.execute("INSERT INTO t VALUES (9, 9)")
        query = "SELECT id, length(v), v, x'0102', NULL, 1.5 FROM t WHERE id < 5 ORDER BY id"
        steps = [BatchStep("SELECT 1"), BatchStep(query)]
        found = connection.execute(Batch(steps, reads_only=True) if begin == "batch" else query).fetchall()
        assert [(row[0], row[1], len(row[2]), *row[3:]) for row in found] == [
            (n, 4_800_001, 4_800_001, b"\1\2", None, 1.5) for n in range(3)
        ]
        assert "POST /v3/cursor" in [head for head, _ in line.requests]
        assert connection.in_transaction == (begin not in {"autocommit", "batch"})
        connection.execute("INSERT INTO t VALUES (10, 10)")
        connection.commit()
        assert rows_of(shared, "SELECT count(*) FROM t WHERE id > 5") == ("2" if begin == "later" else "1")

    def test_a_server_without_cursors_fails_in_a_transaction(self, empty_server_url: str):
        connection = dbapi.connect(empty_server_url)
        connection.execute("CREATE TABLE t (x)")
        with pytest.raises(dbapi.DataError, match="read fewer rows") as caught:
            connection.execute("SELECT hex(zeroblob(2400000)) FROM (VALUES (1), (2), (3))")
        assert caught.value.code == "RESPONSE_TOO_LARGE"
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
        connection.close()

    @pytest.mark.parametrize("autocommit", [True, False])
    def test_a_write_that_returns_too_much_stores_nothing(
        self, connection: dbapi.Connection, shared: Sqld, autocommit: bool
    ):
        connection.autocommit = autocommit
        with raises(dbapi.DataError, code="RESPONSE_TOO_LARGE", match="nothing of it was stored"):
            connection.execute(
                "INSERT INTO t (v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4)"
                " SELECT i FROM n RETURNING id, hex(zeroblob(2400000))"
            )
        connection.rollback()
        connection.execute("INSERT INTO t VALUES (50, 50)")
        connection.commit()
        assert rows_of(shared, "SELECT group_concat(id) FROM t") == "50"


class TestRoundTrips:
    def test_what_does_nothing_costs_nothing(self, connect: Callable[..., dbapi.Connection], line: Proxy):
        connection = connect()
        connection.rollback()
        connection.commit()
        connection.close()
        assert (line.round_trips, line.connections) == (0, 0)

    def test_each_statement_is_one(self, connection: dbapi.Connection, line: Proxy):
        for number, act in enumerate(
            (
                lambda: connection.execute("INSERT INTO t VALUES (1, 1)"),
                lambda: connection.execute("SELECT * FROM t"),
                lambda: connection.cursor().executemany("INSERT INTO t VALUES (?, ?)", [(n, n) for n in range(2, 99)]),
                lambda: connection.execute(
                    Batch([BatchStep("DELETE FROM t WHERE id = 2", rows=1), BatchStep("SELECT 1")])
                ),
                connection.commit,
            ),
            start=1,
        ):
            act()
            assert line.round_trips == number
        assert line.connections == 1

    def test_in_autocommit_too(self, autocommitting: dbapi.Connection, line: Proxy):
        for number, act in enumerate(
            (
                lambda: autocommitting.execute("INSERT INTO t VALUES (1, 1)"),
                lambda: autocommitting.execute("INSERT INTO t VALUES (2, 2) RETURNING v"),
                lambda: autocommitting.execute("SELECT * FROM t"),
                lambda: autocommitting.cursor().executemany("DELETE FROM t WHERE id = ?", [(1,), (2,)]),
                lambda: autocommitting.execute(
                    Batch([BatchStep("INSERT INTO t VALUES (7, 7)", rows=1), BatchStep("SELECT 1")])
                ),
            ),
            start=1,
        ):
            act()
            assert (line.round_trips, autocommitting.in_transaction) == (number, False)

    @pytest.mark.parametrize("mode", ["", "DEFERRED", "IMMEDIATE"])
    def test_a_batch_may_begin_a_transaction_in_the_same_one(
        self, connection: dbapi.Connection, line: Proxy, shared: Sqld, mode: str
    ):
        connection.begin_mode = mode
        connection.execute(Batch([BatchStep("INSERT INTO t VALUES (1, 1)"), BatchStep("INSERT INTO t VALUES (2, 2)")]))
        assert (line.round_trips, connection.in_transaction) == (1, bool(mode))
        connection.rollback()
        assert rows_of(shared) == ("0" if mode else "2")

    def test_a_stream_is_closed_after_an_error_ends_its_transaction(self, connection: dbapi.Connection, line: Proxy):
        connection.execute("INSERT INTO t VALUES (1, 1)")
        time.sleep(0.2)  # a stream that is in demand stays open
        with raises(dbapi.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"):
            connection.execute("INSERT OR ROLLBACK INTO t VALUES (1, 1)")
        assert b'"close"' in line.requests[-1][1]


class TestProcessesAndThreads:
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_child_process_cannot_use_its_parents_transaction(self, connection: dbapi.Connection, shared: Sqld):
        connection.execute("INSERT INTO t VALUES (1, 1)")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                connection.execute("INSERT INTO t VALUES (2, 2)")
            except dbapi.InterfaceError as error:
                connection.close()
                status = 0 if "fork" in str(error) and not connection.usable else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        connection.execute("INSERT INTO t VALUES (3, 3)")
        connection.commit()
        assert rows_of(shared, "SELECT group_concat(id) FROM t") == "1,3"

    @pytest.mark.slow
    def test_threads_with_their_own_connections_are_independent(
        self, connect: Callable[..., dbapi.Connection], shared: Sqld
    ):
        def work(thread: int) -> None:
            own = connect()
            for number in range(25):
                key = thread * 100 + number
                own.execute("INSERT INTO t VALUES (?, ?)", (key, f"{key}"))
                assert own.execute("SELECT v FROM t WHERE id = ?", (key,)).fetchone() == (f"{key}",)
                own.commit() if number % 2 else own.rollback()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert rows_of(shared) == str(8 * 12)

    def test_it_can_be_dropped_without_closing_it(self, line: Proxy):
        connection = dbapi.connect(line.url)
        connection.execute("SELECT 1")
        del connection


def test_a_deadline_is_what_was_set_and_what_is_closed_stays_so(connection: dbapi.Connection):
    assert connection.deadline is None
    connection.deadline = until = time.monotonic() + 5
    assert connection.deadline == until
    transport = connection._transport
    connection.close()
    transport.close()
    transport.discard()
    with pytest.raises(dbapi.InterfaceError, match="closed"):
        transport.run([BatchStep("SELECT 1")])


def test_a_child_process_closes_its_parents_connection(connection: dbapi.Connection):
    connection.execute("SELECT 1")
    transport = connection._transport
    transport.after_fork_in_child()
    with pytest.raises(dbapi.InterfaceError, match="belongs to the parent"):
        transport.run([BatchStep("SELECT 1")])
    transport.close()  # without a word to the server


@pytest.mark.slow
def test_a_write_outwaits_the_server_for_another_writer(
    connect: Callable[..., dbapi.Connection], autocommitting: dbapi.Connection
):
    other = connect()
    other.execute("INSERT INTO t VALUES (1, 'first')")  # it has the lock
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(autocommitting.execute, "INSERT INTO t VALUES (2, 'second')")
        time.sleep(1.0)
        assert not waiting.done()
        other.commit()
        waiting.result()
    assert autocommitting.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_rows_too_large_to_send_leave_the_transaction_usable(connection: dbapi.Connection):
    connection.execute("INSERT INTO t VALUES (1, 'mine')")
    large = "INSERT INTO t VALUES (?, zeroblob(4000000) || ?) RETURNING v"
    with pytest.raises(dbapi.DataError, match="nothing of it was stored") as caught:
        connection.execute(Batch([BatchStep(large, (number, number)) for number in range(2, 8)]))
    assert caught.value.code == "RESPONSE_TOO_LARGE"
    connection.execute("INSERT INTO t VALUES (9, 'mine too')")
    connection.commit()
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,), (9,)]
