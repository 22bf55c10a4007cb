"""Addresses: reached with TLS, without it, or refused before a byte is sent."""

from __future__ import annotations

import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from sqlalchemy import create_engine, exc, text
from typer.testing import CliRunner

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.cli import app
from memory_storage.dbapi._address import Origin
from memory_storage.testing import Sqld
from tests.cli.conftest import start
from tests.raising import raises

SECRET = "s3cret-in-the-url"


class Listener:
    """Something that can be connected to, and counts how often it was."""

    def __init__(self, reply: bytes = b"") -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self._reply = reply
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with closing(client):
                self.connections += 1
                client.settimeout(5)
                self.requests.append(self._request(client))
                client.sendall(self._reply)

    def _request(self, client: socket.socket) -> bytes:
        request = client.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        while len(body) < length:
            body += client.recv(65536)
        return head + body

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@contextmanager
def listening(reply: bytes = b"") -> Iterator[Listener]:
    listener = Listener(reply)
    try:
        yield listener
    finally:
        listener.close()


def answer(status: str, body: str, *headers: str) -> bytes:
    """A whole HTTP reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


def by_open(url: str) -> None:
    ms.MemoryStorage.open(url, auth_token="t").close()


def by_settings(url: str) -> None:
    ms.Settings(database=url, auth_token="t")


def by_dbapi(url: str) -> None:
    with closing(dbapi.connect(url, auth_token="t")) as connection:
        connection.execute("SELECT 1")


class TestWhatIsNotEncrypted:
    @pytest.mark.parametrize("scheme", ["http", "ws", "HTTP", "Ws"])
    @pytest.mark.parametrize("given_to", [by_open, by_settings])
    def test_is_refused_before_a_byte_is_sent(self, given_to: Callable[[str], None], scheme: str):
        with listening() as listener:
            with pytest.raises(ms.InsecureConnectionError, match="not encrypted: use libsql"):
                given_to(f"{scheme}://127.0.0.1:{listener.port}")
            assert listener.connections == 0

    @pytest.mark.parametrize("name", ["TURSO_DATABASE_URL", "LIBSQL_DATABASE_PATH"])
    def test_is_refused_from_the_environment(self, monkeypatch: pytest.MonkeyPatch, name: str):
        with listening() as listener:
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
            for opens in (ms.MemoryStorage.open, ms.Settings.from_environment):
                with pytest.raises(ms.InsecureConnectionError, match="not encrypted"):
                    opens()
            assert listener.connections == 0

    def test_is_refused_by_the_driver(self):
        with listening() as listener:
            with raises(dbapi.ProgrammingError, code="INSECURE", match="not encrypted") as caught:
                by_dbapi(f"ws://127.0.0.1:{listener.port}")
            assert (caught.value.code, listener.connections) == ("INSECURE", 0)

    @pytest.mark.slow
    def test_is_refused_by_the_command(self):
        with listening() as listener:
            process = start("stats", "--database", f"http://127.0.0.1:{listener.port}")
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, listener.connections) == (3, b"", 0)
            assert b"error: database: http:// is not encrypted: use libsql://" in err
            assert b"Traceback" not in err

    def test_is_refused_by_sqlalchemy(self):
        for scheme in ("http", "ws"):
            with pytest.raises(exc.ArgumentError):
                create_engine(f"{scheme}://127.0.0.1:1")

    @pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "0.0.0.0", "[2001:db8::1]", "localhost.example.com"])
    def test_is_refused_for_another_machine(self, host: str):
        url = f"libsql://{host}:8080?tls=0"
        for opens in (ms.MemoryStorage.open, by_settings):
            with pytest.raises(ms.InsecureConnectionError, match="only for this machine"):
                opens(url)
        with pytest.raises(ms.InsecureConnectionError, match="only for this machine"):
            create_engine(url)

    @pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]"])
    def test_is_taken_for_this_machine(self, host: str):
        settings = ms.Settings(database=f"libsql://{host}:8080?tls=0")
        assert settings.server is not None
        assert not settings.server.origin.tls
        create_engine(f"libsql://{host}:8080?tls=0").dispose()

    def test_works_on_this_machine(self, empty_server_url: str):
        with ms.MemoryStorage.open(empty_server_url) as storage:
            assert storage.episodes.count() == 0


class TestEncrypted:
    @pytest.mark.parametrize("scheme", ["libsql", "https", "wss", "LIBSQL", "Https"])
    def test_three_schemes_mean_the_same(self, scheme: str):
        assert ms.Settings(database=f"{scheme}://db.example.com").database == "libsql://db.example.com:443"

    @pytest.mark.parametrize(
        ("url", "normal"),
        [
            ("libsql://db.example.com", "libsql://db.example.com:443"),
            ("libsql://db.example.com/", "libsql://db.example.com:443"),
            ("libsql://DB.Example.com:8443?tls=1", "libsql://db.example.com:8443"),
            ("libsql://localhost?tls=0", "libsql://localhost:8080?tls=0"),
            ("https://[2001:DB8::1]", "libsql://[2001:db8::1]:443"),
            ("libsql://[::1]:9000?tls=0", "libsql://[::1]:9000?tls=0"),
            ("libsql://host_1/dev/name-2/", "libsql://host_1:443/dev/name-2"),
        ],
    )
    def test_an_address_has_one_form(self, url: str, normal: str):
        settings = ms.Settings(database=url)
        assert settings.database == normal
        assert ms.Settings(database=normal).server == settings.server
        engine = create_engine(normal)
        assert engine.dialect.create_connect_args(engine.url)[0] == [settings.server]

    def test_a_plain_server_gets_no_request(self):
        with listening() as listener:
            with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
                by_open(f"libsql://127.0.0.1:{listener.port}")
            assert all(b"HTTP" not in request for request in listener.requests)

    def test_an_ipv6_address_is_reached(self, server: Sqld):
        if not socket.has_ipv6:
            pytest.fail("this test needs IPv6")
        with (
            _forwarded_from_ipv6(server.port) as port,
            ms.MemoryStorage.open(f"libsql://[::1]:{port}?tls=0") as storage,
        ):
            assert storage.episodes.count() == 0


SECRETIVE = [
    f"libsql://user:{SECRET}@db.example.com",
    f"libsql://{SECRET}@db.example.com",
    f"libsql://user:a/{SECRET}@db.example.com",
    f"libsql://user:{SECRET}@[::1",
    f"libsql://db.example.com?authToken={SECRET}",
    f"libsql://db.example.com?tls=1&auth_token={SECRET}",
    f"libsql://db.example.com?{SECRET}",
    f"libsql://db.example.com#{SECRET}",
    f"https://user:{SECRET}@db.example.com/path",
    f"http://user:{SECRET}@db.example.com/path",
    f"libsql://127.0.0.1?tls=0&x={SECRET}",
]


class TestSecretsInAURL:
    @pytest.mark.parametrize("url", SECRETIVE)
    @pytest.mark.parametrize("given_to", [by_open, by_settings])
    def test_are_refused_and_not_repeated(self, given_to: Callable[[str], None], url: str):
        with pytest.raises(ms.ConfigurationError) as caught:
            given_to(url)
        assert SECRET not in everything_in(caught.value)

    @pytest.mark.parametrize("url", SECRETIVE)
    def test_are_refused_by_the_driver_and_not_repeated(self, url: str):
        with pytest.raises(dbapi.ProgrammingError) as caught:
            by_dbapi(url)
        assert SECRET not in everything_in(caught.value)

    @pytest.mark.parametrize("url", SECRETIVE)
    def test_are_refused_from_the_environment_and_not_repeated(self, monkeypatch: pytest.MonkeyPatch, url: str):
        monkeypatch.setenv("TURSO_DATABASE_URL", url)
        with pytest.raises(ms.ConfigurationError) as caught:
            ms.MemoryStorage.open()
        assert SECRET not in everything_in(caught.value)

    @pytest.mark.parametrize("url", SECRETIVE)
    def test_are_refused_by_the_command_and_not_repeated(self, url: str):
        result = CliRunner().invoke(app, ["stats", "--database", url])
        assert result.exit_code == 3
        assert SECRET not in result.output

    # SQLAlchemy itself leaves out an option without a value, and shows what it cannot split.
    @pytest.mark.parametrize(
        "url", [one for one in SECRETIVE if one.startswith("libsql") and not re.search(r"\[|m\?s", one)]
    )
    def test_are_refused_by_sqlalchemy_without_being_quoted(self, url: str):
        with raises(exc.ArgumentError) as caught:
            create_engine(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(url, "")


class TestOddURLs:
    @pytest.mark.parametrize(
        "url",
        [
            "libsql://",
            "libsql://?tls=0",
            "libsql://:8080",
            "libsql://host:0",
            "libsql://host:65536",
            "libsql://host:-1",
            "libsql://host:port",
            "libsql://host:99999999999999999999",
            "libsql://host:\u0663",
            "libsql://[::1",
            "libsql://::1]",
            "libsql://[fe80::1%25eth0]x",
            "libsql://ho st",
            "libsql://ho\nst",
            "libsql://ho\tst",
            "libsql://ho\0st",
            "libsql://b\u00fccher.example",
            "libsql://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54?tls=0",
            "libsql://a\u2100b",
            "libsql://" + "a" * 254,
            "libsql://" + "a." * 1_000_000,
            "libsql://-host",
            "libsql://host-",
            "libsql://a..b",
            "libsql://%6cocalhost?tls=0",
            "libsql://host\\@other",
            "libsql://host/a b",
            "libsql://host/a\r\nX: y",
            "libsql://host/\u00fc",
            "libsql://host/a@b",
            "libsql://host?tls=2",
            "libsql://host?tls=",
            "libsql://host?tls=1&tls=0",
            "libsql://host?busy_timeout=1",
            "libsql://host#fragment",
            "ftp://host",
            "://host",
            "sqlite:///file",
            "libsql://\ud800",
        ],
        ids=lambda url: ascii(url)[1:40],
    )
    def test_are_refused_by_their_own_error(self, url: str):
        for opens in (ms.MemoryStorage.open, by_settings):
            with pytest.raises(ms.ConfigurationError):
                opens(url)
        with raises(dbapi.ProgrammingError, code="BAD_URL"):
            by_dbapi(url)

    @pytest.mark.parametrize(
        "url",
        [
            "libsql://host:0",
            "libsql://host:65536",
            "libsql://ho st",
            "libsql://b\u00fccher.example",
            "libsql://host/\u00fc",
        ],
    )
    def test_are_refused_by_sqlalchemy(self, url: str):
        with pytest.raises(exc.ArgumentError):
            create_engine(url)

    @pytest.mark.parametrize("url", ["http://[", "https://host:x", "https://ho st", "ftp://host", "", "https://"])
    def test_no_server_can_send_us_there(self, url: str):
        with raises(dbapi.ProgrammingError, code="BAD_URL"):
            Origin.parse(url)


class TestWhereAServerSendsUs:
    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
    def test_redirects_are_not_followed(self, status: str):
        with listening(answer("200 OK", "{}")) as other:
            reply = answer(status, "", f"Location: http://127.0.0.1:{other.port}/v3/pipeline")
            with listening(reply) as first, raises(ms.UnavailableError, code="PROTOCOL", match=status[:3]):
                by_open(f"libsql://127.0.0.1:{first.port}?tls=0")
            assert (first.connections, other.connections) == (1, 0)

    def test_a_stream_may_not_go_on_elsewhere_without_tls(self):
        ok = '{"type":"ok","response":{"type":"get_autocommit","is_autocommit":false}}'
        result = '{"step_results":[{"cols":[],"rows":[],"affected_row_count":0}],"step_errors":[null]}'
        batch = f'{{"type":"ok","response":{{"type":"batch","result":{result}}}}}'
        body = f'{{"baton":"b","base_url":"http://192.0.2.1:8080","results":[{batch},{ok}]}}'
        with listening(answer("200 OK", body)) as listener:
            engine = create_engine(f"libsql://127.0.0.1:{listener.port}?tls=0", connect_args={"auth_token": "t"})
            with (
                raises(exc.ProgrammingError, code="INSECURE", match="only for this machine") as caught,
                engine.begin() as connection,
            ):
                connection.execute(text("CREATE TABLE t (x)"))
            assert caught.value.orig.code == "INSECURE"
            engine.dispose()


def everything_in(error: BaseException) -> str:
    """All text of an error, its causes and the locals of their frames, except frames of this file."""
    return "\n".join(_tell(error, set()))


def _tell(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield f"{error!r} {error} {error.__dict__!r}"
    summary = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), capture_locals=True)
    yield from (repr(frame.locals) for frame in summary if frame.filename != __file__)
    yield from _tell(error.__cause__, seen)
    yield from _tell(error.__context__, seen)


@contextmanager
def _forwarded_from_ipv6(port: int) -> Iterator[int]:
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as listener:
        threading.Thread(target=_forward, args=[listener, port], daemon=True).start()
        yield listener.getsockname()[1]


def _forward(listener: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        target = socket.create_connection(("127.0.0.1", port))
        for source, sink in ((client, target), (target, client)):
            threading.Thread(target=_pump, args=[source, sink], daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # the other direction may have ended both
        while data := source.recv(65536):
            sink.sendall(data)
    source.close()
    sink.close()


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://127.0.0.1:8080", "libsql://127.0.0.1:8080?tls=0"),
        ("ws://localhost:9000/dev/x/", "libsql://localhost:9000/dev/x?tls=0"),
        ("HTTP://[::1]:8080", "libsql://[::1]:8080?tls=0"),
        ("http://localhost", "libsql://localhost?tls=0"),
    ],
)
def test_the_first_error_names_the_correct_url(url: str, written: str):
    with pytest.raises(ms.InsecureConnectionError) as caught:
        ms.Settings(database=url)
    assert f"use {written}, which is for this machine only" in str(caught.value)
    assert ms.Settings(database=written).server is not None


def test_no_other_machine_is_offered_a_connection_without_tls():
    with pytest.raises(ms.InsecureConnectionError, match=r"use libsql://$"):
        ms.Settings(database="http://db.example.com:8080")
