"""The guard of a storage: retries, refusals, and the load on a server during an outage."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.repositories import EpisodeRepository
from memory_storage.session import Session
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .work import at_once

_BEYOND_A_LOST_LOCK = 30
"""Seconds: the server keeps the lock of a transaction whose line was cut for 5 s, and the next one waits for it."""


@pytest.fixture
def line(migrated_server_url: str, sqld: Sqld) -> Iterator[Proxy]:
    """The way to the server, which can be cut."""
    with Proxy(sqld.port) as proxy:
        yield proxy


@pytest.fixture
def url(line: Proxy, migrated_server_url: str, sqld: Sqld) -> str:
    """A database of this test's own, behind that."""
    return migrated_server_url.replace(str(sqld.port), str(line.port))


def open_storage(
    url: str, breaker: dict[str, object] | None = None, retry: dict[str, object] | None = None, **settings: object
) -> ms.MemoryStorage:
    chosen = {"initial_backoff": 0.01, **(retry or {})}
    settings = {"request_timeout": 5, **settings}
    return ms.MemoryStorage.open(ms.Settings(database=url, circuit_breaker=breaker or {}, retry=chosen, **settings))


def fails(storage: ms.MemoryStorage, times: int = 1) -> list[ms.MemoryStorageError]:
    """The errors of a number of reads."""
    errors = []
    for _ in range(times):
        with raises(ms.UnavailableError, code="CONNECTION_FAILED") as caught:
            storage.episodes.count()
        errors.append(caught.value)
    return errors


def test_an_open_circuit_uses_neither_pool_nor_network(url: str, line: Proxy, make_episode):
    with open_storage(url, {"failure_threshold": 2}, {"max_attempts": 1}) as storage:
        line.refuse()
        line.cut_all()
        fails(storage, 2)
        assert storage.circuit_breaker.state == "open"
        line.accept()
        line.reset_counts()
        acquired = storage.pool_stats().total_acquired
        opened = storage.circuit_breaker_status().opened_at
        work = [
            storage.episodes.count,
            lambda: storage.episodes.save(make_episode()),
            lambda: list(storage.episodes.iterate()),
            lambda: storage.transaction().__enter__(),
            lambda: storage.snapshot().__enter__(),
            lambda: storage.run(lambda tx: tx.episodes.count()),
            storage.in_namespace("other").episodes.count,
            storage.acting_as("alice").patterns.count,
        ]
        for one in work:
            with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN", match="retry after") as caught:
                one()
            assert 0 < caught.value.retry_after <= 60
        assert (line.connections, line.round_trips) == (0, 0)
        assert storage.pool_stats().total_acquired == acquired
        assert storage.circuit_breaker_status().opened_at == opened
        storage.circuit_breaker.reset()
        assert storage.episodes.count() == 0


def test_it_closes_by_itself_when_the_server_is_back(url: str, line: Proxy):
    # One attempt: whether a second one meets an open circuit depends on how fast it comes.
    breaker = {"failure_threshold": 1, "timeout": 0.2, "success_threshold": 2}
    with open_storage(url, breaker, {"max_attempts": 1}) as storage:
        line.refuse()
        line.cut_all()
        fails(storage)
        line.accept()
        time.sleep(0.2)
        assert storage.episodes.count() == 0
        assert storage.circuit_breaker.state == "half_open"
        with storage.transaction():
            pass
        assert storage.circuit_breaker.state == "half_open"
        with storage.transaction() as tx:
            tx.episodes.count()
        assert storage.circuit_breaker.state == "closed"


def test_disabled_every_call_is_sent(url: str, line: Proxy):
    with open_storage(url, {"enabled": False, "failure_threshold": 1}, {"max_attempts": 1}) as storage:
        line.refuse()
        line.cut_all()
        for error in fails(storage, 10):
            assert not isinstance(error, ms.CircuitOpenError)


def test_a_read_and_a_write_are_retried_after_a_cut(url: str, line: Proxy, make_episode):
    with open_storage(url) as storage:
        line.cut_reply_after(0, times=2)  # the driver itself sends a read again once
        assert storage.episodes.count() == 0
        assert storage.metrics()["episodes.count"].retries == 1
        line.cut_request_after(0, times=1)
        saved = storage.episodes.save(make_episode())
        assert storage.episodes.get(saved.id) == saved
        assert storage.episodes.count() == 1
        assert storage.circuit_breaker.state == "closed"


