"""Tokens: a valid one is accepted; the error of an invalid one says what is wrong with it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, exc, inspect

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.dbapi._credentials import expires_at
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .tokens import Key, signed, token

EXPIRED = {"expires_in": -3600}


@pytest.fixture
def own() -> str:
    """A namespace of the test's own."""
    return uuid4().hex


class Provider:
    """Gives these tokens, one after another, the last one again and again; counts."""

    def __init__(self, *tokens: object) -> None:
        self._tokens = list(tokens)
        self.given = tokens
        self.asked = 0

    def __call__(self) -> object:
        self.asked += 1
        given = self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]
        if isinstance(given, BaseException):
            raise given
        return given


MALFORMED = ["a\nb", "a\r\nX: y", "t\u00f6ken", "with space", "Bearer abc.def.ghi", "a\0b", "\ud800", "\u2028", "tab\t"]


class TestAToken:
    def test_that_is_valid_works(self, front: Proxy, key: Key, own: str, make_episode):
        for given in (
            token(key=key),
            SecretStr(token(key=key)),
            lambda: token(key=key),
            Provider(SecretStr(token(key=key))),
        ):
            with ms.MemoryStorage.open(front.url, auth_token=given, namespace=own) as storage:
                saved = storage.episodes.save(make_episode())
                assert storage.episodes.get(saved.id) == saved

    def test_that_is_good_is_taken_from_the_environment(self, front: Proxy, key: Key, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TURSO_DATABASE_URL", front.url)
        monkeypatch.setenv("TURSO_AUTH_TOKEN", token(key=key))
        with ms.MemoryStorage.open() as storage:
            storage.episodes.count()

    @pytest.mark.parametrize("none", [None, ""])
    def test_that_is_missing(self, front: Proxy, none: str | None):
        with pytest.raises(ms.CredentialError, match="none given`: check auth_token"):
            ms.MemoryStorage.open(front.url, auth_token=none)

    @pytest.mark.parametrize("given", MALFORMED, ids=ascii)
    @pytest.mark.parametrize("wrap", [str, SecretStr, Provider], ids=["text", "secret", "provider"])
    def test_that_is_malformed_is_refused_before_the_network(
        self, front: Proxy, given: str, wrap: Callable[[str], object]
    ):
        with pytest.raises(ms.CredentialError, match="malformed") as caught:
            ms.MemoryStorage.open(front.url, auth_token=wrap(given))
        assert (front.connections, given in str(caught.value)) == (0, False)

    @pytest.mark.parametrize("given", ["garbage", "a.b.c", "e30.e30.e30", "." * 1000, f"a.{'WwAA' * 5000}.c"])
    def test_that_is_garbage_is_refused_by_the_server(self, front: Proxy, given: str):
        with pytest.raises(ms.CredentialError, match="check auth_token"):
            ms.MemoryStorage.open(front.url, auth_token=given)

    @pytest.mark.parametrize("given", [7, b"bytes", ["list"], object()])
    def test_that_is_none_is_refused(self, given: object):
        with pytest.raises(ms.ConfigurationError, match=r"auth_token: .*a string, or a callable that returns one"):
            ms.Settings(database="libsql://db.example.com", auth_token=given)

    def test_by_another_key(self, front: Proxy):
        with pytest.raises(ms.CredentialError, match="invalid`: check auth_token"):
            ms.MemoryStorage.open(front.url, auth_token=token(key=Key()))

    def test_for_another_namespace(self, front: Proxy, key: Key):
        with pytest.raises(ms.ConfigurationError, match=r"default.*check the URL, and what the token is for"):
            ms.MemoryStorage.open(front.url, auth_token=token(key=key, namespace="another"))

    def test_is_not_looked_at_for_a_file(self, database, key: Key):
        with ms.MemoryStorage.open(database, auth_token=token(key=key, **EXPIRED)) as storage:
            assert storage.episodes.count() == 0

    @pytest.mark.parametrize("claims", [{"exp": 1e300}, {"exp": "soon"}, {"exp": None}, {"exp": -1e300}, {"exp": [1]}])
    def test_with_an_odd_time_is_left_to_the_server(self, front: Proxy, key: Key, claims: dict[str, object]):
        with pytest.raises(ms.CredentialError):
            ms.MemoryStorage.open(front.url, auth_token=signed({"a": "rw", **claims}, key=Key()))


class TestAnExpiredToken:
    @pytest.fixture
    def over(self, key: Key) -> str:
        return token(key=key, **EXPIRED)

    def check(self, error: BaseException, front: Proxy) -> None:
        hour = datetime.fromtimestamp(time.time() - 3600, timezone.utc).strftime("%Y-%m-%dT%H")
        assert hour in str(error) or "59:5" in str(error)  # the hour may have just begun
        assert "+00:00; get a new" in str(error)
        assert front.connections == 0

    def test_is_reported_by_settings_with_its_time(self, front: Proxy, over: str):
        for given in (over, SecretStr(over)):
            with pytest.raises(ms.TokenExpiredError, match="auth token expired at") as caught:
                ms.Settings(database=front.url, auth_token=given)
            self.check(caught.value, front)

    def test_is_reported_by_open(self, front: Proxy, over: str):
        with pytest.raises(ms.TokenExpiredError) as caught:
            ms.MemoryStorage.open(front.url, auth_token=over)
        self.check(caught.value, front)
        with pytest.raises(ms.TokenExpiredError):
            ms.MemoryStorage.open(ms.Settings(database=front.url), auth_token=over)

    def test_is_reported_from_the_environment(self, front: Proxy, over: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TURSO_DATABASE_URL", front.url)
        monkeypatch.setenv("TURSO_AUTH_TOKEN", over)
        for opens in (ms.MemoryStorage.open, ms.Settings.from_environment):
            with pytest.raises(ms.TokenExpiredError) as caught:
                opens()
            self.check(caught.value, front)

    def test_of_a_provider_is_reported_before_the_network(self, front: Proxy, over: str):
        with pytest.raises(ms.TokenExpiredError) as caught:
            ms.MemoryStorage.open(front.url, auth_token=lambda: over)
        self.check(caught.value, front)

    def test_is_reported_by_an_engine(self, front: Proxy, over: str):
        engine = create_engine(front.url, connect_args={"auth_token": over})
        with raises(exc.OperationalError, code="TOKEN_EXPIRED", match="expired at"), engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        assert front.connections == 0

    @pytest.mark.slow
    def test_that_expired_since_is_reported_before_the_network(self, front: Proxy, key: Key, own: str):
        given = token(key=key, expires_in=2)
        with ms.MemoryStorage.open(front.url, auth_token=given, namespace=own) as storage:
            assert storage.episodes.count() == 0
            _wait_for_the_end_of(given)
            front.reset_counts()
            for call in (storage.episodes.count, storage.transaction().__enter__().episodes.count):
                with pytest.raises(ms.TokenExpiredError, match=r"auth token expired at .*; get a new token"):
                    call()
            assert front.round_trips == 0

    def test_that_this_machine_accepts_is_rejected_by_the_server(self, front: Proxy, over: str):
        behind = dbapi.Credentials(over, now=lambda: datetime.now(timezone.utc) - timedelta(days=1))
        with (
            closing(dbapi.connect(front.url, auth_token=behind)) as connection,
            pytest.raises(dbapi.OperationalError, match="JWT has expired") as caught,
        ):
            connection.execute("SELECT 1")
        assert caught.value.code == "TOKEN_EXPIRED"

    @pytest.mark.slow
    def test_of_a_provider_is_replaced_before_the_network(self, front: Proxy, key: Key, own: str):
        provider = Provider(token(key=key, expires_in=2), token(key=key))
        with ms.MemoryStorage.open(front.url, auth_token=provider, namespace=own) as storage:
            _wait_for_the_end_of(provider.given[0])
            front.reset_counts()
            assert storage.episodes.count() == 0
            assert (provider.asked, front.round_trips) == (2, 1)


class TestTheEndOfAToken:
    """Seconds of a clock that is set by hand."""

    @pytest.fixture
    def at(self) -> SimpleNamespace:
        return SimpleNamespace(now=datetime.now(timezone.utc), clock=1000.0)

    def _credentials(self, at: SimpleNamespace, given: object) -> dbapi.Credentials:
        return dbapi.Credentials(given, now=lambda: at.now, clock=lambda: at.clock)

    def test_is_looked_at_before_each_request(self, at: SimpleNamespace, key: Key):
        credentials = self._credentials(at, token(key=key, expires_in=3600))
        assert credentials.header()
        at.clock += 3590
        assert credentials.header()
        at.clock += 20
        for ask in (credentials.ensure_token, credentials.header, credentials.check):
            with pytest.raises(dbapi.OperationalError, match="by this machine's clock") as caught:
                ask()
            assert caught.value.code == "TOKEN_EXPIRED"

    @pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)])
    def test_is_not_moved_by_setting_this_machines_clock(self, at: SimpleNamespace, key: Key, jump: timedelta):
        credentials = self._credentials(at, token(key=key, expires_in=3600))
        credentials.ensure_token()
        at.now += jump
        at.clock += 3590
        credentials.ensure_token()
        at.clock += 20
        with pytest.raises(dbapi.OperationalError) as caught:
            credentials.ensure_token()
        assert caught.value.code == "TOKEN_EXPIRED"

    def test_is_that_of_the_token_which_is_in_force(self, at: SimpleNamespace, key: Key):
        provider = Provider(token(key=key, expires_in=60), token(key=key, expires_in=3600))
        credentials = self._credentials(at, provider)
        credentials.ensure_token()
        at.clock += 120
        credentials.ensure_token()
        assert provider.asked == 2
        at.clock += 3000
        credentials.ensure_token()
        assert provider.asked == 2


