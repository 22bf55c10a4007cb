"""Malformed responses of servers and gateways: always an error of the driver, with the correct outcome of a write."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from memory_storage import dbapi
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .raw import Client

Reply = tuple[int, dict[str, str], bytes]


class Gateway(ThreadingHTTPServer):
    """Hands requests on to a server, and its replies back, as `change` makes them."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.change: Callable[[Reply], Reply] = lambda reply: reply
        self.hosts: list[str] = []
        self.client = Client(port)
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"libsql://127.0.0.1:{self.server_port}?tls=0"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hosts.append(f"{self.headers['Host']}{self.path}")
        reply = self.server.client.pool.request("POST", self.path.removeprefix("/below"), body=body)
        status, headers, content = self.server.change((reply.status, {}, reply.data))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # the client hangs up on a response that is too large
            self.wfile.write(content)
        self.close_connection = headers.get("Connection") == "close" or "Content-Length" in headers

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def gateway(server: Sqld) -> Iterator[Gateway]:
    made = Gateway(server.port)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.client.run("CREATE TABLE t (x)")
    yield made
    made.shutdown()
    thread.join()
    made.server_close()
    made.client.pool.close()


@pytest.fixture
def connect(gateway: Gateway) -> Iterator[Callable[..., dbapi.Connection]]:
    with ExitStack() as opened:
        yield lambda **options: opened.enter_context(closing(dbapi.connect(gateway.url, timeout=3.0, **options)))


@pytest.fixture
def connection(connect: Callable[..., dbapi.Connection]) -> dbapi.Connection:
    return connect()


