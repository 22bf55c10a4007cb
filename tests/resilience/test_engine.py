"""The circuit breaker guards `storage.engine`: a caller's use of it is refused, and counted exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine, create_engine, event, exc, inspect, text
from sqlalchemy.orm import Session

import memory_storage as ms
from memory_storage import migrate
from memory_storage.testing import Sqld
from tests.proxy import Proxy

THRESHOLD = 3
ONE = text("SELECT 1")


@pytest.fixture
def line(migrated_server_url: str, sqld: Sqld) -> Iterator[Proxy]:
    """The way to the server, which can be cut."""
    with Proxy(sqld.port) as proxy:
        yield proxy


@pytest.fixture
def settings(line: Proxy, migrated_server_url: str, sqld: Sqld) -> ms.Settings:
    """A database of this test's own, behind that; no call is repeated."""
    return ms.Settings(
        database=migrated_server_url.replace(str(sqld.port), str(line.port)),
        circuit_breaker={"failure_threshold": THRESHOLD, "success_threshold": 1, "timeout": 30},
        retry={"max_attempts": 1},
        request_timeout=5,
    )


@pytest.fixture
def storage(settings: ms.Settings) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(settings) as opened:
        yield opened


def _away(line: Proxy) -> None:
    line.refuse()
    line.cut_all()


