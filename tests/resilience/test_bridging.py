"""An outage that has just begun: calls wait for its end, one at a time probes, and none is refused too early."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.resilience import CircuitBreaker, Guard, was_not_committed
from tests.raising import raises

from .work import BUSY, OUTAGE, Circuit

PAUSES = [0.1, 0.2, 0.4, 0.8, 1.6]


def bridging(pauses: list[float] = PAUSES, **settings: object) -> Circuit:
    circuit = Circuit(**settings)
    circuit.breaker._set_bridge(pauses)
    return circuit


def probes(circuit: Circuit, error: BaseException | None = OUTAGE) -> bool:
    """Whether a caller that does not wait is let through; it ends so at once."""
    try:
        ticket = circuit.breaker.acquire(max_wait=0)
    except ms.CircuitOpenError:
        return False
    circuit.breaker.record(ticket, error)
    return True


def test_probes_follow_the_retries_of_one_call():
    circuit, start, moments = bridging().opened(), 1000.0, []
    for hundredth in range(700):
        circuit.clock.at = start + hundredth / 100
        if probes(circuit):
            moments.append(hundredth / 100)
    assert moments == pytest.approx([0.08, 0.23, 0.53, 0.9, 1.28, 1.65, 2.03, 2.4, 2.78], abs=0.011)
    assert (circuit.breaker.state, circuit.heard) == ("open", [])


def test_without_repeats_nothing_is_bridged():
    circuit = bridging([]).opened()
    for _ in range(100):
        circuit.clock.advance(0.1)
        assert not circuit.breaker.is_bridging
        assert not probes(circuit)


def test_only_one_caller_probes_at_a_time():
    circuit = bridging().opened()
    circuit.clock.advance(0.1)
    ticket = circuit.breaker.acquire(max_wait=0)
    circuit.clock.advance(1)
    assert not probes(circuit)
    circuit.breaker.record(ticket, BUSY)  # which says nothing
    assert probes(circuit)
    assert circuit.breaker.state == "open"


def test_a_successful_probe_starts_trials_that_close_it():
    circuit = bridging().opened()
    circuit.clock.advance(0.1)
    assert probes(circuit, None)
    assert circuit.heard == [("open", "half_open")]
    assert len(circuit.admitted()) == 3
    circuit.breaker.record(circuit.breaker.generation)
    assert circuit.heard[-1] == ("half_open", "closed")


def test_a_caller_that_may_not_probe_is_refused():
    circuit = bridging().opened()
    circuit.clock.advance(0.5)
    with pytest.raises(ms.CircuitOpenError) as caught:
        circuit.breaker.acquire(may_probe=False, max_wait=0)
    assert caught.value.code == "CIRCUIT_OPEN"
    assert probes(circuit)


def test_a_second_short_outage_is_bridged_again():
    circuit = bridging().opened()
    circuit.clock.advance(3)
    assert probes(circuit, None)
    assert probes(circuit, OUTAGE)
    assert circuit.breaker.state == "open"
    circuit.clock.advance(3)
    assert circuit.breaker.is_bridging


def test_a_long_outage_is_no_longer_bridged():
    circuit = bridging().opened()
    circuit.clock.advance(60)
    assert probes(circuit, OUTAGE)
    assert circuit.breaker.state == "open"
    assert not circuit.breaker.is_bridging
    circuit.clock.advance(0.1)
    assert not probes(circuit)


def guard(**retry: object) -> Guard:
    breaker = CircuitBreaker(ms.CircuitBreakerSettings(failure_threshold=5))
    return Guard(breaker, ms.RetrySettings(**{"max_attempts": 6, "initial_backoff": 0.02, "budget": 10, **retry}))


class Server:
    """Refuses until its moment comes."""

    def __init__(self, guarded: Guard, away: float) -> None:
        self.guard, self.back, self.seen = guarded, time.monotonic() + away, 0
        self._lock = threading.Lock()

    def call(self) -> str:
        ticket = self.guard.acquire()
        with self._lock:
            self.seen += 1
        if time.monotonic() < self.back:
            self.guard.record(ticket, OUTAGE)
            raise ms.UnavailableError("no server", code="CONNECTION_FAILED")
        self.guard.record(ticket)
        return "done"


def called(guarded: Guard, server: Server) -> str:
    return guarded.run(server.call, is_retryable=was_not_committed, on_retry=lambda: None)


def test_calls_of_many_threads_are_bridged_by_few_attempts():
    guarded = guard()
    server = Server(guarded, away=0.3)
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(lambda _: called(guarded, server), range(32))) == ["done"] * 32
    assert server.seen <= 32 + 32 + 5  # each once in the outage and once after it, and the probes
    assert guarded.budget.left >= 5
    assert guarded.breaker.state == "closed"


def test_a_call_during_bridging_waits_too():
    guarded = guard()
    server = Server(guarded, away=0.3)
    with ThreadPoolExecutor(9) as threads:
        first = [threads.submit(called, guarded, server) for _ in range(8)]
        while guarded.breaker.state == "closed":
            time.sleep(0.001)
        assert called(guarded, server) == "done"
        assert [one.result() for one in first] == ["done"] * 8


def test_a_long_outage_is_refused_after_the_bridging_time():
    guarded = guard(initial_backoff=0.005)
    server = Server(guarded, away=1000)
    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(called, guarded, server) for _ in range(8)]
        errors = [job.exception() for job in jobs]
    assert {error.code for error in errors} <= {"CONNECTION_FAILED", "CIRCUIT_OPEN"}
    while guarded.breaker.is_bridging:
        time.sleep(0.001)
    seen = server.seen
    with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN") as caught:
        called(guarded, server)
    assert caught.value.attempts == 1
    assert server.seen == seen


def test_no_caller_waits_beyond_the_time_of_its_call():
    retry = ms.RetrySettings(max_attempts=10, initial_backoff=100, max_backoff=100)
    guarded = Guard(CircuitBreaker(ms.CircuitBreakerSettings(failure_threshold=1)), retry, max_wait=0.1)
    guarded.record(guarded.acquire(), OUTAGE)
    with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN") as caught:
        guarded.acquire()
    assert caught.value.retry_after < 60
    assert not guarded.breaker.is_bridging