@pytest.mark.slow
def test_a_unit_of_work_is_retried_completely(url: str, line: Proxy, make_episode):
    runs = []
    with open_storage(url, request_timeout=_BEYOND_A_LOST_LOCK) as storage:

        def work(tx: ms.Transaction) -> None:
            runs.append(tx)
            tx.episodes.save(make_episode())
            if len(runs) < 3:
                line.cut_request_after(0, times=2)  # a line that was cut once is replaced within a transaction
            tx.episodes.save(make_episode())

        storage.run(work)
        assert len(runs) == 3
        assert storage.episodes.count() == 2
        found = storage.metrics()["transaction"]
        assert (found.count, found.retries, found.errors) == (3, 2, {"UnavailableError": 2})


@pytest.mark.slow
def test_a_block_is_never_done_again(url: str, line: Proxy, make_episode):
    with open_storage(url, request_timeout=_BEYOND_A_LOST_LOCK) as storage:
        with raises(ms.UnavailableError, code="CONNECTION_LOST"), storage.transaction() as tx:
            tx.episodes.save(make_episode())
            line.cut_request_after(0, times=2)
            tx.episodes.save(make_episode())
        assert storage.episodes.count() == 0
        assert storage.circuit_breaker_status().failure_count == 0  # and an answer after that
        with pytest.raises(ZeroDivisionError), storage.transaction() as tx:  # noqa: PT012
            tx.episodes.count()
            1 / 0  # noqa: B018
        assert storage.metrics()["transaction"].errors == {"UnavailableError": 1, "ZeroDivisionError": 1}


def test_conflicts_bad_input_and_missing_rows_never_open_it(storage: ms.MemoryStorage, make_episode):
    saved = storage.episodes.save(make_episode())
    newer = storage.episodes.save(saved)
    for _ in range(10):
        with pytest.raises(ms.ConflictError):
            storage.episodes.save(saved)
        with raises(ms.NotFoundError, kind="episode"):
            storage.episodes.get(new_id())
        with raises(ms.ValidationError, field="id"):
            storage.episodes.get("no id")
        with raises(ms.ValidationError, field="limit"):
            storage.episodes.query(limit=0)
    assert storage.circuit_breaker_status() == ms.models.CircuitBreakerStatus("closed")
    found = storage.metrics()
    assert found["episodes.save"].errors == {"ConflictError": 10}
    assert found["episodes.get"].errors == {"NotFoundError": 10, "ValidationError": 10}
    assert storage.episodes.get(newer.id) == newer


def test_busy_locks_and_a_pool_without_connections_never_open_it(database, make_episode):
    pool = {"max_connections": 1, "connect_timeout": 0.01}
    settings = ms.Settings(database=str(database), request_timeout=0.02, circuit_breaker={"failure_threshold": 1})
    with (
        ms.MemoryStorage.open(settings) as storage,
        ms.MemoryStorage.open(settings.model_copy(update={"pool": ms.PoolSettings(**pool)})) as other,
        storage.transaction() as tx,
    ):
        tx.episodes.save(make_episode())
        for _ in range(3):
            with raises(ms.UnavailableError, code="SQLITE_BUSY", match="another writer"):
                other.episodes.save(make_episode())
        with other.snapshot() as view:
            view.episodes.count()
            with pytest.raises(ms.PoolTimeoutError):
                other.episodes.count()
        assert other.circuit_breaker_status() == ms.models.CircuitBreakerStatus("closed")
        assert other.pool_stats().timeouts == 1


