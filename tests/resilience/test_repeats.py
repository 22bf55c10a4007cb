"""Retries: number, deadline and budget. Waiting is simulated unless a test says so."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import memory_storage as ms
from memory_storage.resilience import Budget, CircuitBreaker, Guard, is_retryable_read, was_not_committed
from tests.raising import raises

from .work import BUSY, CANCELLED, OUTAGE, Clock


class Work:
    """Fails with these errors, one after the other, and then does not fail any more."""

    def __init__(self, *errors: BaseException, during: Callable[[], None] = lambda: None) -> None:
        self.errors, self.calls, self.during = list(errors), 0, during

    def __call__(self) -> str:
        self.calls += 1
        self.during()
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def guard(clock: Clock | None = None, sleep: Callable[[float], None] = time.sleep, **settings: object) -> Guard:
    breaker = CircuitBreaker(ms.CircuitBreakerSettings(failure_threshold=1000))
    return Guard(breaker, ms.RetrySettings(**{"initial_backoff": 0, **settings}), clock=clock or Clock(), sleep=sleep)


def run(
    guarded: Guard, work: Work, is_retryable: Callable[[ms.UnavailableError], bool] = was_not_committed
) -> tuple[str, int]:
    """What it gives, and how often it was repeated."""
    repeats: list[None] = []
    result = guarded.run(work, is_retryable=is_retryable, on_retry=lambda: repeats.append(None))
    return result, len(repeats)


def test_a_success_is_not_repeated():
    assert run(guard(), work := Work()) == ("done", 0)
    assert work.calls == 1


@pytest.mark.parametrize("attempts", [1, 2, 3, 8])
def test_it_is_done_at_most_so_often(attempts: int):
    work = Work(*[OUTAGE] * attempts)
    with raises(ms.UnavailableError, code="CONNECTION_FAILED") as caught:
        run(guard(max_attempts=attempts), work)
    assert caught.value is OUTAGE
    assert work.calls == attempts
    assert run(guard(max_attempts=attempts), Work(*[OUTAGE] * (attempts - 1))) == ("done", attempts - 1)


def test_what_it_ends_with_is_the_last_error():
    last = ms.UnavailableError("last", code="SERVER_BUSY")
    with raises(ms.UnavailableError, code="SERVER_BUSY", match="last") as caught:
        run(guard(max_attempts=2), Work(OUTAGE, last))
    assert caught.value is last


@pytest.mark.parametrize(
    "error",
    [
        ms.CommitUnknownError("lost"),
        ms.CircuitOpenError("open", code="CIRCUIT_OPEN"),
        ms.PoolTimeoutError("none free"),
        ms.RequestTimeoutError("slow", code="REQUEST_TIMEOUT"),
        ms.UnavailableError("full", code="SQLITE_FULL"),
        ms.UnavailableError("5xx", code="SERVER_ERROR"),
        ms.ValidationError("field", "limit", "value"),
        ms.ConflictError("episode", None, expected=1, actual=2),
        CANCELLED,
        OSError("the program's own"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("first", [[], [OUTAGE]], ids=["at first", "at the second attempt"])
def test_what_may_have_happened_is_not_done_again(error: BaseException, first: list[BaseException]):
    work = Work(*first, error)
    with pytest.raises(type(error)) as caught:
        run(guard(), work)
    assert caught.value is error
    assert work.calls == len(first) + 1


@pytest.mark.parametrize(
    "code",
    ["SQLITE_BUSY", "SQLITE_LOCKED", "TRANSACTION_TIMEOUT", "TRANSACTION_BUSY", "TRANSACTION_LOST", "CONNECTION_FAILED",
     "CONNECTION_LOST", "SERVER_BUSY", "NOT_STORED"],
)  # fmt: skip
def test_what_did_not_happen_is_done_again(code: str):
    error = ms.UnavailableError("nothing happened", code=code)
    assert was_not_committed(error)
    assert run(guard(), Work(error)) == ("done", 1)
    assert run(guard(), Work(error), is_retryable_read) == ("done", 1)


def test_a_read_is_done_again_after_a_servers_failure_too():
    assert run(guard(), Work(ms.UnavailableError("500", code="SERVER_ERROR")), is_retryable_read) == ("done", 1)
    assert not is_retryable_read(ms.RequestTimeoutError("slow", code="REQUEST_TIMEOUT"))


@pytest.mark.parametrize(("taken", "calls"), [(3.0, 2), (2.4, 3), (5.0, 1), (0.0, 10)])
def test_no_attempt_begins_after_the_deadline(taken: float, calls: int):
    clock = Clock()
    work = Work(*[BUSY] * 100, during=lambda: clock.advance(taken))
    with raises(ms.UnavailableError, code="SQLITE_BUSY"):
        run(guard(clock, max_attempts=10, deadline=5.0), work)
    assert work.calls == calls


def test_a_callers_own_time_counts_too_if_it_is_shorter():
    clock = Clock()
    guarded = guard(clock, max_attempts=10, deadline=5.0)
    for seconds, calls in ((2.0, 1), (7.0, 4)):
        work = Work(*[BUSY] * 100, during=lambda: clock.advance(1.0))
        since, _ = clock.at, clock.advance(1.0)
        with raises(ms.UnavailableError, code="SQLITE_BUSY"):
            guarded.retry(
                BUSY, work, since=since, seconds=seconds, is_retryable=was_not_committed, on_retry=lambda: None
            )
        assert work.calls == calls


@pytest.mark.parametrize(("error", "shortest"), [(BUSY, 0.0), (OUTAGE, 0.75)], ids=["a lock", "an outage"])
def test_pauses_grow_and_are_spread(error: ms.UnavailableError, shortest: float):
    pauses: list[float] = []
    settings = {"max_attempts": 6, "initial_backoff": 0.1, "multiplier": 2, "max_backoff": 0.5, "budget": 10_000}
    guarded = guard(sleep=pauses.append, **settings)
    for _ in range(200):
        run(guarded, Work(*[error] * 5))
    for number, longest in enumerate((0.1, 0.2, 0.4, 0.5, 0.5)):
        found = pauses[number::5]
        assert shortest * longest <= min(found) < (shortest + 0.1) * longest
        assert 0.9 * longest < max(found) <= longest


def test_when_the_budget_is_spent_outages_are_not_repeated():
    guarded = guard(max_attempts=3, budget=4)
    attempts = 0
    for _ in range(10):
        work = Work(*[OUTAGE] * 3)
        with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
            run(guarded, work)
        attempts += work.calls
    assert attempts == 10 + 4


def test_without_a_budget_nothing_but_locks_is_repeated():
    guarded = guard(budget=0)
    assert run(guarded, Work(BUSY, BUSY)) == ("done", 2)
    with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
        run(guarded, Work(OUTAGE))


def test_locks_cost_nothing_of_it():
    guarded = guard(max_attempts=100, budget=1)
    assert run(guarded, Work(*[BUSY] * 99)) == ("done", 99)
    assert guarded.budget.left == 1


def test_ten_successes_give_one_repeat_back():
    guarded = guard(max_attempts=2, budget=2)
    for _ in range(2):
        run(guarded, Work(OUTAGE))
    assert guarded.budget.left == 0
    for _ in range(10):
        with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
            run(guarded, Work(OUTAGE))
        guarded.record(guarded.acquire())
    assert run(guarded, Work(OUTAGE)) == ("done", 1)


def test_a_budget_is_never_more_than_full():
    budget = Budget(3)
    budget.refund()
    assert (budget.left, budget.is_spent) == (3, False)
    budget.spend()
    assert (budget.left, budget.is_spent) == (2, True)
    for _ in range(11):
        budget.refund()
    assert (budget.left, budget.is_spent) == (3, False)


def test_a_guard_is_idle_before_a_failure_and_after_recovery():
    guarded = guard()
    assert guarded.is_idle
    guarded.record(guarded.acquire(), OUTAGE)
    assert not guarded.is_idle
    guarded.record(guarded.acquire())
    assert guarded.is_idle
    guarded.budget.spend()
    guarded.record(guarded.acquire(), BUSY)
    assert not guarded.is_idle
    for _ in range(10):
        assert not guarded.is_idle
        guarded.record(guarded.acquire())
    assert guarded.is_idle


def test_the_remaining_budget_is_whole_retries():
    budget = Budget(2)
    budget.spend()
    budget.refund()
    assert (budget.left, type(budget.left)) == (1, int)


@pytest.mark.parametrize("code", ["SQLITE_FULL", "TOO_LATE", "", "ANY"])
def test_a_read_that_failed_in_another_way_is_not_repeated(code: str):
    assert not is_retryable_read(ms.UnavailableError("no", code=code))
