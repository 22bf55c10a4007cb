"""An unreachable server: one code, with host, port and cause; retried, and in time."""

from __future__ import annotations

import pickle
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

import memory_storage as ms
from memory_storage import dbapi, migrate
from memory_storage.dbapi._resolver import connected_socket
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from . import tls
from .raw import eventually

ATTEMPTS = 4
RETRY = {"max_attempts": ATTEMPTS, "initial_backoff": 0.01}


def opened(url: str, **settings: object) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(ms.Settings(**{"database": url, "retry": RETRY, "request_timeout": 20, **settings}))


def failed(call: Callable[[], object]) -> ms.UnavailableError:
    with pytest.raises(ms.UnavailableError) as caught:
        call()
    assert type(caught.value) is ms.UnavailableError
    assert caught.value.code == "CONNECTION_FAILED"
    return caught.value


@contextmanager
def _full_port() -> Iterator[int]:
    """A port whose queue is full: the system drops what asks for a connection, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@contextmanager
def _port(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port that does this with each connection, and closes it."""

    def accept() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line:
                serve(line)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _reset(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def _cut_off(url: str, sqld: Sqld, **settings: object) -> Iterator[ms.MemoryStorage]:
    with Proxy(sqld.port) as line, opened(url.replace(str(sqld.port), str(line.port)), **settings) as storage:
        line.refuse()
        line.cut_all()
        yield storage


@pytest.fixture
def cut_off(migrated_server_url: str, sqld: Sqld) -> Iterator[ms.MemoryStorage]:
    """An open storage whose server is not there any more."""
    with _cut_off(migrated_server_url, sqld) as storage:
        yield storage


def _unknown_name(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class TestOpen:
    @pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
    @pytest.mark.parametrize("tls", [0, 1])
    def test_a_refused_port_is_reported_with_host_port_and_cause(self, host: str, shown: str, tls: int):
        error = failed(lambda: opened(f"libsql://{shown}:1?tls={tls}"))
        assert (error.host, error.port, error.cause) == (host, 1, "Connection refused")
        assert str(error).startswith(f"{shown}:1: Connection refused: ")
        assert error.attempts == ATTEMPTS
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.code, copy.host, copy.port, copy.cause, copy.attempts) == (
            "CONNECTION_FAILED", host, 1, "Connection refused", ATTEMPTS,
        )  # fmt: skip

    def test_an_unknown_host_is_reported(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(socket, "getaddrinfo", _unknown_name)
        error = failed(lambda: opened("libsql://no-such-host.invalid"))
        assert (error.host, error.port, error.attempts) == ("no-such-host.invalid", 443, ATTEMPTS)
        assert error.cause == "the host's name cannot be resolved (Name or service not known)"

    def test_a_name_too_long_for_the_dns_is_reported(self):
        error = failed(lambda: opened(f"libsql://{'a' * 64}.example", retry={"max_attempts": 1}))
        assert error.cause.startswith("the host's name cannot be resolved")

    @pytest.mark.slow
    def test_a_name_server_that_is_dead_is_left_in_time(self, monkeypatch: pytest.MonkeyPatch):
        over = threading.Event()
        asked: list[object] = []

        def never(*arguments: object, **_: object) -> None:
            asked.append(arguments)
            over.wait(60)
            _unknown_name()

        monkeypatch.setattr(socket, "getaddrinfo", never)
        began = time.monotonic()
        try:
            error = failed(lambda: opened("libsql://db.example.com", request_timeout=1.0))  # TLS starts within it
            assert time.monotonic() - began < 20
        finally:
            over.set()
        assert re.fullmatch(r"the name server did not respond within (0\.\d+|1) s", error.cause)
        assert (error.host, error.port) == ("db.example.com", 443)
        assert len(asked) == 1

    def test_a_firewall_that_drops_the_request_for_a_connection(self):
        with _full_port() as port:
            error = failed(lambda: opened(f"libsql://127.0.0.1:{port}?tls=0", request_timeout=0.3))
        assert (error.port, error.attempts) == (port, 1)  # the call's own time is over with the first
        assert error.cause.startswith("no connection within 0.")

    def test_a_late_response_is_no_failed_connection(self):
        over = threading.Event()
        with _port(lambda line: over.wait(20)) as port:
            with pytest.raises(ms.RequestTimeoutError) as caught:
                opened(f"libsql://127.0.0.1:{port}?tls=0", request_timeout=0.3)
            over.set()
        assert caught.value.code == "REQUEST_TIMEOUT"
        assert (caught.value.host, caught.value.port, caught.value.cause) == ("127.0.0.1", port, "no response in time")

    def test_a_response_without_a_byte_is_a_lost_connection(self):
        seen: list[bytes] = []
        with (
            _port(lambda line: seen.append(line.recv(65536))) as port,
            raises(ms.UnavailableError, code="CONNECTION_LOST") as caught,
        ):
            opened(f"libsql://127.0.0.1:{port}?tls=0")
        assert (type(caught.value), caught.value.code) == (ms.UnavailableError, "CONNECTION_LOST")
        assert (caught.value.host, caught.value.port, caught.value.attempts) == ("127.0.0.1", port, ATTEMPTS)
        assert len(seen) == ATTEMPTS

    def test_a_handshake_that_is_reset_is_repeated(self, authority: trustme.CA, tmp_path: Path):
        tried: list[None] = []

        def serve(line: socket.socket) -> None:
            tried.append(None)
            line.recv(1)
            _reset(line)

        with _port(serve) as port:
            error = failed(
                lambda: opened(f"libsql://localhost:{port}", tls_ca_file=tls.authority_file(authority, tmp_path))
            )
        assert (error.host, error.port, error.attempts) == ("localhost", port, ATTEMPTS)
        assert len(tried) == ATTEMPTS

    def test_it_is_repeated_until_the_server_is_there(self, migrated_server_url: str, sqld: Sqld, monkeypatch):
        real, refusals = socket.getaddrinfo, [1, 2]

        def soon(*arguments: object, **options: object) -> object:
            if refusals:
                refusals.pop()
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return real(*arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", soon)
        url = migrated_server_url.replace("127.0.0.1", "localhost")
        with opened(url) as storage:
            assert storage.episodes.count() == 0
            assert storage.metrics()["open"].retries == 2
        refusals[:] = [1] * ATTEMPTS
        failed(lambda: opened(url))

    def test_an_upgrade_whose_commit_was_lost_is_completed(self, empty_server_url: str, monkeypatch):
        ensure, lost = migrate.ensure, []

        def lose(*arguments: object, **options: object) -> None:
            ensure(*arguments, **options)
            if not lost:
                lost.append(None)
                raise dbapi.OutcomeUnknownError("it may be stored, or not", "CONNECTION_LOST")

        monkeypatch.setattr(migrate, "ensure", lose)
        with opened(empty_server_url) as storage:
            assert storage.health_check().status == "healthy"
            assert storage.metrics() == {}
        assert lost == [None]

    def test_without_repeats_it_is_tried_once(self):
        error = failed(lambda: opened("libsql://127.0.0.1:1?tls=0", retry={"max_attempts": 1}))
        assert error.attempts == 1


class TestCalls:
    @pytest.mark.parametrize("name", ["save", "read", "run"])
    def test_each_is_repeated_and_counted(self, cut_off: ms.MemoryStorage, name: str):
        calls = {
            "save": lambda: cut_off.episodes.save(ms.Episode(task_description="x")),
            "read": cut_off.episodes.count,
            "run": lambda: cut_off.run(lambda tx: tx.episodes.count()),
        }
        operation = {"save": "episodes.save", "read": "episodes.count", "run": "transaction"}[name]
        error = failed(calls[name])
        assert (error.host, error.cause, error.attempts) == ("127.0.0.1", "Connection refused", ATTEMPTS)
        assert cut_off.metrics()[operation].retries == ATTEMPTS - 1

    def test_a_health_check_tries_once_and_reports_all_of_it(self, cut_off: ms.MemoryStorage):
        port = cut_off.settings.server.origin.port
        found = cut_off.health_check(timeout=1)
        assert found.status == "unhealthy"
        assert found.reason == (
            f"UnavailableError: 127.0.0.1:{port}: Connection refused: the server cannot be reached; nothing was sent "
            "(CONNECTION_FAILED)"
        )

    def test_an_open_circuit_tells_why_it_opened(self, migrated_server_url: str, sqld: Sqld):
        with _cut_off(migrated_server_url, sqld, circuit_breaker={"failure_threshold": ATTEMPTS}) as storage:
            failed(storage.episodes.count)  # its last attempt opens the circuit
            assert storage.circuit_breaker.state == "open"
            eventually(lambda: not storage.circuit_breaker.is_bridging)
            with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN") as caught:
                storage.episodes.count()
            assert (caught.value.host, caught.value.cause) == ("127.0.0.1", "Connection refused")

    def test_the_driver_tells_it_too(self):
        connection = dbapi.connect("libsql://127.0.0.1:1?tls=0")
        with pytest.raises(dbapi.LineError) as caught:
            connection.execute("SELECT 1")
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.code, error.host, error.port, error.cause) == (
            "CONNECTION_FAILED", "127.0.0.1", 1, "Connection refused",
        )  # fmt: skip

    def test_a_reused_connection_that_ended_is_replaced_once(self, cut_off: ms.MemoryStorage, monkeypatch):
        tried: list[object] = []
        connect = socket.socket.connect
        monkeypatch.setattr(socket.socket, "connect", lambda *args: (tried.append(args[1]), connect(*args)))
        error = failed(cut_off.episodes.count)
        assert len(tried) == error.attempts == ATTEMPTS


class TestAddresses:
    def test_the_next_address_is_tried(self, migrated_server_url: str, monkeypatch):
        real = socket.getaddrinfo

        def both(host: str, port: int, *arguments: object, **options: object) -> object:
            if host != "localhost":
                return real(host, port, *arguments, **options)
            return [*real("127.0.0.1", 1, **options), *real("127.0.0.1", port, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        with opened(migrated_server_url.replace("127.0.0.1", "localhost"), retry={"max_attempts": 1}) as storage:
            assert storage.episodes.count() == 0

    def test_threads_share_one_lookup(self, monkeypatch):
        asked, go = [], threading.Event()

        def slow(*_: object, **__: object) -> None:
            asked.append(1)
            go.wait(20)
            _unknown_name()

        def one() -> None:
            here.append(1)
            with pytest.raises(socket.gaierror):
                connected_socket("db.example.com", 1, lambda: 20.0)

        here: list[int] = []
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(here) == 8)
        time.sleep(0.05)
        go.set()
        for thread in threads:
            thread.join()
        assert asked == [1]