def _by_connection(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(ONE)


def _by_transaction(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE episodes SET version = version WHERE false"))


def _by_session(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(ONE)


def _by_raw_connection(engine: Engine) -> None:
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("SELECT 1")


def _by_inspection(engine: Engine) -> None:
    inspect(engine).get_table_names()


WAYS = [_by_connection, _by_transaction, _by_session, _by_raw_connection, _by_inspection]


def _failures(storage: ms.MemoryStorage) -> int:
    return storage.circuit_breaker_status().failure_count


def _opened(storage: ms.MemoryStorage, line: Proxy) -> None:
    _away(line)
    for _ in range(THRESHOLD):
        with pytest.raises(exc.OperationalError):
            _by_connection(storage.engine)
    assert storage.circuit_breaker.state == "open"
    line.accept()
    line.reset_counts()


@pytest.mark.parametrize("way", WAYS)
def test_an_outage_that_a_caller_meets_counts_once(
    storage: ms.MemoryStorage, line: Proxy, way: Callable[[Engine], None]
):
    _away(line)
    for number in range(1, THRESHOLD):
        with pytest.raises((exc.OperationalError, storage.engine.dialect.dbapi.OperationalError)) as caught:
            way(storage.engine)
        error = getattr(caught.value, "orig", caught.value)
        assert (error.code, _failures(storage)) == ("CONNECTION_FAILED", number)


@pytest.mark.parametrize("way", WAYS)
def test_an_open_circuit_refuses_a_caller_before_the_network(
    storage: ms.MemoryStorage, line: Proxy, way: Callable[[Engine], None]
):
    _opened(storage, line)
    with pytest.raises(ms.CircuitOpenError) as caught:
        way(storage.engine)
    assert (caught.value.code, 0 < caught.value.retry_after <= 30) == ("CIRCUIT_OPEN", True)
    assert (line.connections, storage.pool_stats().active) == (0, 0)
    storage.circuit_breaker.reset()
    way(storage.engine)


def test_a_refused_connect_leaves_no_connection_behind(storage: ms.MemoryStorage, line: Proxy):
    _opened(storage, line)
    for _ in range(20):  # more than the pool has
        with pytest.raises(ms.CircuitOpenError):
            storage.engine.connect()
    assert storage.pool_stats().active == 0
    assert storage.pool_stats().timeouts == 0


@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("call", ["read", "write", "transaction", "run", "snapshot"])
def test_an_outage_that_a_call_meets_counts_once(
    storage: ms.MemoryStorage, line: Proxy, make_episode, call: str, is_watched: bool
):
    if is_watched:
        event.listen(storage.engine, "before_cursor_execute", lambda *_: None)
    storage.episodes.count()

    def transact() -> None:
        with storage.transaction() as tx:
            tx.episodes.count()

    def look() -> None:
        with storage.snapshot() as view:
            view.episodes.count()

    calls: dict[str, Callable[[], object]] = {
        "read": storage.episodes.count,
        "write": lambda: storage.episodes.save(make_episode()),
        "transaction": transact,
        "run": lambda: storage.run(lambda tx: tx.episodes.count()),
        "snapshot": look,
    }
    _away(line)
    with pytest.raises(ms.UnavailableError) as caught:
        calls[call]()
    assert (caught.value.code, _failures(storage)) == ("CONNECTION_FAILED", 1)


def test_a_health_check_counts_once_and_raises_nothing(storage: ms.MemoryStorage, line: Proxy):
    _away(line)
    assert storage.health_check().status == "unhealthy"
    assert _failures(storage) == 1


def test_a_response_resets_the_count_and_sql_errors_do_not_count(storage: ms.MemoryStorage, line: Proxy):
    _away(line)
    with pytest.raises(exc.OperationalError):
        _by_connection(storage.engine)
    line.accept()
    for _ in range(THRESHOLD):
        with pytest.raises(exc.OperationalError, match="no such table"), storage.engine.connect() as connection:
            connection.execute(text("SELECT * FROM no_such_table"))
    assert _failures(storage) == 1
    _by_connection(storage.engine)
    assert _failures(storage) == 0


def _open_circuit(storage: ms.MemoryStorage) -> None:
    for _ in range(THRESHOLD):
        storage.circuit_breaker.record(storage.circuit_breaker.acquire(), ms.UnavailableError("x", code="SERVER_ERROR"))


def test_a_transaction_that_has_begun_ends_by_its_own_rules(storage: ms.MemoryStorage, line: Proxy, make_episode):
    saved = storage.episodes.save(make_episode())
    with storage.engine.connect() as connection:
        connection.execute(text("UPDATE episodes SET version = 7"))
        _open_circuit(storage)
        assert storage.circuit_breaker.state == "open"
        connection.execute(text("UPDATE episodes SET version = 8"))
        connection.commit()
    assert storage.circuit_breaker.state == "closed"  # it was answered, which is a success
    assert storage.episodes.get(saved.id).version == 8


def test_a_rollback_passes_an_open_circuit(storage: ms.MemoryStorage, line: Proxy, make_episode):
    saved = storage.episodes.save(make_episode())
    with storage.engine.connect() as connection:
        connection.execute(text("UPDATE episodes SET version = 7"))
        _open_circuit(storage)
        connection.rollback()
        with pytest.raises(ms.CircuitOpenError):
            connection.execute(ONE)
    storage.circuit_breaker.reset()
    assert storage.episodes.get(saved.id).version == 1


def test_a_trial_after_the_timeout_closes_the_circuit(settings: ms.Settings, line: Proxy):
    quick = settings.circuit_breaker.model_copy(update={"timeout": 0.2, "half_open_max_calls": 1})
    with ms.MemoryStorage.open(settings.model_copy(update={"circuit_breaker": quick})) as storage:
        _opened(storage, line)
        time.sleep(0.2)
        with storage.engine.connect() as connection:
            assert connection.execute(ONE).scalar() == 1
        assert storage.circuit_breaker.state == "closed"


def test_the_schema_can_be_upgraded_with_the_engine(storage: ms.MemoryStorage):
    migrate.upgrade(storage.engine)
    assert migrate.current(storage.engine) == storage.health_check().schema


def test_an_engine_of_the_callers_own_is_left_alone(settings: ms.Settings, line: Proxy):
    engine = create_engine(settings.database)
    storage = ms.MemoryStorage(engine, settings)
    _away(line)
    for _ in range(THRESHOLD):
        with pytest.raises(exc.OperationalError):
            _by_connection(engine)
    assert _failures(storage) == 0
    for _ in range(THRESHOLD):
        with pytest.raises(ms.UnavailableError):
            storage.episodes.count()
    assert storage.circuit_breaker.state == "open"
    line.accept()
    _by_connection(engine)
    engine.dispose()
