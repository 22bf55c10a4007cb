"""A session that was imported before, and is longer now."""

from __future__ import annotations

from memory_storage.models import Episode, Step


def grown(stored: Episode, run: Episode) -> Episode | None:
    """The stored episode with what the run has more; None if it has nothing more.

    The stored one keeps what only users write (tags, reflection, context), its start, and the times of its steps; the
    run gives what it has of the conversation, the steps, the outcome and the reward. A run that is shorter is an older
    copy.
    """
    if _messages(run) < _messages(stored) or len(run.steps) < len(stored.steps):
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


def _messages(episode: Episode) -> int:
    conversation = episode.metadata.get("conversation")
    return len(conversation) if isinstance(conversation, list) else 0


def _step(stored: Step, run: Step) -> Step:
    return run.model_copy(update={"id": stored.id, "started_at": stored.started_at})


def _in_order(steps: list[Step]) -> list[Step]:
    """The steps with times that do not go back: an undated run is dated again with each import."""
    ordered: list[Step] = []
    for step in steps:
        latest = ordered[-1].started_at if ordered else step.started_at
        ordered.append(step if step.started_at >= latest else step.model_copy(update={"started_at": latest}))
    return ordered
