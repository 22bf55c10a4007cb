"""The circuit breaker and the retries around one call to a database."""

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

from ._deprecation import renamed_attributes
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
"""The code of an error after which it is certain that nothing was stored, and that nothing will be."""

_OUTAGES = frozenset({"CONNECTION_FAILED", "CONNECTION_LOST", "REQUEST_TIMEOUT", "SERVER_ERROR", NOT_STORED})
_ROLLED_BACK = frozenset(
    {"SQLITE_BUSY", "SQLITE_LOCKED", "TRANSACTION_TIMEOUT", "TRANSACTION_BUSY", "TRANSACTION_LOST"}
)
_RETRYABLE = _ROLLED_BACK | {"CONNECTION_FAILED", "CONNECTION_LOST", "SERVER_BUSY", NOT_STORED}
_TRIAL_RETRY_AFTER = 1.0  # seconds: the hint while all half-open trial slots are taken
_ABANDONED_AFTER = 60.0  # seconds after which a half-open trial that reported nothing is given up
_SUCCESSES_PER_RETRY = 10  # successes that refund one retry
# The least share of a pause while a server is unreachable: random enough to spread the calls, and long enough that the
# duration of the outage that they bridge is known.
_MIN_JITTER = 0.75
_MAX_PROBE_INTERVAL = 0.5  # seconds between two probes: a server that is up for a second only must be seen
_MIN_WAIT = 0.001  # seconds
# Without early trials, a client that waits for the outcome of a write gives up before the circuit half-opens: after
# outages of 0.5 and 2 s, 4 of 8 writes without an acknowledgement stayed unknown; with them, none did.
_EARLY_TRIAL_FACTOR = 4.0  # early trials are admitted 1, 4, 16, ... seconds after the circuit opened


def is_outage(error: BaseException) -> bool:
    """Return whether an error means that the database is unreachable. Only outages count for the circuit breaker.

    An error in a response is not an outage, nor is an error of this process.
    """
    if isinstance(error, UnavailableError):
        return error.code in _OUTAGES
    return isinstance(error, CommitUnknownError)


def was_not_committed(error: UnavailableError) -> bool:
    """Return whether the write is certain not to be committed, so that it can be retried."""
    return error.code in _RETRYABLE


def is_retryable_read(error: UnavailableError) -> bool:
    """Return whether a read that failed with this error may succeed when it is retried."""
    return error.code in _RETRYABLE or error.code == "SERVER_ERROR"


class _Failed(Exception):  # noqa: N818 - never seen
    """Stands for any failure: raising the caller's error again would change its traceback."""


