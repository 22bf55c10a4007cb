"""Comparison of a run with the stored state of its session, and the update that it brings."""

from __future__ import annotations

from typing import Any

from memory_storage.models import Episode, Step

from .media import is_same
from .run import DERIVED


class AnotherRunError(Exception):
    """A run has the id of a stored session, but is neither a later nor an earlier state of it."""


def grown(stored: Episode, run: Episode) -> Episode | None:
    """Return the stored episode with what the run adds; None if it adds nothing.

    The result keeps the stored tags, reflection, context, start and times of the steps, which users may have edited. It
    takes the conversation, steps, outcome and reward of the run. A shorter run is an older copy and adds nothing.

    Raises:
        AnotherRunError: messages or steps that both have differ.
    """
    _check_same_session(stored, run)
    if len(_messages(run)) < len(_messages(stored)) or len(run.steps) < len(stored.steps):
        return None
    known = zip(stored.steps, run.steps, strict=False)
    steps = [new.model_copy(update={"id": old.id, "started_at": old.started_at}) for old, new in known]
    steps += run.steps[len(stored.steps) :]
    longer = stored.model_copy(
        update={
            "task_description": run.task_description,
            "metadata": _metadata(stored, run),
            "steps": _in_order(steps),
            "outcome": run.outcome or stored.outcome,
            "completed_at": run.completed_at or stored.completed_at,
            "reward": run.reward or stored.reward,
        }
    )
    return None if longer == stored else longer


def is_unchanged(head: Episode, run: Episode) -> bool:
    """Return whether the run adds nothing to the stored episode, which may be without its steps."""
    fields = ("task_description", "outcome", "reward", "completed_at")
    states = ((getattr(head, name), getattr(run, name)) for name in fields)
    has_same_state = all(new in (None, old) for old, new in states)
    return has_same_state and is_same(head.metadata, _metadata(head, run))


def _metadata(stored: Episode, run: Episode) -> dict[str, Any]:
    """Return the metadata of both. A session that was resumed in another file has its earlier tasks there too."""
    lasting = {name: value for name, value in stored.metadata.items() if name not in DERIVED}
    origin = {name: stored.metadata[name] for name in ("session_id",) if name in stored.metadata}
    return {**lasting, **run.metadata, **origin}


def _check_same_session(stored: Episode, run: Episode) -> None:
    """Compare what both have; of a step whose result is missing in one of them, only the call."""
    pairs = zip(_messages(stored), _messages(run), strict=False)
    message = next((number for number, pair in enumerate(pairs, 1) if not is_same(*pair)), None)
    steps = zip(stored.steps, run.steps, strict=False)
    step = next((old.step_number for old, new in steps if not _is_same_step(old, new)), None)
    if message is None and step is None:
        return
    where = f"step {step}" if message is None else f"message {message}"
    raise AnotherRunError(
        f"another run is stored as this session (episode {stored.id}): they differ from {where} on; nothing was "
        "overwritten; give each run its own id, or import it without --id-field"
    )


def _is_same_step(stored: Step, run: Step) -> bool:
    is_same_call = (stored.tool, stored.parameters) == (run.tool, run.parameters)
    return is_same_call and (stored.result is None or run.result is None or stored.result == run.result)


def _messages(episode: Episode) -> list[Any]:
    conversation = episode.metadata.get("conversation")
    return conversation if isinstance(conversation, list) else []


def _in_order(steps: list[Step]) -> list[Step]:
    """Return the steps with non-decreasing times: an undated run gets new times at each import."""
    ordered: list[Step] = []
    for step in steps:
        latest = ordered[-1].started_at if ordered else step.started_at
        ordered.append(step if step.started_at >= latest else step.model_copy(update={"started_at": latest}))
    return ordered
