"""Checkpoints of episodes, and the package with which another agent continues from one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from .display import short_repr, shortened
from .handoff_markdown import handoff_markdown
from .model import JsonObject, Model, Timestamp, new_id
from .pattern import Pattern


class Checkpoint(Model):
    """A state of an episode from which its work can be resumed. `episodes.checkpoint` stores one.

    Attributes:
        id: a UUID of version 7 by default.
        episode_id: the episode.
        step_number: the number of the last step before it; 0: before the first.
        label: what it is called, in 1 to 200 characters.
        state: what the agent needs to continue, a JSON object. Its key "next", a text or a list of texts, says what is
            to be done next.
        created_at: when it was stored.
    """

    id: UUID = Field(default_factory=new_id)
    episode_id: UUID
    step_number: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    label: Annotated[str, Field(min_length=1, max_length=200)]
    state: JsonObject = Field(default_factory=dict)
    created_at: Timestamp | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"step_number={values.get('step_number')}", f"episode_id={str(values.get('episode_id'))!r}"]
        return short_repr("Checkpoint", values.get("id"), str(values.get("label")), facts)

    __str__ = __repr__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of checkpoints; `model_dump()` has all fields."""
        values = self.__dict__
        yield "id", values.get("id")
        yield "label", shortened(str(values.get("label")))
        yield "step_number", values.get("step_number")
        yield "episode_id", values.get("episode_id")
        yield "created_at", values.get("created_at")


class Handoff(Model):
    """What another agent, or a later session, needs to continue an episode. `episodes.handoff` makes it.

    `str(handoff)` is its Markdown, without a limit; for a prompt, write `handoff.to_markdown(max_chars=4_000)`.

    Attributes:
        episode_id: the episode.
        goal: its task.
        status: "open", or the kind of its outcome.
        checkpoint: the checkpoint from which the work continues; None if there is none.
        steps: how many steps it has, up to the checkpoint that was asked for.
        done: the latest steps that did not fail, one line each, repetitions counted; and how many came before.
        worked: what succeeded: the verdict, the completed parts, the successes and insights of the reflection; else the
            tools with their successful calls.
        failed: what did not: the reason and the failed parts of the outcome, and the latest steps that failed.
        next: what is to be done: `state["next"]` of the checkpoint, the failed parts, the improvements of the
            reflection, and the last step if it failed.
        patterns: at most five: those that were recalled for it, those that it is evidence of, and the most successful
            ones of its domain.
        state: that of the checkpoint.
    """

    episode_id: UUID
    goal: str
    status: str
    checkpoint: Checkpoint | None = None
    steps: int = 0
    done: list[str] = Field(default_factory=list)
    worked: list[str] = Field(default_factory=list)
    failed: list[str] = Field(default_factory=list)
    next: list[str] = Field(default_factory=list)
    patterns: list[Pattern] = Field(default_factory=list)
    state: JsonObject = Field(default_factory=dict)

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"status={values.get('status')!r}", f"steps={values.get('steps')}"]
        return short_repr("Handoff", values.get("episode_id"), str(values.get("goal")), facts)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self, *, max_chars: int | None = None) -> str:
        """Return it as Markdown for a prompt. Each stored text is one line and cannot change the structure.

        Args:
            max_chars: The greatest length in characters: texts are shortened first, then the oldest items are left out,
                then the last sections. None for everything.

        Returns:
            A heading, and a section for each part that is not empty.

        Raises:
            ValidationError: `max_chars` is not a whole number from 1.
        """
        return handoff_markdown(self, max_chars)