def always(status: int, content: bytes, **headers: str) -> Callable[[Reply], Reply]:
    return lambda reply: (status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def _results(**changes: Any) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        parsed = json.loads(reply[2])
        parsed["results"][0]["response"]["result"].update(changes)
        return 200, {}, json.dumps(parsed).encode()

    return change


ODD: dict[str, tuple[Callable[[Reply], Reply], type[dbapi.Error], str]] = {
    "429": (always(429, b"Too many concurrent requests"), dbapi.OperationalError, "SERVER_BUSY"),
    "500": (always(500, b'{"error":"broken"}'), dbapi.OperationalError, "SERVER_ERROR"),
    "502 in HTML": (always(502, b"<html>Bad Gateway</html>"), dbapi.OperationalError, "SERVER_ERROR"),
    "302": (always(302, b"", Location="http://127.0.0.1:1/"), dbapi.InternalError, "PROTOCOL"),
    "400": (always(400, b"what?"), dbapi.InternalError, "PROTOCOL"),
    "401": (always(401, b'{"error":"no"}'), dbapi.OperationalError, "UNAUTHORIZED"),
    "403": (always(403, b'{"error":["list"]}'), dbapi.OperationalError, "FORBIDDEN"),
    "404 with JSON of another kind": (always(404, b'["x"]'), dbapi.OperationalError, "NO_SUCH_DATABASE"),
    "HTML": (always(200, b"<html>hello</html>"), dbapi.InternalError, "PROTOCOL"),
    "half of the JSON": (lambda reply: (200, {}, reply[2][: len(reply[2]) // 2]), dbapi.InternalError, "PROTOCOL"),
    "nothing": (always(200, b""), dbapi.InternalError, "PROTOCOL"),
    "null": (always(200, b"null"), dbapi.InternalError, "PROTOCOL"),
    "a list": (always(200, b"[]"), dbapi.InternalError, "PROTOCOL"),
    "no results": (always(200, b'{"baton":null,"results":[]}'), dbapi.InternalError, "PROTOCOL"),
    "results of another kind": (always(200, b'{"baton":null,"results":[1]}'), dbapi.InternalError, "PROTOCOL"),
    "deep": (always(200, b"[" * 100_000), dbapi.InternalError, "PROTOCOL"),
    "no UTF-8": (always(200, b"\xff\xfe\xfd\xfc"), dbapi.InternalError, "PROTOCOL"),
    "no steps": (_results(step_results=[], step_errors=[]), dbapi.InternalError, "PROTOCOL"),
    "steps of another kind": (_results(step_results=["x"] * 9), dbapi.InternalError, "PROTOCOL"),
    "an index that is no number": (_results(replication_index="x", step_results=[{}]), dbapi.InternalError, "PROTOCOL"),
    "less than it says": (
        lambda reply: (200, {"Content-Length": str(len(reply[2]) + 5)}, reply[2]),
        dbapi.OperationalError,
        "CONNECTION_LOST",
    ),
    "no gzip": (always(200, b"not gzip", Content_Encoding="gzip"), dbapi.OperationalError, "CONNECTION_LOST"),
    "a head without end": (always(200, b"", X="x" * 70_000), dbapi.ResponseTooLargeError, "RESPONSE_LIMIT"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_malformed_response_to_a_read_is_a_driver_error(gateway: Gateway, connection: dbapi.Connection, odd: str):
    connection.autocommit = True
    gateway.change, kind, code = ODD[odd]
    with pytest.raises(dbapi.Error) as caught:
        connection.execute("SELECT * FROM t")
    assert (caught.type is kind or issubclass(caught.type, kind), caught.value.code) == (True, code)
    gateway.change = lambda reply: reply
    assert connection.execute("SELECT 1").fetchone() == (1,)


REFUSED = {"401", "429", "302", "400", "403", "404 with JSON of another kind"}


@pytest.mark.parametrize("odd", ODD)
def test_a_malformed_response_to_a_write_is_an_unknown_outcome(
    gateway: Gateway, connection: dbapi.Connection, odd: str
):
    connection.autocommit = True
    gateway.change = ODD[odd][0]
    with pytest.raises(dbapi.Error) as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    assert (caught.type is dbapi.OutcomeUnknownError) == (odd not in REFUSED)


@pytest.mark.parametrize("odd", ODD)
def test_a_malformed_response_rolls_the_transaction_back(gateway: Gateway, connection: dbapi.Connection, odd: str):
    connection.execute("INSERT INTO t VALUES (1)")
    gateway.change, kind, code = ODD[odd]
    with pytest.raises(kind) as caught:
        connection.execute("INSERT INTO t VALUES (2)")
    assert caught.value.code == code
    gateway.change = lambda reply: reply
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: (reply[0], {"Connection": "close"}, reply[2]),
        lambda reply: (reply[0], {"Content-Encoding": "gzip"}, gzip.compress(reply[2])),
        lambda reply: (
            reply[0],
            {"Content-Length": "", "Transfer-Encoding": "chunked"},
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply[2]), reply[2]),
        ),
    ],
    ids=["Connection: close", "gzip", "chunked"],
)
def test_what_http_allows_is_read(gateway: Gateway, connection: dbapi.Connection, change: Callable[[Reply], Reply]):
    gateway.change = change
    for number in range(3):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (number + 1,)
    connection.commit()
    assert gateway.client.run("SELECT count(*) FROM t") == [["3"]]


def _with_base_url(url: str) -> Callable[[Reply], Reply]:
    return lambda reply: (200, {}, json.dumps({**json.loads(reply[2]), "base_url": url}).encode())


def test_a_redirect_holds_for_the_rest_of_one_stream(
    gateway: Gateway,
    connection: dbapi.Connection,
    connect: Callable[..., dbapi.Connection],
    proxy: Callable[..., Proxy],
):
    elsewhere = proxy(gateway.server_port)
    connection = connect(base_url_hosts=[f"127.0.0.1:{elsewhere.port}"])
    gateway.change = _with_base_url(f"http://127.0.0.1:{elsewhere.port}/below/")
    for _ in range(2):
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO t VALUES (2)")
        time.sleep(0.2)  # a stream that is in demand stays open
        connection.commit()
    first, other = f"127.0.0.1:{gateway.server_port}/v3/pipeline", f"127.0.0.1:{elsewhere.port}/below/v3/pipeline"
    assert gateway.hosts == [first, other, other] * 2
    assert gateway.client.run("SELECT count(*) FROM t") == [["4"]]


def test_a_redirect_to_another_port_rolls_back_at_once(
    gateway: Gateway, connection: dbapi.Connection, proxy: Callable[..., Proxy]
):
    elsewhere = proxy(gateway.server_port)
    gateway.change = _with_base_url(f"http://127.0.0.1:{elsewhere.port}/below/")
    with pytest.raises(dbapi.OperationalError, match="base_url_hosts") as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    assert (caught.value.code, elsewhere.connections) == ("INSECURE", 0)
    assert (len(gateway.hosts), connection.in_transaction) == (2, False)
    gateway.client.run("INSERT INTO t VALUES (2)")  # the lock is free
    assert gateway.client.run("SELECT x FROM t") == [["2"]]


@pytest.mark.parametrize(
    ("url", "kind", "code"),
    [
        ("http://example.com/", dbapi.ProgrammingError, "INSECURE"),
        ("ftp://127.0.0.1", dbapi.InternalError, "PROTOCOL"),
        ("nonsense", dbapi.InternalError, "PROTOCOL"),
        ("http://127.0.0.1:x/", dbapi.InternalError, "PROTOCOL"),
    ],
)
def test_an_address_that_is_none_or_not_encrypted_is_refused(
    gateway: Gateway, connection: dbapi.Connection, url: str, kind: type[dbapi.Error], code: str
):
    gateway.change = _with_base_url(url)
    with raises(kind, code=code):
        connection.execute("INSERT INTO t VALUES (1)")
    assert not connection.in_transaction


def test_an_invalid_base_url_is_ignored_if_no_stream_remains(gateway: Gateway, connection: dbapi.Connection):
    connection.autocommit = True
    gateway.change = _with_base_url("nonsense")
    for number in range(4):  # one after the other: their stream would be kept
        connection.execute("INSERT INTO t VALUES (?)", (number,))
    assert gateway.client.run("SELECT count(*) FROM t") == [["4"]]


def test_a_refusal_to_read_on_is_an_error_of_the_driver(gateway: Gateway, connection: dbapi.Connection):
    def refuse(reply: Reply) -> Reply:
        return (500, {}, b'{"error":"broken"}') if gateway.hosts[-1].endswith("/v3/cursor") else reply

    gateway.change = refuse
    connection.autocommit = True
    with pytest.raises(dbapi.OperationalError) as caught:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12) "
            "SELECT zeroblob(1000000) FROM n"
        )
    assert caught.value.code == "SERVER_ERROR"
    gateway.change = lambda reply: reply
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_write_that_never_got_the_lock_is_retried(gateway: Gateway, connection: dbapi.Connection):
    busy = {"message": "SQLite error: database is locked", "code": "SQLITE_BUSY"}
    refusals = [_results(step_results=[None], step_errors=[busy])] * 3
    gateway.change = lambda reply: refusals.pop()(reply) if refusals else reply
    connection.autocommit = True
    connection.execute("INSERT INTO t VALUES (1)")
    assert refusals == []


