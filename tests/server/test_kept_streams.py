"""A stream is kept between consecutive statements, and closed or dropped when idle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from memory_storage import dbapi
from memory_storage.dbapi._http import RequestNotSent
from memory_storage.testing import Sqld
from tests.proxy import Proxy

PAUSE = 0.2  # seconds; a stream is kept for the next 0.1


@pytest.fixture
def line(server: Sqld, proxy: Callable[..., Proxy]) -> Proxy:
    return proxy(server.port, record=True)


@pytest.fixture
def connection(line: Proxy) -> dbapi.Connection:
    made = dbapi.connect(line.url, timeout=5.0)
    made.autocommit = True
    made.execute("CREATE TABLE t (v)")
    time.sleep(PAUSE)
    line.reset_counts()
    return made


def streams(line: Proxy) -> list[tuple[bool, bool]]:
    """Of each request: whether it continued a stream, and whether it closed it."""
    messages = [json.loads(body) for _, body in line.requests]
    return [(one["baton"] is not None, one["requests"][-1]["type"] == "close") for one in messages]


def count(connection: dbapi.Connection) -> object:
    return connection.execute("SELECT count(*) FROM t").fetchall()[0][0]


def test_a_statement_by_itself_opens_and_closes_its_stream(connection: dbapi.Connection, line: Proxy):
    for _ in range(3):
        count(connection)
        time.sleep(PAUSE)
    assert streams(line) == [(False, True)] * 3


def test_statements_that_follow_one_another_share_one(connection: dbapi.Connection, line: Proxy):
    for _ in range(4):
        connection.execute("INSERT INTO t VALUES (1)")
    assert streams(line) == [(False, True), (False, False), (True, False), (True, False)]
    assert count(connection) == 4


def test_the_next_one_after_a_pause_closes_it(connection: dbapi.Connection, line: Proxy):
    for pause in (0, PAUSE, 0):
        count(connection)
        time.sleep(pause)
    assert streams(line) == [(False, True), (False, False), (True, True)]


@pytest.mark.slow
def test_a_stream_that_may_have_expired_is_dropped(connection: dbapi.Connection, line: Proxy):
    for pause in (0, 5.5, 0):
        count(connection)
        time.sleep(pause)
    assert streams(line) == [(False, True), (False, False), (False, True)]


def test_a_write_survives_an_expired_stream(connection: dbapi.Connection, server: Sqld):
    for _ in range(2):
        connection.execute("INSERT INTO t VALUES (1)")
    server.kill()
    server.start()
    connection.execute("INSERT INTO t VALUES (1)")
    assert count(connection) == 3


def test_a_read_without_a_response_is_retried(connection: dbapi.Connection, line: Proxy):
    for _ in range(2):
        connection.execute("INSERT INTO t VALUES (1)")
    line.cut_reply_after(0)
    assert count(connection) == 2
    assert line.cuts == 1


def test_a_lost_response_within_a_transaction_loses_it(line: Proxy, connection: dbapi.Connection):
    connection.autocommit = False
    count(connection)
    line.cut_reply_after(0)
    with pytest.raises(dbapi.OperationalError) as caught:
        count(connection)
    assert caught.value.code == "TRANSACTION_LOST"


def test_a_write_without_acknowledgement_is_applied_once(connection: dbapi.Connection, line: Proxy):
    for _ in range(2):
        connection.execute("INSERT INTO t VALUES (1)")
    line.cut_reply_after(0)
    done = 2
    try:
        connection.execute("INSERT INTO t VALUES (1)")
        done += 1
    except dbapi.OutcomeUnknownError:
        pass
    assert count(connection) in {done, done + 1} if done == 2 else count(connection) == done


def test_it_sees_what_others_have_written_since(connection: dbapi.Connection, server: Sqld):
    for _ in range(3):
        count(connection)
    other = dbapi.connect(server.url)
    other.execute("INSERT INTO t VALUES (1)")
    other.commit()
    assert count(connection) == 1
    other.close()


def test_closing_a_connection_frees_its_stream(connection: dbapi.Connection, line: Proxy):
    for _ in range(2):
        count(connection)
    connection.close()
    assert streams(line) == [(False, True), (False, False), (True, True)]


@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (1)", "SELECT count(*) FROM t"])
def test_an_unsent_request_goes_over_a_new_connection(
    connection: dbapi.Connection, monkeypatch: pytest.MonkeyPatch, sql: str
):
    connection.execute("INSERT INTO t VALUES (0)")
    channel = connection._transport._stream._channel
    post, fails = channel.post, [True]

    def cut(*arguments: object) -> object:
        if fails:
            fails.clear()
            raise RequestNotSent("the line was cut", "CONNECTION_FAILED")
        return post(*arguments)

    monkeypatch.setattr(channel, "post", cut)
    assert channel.was_reused
    connection.execute(sql)
    assert not fails
    assert count(connection) == 1 + sql.startswith("INSERT")
