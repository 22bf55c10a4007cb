"""A run: an episode that is recorded while the agent works on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol
from uuid import UUID

from typing_extensions import Self

from memory_storage.dbapi import Unpicklable
from memory_storage.errors import ValidationError
from memory_storage.models import Episode, Outcome, Recall, Reflection, RewardScore, Step, Success
from memory_storage.models.model import JsonObject
from memory_storage.repositories import EpisodeRepository
from memory_storage.settings import Limits

from .step_buffer import StepBuffer
from .values import Capture, Redact, error_text, note_failure

_current: ContextVar[Run | None] = ContextVar("memory_storage_run", default=None)

PARENT = "parent_episode"
"""The key in an episode's metadata with the id of the run that it was recorded in."""


class RecordingSession(Protocol):
    """What a run needs of a session."""

    @property
    def limits(self) -> Limits:
        """The limits of the storage."""
        ...

    def now(self) -> datetime:
        """Return the current time, aware."""
        ...


def current_run() -> Run | None:
    """Return the run whose block this task or thread is in; None if there is none.

    A new thread has none: start its function by `contextvars.copy_context().run(function)`.
    """
    return _current.get()


def set_current_run(run: Run | None) -> None:
    """Make a run the current one of this context."""
    _current.set(run)  # without a token: that belongs to one context, and a block may end in another


