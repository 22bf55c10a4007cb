"""TLS: a server without a valid certificate gets no request, and the error has a remedy."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from sqlalchemy import create_engine, exc

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.testing import Sqld
from tests.cli.conftest import start
from tests.proxy import Proxy
from tests.raising import raises

from . import tls

TRUST = "setting: tls_ca_file"


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    return tls.authority_file(authority, tmp_path)


@pytest.fixture
def front(sqld: Sqld, authority: trustme.CA) -> Iterator[Proxy]:
    """A server that can prove who it is; its database is an empty one."""
    with tls.tls_terminator(sqld.port, tls.good(authority)) as proxy:
        yield proxy


@pytest.fixture
def url(front: Proxy, namespace: str) -> str:
    return f"libsql://localhost:{front.port}/dev/{namespace}"


def opened(url: str, **settings: object) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(ms.Settings(database=url, **settings))


class TestATrustedServer:
    @pytest.mark.parametrize("scheme", ["libsql", "https", "wss"])
    def test_is_used(self, url: str, front: Proxy, ca_file: Path, scheme: str, make_episode):
        with opened(url.replace("libsql", scheme), tls_ca_file=ca_file) as storage:
            saved = storage.episodes.save(make_episode())
            assert storage.episodes.get(saved.id) == saved
        assert front.round_trips > 1

    def test_may_be_named_by_its_address(self, url: str, ca_file: Path):
        with opened(url.replace("localhost", "127.0.0.1"), tls_ca_file=str(ca_file)) as storage:
            assert storage.episodes.count() == 0

    def test_is_trusted_by_the_environment(self, url: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MEMORY_STORAGE_TLS_CA_FILE", str(ca_file))
        with ms.MemoryStorage.open(url) as storage:
            assert storage.settings.tls_ca_file == ca_file
            assert storage.episodes.count() == 0

    def test_is_trusted_like_the_system_does(self, url: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
        with ms.MemoryStorage.open(url) as storage:
            assert storage.episodes.count() == 0

    def test_is_used_by_an_engine(self, url: str, ca_file: Path):
        engine = create_engine(url, connect_args={"ca_file": str(ca_file)})
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()

    def test_is_used_by_the_driver(self, url: str, ca_file: Path):
        with closing(dbapi.connect(url, ca_file=str(ca_file))) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_is_spoken_to_in_tls_1_2_too(self, sqld: Sqld, namespace: str, authority: trustme.CA, ca_file: Path):
        old = tls.tls_terminator(sqld.port, tls.good(authority), maximum=ssl.TLSVersion.TLSv1_2)
        with old as proxy, opened(f"libsql://localhost:{proxy.port}/dev/{namespace}", tls_ca_file=ca_file) as storage:
            assert storage.episodes.count() == 0

    @pytest.mark.slow
    def test_is_used_by_the_command(self, url: str, ca_file: Path):
        process = start("init", "--database", url, env=_environment(MEMORY_STORAGE_TLS_CA_FILE=str(ca_file)))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


BAD = [
    pytest.param(tls.for_another_host, "another host's: check the URL", id="another host"),
    pytest.param(tls.expired, "expired: the server's certificate has to be renewed", id="expired"),
    pytest.param(lambda _: tls.self_signed(), f"self.signed.*{TRUST}", id="self-signed"),
    pytest.param(lambda _: tls.from_another_authority(), f"issuer certificate.*{TRUST}", id="another authority"),
]


class TestABadCertificate:
    @pytest.mark.parametrize(("bad", "message"), BAD)
    def test_is_refused(
        self,
        sqld: Sqld,
        authority: trustme.CA,
        ca_file: Path,
        bad: Callable[[trustme.CA], trustme.LeafCert],
        message: str,
    ):
        with tls.tls_terminator(sqld.port, bad(authority)) as proxy:
            url = f"libsql://localhost:{proxy.port}"
            with pytest.raises(ms.InsecureConnectionError, match=f"no trusted TLS connection: .*{message}"):
                opened(url, tls_ca_file=ca_file, auth_token="t")
            engine = create_engine(url, connect_args={"ca_file": str(ca_file)})
            with raises(exc.OperationalError, code="INSECURE", match=message) as caught, engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
            assert caught.value.orig.code == "INSECURE"
            engine.dispose()
            assert proxy.round_trips == 0

    def test_of_an_unknown_authority_is_refused_without_a_setting(self, url: str, front: Proxy):
        with pytest.raises(ms.InsecureConnectionError, match=TRUST):
            ms.MemoryStorage.open(url)
        assert front.round_trips == 0

    def test_of_an_address_that_it_does_not_name_is_refused(self, sqld: Sqld, authority: trustme.CA, ca_file: Path):
        with tls.tls_terminator(sqld.port, authority.issue_cert("localhost")) as proxy:
            with pytest.raises(ms.InsecureConnectionError, match="another address's: check the URL"):
                opened(f"libsql://127.0.0.1:{proxy.port}", tls_ca_file=ca_file)
            assert proxy.round_trips == 0

    @pytest.mark.slow
    def test_is_reported_by_the_command(self, url: str):
        process = start("stats", "--database", url)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (3, b"")
        assert TRUST.encode() in err
        assert b"Traceback" not in err

    def test_only_the_given_certificate_authority_is_trusted(
        self, url: str, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
        (tmp_path / "other").mkdir()
        other = tls.authority_file(trustme.CA(), tmp_path / "other")
        with pytest.raises(ms.InsecureConnectionError, match=TRUST):
            opened(url, tls_ca_file=other)


class TestAFileOfAuthorities:
    def test_that_is_missing_is_reported_immediately(self, tmp_path: Path):
        for path in (tmp_path / "missing.pem", tmp_path, ""):
            with pytest.raises(ms.ConfigurationError, match="tls_ca_file"):
                ms.Settings(database="libsql://db.example.com", tls_ca_file=path)

    @pytest.mark.parametrize("content", [b"", b"no certificate", b"\0\xff" * 100])
    def test_that_has_none_is_reported(self, url: str, front: Proxy, tmp_path: Path, content: bytes):
        path = tmp_path / "bad.pem"
        path.write_bytes(content)
        with pytest.raises(ms.ConfigurationError, match=r"bad\.pem.*not a PEM file of certificates"):
            opened(url, tls_ca_file=path)
        assert front.connections == 0

    def test_that_was_removed_is_reported_by_the_driver(self, url: str):
        with (
            closing(dbapi.connect(url, ca_file="/no/such.pem")) as connection,
            raises(dbapi.OperationalError, code="BAD_CA", match=r"such\.pem"),
        ):
            connection.execute("SELECT 1")


class TestNoTLS:
    def test_a_plain_server_on_the_port_is_refused(self, server: Sqld, ca_file: Path):
        with raises(ms.InsecureConnectionError, match="TLS"):
            opened(f"libsql://127.0.0.1:{server.port}", tls_ca_file=ca_file, auth_token="t")

    def test_a_responding_plain_server_is_refused(self, ca_file: Path):
        with (
            _saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
            pytest.raises(ms.InsecureConnectionError, match="TLS"),
        ):
            opened(f"libsql://127.0.0.1:{port}", tls_ca_file=ca_file)

    def test_a_version_before_1_2_is_refused(self, authority: trustme.CA, ca_file: Path):
        refused = pytest.raises(ms.InsecureConnectionError, match=r"does not offer TLS 1\.2 or later")
        with _speaking_tls_1_1(authority) as port, refused:
            opened(f"libsql://localhost:{port}", tls_ca_file=ca_file)

    def test_a_connection_cut_in_the_handshake(self, ca_file: Path):
        for said in (b"", b"\x16\x03\x03\x00\x7a\x02"):
            with _saying(said) as port, pytest.raises(ms.UnavailableError, match="nothing was sent") as caught:
                opened(f"libsql://localhost:{port}", tls_ca_file=ca_file)
            assert caught.value.code == "CONNECTION_FAILED"

    @pytest.mark.parametrize("drip", [b"", b"\x16\x03\x03\x40\x00"])
    def test_a_silent_or_slow_handshake_times_out(self, ca_file: Path, drip: bytes):
        with _dripping(drip) as port:
            before = time.monotonic()
            with raises(ms.RequestTimeoutError, code="REQUEST_TIMEOUT", match="request_timeout"):
                opened(f"libsql://localhost:{port}", tls_ca_file=ca_file, request_timeout=0.5)
            assert time.monotonic() - before < 20

    def test_it_can_be_used_again_after_the_outage(self, url: str, front: Proxy, ca_file: Path):
        with opened(url, tls_ca_file=ca_file, request_timeout=5) as storage:
            front.refuse()
            front.cut_all()
            with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
                storage.episodes.count()
            front.accept()
            assert storage.episodes.count() == 0


@contextmanager
def _serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serves each connection, in a thread; its port."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=handle, args=[client], daemon=True).start()

    def handle(client: socket.socket) -> None:
        with suppress(OSError), closing(client):
            serve(client)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _saying(said: bytes):
    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(said)

    return _serving(serve)


def _dripping(start: bytes):
    def serve(client: socket.socket) -> None:
        client.recv(65536)
        for byte in [start, *[b"\0"] * 200]:
            client.sendall(byte if start else b"")
            time.sleep(0.05)

    return _serving(serve)


def _speaking_tls_1_1(authority: trustme.CA):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.good(authority).configure_cert(context)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~(ssl.OP_NO_TLSv1_1)
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    def serve(client: socket.socket) -> None:
        context.wrap_socket(client, server_side=True).close()

    return _serving(serve)


def _environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("MEMORY_STORAGE_")}, **more}
