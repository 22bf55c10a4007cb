"""Conversion of a run, a chat of messages, into an Episode, without I/O.

How the fields of a record are mapped:

    messages or traj        each tool call is a step; all messages are kept in order in metadata["conversation"]: the
                            system prompt and texts completely; calls and the texts of their results only in the
                            steps, to which `step_numbers` (in a part: `step_number`) refers. Shapes: `messages.py`
    reward                  reward.total, and the outcome: success from 1.0 on, partial_success above 0, else failure
    success                 the outcome; takes precedence over the reward
    info.task.instruction   task_description; by default the text of the first user message. Shortened to
                            limits.task_description
    tags                    tags
    metadata                its keys are keys of metadata, unless one of them is a key of the record itself
    everything else         metadata, under its own name

`results.py` decides whether a result is an error. Images and other parts without text stay in the conversation, once:
repeated ones become references to the first (`media.py`).

Times are those of the record (`started_at`, `created_at`, `created` or `timestamp`; the end: `completed_at`,
`finished_at` or `ended_at`), or those of its messages, which also date the steps; a latency is the time from a call to
its result. `timestamps.py` parses times. A run without any time starts when it is imported, and its steps follow one
microsecond apart. If the end is unknown, `completed_at` is None, so that no duration is invented.

Ids derive from the SHA-256 of the record, so the same record is the same episode; or from `id_field`, if given.
metadata["import_notes"] names what was not understood or was shortened.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from memory_storage.errors import ValidationError
from memory_storage.models import Episode, Failure, Outcome, PartialSuccess, RewardScore, Success

from .conversation import (
    Conversation,
    RunOptions,
    add_message,
    content_id,
    flat,
    notes_of,
    span_of,
    steps_of,
    stored_messages,
    task_of,
)
from .run import canonical_json, session_id

SOURCE = "openai-chat"

_USED = {"messages", "traj", "reward", "success", "tags", "metadata"}


def episode_from(
    record: Mapping[str, Any],
    options: RunOptions | None = None,
    *,
    started_at: datetime | None = None,
    occurrence: int = 1,
    canonical: str | None = None,
    source: str = SOURCE,
) -> Episode:
    """Convert one run into an episode.

    Args:
        record: the run.
        options: how it is converted.
        started_at: start of a run without any time; now by default.
        occurrence: 2 for the second of equal runs in a file, and so on.
        canonical: the record's `canonical_json`, if the caller has it already.
        source: the name of the format, for metadata["source"].

    Raises:
        ValidationError: the record is invalid; `field` is the path, like `messages.3.tool_calls`.
    """
    options = options or RunOptions()
    name, messages = _messages(record)
    run = Conversation(options)
    for index, message in enumerate(messages):
        add_message(run, message, f"{name}.{index}")
    canonical = canonical_json(record) if canonical is None else canonical
    episode_id = _episode_id(record, canonical, options.id_field, occurrence)
    start, end = span_of(run, record, started_at)
    reward = reward_of(record.get("reward"))
    outcome = outcome_of(record.get("success"), reward)
    return Episode(
        id=episode_id,
        task_description=task_of(run, _instruction(record)),
        started_at=start,
        completed_at=outcome and end,
        outcome=outcome,
        reward=reward,
        tags=record.get("tags") or [],
        steps=steps_of(run, episode_id, start),
        metadata=_metadata(run, record, len(canonical), occurrence, source),  # last, because it includes the notes
    )


def _messages(record: Mapping[str, Any]) -> tuple[str, list[object]]:
    names = [name for name in ("messages", "traj") if record.get(name) is not None]
    if len(names) != 1:
        raise ValidationError("", "a run has `messages` or `traj`", sorted(record))
    messages = record[names[0]]
    if not isinstance(messages, list) or not messages:
        raise ValidationError(names[0], "a list of messages", messages)
    return names[0], messages


def _instruction(record: Mapping[str, Any]) -> object:
    info = record.get("info")
    task = info.get("task") if isinstance(info, dict) else None
    return task.get("instruction") if isinstance(task, dict) else None


def reward_of(value: object) -> RewardScore | None:
    """Return the reward; raise ValidationError if the value is not a number or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValidationError("reward", "a number", value)
    return RewardScore(total=value)


def outcome_of(success: object, reward: RewardScore | None) -> Outcome | None:
    """Return the outcome that a success or, without it, a reward states.

    Args:
        success: true, false or None.
        reward: the reward, or None.

    Raises:
        ValidationError: `success` is something else.
    """
    if not isinstance(success, bool | None):
        raise ValidationError("success", "true or false", success)
    if success is not None:
        words = f"success: {str(success).lower()}"
        return Success(verdict=words) if success else Failure(reason=words)
    if reward is None:
        return None
    words = f"reward {reward.total}"
    if reward.total >= 1:
        return Success(verdict=words)
    return PartialSuccess(verdict=words) if reward.total > 0 else Failure(reason=words)


def _metadata(run: Conversation, record: Mapping[str, Any], size: int, occurrence: int, source: str) -> dict[str, Any]:
    others: dict[str, Any] = {key: value for key, value in record.items() if key not in _USED}
    given = record.get("metadata")
    if isinstance(given, dict) and not given.keys() & {*others, "conversation"}:
        others |= given
    elif given is not None:
        others["metadata"] = given
    for name in ("conversation", "import_notes"):
        if name in others:
            raise ValidationError(name, "a name that the importer reserves; rename the field", others[name])
    if occurrence > 1:
        others["occurrence"] = occurrence
    others, conversation = flat(run, others), [flat(run, message) for message in stored_messages(run, size)]
    notes = notes_of(run.notes)
    named = {"import_notes": notes} if notes else {}
    return {"source": source, **others, **named, "conversation": conversation}


def _episode_id(record: Mapping[str, Any], canonical: str, id_field: str | None, occurrence: int) -> UUID:
    if id_field is None:
        again = f" {occurrence}" if occurrence > 1 else ""
        return content_id("openai-chat/1", canonical + again)
    return session_id(record, id_field, "openai-chat/session")
