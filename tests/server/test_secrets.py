"""A token that is looked for in everything that can be seen after every kind of failure, and never found."""
# ruff: noqa: B023 - each lambda is called at once

from __future__ import annotations

import functools
import io
import json
import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest
import trustme
from pydantic import SecretStr
from rich.console import Console
from rich.traceback import Traceback
from sqlalchemy import create_engine

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.cli import main
from memory_storage.testing import Sqld
from tests.cli.conftest import start
from tests.proxy import Proxy

from . import tls
from .test_addresses import answer, listening
from .tokens import Key, token


class Canary:
    """A token that only `value` reveals, so that it may be a local of these tests."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def value(self) -> str:
        return self._text

    def sings_in(self, text: str | bytes) -> bool:
        """Whether a piece of it is there: its start, its end, or one from its middle."""
        found = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        size, middle = 16, len(self._text) // 2
        pieces = (self._text[:size], self._text[-size:], self._text[middle : middle + size])
        return any(piece in found for piece in pieces)


@pytest.fixture
def canary(key: Key) -> Canary:
    """A good one."""
    return Canary(token(key=key))


def storage_at(url: str, canary: Canary, **settings: object) -> ms.MemoryStorage:
    return ms.MemoryStorage.open(ms.Settings(database=url, auth_token=canary.value, **settings))


def raised(work: Callable[[], object]) -> BaseException:
    """The error of some work."""
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too
        return error
    raise AssertionError("it succeeded")


def tell(error: BaseException) -> Iterator[str]:
    """All that can be seen of an error: texts, attributes, its pickle, and the locals of all frames of all causes."""
    seen: list[BaseException | None] = [error]
    for one in seen:
        if one is None:
            continue
        yield f"{one!r} {one!s} {one.__dict__!r} {one.args!r}"
        try:
            yield pickle.dumps(one).decode("latin-1")
        except Exception as problem:  # noqa: BLE001 - others' errors need not travel
            yield str(problem)
        yield from traceback.TracebackException.from_exception(one, capture_locals=True).format()
        yield from _locals(one.__traceback__)
        seen += [cause for cause in (one.__cause__, one.__context__) if cause not in seen]
        seen += [inner for inner in (getattr(one, "orig", None),) if inner not in seen]


def as_rich_shows(error: BaseException) -> str:
    """The traceback with all locals; it takes a second, since every file is coloured as a whole."""
    console = Console(file=io.StringIO(), width=500)
    console.print(Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True))
    return console.file.getvalue()  # type: ignore[attr-defined]


def _locals(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        yield repr(trace.tb_frame.f_locals)
        trace = trace.tb_next


@pytest.fixture
def nothing_sings(
    canary: Canary, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable]:
    """Checks an error; and at the end all logs, and all that was written."""
    caplog.set_level(logging.DEBUG)

    def check(error: BaseException, *others: Canary) -> None:
        for piece in tell(error):
            for one in (canary, *others):
                assert not one.sings_in(piece), Canary(piece)

    yield check
    records = [caplog.text, *(repr(record.__dict__) for record in caplog.records), *capfd.readouterr()]
    assert not any(canary.sings_in(record) for record in records)


class TestOnTheWay:
    @pytest.mark.parametrize("where", ["127.0.0.1:1", "no-such-host.invalid:8080"])
    def test_no_server(self, canary: Canary, nothing_sings, where: str):
        error = raised(lambda: storage_at(f"libsql://{where}", canary))
        assert isinstance(error, ms.UnavailableError)
        nothing_sings(error)

    def test_no_trust(self, guarded: Sqld, canary: Canary, nothing_sings, authority: trustme.CA, tmp_path: Path):
        ca_file = tls.authority_file(authority, tmp_path)
        for certificate in (tls.self_signed(), tls.expired(authority), tls.for_another_host(authority)):
            with tls.tls_terminator(guarded.port, certificate) as proxy:
                error = raised(lambda: storage_at(f"libsql://localhost:{proxy.port}", canary, tls_ca_file=ca_file))
                assert isinstance(error, ms.InsecureConnectionError)
                nothing_sings(error)
        nothing_sings(raised(lambda: storage_at(f"libsql://localhost:{guarded.port}", canary)))
        (tmp_path / "bad.pem").write_text("bad")
        nothing_sings(raised(lambda: storage_at("libsql://localhost", canary, tls_ca_file=tmp_path / "bad.pem")))

    @pytest.mark.parametrize("after", [0, 40, 250])
    def test_the_line_is_cut(self, front: Proxy, canary: Canary, nothing_sings, after: int):
        with storage_at(front.url, canary) as storage:
            for cut in (front.cut_request_after, front.cut_reply_after):
                cut(after, times=50)
                nothing_sings(raised(storage.episodes.count))
                cut(None)

    def test_no_answer_in_time(self, front: Proxy, canary: Canary, nothing_sings):
        with storage_at(front.url, canary, request_timeout=0.3) as storage:
            front.deaf = True
            error = raised(storage.episodes.count)
            assert isinstance(error, ms.RequestTimeoutError)
            nothing_sings(error)
            front.deaf = False

    @pytest.mark.parametrize("status", ["302 Found", "400 Bad Request", "500 Oops", "503 Busy", "nonsense"])
    def test_a_server_that_repeats_what_it_hears(self, canary: Canary, nothing_sings, status: str):
        for body in (f"you said: Bearer {canary.value}", json.dumps({"error": canary.value, "code": canary.value})):
            with listening(answer(status, body)) as listener:
                error = raised(lambda: storage_at(f"libsql://127.0.0.1:{listener.port}?tls=0", canary))
            del body
            assert isinstance(error, ms.MemoryStorageError)
            nothing_sings(error)

    def test_ctrl_c_in_a_request(self, front: Proxy, canary: Canary, nothing_sings, monkeypatch: pytest.MonkeyPatch):
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with storage_at(front.url, canary) as storage:
            for place in ("_DeadlineSocket.sendall", "_DeadlineSocket.recv_into", "Channel._head"):
                with monkeypatch.context() as patch:
                    patch.setattr(f"memory_storage.dbapi._http.{place}", interrupted)
                    error = raised(storage.episodes.count)
                assert isinstance(error, KeyboardInterrupt)
                nothing_sings(error)
            assert storage.episodes.count() >= 0

    def test_no_connection_left(self, front: Proxy, canary: Canary, nothing_sings):
        pool = {"max_connections": 1, "connect_timeout": 0.05}
        with storage_at(front.url, canary, pool=pool) as storage, storage.snapshot() as view:
            view.episodes.count()
            error = raised(storage.episodes.count)
            assert isinstance(error, ms.PoolTimeoutError)
            nothing_sings(error)


class TestRefusals:
    @pytest.mark.slow
    def test_401(self, front: Proxy, nothing_sings):
        canary = Canary(token(key=Key()))
        error = raised(lambda: storage_at(front.url, canary))
        nothing_sings(error, canary)
        assert not canary.sings_in(as_rich_shows(error))
        nothing_sings(raised(lambda: ms.MemoryStorage.open(front.url, auth_token=lambda: canary.value)), canary)

    def test_403(self, front: Proxy, key: Key, nothing_sings, make_episode):
        canary = Canary(token(key=key, access="ro"))
        with storage_at(front.url, canary) as storage:
            nothing_sings(raised(lambda: storage.episodes.save(make_episode())), canary)

    def test_404(self, front: Proxy, key: Key, nothing_sings):
        canary = Canary(token(key=key, namespace="elsewhere"))
        nothing_sings(raised(lambda: storage_at(front.url, canary)), canary)

    def test_of_a_token_that_is_over_or_malformed(
        self, front: Proxy, key: Key, nothing_sings, monkeypatch: pytest.MonkeyPatch
    ):
        for canary in (Canary(token(key=key, expires_in=-999)), Canary(token(key=key) + "\n")):
            opens = functools.partial(ms.MemoryStorage.open, front.url)
            nothing_sings(raised(lambda: ms.Settings(database=front.url, auth_token=canary.value)), canary)
            nothing_sings(raised(lambda: ms.Settings(database=front.url, TURSO_AUTH_TOKEN=canary.value)), canary)
            nothing_sings(raised(lambda: opens(auth_token=canary.value)), canary)
            nothing_sings(raised(lambda: opens(auth_token=lambda: canary.value)), canary)
            nothing_sings(raised(lambda: opens(ms.Settings(database=":memory:"), auth_token=canary.value)), canary)
            nothing_sings(raised(lambda: _statement_on(front.url, canary)), canary)
            monkeypatch.setenv("TURSO_AUTH_TOKEN", canary.value)
            monkeypatch.setenv("TURSO_DATABASE_URL", front.url)
            nothing_sings(raised(ms.MemoryStorage.open), canary)
            nothing_sings(raised(ms.Settings.from_environment), canary)
            monkeypatch.delenv("TURSO_AUTH_TOKEN")

    def test_of_sql(self, front: Proxy, canary: Canary, nothing_sings):
        with storage_at(front.url, canary) as storage, storage.transaction() as tx:
            nothing_sings(raised(lambda: tx.execute([("SELEKT 1", ())])))
        nothing_sings(raised(lambda: _statement_on(front.url, canary, "SELECT * FROM missing")))


class TestBadInput:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"request_timeout": "soon"},
            {"no_such_setting": 1},
            {"namespace": ""},
            {"tls_ca_file": "/no/such/file"},
            {"pool": {"min_idle": 5, "max_connections": 2}},
            {"database": "http://db.example.com"},
            {"database": "libsql://db.example.com:port"},
            {"database": 7},
        ],
        ids=str,
    )
    def test_in_settings(
        self, canary: Canary, nothing_sings, wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ):
        good = {"database": "libsql://db.example.com"}
        error = raised(lambda: ms.Settings(**{"auth_token": canary.value, **good, **wrong}))
        assert isinstance(error, ms.ConfigurationError)
        nothing_sings(error)
        nothing_sings(raised(lambda: ms.Settings.from_environment(auth_token=canary.value, **{**good, **wrong})))
        shown = raised(lambda: ms.Settings.model_validate({"auth_token": canary.value, **good, **wrong}))
        assert not canary.sings_in(f"{shown!r} {shown!s}")
        monkeypatch.setenv("TURSO_AUTH_TOKEN", canary.value)
        nothing_sings(raised(lambda: ms.Settings.from_environment(**{**good, **wrong})))

    def test_in_the_name_of_the_setting(self, canary: Canary, nothing_sings):
        url = "libsql://db.example.com"
        nothing_sings(raised(lambda: ms.Settings(database=url, authtoken=canary.value)))
        nothing_sings(raised(lambda: ms.Settings(database="http://x", Token=canary.value)))
        nothing_sings(raised(lambda: ms.Settings.from_environment(database=url, authtoken=canary.value)))

    def test_in_the_token_itself(self, canary: Canary, nothing_sings):
        for given in map(Opaque, ([canary.value], {"token": canary.value}, canary.value.encode())):
            nothing_sings(raised(lambda: _settings_of(given)))

    @pytest.mark.parametrize(("name", "value"), [("POOL", "no json"), ("REQUEST_TIMEOUT", "soon"), ("POOL__X", "1")])
    def test_in_the_environment(
        self, canary: Canary, nothing_sings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ):
        monkeypatch.setenv("TURSO_AUTH_TOKEN", canary.value)
        monkeypatch.setenv("TURSO_DATABASE_URL", "libsql://db.example.com")
        monkeypatch.setenv(f"MEMORY_STORAGE_{name}", value)
        for opens in (ms.MemoryStorage.open, ms.Settings.from_environment):
            error = raised(opens)
            assert isinstance(error, ms.ConfigurationError)
            nothing_sings(error)

    def test_in_the_call(self, canary: Canary, nothing_sings, tmp_path: Path):
        (tmp_path / "file").write_text("")
        for database in ("http://db.example.com", "libsql://b\u00fccher", 7, str(tmp_path / "file" / "below.db")):
            nothing_sings(raised(lambda: ms.MemoryStorage.open(database, auth_token=canary.value)))
        nothing_sings(raised(lambda: dbapi.connect("http://db.example.com", auth_token=canary.value)))
        nothing_sings(raised(lambda: dbapi.connect(":memory:", durability="none", auth_token=canary.value)))

    def test_a_provider_that_fails(self, front: Proxy, canary: Canary, nothing_sings):
        class Vault:
            def __repr__(self) -> str:
                return f"Vault({canary.value})"

            def ask(self, key: str = "") -> str:
                raise RuntimeError("no vault")

        for provider in (
            Vault().ask,
            functools.partial(Vault().ask, canary.value),
            functools.partial(_key_error, canary),
        ):
            provider = Opaque(provider)
            error = raised(lambda: ms.MemoryStorage.open(front.url, auth_token=provider.value))
            assert isinstance(error, ms.CredentialError)
            nothing_sings(error)


class TestWhatIsShown:
    def test_of_settings_storages_and_engines(self, front: Proxy, canary: Canary, nothing_sings):
        settings = ms.Settings(database=front.url, auth_token=canary.value)
        with ms.MemoryStorage.open(settings) as storage:
            engine = storage.engine
            with engine.connect() as connection:
                shown = [settings, storage, engine, engine.url, engine.pool, connection, connection.connection]
                shown += [settings.credentials, settings.server, connection.connection.dbapi_connection]
                shown += [engine.url.render_as_string(hide_password=False), settings.model_dump(), dict(settings)]
                shown += [settings.model_dump_json(), storage.settings, list(settings), settings.auth_token]
                for one in shown:
                    assert not canary.sings_in(f"{one!r} {one!s}")

    def test_of_a_provider(self, canary: Canary):
        provider = functools.partial(print, canary.value)
        settings = ms.Settings(database="libsql://db.example.com", auth_token=provider)
        for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
            assert not canary.sings_in(shown)

    def test_settings_can_be_made_again(self, canary: Canary):
        for given in (canary.value, SecretStr(canary.value), lambda: canary.value, None):
            settings = ms.Settings(database="libsql://db.example.com", auth_token=given)
            for again in (ms.Settings(**dict(settings)), ms.Settings(**settings.model_dump())):
                assert again == settings
                assert again.credentials == settings.credentials

    def test_by_an_engine_that_tells_everything(
        self, front: Proxy, canary: Canary, nothing_sings, caplog: pytest.LogCaptureFixture, monkeypatch
    ):
        for name in ("urllib3", "sqlalchemy", "memory_storage"):
            caplog.set_level(logging.DEBUG, logger=name)
        # With echo, SQLAlchemy adds one for good.
        monkeypatch.setattr(logging.getLogger("sqlalchemy"), "handlers", [])
        connect_args = {"auth_token": canary.value}
        engine = create_engine(front.url, connect_args=connect_args, echo="debug", echo_pool="debug")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()

    def test_by_http_client_that_tells_everything(
        self, front: Proxy, canary: Canary, nothing_sings, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("http.client.HTTPConnection.debuglevel", 1)
        with storage_at(front.url, canary) as storage:
            storage.episodes.count()

    def test_by_warnings_of_what_was_left_open(self, front: Proxy, canary: Canary):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            connection = dbapi.connect(front.url, auth_token=canary.value)
            connection.execute("SELECT 1")
            del connection
        assert not any(canary.sings_in(f"{warning.message} {warning!r}") for warning in caught)


class TestTheCommand:
    @pytest.fixture
    def command(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
        """Run the command in this process; what it shows on both streams."""

        def run(url: str, canary: Canary, *arguments: str) -> str:
            monkeypatch.setattr("sys.argv", ["memory-storage", *arguments, "--database", url])
            monkeypatch.setenv("TURSO_AUTH_TOKEN", canary.value)
            with pytest.raises(SystemExit):
                main()
            return "".join(capfd.readouterr())

        return run

    @pytest.mark.parametrize(
        "arguments", [["stats"], ["stats", "--json"], ["list", "--limit", "x"], ["get", "nothing"]]
    )
    def test_says_nothing_of_it(self, front: Proxy, canary: Canary, command, arguments: list[str]):
        for url in (front.url, "libsql://127.0.0.1:1", "http://127.0.0.1:1", front.url.replace("?tls=0", "")):
            assert not canary.sings_in(command(url, canary, *arguments))

    def test_does_not_appear_if_it_is_refused(self, front: Proxy, key: Key, command):
        for canary in (Canary(token(key=Key())), Canary(token(key=key, expires_in=-999)), Canary("mal formed " * 9)):
            shown = command(front.url, canary, "stats")
            assert "error: " in shown
            assert not canary.sings_in(shown)

    @pytest.mark.slow
    def test_does_not_appear_in_a_process(self, front: Proxy):
        canary = Canary(token(key=Key()))
        environment = {**os.environ, "TURSO_AUTH_TOKEN": canary.value, "PYTHONFAULTHANDLER": "1"}
        out, err = start("stats", "--database", front.url, env=environment).communicate(timeout=60)
        assert b"error: " in err
        assert not canary.sings_in(out + err)


class Opaque:
    """Something that a local of these tests may have without showing it."""

    def __init__(self, value: object) -> None:
        self.value = value


def _settings_of(given: Opaque) -> ms.Settings:
    return ms.Settings(database="libsql://db.example.com", auth_token=given.value)


def _key_error(canary: Canary) -> str:
    return {"token": canary.value}["tokens"]


def _statement_on(url: str, canary: Canary, sql: str = "SELECT 1") -> None:
    engine = create_engine(url, connect_args={"auth_token": canary.value})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(sql)
    finally:
        engine.dispose()
