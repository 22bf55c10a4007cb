"""Rare paths through a transaction and a call."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy import event, text

import memory_storage as ms
from memory_storage import _commit_status, _execution, dbapi
from memory_storage.repositories import EpisodeRepository
from tests.raising import raises

from .work import OUTAGE


@pytest.fixture
def storage(database):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), circuit_breaker={"failure_threshold": 1})) as opened:
        yield opened


@contextmanager
def _opening_meanwhile(storage: ms.MemoryStorage) -> Iterator[None]:
    """The circuit opens while a thread waits for a connection."""

    def open_the_circuit(*_: object) -> None:
        breaker = storage.circuit_breaker
        breaker.record(breaker.acquire(), OUTAGE)

    event.listen(storage.engine, "checkout", open_the_circuit)
    yield
    event.remove(storage.engine, "checkout", open_the_circuit)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_waiting_block_is_refused_when_the_circuit_opens(storage, read_only):
    with _opening_meanwhile(storage), raises(ms.CircuitOpenError, code="CIRCUIT_OPEN"):
        (storage.snapshot() if read_only else storage.transaction()).__enter__()
    assert storage.engine.pool.checkedout() == 0
    storage.circuit_breaker.reset()
    assert storage.episodes.count() == 0  # it holds no lock


def test_a_repository_that_is_not_counted_fails_as_one_that_is(storage):
    with storage.transaction() as tx:
        bare = EpisodeRepository(tx._session)
        assert bare.count() == 0
        tx.execute([("ALTER TABLE episodes RENAME TO gone", ())])
        with pytest.raises(ms.SchemaError):
            bare.count()
        tx.execute([("ALTER TABLE gone RENAME TO episodes", ())])
    assert storage.episodes.count() == 0


@pytest.mark.parametrize(
    ("local_engine", "error", "problem"),
    [("libsql", ms.UnavailableError, "panicked"), ("sqlite", ms.CorruptDataError, "not UTF-8.*memory-storage doctor")],
)
def test_a_connection_that_breaks_in_a_call_is_not_used_again(local_engine, error, problem, make_episode):
    storage = ms.MemoryStorage.open(ms.Settings(database=":memory:", local_engine=local_engine))
    episode = storage.episodes.save(make_episode())
    with storage.engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept AS SELECT seq, output FROM steps"))
        connection.execute(text("UPDATE steps SET output = CAST(x'ff' AS TEXT)"))
    with pytest.raises(error, match=problem):
        storage.episodes.get(episode.id)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE steps SET output = (SELECT output FROM kept WHERE kept.seq = steps.seq)"))
    assert storage.episodes.get(episode.id) == episode
    storage.close()


def test_a_failed_rollback_does_not_hide_the_blocks_error(storage, make_episode, monkeypatch, caplog):
    broken = dbapi.OperationalError("the disk is gone", "SQLITE_IOERR")

    def fail() -> None:
        raise broken

    def work() -> None:
        with storage.transaction() as tx:
            tx.episodes.save(make_episode())
            held.append(tx._executor._connection)
            monkeypatch.setattr(tx._executor._connection, "close", fail)
            raise RuntimeError("mine")

    held: list[object] = []
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="mine"):
        work()
    assert "a rollback failed" in caplog.text
    monkeypatch.undo()
    held[0].close()
    assert storage.episodes.count() == 0


def test_a_call_is_refused_when_the_circuit_opens_while_it_waits(storage):
    with _opening_meanwhile(storage), raises(ms.CircuitOpenError, code="CIRCUIT_OPEN"):
        storage.episodes.count()


@pytest.mark.parametrize("name", ["before_cursor_execute", "after_cursor_execute"])
def test_listeners_of_either_kind_hear_of_statements(storage, name):
    heard = []
    event.listen(storage.engine, name, lambda *arguments: heard.append(arguments[2]))
    assert storage.episodes.count() == 0
    assert len(heard) == 1


def test_a_server_error_ends_a_write_transaction_only(storage, make_episode, monkeypatch):
    straight, failures = _execution.execute_raw, []

    def fail(*arguments: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return straight(*arguments, **options)

    monkeypatch.setattr(_execution, "execute_raw", fail)
    failures.append(ms.UnavailableError("broken", code="SERVER_ERROR"))
    with storage.in_namespace("other") as view:
        view.circuit_breaker._settings = ms.CircuitBreakerSettings(enabled=False)
        assert view.episodes.count() == 0
        assert failures == []
        failures.append(ms.UnavailableError("broken", code="SERVER_ERROR"))
        with raises(ms.UnavailableError, code="SERVER_ERROR", match="broken"):
            view.episodes.save(make_episode())
        assert view.episodes.count() == 0


def test_a_deadline_is_that_of_one_request(storage):
    batch = dbapi.Batch([dbapi.BatchStep("SELECT 1")], reads_only=True)
    assert _execution.execute_raw(storage.engine, batch, deadline=time.monotonic() + 5)[0] == [(1,)]
    connection = storage.engine.raw_connection()
    assert connection.dbapi_connection.deadline is None
    connection.close()


def test_blocks_are_counted_by_what_they_are(storage):
    with storage.transaction():
        assert storage.snapshot()._executor._name == "snapshot"
    with storage.snapshot() as view:
        view.episodes.count()
    assert {name: one.count for name, one in storage.metrics().items() if "." not in name} == {
        "transaction": 1,
        "snapshot": 1,
    }


def test_a_nested_block_is_refused_and_a_snapshot_is_not(storage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        with pytest.raises(ms.UnavailableError, match="nested write"), storage.transaction():
            pass
        with storage.snapshot() as view:
            assert view.episodes.count() == 0
    assert storage.episodes.count() == 1


def test_a_file_keeps_no_receipts(storage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        tx.episodes.save(make_episode())
    with storage.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM receipts")).scalar() == 0


def test_a_commit_is_resolved_for_up_to_seven_seconds(storage, monkeypatch):
    clock, pauses, contacted = [1000.0], [], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    def fail(*_: object, deadline: float) -> None:
        contacted.append(deadline)
        raise ms.UnavailableError("no server", code="CONNECTION_FAILED")

    monkeypatch.setattr(_commit_status, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    unknown = ms.CommitUnknownError("it may be stored, or not")
    with pytest.raises(ms.CommitUnknownError) as caught:
        _commit_status.CommitResolver(unknown, fail).reread(dbapi.Batch([dbapi.BatchStep("SELECT 1")]))
    assert caught.value is unknown
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert contacted == [1007.0] * 7


def test_a_resolver_polls_soon_and_backs_off_after_a_miss(storage, monkeypatch):
    refused = ms.CircuitOpenError("it is open", code="CIRCUIT_OPEN")
    answers = iter([refused, refused, ms.UnavailableError("no server"), refused, ms.CommitUnknownError("x")])
    pauses: list[float] = []
    monkeypatch.setattr(_commit_status, "time", SimpleNamespace(monotonic=lambda: 1000.0, sleep=pauses.append))

    def run(batch: dbapi.Batch, *, deadline: float) -> list[tuple[int]]:
        for error in answers:
            raise error
        return [(1,)]

    resolver = _commit_status.CommitResolver(ms.CommitUnknownError("it may be stored, or not"), run)
    assert resolver.reread(dbapi.Batch([dbapi.BatchStep("SELECT 1")])) == [(1,)]
    assert pauses == pytest.approx([0.05, 0.05, 0.1, 0.1, 0.2])