def _wait_for_the_end_of(given: str) -> None:
    end = expires_at(given)
    time.sleep(max(0.0, (end - datetime.now(timezone.utc)).total_seconds()) + 0.05)


class TestARotatedToken:
    def test_is_requested_once_and_the_transaction_continues(self, front: Proxy, key: Key, own: str, make_episode):
        provider = Provider(token(key=key))
        with ms.MemoryStorage.open(front.url, auth_token=provider, namespace=own) as storage:
            provider.asked = 0
            with storage.transaction() as tx:
                first = tx.episodes.save(make_episode())
                _credentials(storage)._token = token(key=Key())
                second = tx.episodes.save(make_episode())
                assert provider.asked == 1
                _credentials(storage)._token = token(key=key, **EXPIRED)
            assert provider.asked == 2
            assert {one.id for one in storage.episodes.query().items} == {first.id, second.id}
            assert provider.asked == 2

    def test_is_requested_when_the_first_is_rejected(self, front: Proxy, key: Key):
        provider = Provider(token(key=Key()), token(key=key))
        with ms.MemoryStorage.open(front.url, auth_token=provider) as storage:
            storage.episodes.count()
        assert provider.asked == 2

    def test_a_second_refusal_is_an_error_without_a_third_request(self, front: Proxy):
        provider = Provider(token(key=Key()), token(key=Key()), token(key=Key()))
        with pytest.raises(ms.CredentialError, match="check auth_token"):
            ms.MemoryStorage.open(front.url, auth_token=provider)
        assert (provider.asked, front.round_trips) == (2, 2)

    def test_that_is_the_same_is_not_sent_again(self, front: Proxy):
        bad = token(key=Key())
        with pytest.raises(ms.CredentialError):
            ms.MemoryStorage.open(front.url, auth_token=lambda: bad)
        assert front.round_trips == 1

    def test_is_requested_once_by_ten_threads(self, front: Proxy, key: Key, own: str):
        asked = threading.Event()

        class Slow(Provider):
            def __call__(self) -> object:
                asked.wait(0.3)
                return super().__call__()

        provider = Slow(token(key=key), token(key=key, expires_in=7200))
        with ms.MemoryStorage.open(front.url, auth_token=provider, namespace=own) as storage:
            provider.asked = 0
            _credentials(storage)._token = token(key=Key())
            front.latency = 0.1  # all are on their way before the first is refused
            with ThreadPoolExecutor(10) as threads:
                assert list(threads.map(lambda _: storage.episodes.count(), range(10))) == [0] * 10
            assert provider.asked == 1

    def test_that_fails_leaves_the_transaction_to_a_later_one(self, front: Proxy, key: Key, own: str, make_episode):
        good = token(key=key)
        provider = Provider(good, RuntimeError("no vault"), token(key=key, **EXPIRED), good)
        with (
            ms.MemoryStorage.open(front.url, auth_token=provider, namespace=own) as storage,
            storage.transaction() as tx,
        ):
            saved = tx.episodes.save(make_episode())
            _credentials(storage)._token = token(key=Key())
            with pytest.raises(ms.CredentialError, match="the token provider failed: RuntimeError"):
                tx.episodes.count()
            with pytest.raises(ms.TokenExpiredError):
                tx.episodes.count()
            assert tx.episodes.get(saved.id) == saved

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (None, "the token provider returned no token"),
            ("", "the token provider returned no token"),
            (SecretStr(""), "the token provider returned no token"),
            (b"bytes", "malformed"),
            (7, "malformed"),
            (print, "the token provider returned no token"),
            (RuntimeError("no vault"), "the token provider failed: RuntimeError"),
            (TimeoutError("slow vault"), "the token provider failed: TimeoutError"),
        ],
    )
    def test_that_is_malformed_is_reported_before_the_network(self, front: Proxy, given: object, message: str):
        with pytest.raises(ms.CredentialError, match=message):
            ms.MemoryStorage.open(front.url, auth_token=Provider(given))
        assert front.connections == 0

    def test_is_requested_again_after_the_provider_failed(self, front: Proxy, key: Key):
        provider = Provider(RuntimeError("no vault"), None, token(key=key, **EXPIRED), token(key=key))
        engine = create_engine(front.url, connect_args={"auth_token": provider})
        for code in ("BAD_TOKEN", "BAD_TOKEN", "TOKEN_EXPIRED"):
            with raises(exc.OperationalError, code=code), engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()

    def test_may_come_from_any_callable(self, front: Proxy, key: Key):
        @dataclass  # it has an __eq__, so it has no hash
        class Vault:
            value: str

            def __call__(self) -> str:
                return self.value

        for provider in (Vault(token(key=key)), functools.partial(token, key=key), Vault(token(key=key)).__call__):
            with closing(dbapi.connect(front.url, auth_token=provider)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            engine = create_engine(front.url, connect_args={"auth_token": provider})
            with engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT 1").scalar() == 1
            engine.dispose()


class TestAReadOnlyToken:
    @pytest.fixture
    def reader(self, front: Proxy, key: Key, own: str, make_episode) -> Iterator[ms.MemoryStorage]:
        with ms.MemoryStorage.open(front.url, auth_token=token(key=key), namespace=own) as storage:
            storage.episodes.save(make_episode(tags=["kept"]))
        with ms.MemoryStorage.open(front.url, auth_token=token(key=key, access="ro"), namespace=own) as storage:
            yield storage

    def test_reads_everything(self, reader: ms.MemoryStorage):
        [episode] = reader.episodes.query().items
        assert reader.episodes.get(episode.id) == episode
        assert reader.episodes.count() == 1
        assert [found.id for found in reader.episodes.iterate()] == [episode.id]
        assert [found.id for found in reader.episodes.query(text="flaky", tags_any=["kept"])] == [episode.id]
        assert reader.steps.count(episode.id) == len(reader.steps.latest(episode.id)) == 2
        assert reader.embeddings.count() == reader.spatiotemporal.count() == reader.patterns.count() == 0
        assert reader.analytics.summary().rows["episodes"] == 1
        with reader.snapshot() as view:
            assert view.episodes.count() == 1
            assert view.episodes.get(episode.id) == episode

    def test_writes_nothing(self, reader: ms.MemoryStorage, make_episode):
        with pytest.raises(ms.CredentialError, match="the token does not allow this"):
            reader.episodes.save(make_episode())
        with pytest.raises(ms.CredentialError, match="the token does not allow this"), reader.transaction() as tx:
            tx.episodes.save(make_episode())
        assert reader.episodes.count() == 1

    def test_cannot_make_a_schema(self, server_without_schema: Sqld, key: Key):
        with pytest.raises(ms.CredentialError, match="the token does not allow this"):
            ms.MemoryStorage.open(server_without_schema.url, auth_token=token(key=key, access="ro"))

    @pytest.fixture
    def server_without_schema(self, tmp_path, key: Key) -> Iterator[Sqld]:
        with Sqld(directory=tmp_path / "empty", jwt_public_key=key.public_pem) as server:
            yield server

    def test_reflects(self, front: Proxy, key: Key):
        engine = create_engine(front.url, connect_args={"auth_token": token(key=key, access="ro")})
        found = inspect(engine)
        assert {"episodes", "steps"} <= set(found.get_table_names())
        assert [column["name"] for column in found.get_columns("steps")]
        assert [key["referred_table"] for key in found.get_foreign_keys("steps")] == ["episodes"]
        assert found.get_indexes("episodes")
        assert found.get_pk_constraint("steps")["constrained_columns"]
        assert found.get_check_constraints("steps") is not None
        assert found.get_unique_constraints("steps") is not None
        engine.dispose()


def _credentials(storage: ms.MemoryStorage) -> dbapi.Credentials:
    connection = storage.engine.raw_connection()
    try:
        found: dbapi.Credentials = connection.dbapi_connection._transport._stream._client.credentials
    finally:
        connection.close()
    return found
