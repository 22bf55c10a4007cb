"""The texts that are embedded by default."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.models import AnyPattern, Episode, Playbook, Step


def text_of(item: Episode | Step | AnyPattern) -> str:
    """Return the text of an item that is embedded by default: task, outcome and summary of an episode, untruncated."""
    if isinstance(item, Episode):
        return "\n".join(_of_episode(item))
    if isinstance(item, Step):
        return "\n".join(_of_step(item))
    if isinstance(item, Playbook):
        return "\n".join(_of_playbook(item))
    skipped = {"id", "version", "context", "evidence", "metadata", "effectiveness", "created_at", "updated_at", "kind"}
    return "\n".join(_texts(value for name, value in item if name not in skipped))


def _of_episode(episode: Episode) -> Iterator[str]:
    context, outcome = episode.context, episode.outcome
    yield episode.task_description
    yield " ".join(_texts((context.domain, context.language, context.framework, episode.tags)))
    for name in ("verdict", "reason", "error_details"):
        yield from _texts((getattr(outcome, name, None),))
    if episode.reflection:
        yield from _texts((episode.reflection.insights,))
    # Last, and only where there is one: the vector of an episode without stays that of its text.
    if summary := episode.summary:
        yield from _texts((summary.text, summary.key_concepts, summary.key_steps))


def _of_step(step: Step) -> Iterator[str]:
    yield f"{step.tool} {step.action}"
    if step.parameters:
        yield json.dumps(step.parameters, ensure_ascii=False)
    for name in ("output", "message"):
        yield from _texts((getattr(step.result, name, None),))


def _of_playbook(playbook: Playbook) -> Iterator[str]:
    yield from _texts((playbook.name, playbook.description, playbook.tags))
    for step in playbook.steps:
        yield " ".join(_texts((step.condition, step.tool, step.action, step.expected_result, step.on_error)))


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _texts(value)