@renamed_attributes(enter="acquire", leave="record", confirm="recheck", quiet="is_idle", epoch="generation")
class CircuitBreaker(Unpicklable):
    """Refuse calls to a database that is unreachable, and detect when it is reachable again.

    - Closed: all calls pass. `failure_threshold` outages in a row open the circuit.
    - Open: all calls are refused for `timeout` seconds.
    - Half open: `half_open_max_calls` calls at a time pass as trials. `success_threshold` successful trials close the
      circuit, and an outage opens it again.

    The outcome of a call that began before the last change of state is ignored.

    Early trials: all but one of the trial slots may be used before `timeout` is over, by a caller that cannot come back
    later. A response then half-opens the circuit at once.

    Bridging: an outage that has just begun may be a restart, which the retries of one call would bridge. For that long
    an open circuit makes callers wait instead of refusing them. One caller at a time probes, as often as one call would
    be retried.
    """

    def __init__(
        self,
        settings: CircuitBreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings, self._clock, self._now = settings, clock, now
        # pybreaker counts outcomes and decides on the state. Admission, waiting, trials and time are decided here: it
        # knows one call at a time, and would raise errors of its own. It is created with the first failure.
        self._counter: pybreaker.CircuitBreaker | None = None
        self._state: CircuitState = "closed"
        self._opened_monotonic = self._last_trial_at = 0.0
        self._early_trials = 0  # trial slots that were used before the circuit half-opened
        self._bridge_seconds = 0.0
        self._probe_schedule: Sequence[float] = ()  # seconds after the circuit opened
        self._probes = self._trials = 0
        self._is_probing = self._answered_early = False
        self._bridged_until = float("-inf")
        self._opened_at: datetime | None = None
        self._last_failure: datetime | None = None
        self._last_error: str | None = None
        self._last_facts: tuple[str | None, int | None, str | None] = (None, None, None)
        self._pending_transitions: list[tuple[CircuitState, CircuitState]] = []
        self._listeners: list[Listener] = []
        self.is_idle = True
        """Whether the circuit is closed and no failure is counted: a call needs no admission, its success no record."""
        self.generation = 0
        """The number of changes of state."""
        self.after_fork_in_child()
        register_after_fork(self)

    @property
    def state(self) -> CircuitState:
        """ "closed", "open" or "half_open". The first call after `timeout` half-opens an open circuit."""
        return self._state

    def status(self) -> CircuitBreakerStatus:
        """Return the state and the counters as one consistent snapshot."""
        with self._lock:
            return CircuitBreakerStatus(
                state=self._state,
                failure_count=self._counter.fail_counter if self._counter else 0,
                last_failure=self._last_failure,
                last_error=self._last_error,
                opened_at=self._opened_at,
                retry_after=self._retry_after(),
                enabled=self._settings.enabled,
            )

    def reset(self) -> None:
        """Close the circuit by hand, and reset the count of failures."""
        with self._lock:
            if self._counter is not None:
                self._counter.close()
                self._sync_state(self._counter)
        self._notify()

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(old_state, new_state)` after each change of state, in the thread that caused it."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Remove a listener. ValueError if it was not added."""
        self._listeners.remove(listener)

    def _set_bridge(self, pauses: Sequence[float], *, at_most: float = float("inf")) -> None:
        """Bridge outages that the retries of one call would bridge.

        Args:
            pauses: The longest pauses between the attempts of one call, in seconds.
            at_most: The longest wait of a caller, in seconds.
        """
        self._bridge_seconds = min(sum(pauses), at_most)
        gaps = (_MIN_JITTER * min(pause, _MAX_PROBE_INTERVAL) for pause in chain(pauses, repeat(_MAX_PROBE_INTERVAL)))
        self._probe_schedule = list(takewhile(lambda moment: moment < self._bridge_seconds, accumulate(gaps)))

    @property
    def is_bridging(self) -> bool:
        """Whether the circuit is not closed, and the outage so recent that callers wait for its end."""
        return self._state != "closed" and self._clock() < self._bridged_until

    def acquire(self, *, early: bool = False, may_probe: bool = True, max_wait: float = float("inf")) -> int:
        """Admit one call.

        Args:
            early: Use a trial slot before `timeout` is over, if one is due.
            may_probe: Probe on behalf of all waiting callers whether a recent outage is over.
            max_wait: The longest wait for the end of a recent outage, in seconds.

        Returns:
            A ticket for `record`.

        Raises:
            CircuitOpenError: the circuit is open; nothing was sent.
        """
        ticket = self.generation  # read first: after a change of state in between, the ticket is an old one
        if self.is_idle:
            return ticket
        until = self._clock() + max_wait
        try:
            with self._changed:
                while not self._admit(early=early, may_probe=may_probe):
                    seconds = self._seconds_to_wait(until)
                    if seconds <= 0:
                        raise self._circuit_open_error()
                    self._changed.wait(seconds)
                return self.generation
        finally:
            self._notify()

    def recheck(self, ticket: int) -> None:
        """Check the admission again after a wait for a connection. CircuitOpenError if the circuit has opened since."""
        if ticket != self.generation and self._state != "closed":
            raise self._circuit_open_error()

    def refuse_if_open(self) -> None:
        """Raise CircuitOpenError if the circuit is open and `timeout` is not over. Admits no call."""
        if self.is_idle:
            return
        with self._lock:
            if self._retry_after() > 0:
                raise self._circuit_open_error()

    def record(
        self, ticket: int, error: BaseException | None = None, *, contacted: bool = True, admitted: bool = True
    ) -> None:
        """Record the outcome of a call. Only outages count as failures.

        Args:
            ticket: From `acquire`, or the generation in which a call began that needed no admission.
            error: The call's error, if it failed.
            contacted: Whether the database was contacted; if not, the call only releases its slot.
            admitted: Whether the ticket is from `acquire`.

        Raises:
            BaseException: A listener was interrupted. An Exception of a listener is logged.
        """
        failed = error is not None and is_outage(error)
        if self.is_idle and not failed:
            return
        answered = contacted and (error is None or isinstance(error, ConflictError))
        with self._changed:
            if ticket == self.generation and self._settings.enabled:
                if answered or self._state != "open":
                    self._half_open(early=True)  # no effect unless the circuit is still open
                    if admitted:
                        self._trials = max(0, self._trials - (self._state == "half_open"))  # a probe has no trial slot
                    if failed or answered:
                        self._count_outcome(error if failed else None)
                if admitted:
                    self._is_probing = False
                self._changed.notify_all()
        self._notify()

    def after_fork_in_child(self) -> None:
        """Create new locks, and release all trials: their holders are threads of the parent process."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._trials = 0
        self._is_probing = False

    def _admit(self, *, early: bool, may_probe: bool) -> bool:
        if self._retry_after() == 0:
            self._half_open()
        if self._state == "half_open":
            return self._trial_allowed()
        return (
            self._state == "closed" or (may_probe and self._probe_allowed()) or (early and self._early_trial_allowed())
        )

    def _half_open(self, *, early: bool = False) -> None:
        if self._state == "open" and self._counter is not None:
            self._answered_early = early
            self._counter.half_open()
            self._sync_state(self._counter)

    def _probe_allowed(self) -> bool:
        if self._is_probing or not self.is_bridging or self._clock() < self._next_probe():
            return False
        self._probes += 1
        self._is_probing = True
        return True

    def _next_probe(self) -> float:
        left = self._probe_schedule[self._probes :]
        return self._opened_monotonic + left[0] if left else float("inf")

    def _seconds_to_wait(self, until: float) -> float:
        """Return how many seconds to wait for the next possible change; 0 or less if there is nothing to wait for."""
        now, until = self._clock(), min(until, self._bridged_until)
        if self._state == "open" and not self._is_probing and now < until:
            until = min(until, max(self._next_probe(), now + _MIN_WAIT))
        return until - now

    def _early_trial_allowed(self) -> bool:
        are_left = self._early_trials < self._settings.half_open_max_calls - 1
        if not are_left or self._clock() < self._opened_monotonic + _EARLY_TRIAL_FACTOR**self._early_trials:
            return False
        self._early_trials += 1
        return True

    def _trial_allowed(self) -> bool:
        if self._trials >= self._settings.half_open_max_calls:
            if self._clock() < self._last_trial_at + _ABANDONED_AFTER:
                return False
            self._trials = 0
        self._trials += 1
        self._last_trial_at = self._clock()
        return True

    def _count_outcome(self, failure: BaseException | None) -> None:
        if failure is not None:
            self._last_failure = self._now()
            self._last_error = f"{type(failure).__name__} {getattr(failure, 'code', '')}".strip()
            facts = failure if isinstance(failure, UnavailableError) else UnavailableError
            self._last_facts = (facts.host, facts.port, facts.cause)
        counter = self._counter = self._counter or _counter(self._settings)
        # calling(), not call(), and around nothing: pybreaker counts and decides, but neither waits nor admits.
        with suppress(_Failed), counter.calling():
            if failure is not None:
                raise _Failed
        self._sync_state(counter)

    def _sync_state(self, counter: pybreaker.CircuitBreaker) -> None:
        state: Any = counter.current_state.replace("-", "_")
        if state != self._state:
            self._pending_transitions.append((self._state, state))
            is_new = self._state == "closed" or self._answered_early  # and not the outage of before
            self._state, self._trials = state, self._early_trials
            self._is_probing = False
            self.generation += 1
            if state == "open":
                self._early_trials, self._opened_monotonic, self._opened_at = 0, self._clock(), self._now()
                self._probes, self._answered_early = 0, False
                self._bridged_until = self._opened_monotonic + self._bridge_seconds if is_new else float("-inf")
        if state == "closed":
            self._opened_at = None
        self.is_idle = state == "closed" and counter.fail_counter == 0

    def _retry_after(self) -> float:
        if self._state != "open":
            return 0.0
        return max(0.0, self._opened_monotonic + self._settings.timeout - self._clock())

    def _circuit_open_error(self) -> CircuitOpenError:
        seconds = self._retry_after() or min(_TRIAL_RETRY_AFTER, self._settings.timeout)
        refusal = CircuitOpenError(
            f"the circuit breaker is {self._state.replace('_', ' ')} after {self._last_error}; nothing was sent; retry "
            f"after {seconds:.1f} s (setting: circuit_breaker.timeout)",
            code="CIRCUIT_OPEN",
            retry_after=seconds,
        )
        refusal.host, refusal.port, refusal.cause = self._last_facts
        return refusal

    def _notify(self) -> None:
        """Notify the listeners of all pending transitions, without the lock: they may call `status`."""
        while True:
            try:
                old, new = self._pending_transitions.pop(0)
            except IndexError:  # none is pending, or another thread notifies of it
                return
            _log.warning("the circuit breaker is %s, it was %s (%s)", new, old, self._last_error)
            for listener in list(self._listeners):
                try:
                    listener(old, new)
                except Exception:  # noqa: BLE001 - logged, with its traceback
                    # The caller is not responsible for it, and must not lose its result.
                    _log.exception("a listener of the circuit breaker failed")


def _counter(settings: CircuitBreakerSettings) -> pybreaker.CircuitBreaker:
    import pybreaker  # with the first failure: most programs never need it

    return pybreaker.CircuitBreaker(
        fail_max=settings.failure_threshold,
        success_threshold=settings.success_threshold,
        throw_new_error_on_trip=False,
    )


class Budget:
    """A token bucket for retries (gRPC A6): retries cannot multiply the load in an outage.

    Each retry costs one of `capacity` tokens, and each successful call refunds a tenth of one.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = self._left = capacity * _SUCCESSES_PER_RETRY
        self.is_spent = False
        """Whether any token is spent."""

    @property
    def left(self) -> int:
        """How many retries are allowed now."""
        return self._left // _SUCCESSES_PER_RETRY

    def spend(self) -> None:
        """Take one token."""
        self._left -= _SUCCESSES_PER_RETRY
        self.is_spent = True

    def refund(self) -> None:
        """Refund a tenth of a token."""
        self._left = min(self._capacity, self._left + 1)
        self.is_spent = self._left < self._capacity


class Guard:
    """The circuit breaker of one database together with the retries of its calls. A retry needs admission as well."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        retry: RetrySettings,
        *,
        max_wait: float = float("inf"),
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.breaker = breaker
        self.recheck = breaker.recheck
        self.budget = Budget(retry.budget)
        self.retry_settings = retry
        self._clock, self._sleep = clock, sleep
        self.thread = _Thread()
        breaker._set_bridge(list(_max_pauses(retry)), at_most=min(max_wait, retry.deadline))

    @property
    def is_idle(self) -> bool:
        """Whether a success need not be recorded: no recent failure, and no token spent."""
        return self.breaker.is_idle and not self.budget.is_spent

    def acquire(self, *, early: bool = False) -> int:
        """Admit one call. Waits at most until the deadline of this thread's call; see `CircuitBreaker.acquire`."""
        return self.breaker.acquire(early=early, max_wait=max(0.0, self.thread.until - self._clock()))

    def record(self, ticket: int, error: BaseException | None = None, *, contacted: bool = True) -> None:
        """Record the outcome of a call; see `CircuitBreaker.record`."""
        if error is None and self.budget.is_spent:
            self.budget.refund()
        self.breaker.record(ticket, error, contacted=contacted)

    @contextmanager
    def attempt(self, *, early: bool = False) -> Iterator[int]:
        """Admit the block as one call, yield its ticket, and record its outcome."""
        ticket = self.acquire(early=early)
        try:
            yield ticket
        except BaseException as error:
            self.record(ticket, error)
            raise
        self.record(ticket)

    @contextmanager
    def admitted_checkout(self) -> Iterator[None]:
        """Mark a connection that this thread takes in the block: its call was admitted already."""
        self.thread.is_admitted = True
        try:
            yield
        finally:
            self.thread.is_admitted = False

    def run(
        self, work: Callable[[], T], *, is_retryable: Callable[[UnavailableError], bool], on_retry: Callable[[], None]
    ) -> T:
        """Run `work`, and retry it on errors as `retry` does."""
        since = self._clock()
        try:
            return work()
        except UnavailableError as error:
            return self.retry(error, work, since=since, is_retryable=is_retryable, on_retry=on_retry)

    def retry(
        self,
        error: UnavailableError,
        work: Callable[[], T],
        *,
        since: float,
        is_retryable: Callable[[UnavailableError], bool],
        on_retry: Callable[[], None],
        seconds: float = float("inf"),
    ) -> T:
        """Run `work` again after `error`, with jittered exponential pauses.

        When the budget is spent, outages are not retried, unless the circuit breaker bridges them: then one call probes
        on behalf of all.

        Args:
            error: The error of the first attempt.
            work: The call.
            since: When the first attempt began, by this guard's clock.
            is_retryable: Whether the call may be repeated after an error.
            on_retry: Called before each retry.
            seconds: No attempt begins later than this after `since`, or than `retry.deadline`.

        Returns:
            The result of `work`.

        Raises:
            UnavailableError: the last error, after `max_attempts` attempts or at the deadline. Its `attempts` is set.
        """
        # Only backoff's arithmetic: its decorators call `asyncio.iscoroutinefunction`, which Python 3.14 deprecates.
        import backoff

        settings = self.retry_settings
        until = since + min(seconds, settings.deadline)
        pauses = backoff.expo(settings.multiplier, settings.initial_backoff, settings.max_backoff)
        next(pauses)  # yields nothing: the decorators start it that way
        attempts = 1
        while attempts < settings.max_attempts and self._may_retry(error, is_retryable):
            remaining = until - self._clock()
            if remaining <= 0:
                break
            pause = next(pauses)
            pause = backoff.full_jitter(pause) if error.code in _ROLLED_BACK else _jitter(pause)
            if _adds_load(error) and not self.breaker.is_bridging:
                self.budget.spend()
            on_retry()
            self._sleep(min(pause, remaining))
            attempts += 1
            try:
                with self._limit_start(until):
                    return work()
            except UnavailableError as last:
                error = last
        error.attempts = attempts
        raise error

    @contextmanager
    def _limit_start(self, until: float) -> Iterator[None]:
        before, self.thread.until = self.thread.until, min(until, self.thread.until)
        try:
            yield
        finally:
            self.thread.until = before

    def _may_retry(self, error: UnavailableError, is_retryable: Callable[[UnavailableError], bool]) -> bool:
        if isinstance(error, CircuitOpenError):  # the circuit opened while this call waited for a connection
            return self.breaker.is_bridging
        return is_retryable(error) and (not _adds_load(error) or self.budget.left >= 1 or self.breaker.is_bridging)


class _Thread(threading.local):
    until = float("inf")
    """When the current attempt of this thread has to begin at the latest, by the guard's clock."""
    is_admitted = False


def _max_pauses(retry: RetrySettings) -> Iterator[float]:
    """Yield the longest pause between each two attempts of one call, in seconds."""
    for number in range(retry.max_attempts - 1):
        yield min(retry.max_backoff, retry.initial_backoff * retry.multiplier**number)


def _jitter(pause: float) -> float:
    return pause * random.uniform(_MIN_JITTER, 1)  # noqa: S311 - jitter, not a secret


def _adds_load(error: UnavailableError) -> bool:
    """Return whether a retry adds load to a server in trouble: not where only a lock was in the way."""
    return error.code not in _ROLLED_BACK and not isinstance(error, CircuitOpenError)