@pytest.mark.slow
def test_ten_calls_at_once_wait_for_the_network_side_by_side(url: str, line: Proxy):
    with open_storage(url) as storage:
        at_once(10, storage.episodes.count)  # so that all connections are there
        line.latency = 0.5

        def taken(threads: int) -> float:
            start = time.perf_counter()
            at_once(threads, storage.episodes.count)
            return time.perf_counter() - start

        assert taken(10) < 2 * taken(1)


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["deaf", "dead"])
def test_an_outage_sees_only_the_attempts_that_settings_allow(
    migrated_server_url: str, sqld: Sqld, outage: str, make_episode
):
    # An outage of 30 s against a timeout of 3 s, in a tenth of the time unless MEMORY_STORAGE_OUTAGE_SECONDS says
    # otherwise. Half of the threads read, half write.
    seconds = float(os.environ.get("MEMORY_STORAGE_OUTAGE_SECONDS", "3"))
    timeout, threads, connections = seconds / 10, 20, 4
    breaker = ms.CircuitBreakerSettings(failure_threshold=5, timeout=timeout, half_open_max_calls=2)
    with Proxy(sqld.port) as line:
        settings = ms.Settings(
            database=migrated_server_url.replace(str(sqld.port), str(line.port)),
            request_timeout=0.2,
            circuit_breaker=breaker,
            pool={"max_connections": connections},
            retry={"initial_backoff": 0.01},
        )
        with ms.MemoryStorage.open(settings) as storage, ThreadPoolExecutor(1) as other:
            _saved(storage, make_episode)
            began = time.monotonic()
            if outage == "deaf":
                line.deaf = True
            else:
                line.target_port = 1
                line.cut_all()
            line.reset_counts()
            calling = other.submit(_called_all_the_time, storage, threads, seconds, make_episode)
            time.sleep(seconds)
            seen = max(line.connections, line.round_trips)
            back = time.monotonic()
            line.deaf, line.target_port = False, sqld.port
            while True:
                try:
                    storage.episodes.count()
                    break
                except ms.UnavailableError:
                    assert time.monotonic() < back + timeout + 30
                    time.sleep(0.01)
            calls, refused = calling.result()
    # Those that open it, and those on their way then: no more than there are connections. Then, each time it is half
    # open, those that try, also for a write whose answer was lost and that asks what has become of it.
    periods = 1 + int((back - began) / timeout)
    attempts = breaker.failure_threshold + connections + breaker.half_open_max_calls * periods
    assert seen <= attempts
    assert seen > 2
    assert calls > 10 * seen
    print(f"{seconds:g} s, {threads} threads, {outage}: {calls:,} calls, {seen} attempts, {attempts} allowed")
    assert refused > 0.9 * calls


def _saved(storage: ms.MemoryStorage, make_episode) -> None:
    """Save something, however long that takes on a busy machine: the request's timeout is a short one."""
    while True:
        try:
            storage.episodes.save(make_episode())
            return
        except (ms.UnavailableError, ms.CommitUnknownError):
            time.sleep(0.05)


def _called_all_the_time(storage: ms.MemoryStorage, threads: int, seconds: float, make_episode) -> tuple[int, int]:
    """How many calls there were, and how many of them the breaker refused."""
    until, counts, lock = time.monotonic() + seconds, [0, 0], threading.Lock()
    numbers = iter(range(threads))

    def one() -> None:
        reads = next(numbers) % 2
        calls = refused = 0
        while time.monotonic() < until:
            calls += 1
            try:
                storage.episodes.count() if reads else storage.episodes.save(make_episode())
            except ms.CircuitOpenError:
                refused += 1
                time.sleep(0.002)
            except (ms.UnavailableError, ms.CommitUnknownError):
                pass
        with lock:
            counts[0] += calls
            counts[1] += refused

    at_once(threads, one)
    return counts[0], counts[1]


@pytest.mark.slow
def test_a_commit_outcome_is_resolved_while_the_circuit_is_open(url: str, line: Proxy):
    with open_storage(url, {"failure_threshold": 3, "success_threshold": 1, "timeout": 60}) as storage:
        heard: list[str] = []
        storage.circuit_breaker.add_listener(lambda _, new: heard.append(new))
        line.cut_reply_after(0, times=3)
        storage.episodes.save(ms.Episode(task_description="written once"))
        assert heard == ["open", "half_open", "closed"]
        assert storage.episodes.count() == 1
        assert storage.circuit_breaker_status().failure_count == 0


def test_what_is_not_counted_is_repeated_too(url: str, line: Proxy):
    with open_storage(url) as storage:
        bare = EpisodeRepository(Session(storage._context, storage.namespace))
        line.cut_reply_after(0, times=2)
        assert EpisodeRepository.count.__wrapped__(bare) == 0  # past the metrics
        assert storage.metrics() == {}


def test_an_outage_in_a_block_counts_and_a_conflict_does_not(url: str, line: Proxy, make_episode):
    with open_storage(url, {"failure_threshold": 5}) as storage:
        episode = storage.episodes.save(make_episode())
        tx = storage.transaction().__enter__()
        with pytest.raises(ms.ConflictError):
            tx.episodes.save(episode.model_copy(update={"version": 9}))
        assert storage.circuit_breaker_status().failure_count == 0
        line.refuse()
        line.cut_all()
        with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
            tx.episodes.count()
        assert storage.circuit_breaker_status().failure_count == 1
        tx.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert storage.engine.pool.checkedout() == 0
