"""The circuit breaker: every transition, with 32 threads at once."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import pytest

import memory_storage as ms
from memory_storage.resilience import CircuitBreaker, is_outage
from tests.raising import raises

from .work import BUSY, CANCELLED, CONFLICT, OUTAGE, THREADS, Circuit, Clock, at_once

CLOSED, OPEN, HALF = "closed", "open", "half_open"
FAR = 10_000.0

# What happens to a new breaker of the default settings (5 failures, 2 successes, 60 s, 3 calls), and what becomes of
# it: its state, the changes that were heard, and how many of the next 32 calls are let through.
Event = Callable[[Circuit], object]


def opened(circuit: Circuit) -> None:
    circuit.opened()


def half_opened(circuit: Circuit) -> None:
    circuit.opened()
    circuit.half_open()
    circuit.heard.clear()


def ended(*errors: BaseException | None) -> Event:
    """Half open, a number of trials end so, one after the other."""

    def event(circuit: Circuit) -> None:
        circuit.opened()
        tickets = circuit.half_open()
        circuit.heard.clear()
        for ticket, error in zip(tickets, errors, strict=False):
            circuit.breaker.record(ticket, error)

    return event


def wait(seconds: float) -> Event:
    return lambda circuit: circuit.clock.advance(seconds)


def calls(number: int, error: BaseException | None) -> Event:
    return lambda circuit: circuit.go(error, calls=number)


TRANSITIONS = {
    "closed: it lets all through": ([], CLOSED, [], THREADS),
    "closed: successes leave it": ([calls(32, None)], CLOSED, [], THREADS),
    "closed: fewer failures than the threshold leave it": ([calls(4, OUTAGE)], CLOSED, [], THREADS),
    "closed: as many as the threshold open it": ([calls(5, OUTAGE)], OPEN, [(CLOSED, OPEN)], 0),
    "closed: 32 at once open it once": ([calls(32, OUTAGE)], OPEN, [(CLOSED, OPEN)], 0),
    "closed: a success in between forgets the failures": (
        [calls(4, OUTAGE), calls(1, None), calls(4, OUTAGE)],
        CLOSED,
        [],
        THREADS,
    ),
    "closed: a conflict is an answer too": ([calls(4, OUTAGE), calls(1, CONFLICT), calls(4, OUTAGE)], CLOSED, [], 32),
    "closed: conflicts never open it": ([calls(32, CONFLICT)], CLOSED, [], THREADS),
    "closed: busy locks never open it": ([calls(32, BUSY)], CLOSED, [], THREADS),
    "closed: busy locks say nothing": (
        [calls(4, OUTAGE), calls(32, BUSY), calls(1, OUTAGE)],
        OPEN,
        [(CLOSED, OPEN)],
        0,
    ),
    "closed: cancelled calls never open it": ([calls(32, CANCELLED)], CLOSED, [], THREADS),
    "open: it refuses all before its time": ([opened, wait(59.9)], OPEN, [], 0),
    "open: after its time, trials are admitted": ([opened, wait(60)], OPEN, [], 3),
    "half open: the others wait for those who try": ([half_opened], HALF, [], 0),
    "half open: a success leaves it, and its place is free": ([ended(None)], HALF, [], 1),
    "half open: enough successes close it": ([ended(None, None)], CLOSED, [(HALF, CLOSED)], THREADS),
    "half open: the third success finds it closed": ([ended(None, None, None)], CLOSED, [(HALF, CLOSED)], THREADS),
    "half open: one failure opens it": ([ended(OUTAGE)], OPEN, [(HALF, OPEN)], 0),
    "half open: a failure after a success opens it": ([ended(None, OUTAGE)], OPEN, [(HALF, OPEN)], 0),
    "half open: three failures open it once": ([ended(OUTAGE, OUTAGE, OUTAGE)], OPEN, [(HALF, OPEN)], 0),
    "half open: a success after a failure is too late": ([ended(OUTAGE, None, None)], OPEN, [(HALF, OPEN)], 0),
    "half open: conflicts close it": ([ended(CONFLICT, CONFLICT)], CLOSED, [(HALF, CLOSED)], THREADS),
    "half open: a busy lock only gives its place back": ([ended(BUSY, BUSY)], HALF, [], 2),
    "half open: who is cancelled gives his place back": ([ended(CANCELLED)], HALF, [], 1),
    "half open: then it opens for as long again": ([ended(OUTAGE), wait(59.9)], OPEN, [(HALF, OPEN)], 0),
    "half open: and then lets as many try": ([ended(OUTAGE), wait(60)], OPEN, [(HALF, OPEN)], 3),
    "half open: an abandoned trial is not waited for": ([half_opened, wait(60)], HALF, [], 3),
    "half open: but for a minute he is": ([half_opened, wait(59.9)], HALF, [], 0),
    "closed again: it counts from nothing": ([ended(None, None), calls(4, OUTAGE)], CLOSED, [(HALF, CLOSED)], 32),
    "closed again: and opens as before": (
        [ended(None, None), calls(5, OUTAGE)],
        OPEN,
        [(HALF, CLOSED), (CLOSED, OPEN)],
        0,
    ),
}


@pytest.mark.parametrize(("events", "state", "heard", "admitted"), TRANSITIONS.values(), ids=TRANSITIONS.keys())
def test_every_transition_under_32_threads(
    events: list[Event], state: str, heard: list[tuple[str, str]], admitted: int
):
    circuit = Circuit()
    for event in events:
        event(circuit)
        if event in (opened, half_opened):
            circuit.heard.clear()
    assert (circuit.breaker.state, circuit.heard) == (state, heard)
    assert circuit.breaker.status().state == state
    assert len(circuit.admitted()) == admitted


@pytest.mark.parametrize("most", [1, 2, 3, 7, 32])
def test_half_open_lets_exactly_so_many_through(most: int):
    circuit = Circuit(half_open_max_calls=most, success_threshold=most).opened()
    assert len(circuit.half_open()) == most
    assert circuit.admitted() == []


@pytest.mark.parametrize(("threshold", "successes"), [(1, 1), (2, 4), (10, 3)])
def test_the_thresholds_are_those_of_the_settings(threshold: int, successes: int):
    circuit = Circuit(failure_threshold=threshold, success_threshold=successes, timeout=5)
    circuit.go(OUTAGE, calls=threshold - 1)
    assert circuit.breaker.state == CLOSED
    circuit.go(OUTAGE, calls=1)
    assert circuit.breaker.state == OPEN
    circuit.clock.advance(5)
    for number in range(successes):
        assert circuit.breaker.state == (HALF if number else OPEN)
        circuit.go(calls=1)
    assert circuit.breaker.state == CLOSED


def test_outcomes_of_calls_before_the_opening_are_ignored():
    circuit = Circuit()
    old = circuit.admitted(20)
    circuit.opened()
    opened_at = circuit.breaker.status().opened_at
    circuit.clock.advance(30)
    circuit.record(old[:10], OUTAGE)
    assert circuit.breaker.status().retry_after == 30
    assert circuit.breaker.status().opened_at == opened_at
    trying = circuit.half_open()
    circuit.record(old[10:15], OUTAGE)
    assert circuit.breaker.state == HALF
    circuit.record(old[15:])
    assert circuit.breaker.state == HALF
    circuit.record(trying)
    assert circuit.breaker.state == CLOSED


def test_a_call_that_waited_while_it_opened_is_refused():
    circuit = Circuit()
    old = circuit.admitted(2)
    circuit.breaker.recheck(old[0])
    circuit.opened()
    with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN"):
        circuit.breaker.recheck(old[0])
    trying = circuit.half_open()
    with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN"):
        circuit.breaker.recheck(old[1])
    circuit.breaker.recheck(trying[0])
    circuit.record(trying)
    circuit.breaker.recheck(old[0])


def test_a_refusal_has_retry_after():
    circuit = Circuit(timeout=12).opened()
    circuit.clock.advance(2)
    with pytest.raises(
        ms.CircuitOpenError, match=r"retry after 10\.0 s \(setting: circuit_breaker\.timeout\)"
    ) as caught:
        circuit.breaker.acquire()
    assert caught.value.retry_after == 10
    assert caught.value.code == "CIRCUIT_OPEN"
    assert "CONNECTION_FAILED" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).retry_after == 10
    circuit.clock.advance(10)
    assert len(circuit.admitted(3)) == 3
    with pytest.raises(ms.CircuitOpenError, match="half open") as caught:
        circuit.breaker.acquire()
    assert caught.value.retry_after == 1


def test_a_short_timeout_also_limits_the_wait_for_trials():
    circuit = Circuit(timeout=0.25, half_open_max_calls=1).opened()
    circuit.clock.advance(0.25)
    circuit.breaker.acquire()
    with raises(ms.CircuitOpenError, code="CIRCUIT_OPEN") as caught:
        circuit.breaker.acquire()
    assert caught.value.retry_after == 0.25


def test_the_status_tells_all():
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    clock = Clock()
    breaker = CircuitBreaker(ms.CircuitBreakerSettings(failure_threshold=2), clock=clock, now=lambda: now)
    assert breaker.status() == ms.models.CircuitBreakerStatus("closed")
    breaker.record(breaker.acquire(), OUTAGE)
    error = "UnavailableError CONNECTION_FAILED"
    assert breaker.status() == ms.models.CircuitBreakerStatus("closed", 1, now, error)
    breaker.record(breaker.acquire(), ms.CommitUnknownError("lost"))
    clock.advance(20)
    assert breaker.status() == ms.models.CircuitBreakerStatus("open", 2, now, "CommitUnknownError", now, 40.0)
    breaker.reset()
    assert breaker.status() == ms.models.CircuitBreakerStatus("closed", 0, now, "CommitUnknownError")


def test_reset_closes_it_and_forgets():
    circuit = Circuit()
    circuit.breaker.reset()
    assert circuit.heard == []
    circuit.opened().breaker.reset()
    assert circuit.heard == [(OPEN, CLOSED)]
    assert circuit.go(OUTAGE, calls=4) == 4
    circuit.breaker.reset()
    circuit.go(OUTAGE, calls=4)
    assert circuit.breaker.state == CLOSED


def test_switched_off_it_lets_all_through_and_counts_nothing():
    circuit = Circuit(enabled=False)
    assert circuit.go(OUTAGE) == THREADS
    assert circuit.go() == THREADS
    assert circuit.breaker.status() == ms.models.CircuitBreakerStatus("closed", enabled=False)


def test_listeners_get_each_change_once_and_may_call_back(caplog: pytest.LogCaptureFixture):
    circuit = Circuit()
    seen: list[str] = []

    def listener(old: str, new: str) -> None:
        seen.append(f"{old}->{new}:{circuit.breaker.status().state}")
        if new == OPEN:
            circuit.breaker.reset()

    circuit.breaker.add_listener(listener)
    circuit.go(OUTAGE, calls=5)
    assert seen == ["closed->open:open", "open->closed:closed"]
    circuit.breaker.remove_listener(listener)
    circuit.go(OUTAGE, calls=5)
    assert len(seen) == 2
    assert [record.message for record in caplog.records][:2] == [
        "the circuit breaker is open, it was closed (UnavailableError CONNECTION_FAILED)",
        "the circuit breaker is closed, it was open (UnavailableError CONNECTION_FAILED)",
    ]
    with pytest.raises(ValueError):
        circuit.breaker.remove_listener(listener)


def test_a_failing_listener_is_logged_and_ignored(caplog: pytest.LogCaptureFixture):
    circuit = Circuit()

    def bad(old: str, new: str) -> None:
        raise RuntimeError("the pager is broken")

    circuit.breaker._listeners.insert(0, bad)
    circuit.opened()
    assert "the pager is broken" in caplog.text
    circuit.half_open()
    assert circuit.heard == [(OPEN, HALF)]


def test_the_errors_of_callers_are_not_touched():
    circuit = Circuit()
    error = ms.UnavailableError("no server", code="CONNECTION_FAILED")
    for _ in range(5):
        circuit.breaker.record(circuit.breaker.acquire(), error)
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


def test_a_transaction_without_a_request_records_nothing():
    circuit = Circuit().opened()
    first, *_ = circuit.half_open()
    for _ in range(5):
        circuit.breaker.record(first, contacted=False)
        first = circuit.breaker.acquire()
    assert circuit.breaker.state == HALF


def test_a_child_process_waits_for_no_thread_of_its_parent():
    circuit = Circuit().opened()
    circuit.half_open()
    with circuit.breaker._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if len([circuit.breaker.acquire() for _ in range(3)]) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        *[
            (ms.UnavailableError("x", code=code), True)
            for code in ("CONNECTION_FAILED", "CONNECTION_LOST", "SERVER_ERROR", "NOT_STORED")
        ],
        (ms.RequestTimeoutError("x", code="REQUEST_TIMEOUT"), True),
        (ms.CommitUnknownError("x"), True),
        *[
            (ms.UnavailableError("x", code=code), False)
            for code in (
                "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "THREAD_BUSY",
                "TRANSACTION_LOST", "TRANSACTION_TIMEOUT", "TRANSACTION_BUSY", "SERVER_BUSY", "BLOCKED", "",
            )
        ],
        (ms.CircuitOpenError("x", code="CIRCUIT_OPEN"), False),
        (ms.PoolTimeoutError("x"), False),
        (CONFLICT, False),
        (ms.ValidationError("f", "l", "v"), False),
        (ms.CredentialError("x"), False),
        (ms.TokenExpiredError("x"), False),
        (ms.InsecureConnectionError("x"), False),
        (ms.SchemaError("x"), False),
        (ms.CorruptDataError("x"), False),
        (ms.NotFoundError("episode", 1), False),
        (KeyboardInterrupt(), False),
        (GeneratorExit(), False),
        (OSError("not ours"), False),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'code', '')}".strip(),
)  # fmt: skip
def test_what_is_an_outage(error: BaseException, outage: bool):
    assert is_outage(error) is outage


def test_ten_calls_at_once_take_as_long_as_one():
    circuit = Circuit()
    circuit.go(OUTAGE, calls=1)  # so that it is not quiet

    def call() -> None:
        ticket = circuit.breaker.acquire()
        time.sleep(0.2)
        circuit.breaker.record(ticket)

    def taken(threads: int) -> float:
        start = time.perf_counter()
        at_once(threads, call)
        return time.perf_counter() - start

    assert taken(10) < 2 * taken(1)


def test_many_threads_that_fail_and_succeed_leave_it_sound():
    circuit = Circuit(failure_threshold=3, success_threshold=1, timeout=0.0, half_open_max_calls=2)
    going = threading.Semaphore(0)
    inside: list[int] = []

    def one() -> None:
        for number in range(200):
            try:
                ticket = circuit.breaker.acquire()
            except ms.CircuitOpenError:
                continue
            if circuit.breaker.state == HALF:
                inside.append(circuit.breaker._trials)
            circuit.breaker.record(ticket, OUTAGE if number % 7 else None)
        going.release()

    at_once(16, one)
    assert max(inside) <= 2
    assert all(old != new for old, new in circuit.heard)
    assert {old for old, _ in circuit.heard} == {CLOSED, OPEN, HALF}
    circuit.breaker.reset()
    assert circuit.go() == THREADS


def test_an_abandoned_trial_is_not_waited_for_forever():
    circuit = Circuit(half_open_max_calls=2).opened()
    assert len(circuit.half_open()) == 2
    circuit.clock.advance(59.9)
    assert circuit.admitted() == []
    circuit.clock.advance(0.1)
    assert len(circuit.admitted()) == 2
    circuit.clock.advance(3600)  # and far beyond that
    assert len(circuit.admitted()) == 2


def test_in_a_child_process_as_many_may_try_as_in_any_other():
    circuit = Circuit(half_open_max_calls=2).opened()
    assert len(circuit.half_open()) == 2
    circuit.breaker.after_fork_in_child()
    assert len(circuit.admitted()) == 2


def test_half_open_it_still_has_opened_at():
    circuit = Circuit().opened()
    opened_at = circuit.breaker.status().opened_at
    circuit.half_open()
    assert circuit.breaker.state == "half_open"
    assert circuit.breaker.status().opened_at == opened_at


def test_listeners_get_changes_in_order():
    circuit = Circuit()
    circuit.breaker._pending_transitions += [(CLOSED, OPEN), (OPEN, HALF), (HALF, CLOSED)]
    circuit.breaker.reset()
    assert circuit.heard == [(CLOSED, OPEN), (OPEN, HALF), (HALF, CLOSED)]


@pytest.mark.parametrize(("most", "moments"), [(1, []), (2, [1.0]), (3, [1.0, 4.0]), (4, [1.0, 4.0, 16.0])])
@pytest.mark.slow
def test_early_trials_start_one_at_a_time_each_later(most: int, moments: list[float]):
    circuit = Circuit(half_open_max_calls=most).opened()
    opened_at = circuit.clock.at
    for moment in moments:
        circuit.clock.at = opened_at + moment - 0.01
        assert circuit.admitted(early=True) == []
        circuit.clock.at = opened_at + moment
        tickets = circuit.admitted(early=True)
        assert len(tickets) == 1
        circuit.record(tickets, OUTAGE)
    circuit.clock.at = opened_at + 59.9
    assert circuit.admitted(early=True) == circuit.admitted() == []
    assert circuit.heard == []
    circuit.clock.at = opened_at + 60
    assert len(circuit.admitted()) == 1  # the last of them: an outage sees no more than `most` in all
    assert circuit.admitted(early=True) == []


def test_an_early_trial_half_opens_only_on_a_response():
    circuit = Circuit(success_threshold=2).opened()
    circuit.clock.advance(1)
    circuit.record(circuit.admitted(early=True), OUTAGE)
    circuit.clock.advance(3)
    assert circuit.breaker.status().retry_after == 56
    assert circuit.heard == []
    circuit.record(circuit.admitted(early=True))
    assert circuit.heard == [(OPEN, HALF)]
    assert len(circuit.admitted()) == 2  # one early trial failed
    circuit.breaker.record(circuit.breaker.generation)
    assert circuit.heard == [(OPEN, HALF), (HALF, CLOSED)]


def test_an_early_success_closes_it_if_one_suffices():
    circuit = Circuit(success_threshold=1).opened()
    circuit.clock.advance(1)
    circuit.record(circuit.admitted(early=True))
    assert circuit.heard == [(OPEN, HALF), (HALF, CLOSED)]
    assert circuit.go() == THREADS


def test_a_busy_or_cancelled_early_trial_changes_no_state():
    circuit = Circuit().opened()
    for error in (BUSY, CANCELLED):
        circuit.clock.advance(4)
        circuit.record(circuit.admitted(early=True), error)
        assert (circuit.breaker.state, circuit.heard) == (OPEN, [])
    circuit.clock.advance(60)
    assert len(circuit.admitted()) == 1


def test_a_late_outcome_of_an_early_trial_is_ignored():
    circuit = Circuit().opened()
    circuit.clock.advance(1)
    tickets = circuit.admitted(early=True)
    assert len(circuit.half_open()) == 2
    circuit.record(tickets, OUTAGE)
    assert circuit.breaker.state == HALF


def test_the_next_time_it_is_open_as_many_may_try_early_again():
    circuit = Circuit().opened()
    circuit.clock.advance(4)
    circuit.record(circuit.admitted(early=True), OUTAGE)
    circuit.clock.advance(56)
    circuit.go(OUTAGE)
    assert circuit.breaker.state == OPEN
    for seconds in (1, 3):
        circuit.clock.advance(seconds)
        circuit.record(circuit.admitted(early=True), OUTAGE)
    circuit.clock.advance(56)
    assert len(circuit.admitted()) == 1


def test_early_trials_matter_only_while_it_is_open():
    circuit = Circuit()
    assert len(circuit.admitted(early=True)) == THREADS
    circuit.opened()
    circuit.clock.advance(60)
    assert len(circuit.admitted(early=True)) == 3
    assert circuit.admitted() == []