class Run(Unpicklable):
    """An episode that is recorded while its block runs: `with storage.record("task") as run`. Thread-safe.

    The episode is saved when the block is entered, and completed when it ends: with the outcome of `complete`; else as
    Success; after an exception as Failure, whose reason is the exception and whose details are the traceback. An
    interruption (KeyboardInterrupt, SystemExit, a cancelled task) is Abstained. The exception is raised further, also
    if the storage fails at that moment: its error is logged, and a note of the exception.

    What exceeds a limit of a step, or is not JSON, is replaced by a marker, and named in the step's
    `metadata["not_stored"]`.

    Attributes:
        episode: the episode as it was stored last; its steps are not updated.
        recalled: what was recalled for it, a Recall or its id, which completing it links and counts.
        used: the ids of the recalled records that the work made use of; None if that is not known.
        rating: how much the recall helped, from 1 to 5; None if that is not known.
    """

    def __init__(
        self,
        episodes: EpisodeRepository,
        session: RecordingSession,
        episode: Episode,
        redact: Redact | None = None,
        recalled: Recall | UUID | str | None = None,
        buffer: StepBuffer | None = None,
    ) -> None:
        self._episodes, self._session, self._redact, self._buffer = episodes, session, redact, buffer
        self._outer: Run | None = None
        self._is_entered = self._is_complete = False
        self._last_step = 0
        self.episode, self.recalled = episode, recalled
        self.used: Sequence[UUID | str] | None = None
        self.rating: int | None = None

    @property
    def id(self) -> UUID:
        """The id of the episode."""
        return self.episode.id

    def __enter__(self) -> Self:
        self._save({})
        set_current_run(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        set_current_run(self._outer)
        try:
            self._end(None, error)
        except Exception as problem:
            if error is None:
                raise
            # The caller's own exception is the one that is raised.
            note_failure(f"the outcome of episode {self.id} was not stored", problem, error)

    def _save(self, metadata: JsonObject) -> None:
        """Save the episode, with further metadata."""
        if self._is_entered:
            raise ValidationError("run", "was entered before: call record() for each run", str(self.id))
        self._is_entered = True
        self._outer = _current.get()
        parent: JsonObject = {} if self._outer is None else {PARENT: str(self._outer.id)}
        metadata = {**parent, **metadata, **self.episode.metadata}
        self.episode = self._episodes.save(self.episode.model_copy(update={"metadata": metadata}))

    def _end(self, output: object, error: BaseException | None) -> None:
        """Complete the episode, unless the caller has done so. Close the buffer."""
        if self._is_complete:
            if self._buffer is not None:
                self._buffer.close()
            return
        if error is None:
            self.complete(self._capture().text("verdict", output))
        else:
            self.complete(self._capture().ending(error, self._last_step))
        if self._buffer is not None:
            self._buffer.close()

    def step(
        self,
        tool: str,
        action: str = "",
        *,
        parameters: Mapping[str, Any] | None = None,
        output: object = None,
        error: str | BaseException | None = None,
        latency_ms: int = 0,
        tokens_used: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Step:
        """Append a finished step. A retry of the storage does not append it twice. A buffered run stores it later.

        Args:
            tool: The name of the tool.
            action: What was done with it.
            parameters: The arguments, by their names.
            output: The result: a text, or a value that is stored as JSON.
            error: Why the tool failed, instead of `output`; a TimeoutError is stored as a timeout.
            latency_ms: The duration in milliseconds; the step started that long ago.
            tokens_used: Tokens of the language model; None if unknown.
            metadata: Further data.

        Returns:
            The stored step, with its number; of a buffered run without.

        Raises:
            ValidationError: Both an output and an error are given, or a field is invalid.
        """
        if output is not None and error is not None:
            raise ValidationError("error", "an output or an error, not both", error)
        now, capture = self._session.now(), self._capture()
        stored = capture.json_object("parameters", parameters or {})
        step = self._make_step(capture, tool, action, stored, output, error, now, latency_ms, tokens_used, metadata)
        started_at = now - timedelta(milliseconds=step.latency_ms)
        return self._append(step.model_copy(update={"started_at": started_at}))

    def timed_step(
        self,
        tool: str,
        action: str = "",
        *,
        parameters: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TimedStep:
        """Return a block that is appended as a step when it ends: `with run.timed_step("grep") as step`.

        An exception in the block makes it a StepError, and is raised further.

        Args:
            tool: The name of the tool.
            action: What is done with it.
            parameters: The arguments, by their names.
            metadata: Further data.

        Returns:
            The block; set `output`, and `tokens_used` if it is known.

        Raises:
            ValidationError: At the end of the block: a field is invalid.
        """
        return TimedStep(self, tool, action, parameters, metadata)

    def complete(
        self,
        outcome: Outcome | str = "",
        *,
        reward: RewardScore | float | None = None,
        reflection: Reflection | None = None,
        used: Sequence[UUID | str] | None = None,
        rating: int | None = None,
    ) -> Episode:
        """Record the outcome. It stays if the block ends with an exception afterwards.

        Args:
            outcome: Success, PartialSuccess, Failure or Abstained; a text is the verdict of a Success.
            reward: The total reward, or a RewardScore with its parts.
            reflection: What was learned.
            used: The ids of the recalled records that the work made use of; by default `run.used`.
            rating: How much the recall helped, from 1 to 5; by default `run.rating`.

        Returns:
            The complete episode.

        Raises:
            ValidationError: The outcome is invalid, a limit is exceeded, or nothing was recalled that `used` or
                `rating` is about.
        """
        if self._buffer is not None:
            self._buffer.flush()
        ending = Success(verdict=self._capture().text("verdict", outcome)) if isinstance(outcome, str) else outcome
        self.episode = self._episodes.complete(
            self.id,
            ending,
            reward=reward,
            reflection=reflection,
            recalled=self.recalled,
            used=self.used if used is None else used,
            rating=self.rating if rating is None else rating,
        )
        self._is_complete = True
        return self.episode

    def _make_step(
        self,
        capture: Capture,
        tool: str,
        action: str,
        parameters: JsonObject,
        output: object,
        error: str | BaseException | None,
        started_at: datetime,
        latency_ms: int,
        tokens_used: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Step:
        """Return a step. Its parameters are converted already, by `capture`, which converts the rest."""
        result = capture.result(output, error)
        if isinstance(error, TimeoutError):  # a timeout has no message
            metadata = {"error": error_text(error), **(metadata or {})}
        return Step(
            tool=tool,
            action=action,
            parameters=parameters,
            result=result,
            started_at=started_at,
            latency_ms=latency_ms,
            tokens_used=tokens_used,
            metadata=capture.metadata(metadata),
        )

    def flush(self) -> None:
        """Store the steps of a buffered run now: see `StepBuffer.flush`. Of another one, they are stored already."""
        if self._buffer is not None:
            self._buffer.flush()

    def _append(self, step: Step) -> Step:
        if self._buffer is not None:
            self._buffer.add(step)
            self._last_step = self._buffer.pending + self._buffer.stored
            return step
        stored = self._episodes.append_step(self.id, step)
        self._last_step = max(self._last_step, stored.step_number or 0)
        return stored

    def _capture(self, redact: Redact | None = None) -> Capture:
        return Capture(self._session.limits, redact or self._redact)

    def __repr__(self) -> str:
        return f"Run({self.episode!r})"


class TimedStep:
    """A step while its block runs.

    Attributes:
        output: the result: a text, or a value that is stored as JSON.
        tokens_used: tokens of the language model; None if unknown.
        stored: the stored step, once the block has ended.
    """

    def __init__(
        self,
        run: Run,
        tool: str,
        action: str = "",
        parameters: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._run, self._tool, self._action, self._metadata = run, tool, action, metadata
        # Converted now: the block may change its parameters.
        self._capture = run._capture()
        self._parameters = self._capture.json_object("parameters", parameters or {})
        self.output: object = None
        self.tokens_used: int | None = None
        self.stored: Step | None = None

    def __enter__(self) -> Self:
        self._started_at, self._began = self._run._session.now(), perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        latency_ms = round((perf_counter() - self._began) * 1_000)
        try:
            step = self._run._make_step(
                *(self._capture, self._tool, self._action, self._parameters, self.output, error),
                *(self._started_at, latency_ms, self.tokens_used, self._metadata),
            )
            self.stored = self._run._append(step)
        except Exception as problem:  # raised, unless the caller's own exception is
            if error is None:
                raise
            note_failure(f"a step of episode {self._run.id} was not stored", problem, error)
