"""The circuit breaker and repeats around one call to a database. Knows nothing of SQL."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import accumulate, chain, repeat, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from .dbapi import Unpicklable, register_after_fork
from .errors import CircuitOpenError, CommitUnknownError, ConflictError, UnavailableError
from .models import CircuitBreakerStatus, CircuitState, utc_now
from .settings import CircuitBreakerSettings, RetrySettings

if TYPE_CHECKING:
    import pybreaker

T = TypeVar("T")
Listener = Callable[[CircuitState, CircuitState], None]

_log = logging.getLogger(__name__)

NOT_STORED = "NOT_STORED"
"""The code of an error after which it is certain that nothing was stored, and nothing will be."""

_OUTAGES = frozenset({"CONNECTION_FAILED", "CONNECTION_LOST", "REQUEST_TIMEOUT", "SERVER_ERROR", NOT_STORED})
_TAKEN_BACK = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "TRANSACTION_TIMEOUT", "TRANSACTION_BUSY", "TRANSACTION_LOST"})
_HARMLESS = _TAKEN_BACK | {"CONNECTION_FAILED", "CONNECTION_LOST", "SERVER_BUSY", NOT_STORED}
_TRIAL = 1.0  # seconds until somebody who may not try may ask how those who do have fared
_LOST = 60.0  # seconds after which one who tries, and has said nothing, is not waited for: he was interrupted
_SUCCESSES = 10  # that give one repeat back
_SHORTEST = 0.75  # of a pause while a server is away: to spread calls, and still to know how long they bridge
_PROBE_EVERY = 0.5  # seconds at most between two probes: a server that is up only for a second must be seen
_SOON = 0.001  # seconds
_LATER = 4.0  # times as long after it opened as the one before comes each who tries early; the first after a second


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the database is not there. Only these count for the circuit breaker.

    Nothing that a database has answered is one, and nothing that this process did to itself.
    """
    if isinstance(error, UnavailableError):
        return error.code in _OUTAGES
    return isinstance(error, CommitUnknownError)


def nothing_happened(error: UnavailableError) -> bool:
    """Whether what was begun is certain not to be committed. If it is not, that is a CommitUnknownError."""
    return error.code in _HARMLESS


def only_read(error: UnavailableError) -> bool:
    """Whether a read that failed so may go better next time."""
    return error.code in _HARMLESS or error.code == "SERVER_ERROR"


class _Failed(Exception):  # noqa: N818 - never seen
    """Stands for any failure: to raise the caller's error once more would change its traceback."""


