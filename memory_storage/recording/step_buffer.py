"""`storage.buffered_steps`: collects the steps of an episode, and stores many of them in one round trip."""

from __future__ import annotations

import atexit
import logging
import threading
from time import monotonic
from types import TracebackType
from typing import NamedTuple
from uuid import UUID
from weakref import ref

from typing_extensions import Self

from memory_storage._formatting import counted
from memory_storage.dbapi import Unpicklable, register_after_fork
from memory_storage.errors import ConflictError, UnavailableError, ValidationError
from memory_storage.models import Step
from memory_storage.monitoring import Meter
from memory_storage.repositories import EpisodeRepository
from memory_storage.repositories.steps.appending import encode_appended
from memory_storage.sql.episode_rows import bytes_of_step, steps_of_values
from memory_storage.sql.validation import finite, whole

from .values import note_failure

_log = logging.getLogger("memory_storage.recording")

_MOST_WAITING = 4  # times `max_steps` and `max_bytes`: what waits while a thread flushes
_LONGEST_PAUSE = 60.0  # seconds between two attempts of the thread


class _Pending(NamedTuple):
    step: Step
    size: int
    added_at: float


class StepBuffer(Unpicklable):
    """Steps of an episode that are stored later, many in one round trip: `with storage.buffered_steps(id) as buffer`.

    `add` takes a step; `flush` returns once all steps that were added before are stored, each once, whatever attempts
    it took. A thread flushes when `max_steps` or `max_bytes` wait, or the oldest step has waited for `max_seconds`;
    it begins with the first step, and ends when none waits. The buffer is flushed too when its block ends, when the
    storage is closed, and when the interpreter exits, but not if the process is killed.

    A flush that fails keeps the steps, and a later one stores them. If the thread's fails, the next `add` flushes
    first, and raises what fails now. While four times `max_steps` or `max_bytes` wait, `add` flushes first too.

    Thread-safe. A forked child begins with an empty buffer: the parent stores what waits.

    Attributes:
        episode_id: the ID of the episode.
        max_steps: how many steps may wait before the thread flushes.
        max_bytes: how many bytes of steps may wait, and about as many go into one round trip.
        max_seconds: how long a step waits; None: no thread flushes, and `add` does when the buffer is full.
    """

    def __init__(
        self,
        episodes: EpisodeRepository,
        episode_id: UUID,
        *,
        max_steps: int = 1_000,
        max_bytes: int = 4_000_000,
        max_seconds: float | None = 1.0,
    ) -> None:
        self._episodes = episodes
        if max_seconds is not None and finite("max_seconds", max_seconds) <= 0:
            raise ValidationError("max_seconds", "a number of seconds above 0, or None", max_seconds)
        self.episode_id = episode_id
        max_steps, max_bytes = whole("max_steps", max_steps), whole("max_bytes", max_bytes)
        self.max_steps = max_steps
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self._most = 1 if max_seconds is None else _MOST_WAITING
        self._stored = 0
        self._is_closed = False
        self._reset()
        self._after_fork = _AfterFork(self)

    def _reset(self) -> None:
        """Hold no step; in a forked child they are the parent's. Make the lock, and know that there is no thread."""
        self._condition = threading.Condition()  # not held while a statement runs
        self._pending: dict[UUID, _Pending] = {}
        self._pending_bytes = 0
        self._sender: int | None = None  # the thread that stores steps now
        self._thread: threading.Thread | None = None
        self._failures = 0  # of the thread, since the last success
        self._not_before = 0.0
        self._has_failed = False
        _waiting.discard(self)

    @property
    def pending(self) -> int:
        """How many steps are not stored yet."""
        return len(self._pending)

    @property
    def stored(self) -> int:
        """How many steps this buffer has stored."""
        return self._stored

    def add(self, step: Step) -> None:
        """Take a step, which is stored later. Adding it again (by its ID) does nothing.

        Args:
            step: The step, without a number. A copy is kept: what the caller changes later is not stored.

        Raises:
            ValidationError: The step has a number already, or exceeds a limit.
            ConflictError: Another step with this ID waits.
            UnavailableError: The buffer is closed.
            MemoryStorageError: A flush that was needed first has failed, see `flush`. The step is not taken; those
                before are kept.
        """
        rows = encode_appended(self._episodes._session, [step])
        size = bytes_of_step(rows[0])
        # While this thread flushes, a log handler may add a step for what it logs of that.
        if (self._has_failed or self._is_full(size)) and self._sender != threading.get_ident():
            self.flush()
        copy = steps_of_values(rows, [1])[0].model_copy(update={"step_number": None})
        with self._condition:
            if self._is_closed:
                raise UnavailableError("the buffer is closed; the step is not taken; open another one")
            waiting = self._pending.get(copy.id)
            if waiting is not None:
                if waiting.step != copy:
                    raise ConflictError("step", copy.id, expected=0, actual=None, detail="another step has this id")
                return
            self._pending[copy.id] = _Pending(copy, size, monotonic())
            self._pending_bytes += size
            _waiting.add(self)
            starts = self._wake()
        if starts is not None:
            self._start(starts)

    def flush(self) -> None:
        """Store all steps that were added before. Each is stored once, also if an earlier attempt had no answer.

        Raises:
            NotFoundError: The episode does not exist.
            ConflictError: Another step has the ID of one of them.
            ValidationError: The episode would have too many steps.
            UnavailableError: The database cannot be reached; or this thread is flushing already. After any error the
                steps are kept: flush again, or take them out by `discard`.
        """
        with self._condition:
            last = next(reversed(self._pending), None)
            self._has_failed = False
        while last is not None and self._send(last):
            pass

    def discard(self) -> list[Step]:
        """Remove the steps that wait, and return them: for a buffer whose episode was deleted.

        They may be stored all the same, if an attempt to store them had no answer.
        """
        with self._condition:
            while self._sender not in (None, threading.get_ident()):
                self._condition.wait()
            steps = [one.step for one in self._pending.values()]
            self._forget(list(self._pending))
            self._has_failed = False
        return steps

    def close(self) -> None:
        """Flush, and take no more steps. Idempotent.

        Raises:
            MemoryStorageError: As `flush`. The buffer is still open, and keeps the steps.
        """
        while True:
            self.flush()
            with self._condition:
                if not self._pending:  # else another thread has added one
                    self._is_closed = True
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as problem:
            if error is None:
                raise
            # The caller's own exception is the one that is raised.
            note_failure(f"{counted(self.pending, 'step')} of episode {self.episode_id} not stored yet", problem, error)

    def __repr__(self) -> str:
        return f"StepBuffer({str(self.episode_id)!r}, pending={self.pending}, stored={self.stored})"

    def _is_full(self, size: int) -> bool:
        count, bytes_ = self._most * self.max_steps, self._most * self.max_bytes
        return len(self._pending) >= count or (self._pending_bytes > 0 and self._pending_bytes + size > bytes_)

    def _send(self, last: UUID) -> bool:
        """Store a batch of the steps that wait. Returns whether more of those up to `last` may wait."""
        me = threading.get_ident()
        try:
            with self._condition:
                if self._sender == me:
                    raise UnavailableError("this thread is flushing the buffer already; the steps are kept")
                while self._sender is not None:
                    self._condition.wait()
                if last not in self._pending:
                    return False
                self._sender = me
                batch = self._next_batch()
            self._episodes.append_steps(self.episode_id, batch)
            with self._condition:
                self._forget([step.id for step in batch])
                self._stored += len(batch)
                self._failures, self._not_before = 0, 0.0
            return True
        finally:
            # In any case, also if an interruption comes between two statements: others wait for it.
            with self._condition:
                if self._sender == me:
                    self._sender = None
                    self._condition.notify_all()

    def _next_batch(self) -> list[Step]:
        batch: list[Step] = []
        total = 0
        for one in self._pending.values():
            total += one.size
            if batch and total > self.max_bytes:
                break
            batch.append(one.step)
        return batch

    def _forget(self, ids: list[UUID]) -> None:
        for one in ids:
            if (stored := self._pending.pop(one, None)) is not None:
                self._pending_bytes -= stored.size
        if not self._pending:
            _waiting.discard(self)
            self._condition.notify_all()  # the thread ends

    def _wake(self) -> threading.Thread | None:
        """Have the thread flush if enough steps wait; returns a new thread to start if there is none."""
        if self.max_seconds is None:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memory-storage-steps", daemon=True)
            return self._thread
        if len(self._pending) >= self.max_steps or self._pending_bytes >= self.max_bytes:
            self._condition.notify_all()
        return None

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError:  # the interpreter exits, or has no more threads
            with self._condition:
                self._thread = None
            self.flush()

    def _run(self) -> None:
        while self._wait_until_due():
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001 - the next `add` meets it, and it is logged
                with self._condition:
                    self._has_failed = bool(self._pending)
                    self._failures += 1
                    pause = max(self.max_seconds or 0.0, 1.0) * 2.0 ** min(self._failures - 1, 10)
                    self._not_before = monotonic() + min(pause, _LONGEST_PAUSE)
                if self._failures == 1:
                    what = f"{counted(self.pending, 'step')} of episode {self.episode_id}"
                    _log.warning("%s not stored yet, and kept: %s: %s", what, type(error).__name__, error)

    def _wait_until_due(self) -> bool:
        """Wait until the thread has to flush; False if no step waits, and the thread ends."""
        with self._condition:
            while self._pending:
                is_full = len(self._pending) >= self.max_steps or self._pending_bytes >= self.max_bytes
                oldest = next(iter(self._pending.values()))
                due = 0.0 if is_full else oldest.added_at + (self.max_seconds or 0.0)
                seconds = max(due, self._not_before) - monotonic()
                if seconds <= 0:
                    return True
                self._condition.wait(seconds)
            self._thread = None
            return False


class _AfterFork:
    """Resets a buffer in a forked child."""

    def __init__(self, buffer: StepBuffer) -> None:
        self._buffer = ref(buffer)
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Reset the buffer, if there still is one."""
        if (buffer := self._buffer()) is not None:
            buffer._reset()


_waiting: set[StepBuffer] = set()
"""The buffers that hold steps: a strong reference, so that a buffer that is lost to its owner is flushed too."""


def flush_buffers(meter: Meter) -> None:
    """Flush the buffers of a storage that is closed; what fails is logged.

    Args:
        meter: That of the storage, which all its views share.
    """
    for buffer in list(_waiting):
        if buffer._episodes._session.meter is meter:
            _flush_last(buffer)


@atexit.register
def _flush_at_exit() -> None:
    for buffer in list(_waiting):
        _flush_last(buffer)


def _flush_last(buffer: StepBuffer) -> None:
    try:
        buffer.flush()
    except Exception as error:  # noqa: BLE001 - closing and exiting must not fail
        what = f"{counted(buffer.pending, 'step')} of episode {buffer.episode_id}"
        _log.error("%s not stored: %s: %s", what, type(error).__name__, error)
