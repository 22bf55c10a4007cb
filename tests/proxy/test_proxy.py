"""The fault proxy forwards everything unchanged, counts correctly, and injects faults on request."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError

from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.proxy.requests import RequestReader
from tests.raising import raises
from tests.server.raw import client, eventually

ProxyMaker = Callable[..., Proxy]


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def any_proxy(request: pytest.FixtureRequest, proxy: ProxyMaker, server: Sqld) -> Proxy:
    """A proxy that records, in either place where one may run."""
    return proxy(server.port, record=True, own_process=request.param)


def test_it_carries_and_counts(any_proxy: Proxy):
    with client(any_proxy.port) as sql:
        for _ in range(3):
            assert sql.run("SELECT 'POST / HTTP/1.1'") == [["POST / HTTP/1.1"]]
        assert (any_proxy.connections, any_proxy.open_connections, any_proxy.round_trips) == (1, 1, 3)
    head, body = any_proxy.requests[-1]
    assert head == "POST /v3/pipeline"
    assert b"SELECT 'POST / HTTP/1.1'" in body
    assert any_proxy.bytes_sent > 3 * len(body)
    assert any_proxy.bytes_received > 0
    eventually(lambda: any_proxy.open_connections == 0)
    any_proxy.reset_counts()
    assert (any_proxy.connections, any_proxy.round_trips, any_proxy.bytes_sent, any_proxy.requests) == (0, 0, 0, [])


def test_latency_is_added_to_each_round_trip(any_proxy: Proxy):
    with client(any_proxy.port) as sql:
        sql.run("SELECT 1")
        any_proxy.latency = 0.1
        assert 0.1 <= _quickest(lambda: sql.run("SELECT 1")) < 0.15
        any_proxy.latency = 0
        assert _quickest(lambda: sql.run("SELECT 1")) < 0.05


def test_latency_delays_connections_side_by_side(server: Sqld, proxy: ProxyMaker):
    slow = proxy(server.port, latency=0.1)
    with client(slow.port, maxsize=10) as sql, ThreadPoolExecutor(10) as threads:
        began = time.monotonic()
        assert list(threads.map(sql.run, ["SELECT 1"] * 40)) == [[["1"]]] * 40
        assert 0.4 <= time.monotonic() - began < 4  # one after another they take at least that


def test_a_request_that_was_cut_off_never_ran(any_proxy: Proxy, server: Sqld):
    with client(server.port) as direct, client(any_proxy.port) as sql:
        direct.run("CREATE TABLE t (x)")
        for size in (0, 1, 150):
            any_proxy.cut_request_after(size)
            with pytest.raises(ProtocolError):
                sql.run("INSERT INTO t VALUES (1)")
        assert any_proxy.cuts == 3
        assert direct.run("SELECT count(*) FROM t") == [["0"]]
        sql.run("INSERT INTO t VALUES (1)")
        assert direct.run("SELECT count(*) FROM t") == [["1"]]


@pytest.mark.parametrize("reset", [True, False])
def test_a_request_whose_reply_was_cut_off_did_run(any_proxy: Proxy, server: Sqld, reset: bool):
    with client(server.port) as direct, client(any_proxy.port) as sql:
        direct.run("CREATE TABLE t (x)")
        for number, size in enumerate((0, 1, 200), start=1):
            any_proxy.cut_reply_after(size, reset=reset)
            with pytest.raises(ProtocolError):
                sql.run("INSERT INTO t VALUES (1)")
            assert direct.run("SELECT count(*) FROM t") == [[str(number)]]


def test_a_reset_is_a_reset_and_a_fin_an_end(server: Sqld, proxy: ProxyMaker):
    between = proxy(server.port)
    for reset, expected in ((True, ConnectionResetError), (False, None)):
        between.cut_request_after(0, reset=reset)
        with socket.create_connection(("127.0.0.1", between.port), timeout=5) as raw:
            raw.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            if expected is None:
                assert raw.recv(100) == b""
            else:
                with pytest.raises(expected):
                    raw.recv(100)


def test_a_cut_may_be_repeated_or_cancelled(server: Sqld, proxy: ProxyMaker):
    between = proxy(server.port)
    with client(between.port) as sql:
        between.cut_reply_after(0, times=2)
        for _ in range(2):
            with pytest.raises(ProtocolError):
                sql.run("SELECT 1")
        sql.run("SELECT 1")
        between.cut_request_after(0)
        between.cut_request_after(None)
        sql.run("SELECT 1")
    assert between.cuts == 2


def test_deaf_it_swallows_everything(any_proxy: Proxy):
    with client(any_proxy.port) as sql:
        sql.run("SELECT 1")
        any_proxy.deaf = True
        for _ in range(2):  # on the open connection, and on a new one
            with pytest.raises(ReadTimeoutError):
                sql.pool.request("GET", "/health", timeout=0.1)
        any_proxy.deaf = False
        assert sql.run("SELECT 1") == [["1"]]


def test_refusing_it_takes_no_connection_until_it_accepts(any_proxy: Proxy):
    with client(any_proxy.port) as sql, client(any_proxy.port) as other:
        sql.run("SELECT 1")
        any_proxy.refuse()
        assert sql.run("SELECT 1") == [["1"]]  # the open connection stays
        with pytest.raises(NewConnectionError):
            other.run("SELECT 1")
        any_proxy.accept()
        assert other.run("SELECT 1") == [["1"]]


def test_all_open_connections_are_cut_at_once(any_proxy: Proxy):
    with client(any_proxy.port) as sql, client(any_proxy.port) as other:
        sql.run("SELECT 1")
        other.run("SELECT 1")
        any_proxy.cut_all()
        eventually(lambda: any_proxy.open_connections == 0)
        assert any_proxy.cuts == 2
        assert sql.run("SELECT 1") == [["1"]]  # urllib3 sees that it is closed, and reconnects


def test_throttled_it_carries_so_many_bytes_a_second(server: Sqld, proxy: ProxyMaker):
    between = proxy(server.port)
    with client(between.port) as sql:
        between.throttle = 100_000
        began = time.monotonic()
        assert sql.run("SELECT hex(zeroblob(15000))") == [["0" * 30_000]]
        assert time.monotonic() - began > 0.25


def test_a_server_that_is_away_is_a_reset(server: Sqld, proxy: ProxyMaker):
    between = proxy(server.port)
    server.kill()
    with raises(ConnectionResetError), socket.create_connection(("127.0.0.1", between.port)) as line:
        line.recv(1)
    server.start()
    with client(between.port) as sql:
        assert sql.run("SELECT 1") == [["1"]]


def test_it_can_be_pointed_elsewhere(server: Sqld, proxy: ProxyMaker, sqld: Sqld, namespace: str):
    between = proxy(server.port)
    between.target_port = sqld.port
    with client(between.port, path=f"/dev/{namespace}") as sql:
        assert sql.run("SELECT 1") == [["1"]]


def test_large_bodies_pass_unharmed(any_proxy: Proxy):
    text = "".join(chr(97 + number * 7 % 26) for number in range(3_000_000))
    with client(any_proxy.port) as sql:
        assert sql.run(f"SELECT '{text}'") == [[text]]


@pytest.mark.parametrize("own_process", [False, True])
def test_closed_it_leaves_nothing(server: Sqld, own_process: bool):
    threads = threading.active_count()
    between = Proxy(server.port, own_process=own_process)
    with client(between.port) as sql:
        sql.run("SELECT 1")
        between.close()
        between.close()
        with raises(NewConnectionError):
            sql.run("SELECT 1")
    assert threading.active_count() == threads


def test_a_process_of_its_own_makes_no_certificates(server: Sqld):
    with pytest.raises(ValueError, match="TLS"):
        Proxy(server.port, own_process=True, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


class TestRequestReader:
    TWO = b"POST /a HTTP/1.1\r\nContent-Length: 16\r\n\r\nPOST / HTTP/1.1\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"
    CHUNKS = (
        b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"5\r\nGET /\r\n2;x=y\r\n\r\n\r\n0\r\n\r\nGET /d HTTP/1.1\r\n\r\n"
    )

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_a_body_is_no_request_however_it_is_cut_up(self, size: int):
        stream, reader = self.TWO + self.CHUNKS, RequestReader(keep_bodies=True)
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])
        assert reader.heads == 4
        assert reader.take() == [
            ("POST /a", b"POST / HTTP/1.1\n"),
            ("GET /b", b""),
            ("POST /c", b"GET /\r\n"),
            ("GET /d", b""),
        ]
        assert reader.take() == []

    @pytest.mark.parametrize("stream", [b"\x16\x03\x01" * 50_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n" * 3])
    def test_what_is_not_http_1_has_no_requests(self, stream: bytes):
        reader = RequestReader(keep_bodies=True)
        reader.feed(stream)
        reader.feed(TestRequestReader.TWO)
        assert (reader.heads, reader.take()) == (0, [])


def _quickest(action: Callable[[], object], times: int = 5) -> float:
    """Seconds. A busy machine makes some slower, and none quicker."""
    return min(_seconds(action) for _ in range(times))


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
