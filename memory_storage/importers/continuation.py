"""A session that was imported before: whether a run is a later state of it, and what it then adds."""

from __future__ import annotations

from typing import Any

from memory_storage.models import Episode, Step

from .media import is_same


class AnotherRunError(Exception):
    """A run has the id of a session, but is neither a longer nor an older state of what is stored."""


def grown(stored: Episode, run: Episode) -> Episode | None:
    """Return the stored episode with what the run adds; None if it adds nothing.

    The stored one keeps what only users write (tags, reflection, context), its start, and the times of its steps; the
    run gives what it has of the conversation, the steps, the outcome and the reward. A run that is shorter is an older
    copy.

    Raises:
        AnotherRunError: the messages or steps that both have are not the same.
    """
    _check_same_session(stored, run)
    if len(_messages(run)) < len(_messages(stored)) or len(run.steps) < len(stored.steps):
        return None
    steps = [*(_step(*pair) for pair in zip(stored.steps, run.steps, strict=False)), *run.steps[len(stored.steps) :]]
    longer = stored.model_copy(
        update={
            "task_description": run.task_description,
            "metadata": {**stored.metadata, **run.metadata},
            "steps": _in_order(steps),
            "outcome": run.outcome or stored.outcome,
            "completed_at": run.completed_at or stored.completed_at,
            "reward": run.reward or stored.reward,
        }
    )
    return None if longer == stored else longer


def _check_same_session(stored: Episode, run: Episode) -> None:
    """Compare what both have. Of a step that waited for its result only the call is compared."""
    pairs = zip(_messages(stored), _messages(run), strict=False)
    message = next((number for number, pair in enumerate(pairs, 1) if not is_same(*pair)), None)
    steps = zip(stored.steps, run.steps, strict=False)
    step = next((old.step_number for old, new in steps if not _is_same_step(old, new)), None)
    if message is None and step is None:
        return
    where = f"step {step}" if message is None else f"message {message}"
    raise AnotherRunError(
        f"another run is stored as this session (episode {stored.id}): they differ from {where} on; nothing was "
        "overwritten; give each run an id of its own, or import it without --id-field"
    )


def _is_same_step(stored: Step, run: Step) -> bool:
    is_same_call = (stored.tool, stored.parameters) == (run.tool, run.parameters)
    return is_same_call and (stored.result is None or run.result is None or stored.result == run.result)


def _messages(episode: Episode) -> list[Any]:
    conversation = episode.metadata.get("conversation")
    return conversation if isinstance(conversation, list) else []


def _step(stored: Step, run: Step) -> Step:
    return run.model_copy(update={"id": stored.id, "started_at": stored.started_at})


def _in_order(steps: list[Step]) -> list[Step]:
    """The steps with times that do not go back: an undated run is dated again with each import."""
    ordered: list[Step] = []
    for step in steps:
        latest = ordered[-1].started_at if ordered else step.started_at
        ordered.append(step if step.started_at >= latest else step.model_copy(update={"started_at": latest}))
    return ordered