class CircuitBreaker(Unpicklable):
    """Stops asking a database that does not answer, and finds out when it answers again.

    Closed, it lets all calls through; `failure_threshold` outages in a row open it. Open, it refuses all for `timeout`
    seconds. Then it is half open: `half_open_max_calls` calls at a time are let through to try. `success_threshold`
    of them that go well close it, and an outage opens it again. What began before it changed tells it nothing.
    All of those but one may try before their time, for a caller who cannot come back later: if there is an answer, it
    is half open from then on.

    An outage that has just begun may be a restart, which the repeats of one call would bridge (see `bridge`). For that
    long an open circuit lets callers wait in place of refusing them, and one of them at a time probes, as often as one
    call would be repeated.
    """

    def __init__(
        self,
        settings: CircuitBreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings, self._clock, self._now = settings, clock, now
        self._machine: pybreaker.CircuitBreaker | None = None  # made with the first failure
        self._state: CircuitState = "closed"
        self._opened = self._tried = 0.0
        self._early = 0  # of those who may try when it is half open, how many have done so before
        self._bridged = 0.0  # seconds
        self._probe_after: Sequence[float] = ()  # seconds after it opened
        self._probes = self._trials = 0
        self._is_probing = self._answered_early = False
        self._bridged_until = float("-inf")
        self._opened_at: datetime | None = None
        self._last_failure: datetime | None = None
        self._last_error: str | None = None
        self._last_facts: tuple[str | None, int | None, str | None] = (None, None, None)
        self._news: list[tuple[CircuitState, CircuitState]] = []
        self._listeners: list[Listener] = []
        self.quiet = True
        """Whether it is closed and counts no failure: a call has nothing to ask, and its success tells nothing."""
        self.epoch = 0
        """Grows with every change of state."""
        self.after_fork_in_child()
        register_after_fork(self)

    @property
    def state(self) -> CircuitState:
        """ "closed", "open" or "half_open". It leaves "open" with the first call after its time."""
        return self._state

    def status(self) -> CircuitBreakerStatus:
        """All that it knows, at one moment."""
        with self._lock:
            return CircuitBreakerStatus(
                state=self._state,
                failure_count=self._machine.fail_counter if self._machine else 0,
                last_failure=self._last_failure,
                last_error=self._last_error,
                opened_at=self._opened_at,
                retry_after=self._retry_after(),
                enabled=self._settings.enabled,
            )

    def reset(self) -> None:
        """Close it by hand, and forget the failures that it counts."""
        with self._lock:
            if self._machine is not None:
                self._machine.close()
                self._follow(self._machine)
        self._tell()

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(old_state, new_state)` after each change, in the thread that made it."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Call it no more. ValueError if it is none."""
        self._listeners.remove(listener)

    def _bridge(self, pauses: Sequence[float], *, at_most: float = float("inf")) -> None:
        """Bridge outages as long as these pauses together, those between the attempts of one call.

        Args:
            pauses: Seconds, each at its longest.
            at_most: Seconds that no caller waits longer than.
        """
        self._bridged = min(sum(pauses), at_most)
        gaps = (_SHORTEST * min(pause, _PROBE_EVERY) for pause in chain(pauses, repeat(_PROBE_EVERY)))
        self._probe_after = list(takewhile(lambda moment: moment < self._bridged, accumulate(gaps)))

    @property
    def is_bridging(self) -> bool:
        """Whether it is not closed, and the outage so young that callers wait for its end."""
        return self._state != "closed" and self._clock() < self._bridged_until

    def enter(self, *, early: bool = False, probes: bool = True, patience: float = float("inf")) -> int:
        """Ask to be let through. Gives a ticket, for `leave`. CircuitOpenError if the circuit is open.

        Args:
            early: To try before its time, now and then, in place of one who would try later.
            probes: Whether to find out, in place of all who wait, if an outage that has just begun is over.
            patience: Seconds to wait at most for the end of such an outage.
        """
        ticket = self.epoch  # before it is looked at: if it changes in between, the ticket is an old one
        if self.quiet:
            return ticket
        until = self._clock() + patience
        try:
            with self._changed:
                while not self._admits(early=early, probes=probes):
                    seconds = self._seconds_to_wait(until)
                    if seconds <= 0:
                        raise self._refusal()
                    self._changed.wait(seconds)
                return self.epoch
        finally:
            self._tell()

    def confirm(self, ticket: int) -> None:
        """Ask once more, after a wait for a connection. CircuitOpenError if the circuit has opened meanwhile."""
        if ticket != self.epoch and self._state != "closed":
            raise self._refusal()

    def refuse_if_open(self) -> None:
        """Raise CircuitOpenError if the circuit is open and its time is not over. Admits no call."""
        if self.quiet:
            return
        with self._lock:
            if self._retry_after() > 0:
                raise self._refusal()

    def leave(
        self, ticket: int, error: BaseException | None = None, *, asked: bool = True, admitted: bool = True
    ) -> None:
        """Say how it went. Unless the database was `asked`, or with an error that says nothing of it, only that.

        `admitted`: whether `enter` gave the ticket; else it is the epoch in which a call began that needed none.
        """
        failed = error is not None and is_outage(error)
        if self.quiet and not failed:
            return
        answered = asked and (error is None or isinstance(error, ConflictError))
        with self._changed:
            if ticket == self.epoch and self._settings.enabled:
                if answered or self._state != "open":
                    self._half_open(early=True)  # if it is still open
                    if admitted:
                        self._trials = max(0, self._trials - (self._state == "half_open"))  # a probe is not one of them
                    if failed or answered:
                        self._count(error if failed else None)
                if admitted:
                    self._is_probing = False
                self._changed.notify_all()
        self._tell()

    def after_fork_in_child(self) -> None:
        """The lock may be a thread's that is not there; and nobody tries."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._trials = 0
        self._is_probing = False

    def _admits(self, *, early: bool, probes: bool) -> bool:
        if self._retry_after() == 0:
            self._half_open()
        if self._state == "half_open":
            return self._may_try()
        return self._state == "closed" or (probes and self._may_probe()) or (early and self._may_try_early())

    def _half_open(self, *, early: bool = False) -> None:
        if self._state == "open" and self._machine is not None:
            self._answered_early = early
            self._machine.half_open()
            self._follow(self._machine)

    def _may_probe(self) -> bool:
        if self._is_probing or not self.is_bridging or self._clock() < self._next_probe():
            return False
        self._probes += 1
        self._is_probing = True
        return True

    def _next_probe(self) -> float:
        left = self._probe_after[self._probes :]
        return self._opened + left[0] if left else float("inf")

    def _seconds_to_wait(self, until: float) -> float:
        """How long to wait until something may have changed; none if there is nothing to wait for."""
        now, until = self._clock(), min(until, self._bridged_until)
        if self._state == "open" and not self._is_probing and now < until:
            until = min(until, max(self._next_probe(), now + _SOON))
        return until - now

    def _may_try_early(self) -> bool:
        are_left = self._early < self._settings.half_open_max_calls - 1
        if not are_left or self._clock() < self._opened + _LATER**self._early:
            return False
        self._early += 1
        return True

    def _may_try(self) -> bool:
        if self._trials >= self._settings.half_open_max_calls:
            if self._clock() < self._tried + _LOST:
                return False
            self._trials = 0
        self._trials += 1
        self._tried = self._clock()
        return True

    def _count(self, failure: BaseException | None) -> None:
        if failure is not None:
            self._last_failure = self._now()
            self._last_error = f"{type(failure).__name__} {getattr(failure, 'code', '')}".strip()
            facts = failure if isinstance(failure, UnavailableError) else UnavailableError
            self._last_facts = (facts.host, facts.port, facts.cause)
        machine = self._machine = self._machine or _machine(self._settings)
        # calling(), not call(), and around nothing: pybreaker counts and decides, but neither waits nor admits.
        with suppress(_Failed), machine.calling():
            if failure is not None:
                raise _Failed
        self._follow(machine)

    def _follow(self, machine: pybreaker.CircuitBreaker) -> None:
        state: Any = machine.current_state.replace("-", "_")
        if state != self._state:
            self._news.append((self._state, state))
            is_new = self._state == "closed" or self._answered_early  # and not the outage of before
            self._state, self._trials = state, self._early
            self._is_probing = False
            self.epoch += 1
            if state == "open":
                self._early, self._opened, self._opened_at = 0, self._clock(), self._now()
                self._probes, self._answered_early = 0, False
                self._bridged_until = self._opened + self._bridged if is_new else float("-inf")
        if state == "closed":
            self._opened_at = None
        self.quiet = state == "closed" and machine.fail_counter == 0

    def _retry_after(self) -> float:
        if self._state != "open":
            return 0.0
        return max(0.0, self._opened + self._settings.timeout - self._clock())

    def _refusal(self) -> CircuitOpenError:
        seconds = self._retry_after() or min(_TRIAL, self._settings.timeout)
        refusal = CircuitOpenError(
            f"the circuit breaker is {self._state.replace('_', ' ')} after {self._last_error}: the database was not "
            f"asked; come back in {seconds:.1f} s (setting: circuit_breaker.timeout)",
            code="CIRCUIT_OPEN",
            retry_after=seconds,
        )
        refusal.host, refusal.port, refusal.cause = self._last_facts
        return refusal

    def _tell(self) -> None:
        """Tell the listeners, without the lock: they may ask for the status."""
        while True:
            try:
                old, new = self._news.pop(0)
            except IndexError:  # there are none, or another thread was first
                return
            _log.warning("the circuit breaker is %s, it was %s (%s)", new, old, self._last_error)
            for listener in list(self._listeners):
                try:
                    listener(old, new)
                except Exception:  # noqa: BLE001 - logged, with its traceback
                    # Whoever made the call cannot help it, and must not lose his answer.
                    _log.exception("a listener of the circuit breaker failed")


def _machine(settings: CircuitBreakerSettings) -> pybreaker.CircuitBreaker:
    import pybreaker  # when it is needed: an import costs more than most programs ever fail

    return pybreaker.CircuitBreaker(
        fail_max=settings.failure_threshold,
        success_threshold=settings.success_threshold,
        throw_new_error_on_trip=False,
    )


class Budget:
    """What repeats may cost, so that they cannot multiply the load in an outage; as in gRPC (A6, "throttling").

    Each repeat takes one of `most`, and each call that goes well gives a tenth back.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most * _SUCCESSES
        self.is_spent = False
        """Whether some of it is."""

    @property
    def left(self) -> int:
        """How many repeats there may be."""
        return self._left // _SUCCESSES

    def spend(self) -> None:
        """Take what one repeat costs."""
        self._left -= _SUCCESSES
        self.is_spent = True

    def refund(self) -> None:
        """Give back what one success is worth."""
        self._left = min(self._most, self._left + 1)
        self.is_spent = self._left < self._most


class Guard:
    """What stands before one database: its circuit breaker, and how calls are repeated. A repeat passes it too."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        retry: RetrySettings,
        *,
        patience: float = float("inf"),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.breaker = breaker
        self.confirm = breaker.confirm
        self.budget = Budget(retry.budget)
        self.retry = retry
        self._clock = clock
        self._here = _Limit()
        breaker._bridge(list(_pauses(retry)), at_most=min(patience, retry.deadline))

    @property
    def is_calm(self) -> bool:
        """Whether there is nothing to learn from a success: nothing went wrong of late."""
        return self.breaker.quiet and not self.budget.is_spent

    def enter(self, *, early: bool = False) -> int:
        """Ask the circuit breaker to be let through, and wait until this call's time is over at most."""
        return self.breaker.enter(early=early, patience=max(0.0, self._here.until - self._clock()))

    def leave(self, ticket: int, error: BaseException | None = None, *, asked: bool = True) -> None:
        """Say how a call went; see `CircuitBreaker.leave`."""
        if error is None and self.budget.is_spent:
            self.budget.refund()
        self.breaker.leave(ticket, error, asked=asked)

    @contextmanager
    def taking_connection(self) -> Iterator[None]:
        """Mark the connection that this thread takes in the block as one for a call that was admitted already."""
        self._here.was_admitted = True
        try:
            yield
        finally:
            self._here.was_admitted = False

    @property
    def was_admitted(self) -> bool:
        """Whether this thread is in such a block."""
        return self._here.was_admitted

    def run(
        self, work: Callable[[], T], *, is_safe: Callable[[UnavailableError], bool], on_repeat: Callable[[], None]
    ) -> T:
        """Do `work`, and again as `again` does."""
        since = self._clock()
        try:
            return work()
        except UnavailableError as error:
            return self.again(error, work, since=since, is_safe=is_safe, on_repeat=on_repeat)

    def again(
        self,
        error: UnavailableError,
        work: Callable[[], T],
        *,
        since: float,
        is_safe: Callable[[UnavailableError], bool],
        on_repeat: Callable[[], None],
        seconds: float = float("inf"),
    ) -> T:
        """What `work` gives when it is done again after `error`, with jitter between the attempts.

        It is done as long as each error `is_safe` to repeat, at most `max_attempts` times in all. No attempt begins
        `seconds`, or `retry.deadline`, after `since`. When the budget is spent, outages are not repeated, unless the
        circuit breaker bridges them: then one call's probe is in place of all. What it ends with is the last error.
        """
        import backoff

        settings = self.retry
        until = since + min(seconds, settings.deadline)
        errors, attempts = [error], [1]

        def attempt() -> T:
            if errors:
                raise errors[0]
            attempts[0] += 1
            with self._limited(until):
                return work()

        def gives_up(last: Any) -> bool:
            errors[:] = [last]
            return not self._may_repeat(last, is_safe) or self._clock() >= until

        def repeats(_: Any) -> None:
            if _loads(errors.pop()) and not self.breaker.is_bridging:
                self.budget.spend()
            on_repeat()

        def jitter(pause: float) -> float:
            return backoff.full_jitter(pause) if errors[0].code in _TAKEN_BACK else _spread(pause)

        again: Callable[[], T] = backoff.on_exception(
            backoff.expo,
            UnavailableError,
            max_tries=settings.max_attempts,
            max_time=max(0.0, until - self._clock()),
            giveup=gives_up,
            on_backoff=repeats,
            jitter=jitter,
            base=settings.multiplier,
            factor=settings.initial_backoff,
            max_value=settings.max_backoff,
            logger=None,
        )(attempt)
        try:
            return again()
        except UnavailableError as last:
            last.attempts = attempts[0]
            raise

    @contextmanager
    def _limited(self, until: float) -> Iterator[None]:
        before, self._here.until = self._here.until, min(until, self._here.until)
        try:
            yield
        finally:
            self._here.until = before

    def _may_repeat(self, error: UnavailableError, is_safe: Callable[[UnavailableError], bool]) -> bool:
        if isinstance(error, CircuitOpenError):  # it opened while this call waited for a connection
            return self.breaker.is_bridging
        return is_safe(error) and (not _loads(error) or self.budget.left >= 1 or self.breaker.is_bridging)


class _Limit(threading.local):
    until = float("inf")
    """By when the attempt that this thread makes has to begin."""
    was_admitted = False


def _pauses(retry: RetrySettings) -> Iterator[float]:
    """Those between the attempts of one call, each at its longest."""
    for number in range(retry.max_attempts - 1):
        yield min(retry.max_backoff, retry.initial_backoff * retry.multiplier**number)


def _spread(pause: float) -> float:
    return pause * random.uniform(_SHORTEST, 1)  # noqa: S311 - jitter, not a secret


def _loads(error: UnavailableError) -> bool:
    """Whether to repeat after it is load for a server that has enough: not where only a lock was in the way."""
    return error.code not in _TAKEN_BACK and not isinstance(error, CircuitOpenError)