@pytest.mark.parametrize("url", ["https://other.example.com/", "https://127.0.0.2:8080"])
def test_the_token_goes_to_no_other_host(gateway: Gateway, connection: dbapi.Connection, url: str):
    gateway.change = _with_base_url(url)
    with pytest.raises(dbapi.OperationalError, match=r"the token is for 127\.0\.0\.1:\d+ alone") as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    assert caught.value.code == "INSECURE"


def _compressed(reply: Reply) -> Reply:
    return 200, {"Content-Encoding": "gzip"}, gzip.compress(reply[2] + b" " * 5_000_000)


@pytest.mark.parametrize(
    ("change", "announced"),
    [(_compressed, False), (lambda reply: (200, {}, reply[2] + b" " * 5_000_000), True)],
    ids=["compressed", "plain"],
)
def test_a_response_that_is_too_large_is_refused(
    gateway: Gateway, connect: Callable[..., dbapi.Connection], change: Callable[[Reply], Reply], announced: bool
):
    connection = connect(max_response_bytes=1_000_000)
    connection.autocommit = True
    connection.execute("SELECT 1")  # so that its line is one that was used before
    gateway.hosts.clear()
    gateway.change = change
    with pytest.raises(dbapi.ResponseTooLargeError, match=r"larger than 1,000,000 bytes.*max_response_bytes") as caught:
        connection.execute("SELECT 1")
    error = caught.value
    assert (error.code, error.host, error.limit) == ("RESPONSE_LIMIT", "127.0.0.1", 1_000_000)
    assert (error.setting, (error.value or 0) > 5_000_000) == ("max_response_bytes", announced)
    assert len(gateway.hosts) == 1, "it was not sent again"
    with pytest.raises(dbapi.OutcomeUnknownError) as unknown:
        connection.execute("INSERT INTO t VALUES (1)")
    assert unknown.value.code == "RESPONSE_LIMIT"
    assert gateway.client.run("SELECT count(*) FROM t") == [["1"]]
