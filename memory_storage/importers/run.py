"""A run: the shape to which every format but OpenAI's chat and the export is converted, and its episode.

The messages of a run are those of a chat. Their content is a text, or parts: `text`, `tool_use` (`id`, `name`, `input`)
and `tool_result` (`tool_use_id`, `content`, and signs such as `is_error` or `exit_code`). A message may have a
`timestamp`, and the `usage` of the response that it came from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from memory_storage.errors import ValidationError
from memory_storage.models import Episode, Outcome, RewardScore, TaskContext

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
from .messages import Message, spoken_text
from .usage import counts_in

_SOURCES = uuid5(NAMESPACE_URL, "memory-storage:transcripts")


class ImportProblem(NamedTuple):
    """Why the record that begins at `line` was not imported."""

    line: int
    message: str


class ImportNote(NamedTuple):
    """What was not understood or was shortened in the record that begins at `line`, which was imported."""

    line: int
    message: str


class NotTaken(NamedTuple):
    """What a file has that no episode has, by name, like "thinking blocks"."""

    counts: Mapping[str, int]


@dataclass
class Run:
    """One task of an agent, as its format has it.

    Attributes:
        format: the name of the format.
        line: the line where it begins.
        messages: its messages, in order.
        actions: by the index of a message, the action of its calls if it has no text.
        key: what identifies the task at its source, such as an ID of a session; the ID of the episode derives from it.
        record: what identifies the task if it has no key: its content.
        task: the task description; the text of the first user message by default.
        times: `started_at` and `completed_at`, where the messages do not say them.
        outcome: the outcome, where the source states it.
        reward: the reward, where the source states it.
        context: the surroundings.
        metadata: the metadata of the episode.
        not_taken: the number of items, by name, that are not stored.
        size: the number of bytes.
    """

    format: str
    line: int
    messages: list[Message] = field(default_factory=list)
    actions: dict[int, str] = field(default_factory=dict)
    key: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    times: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    reward: RewardScore | None = None
    context: TaskContext = field(default_factory=TaskContext)
    metadata: dict[str, Any] = field(default_factory=dict)
    not_taken: Counter[str] = field(default_factory=Counter)
    size: int = 0


DERIVED = ("usage", "final_answer", "not_taken", "import_notes")
"""The names in the metadata of an episode that a later state of its session replaces or removes."""

Item = Run | ImportProblem | NotTaken
"""What a format yields for a file."""


def key_id(format_: str, key: str) -> UUID:
    """Return the ID of the episode that a format identifies by a key."""
    return uuid5(_SOURCES, f"{format_} {key}")


def episode_of(run: Run, options: RunOptions, *, started_at: datetime, occurrence: int = 1) -> Episode:
    """Convert a run into an episode.

    Args:
        run: the run.
        options: how it is converted.
        started_at: start of a run without any time.
        occurrence: 2 for the second of equal runs without a key in a file, and so on.

    Raises:
        ValidationError: the run is invalid.
    """
    conversation = Conversation(options)
    usage: Counter[str] = Counter()
    for index, message in enumerate(run.messages):
        add_message(conversation, message, f"messages.{index}", run.actions.get(index, ""))
        usage.update(counts_in(conversation.messages[-1].pop("usage", None)))
    episode_id = _id_of(run, options, occurrence)
    start, end = span_of(conversation, run.times, started_at)
    return Episode(
        id=episode_id,
        task_description=task_of(conversation, run.task),
        context=run.context,
        started_at=start,
        completed_at=run.outcome and end,
        outcome=run.outcome,
        reward=run.reward,
        steps=steps_of(conversation, episode_id, start),
        metadata=_metadata(run, conversation, usage),  # last, because it includes the notes
    )


def task_without_prompt(messages: list[Message]) -> str:
    """Return a task description for messages without a prompt: the first text of the agent, else its first call."""
    texts = (spoken_text(message.get("content")).strip() for message in messages if message["role"] == "assistant")
    calls = (part.get("name") for message in messages for part in parts_of(message, "tool_use"))
    text, call = next((text for text in texts if text), ""), next(calls, None)
    return text or (f"(no prompt; the first call is {call})" if call else "")


def parts_of(message: Message, kind: str) -> Iterator[Message]:
    """Yield the parts of a message that have this type."""
    yield from (part for part in _parts(message) if isinstance(part, dict) and part.get("type") == kind)


def digest_of(run: Run) -> str:
    """Return what tells runs of a file without keys apart: equal ones are counted."""
    return run.key or canonical_json(run.record)


def canonical_json(record: Mapping[str, Any]) -> str:
    """Return the canonical JSON of a record: sorted keys, no spaces."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def _id_of(run: Run, options: RunOptions, occurrence: int) -> UUID:
    if options.id_field is not None:
        return session_id(run.record, options.id_field, "openai-chat/session")
    if run.key:
        return key_id(run.format, run.key)
    again = f" {occurrence}" if occurrence > 1 else ""
    return content_id("openai-chat/1", canonical_json(run.record) + again)


def session_id(record: Mapping[str, Any], id_field: str, kind: str) -> UUID:
    """Return the ID that derives from the field of a record, `a.b` for a nested one.

    Args:
        record: the record.
        id_field: the name of the field.
        kind: what the field identifies.

    Raises:
        ValidationError: the record does not have the field.
    """
    value: Any = record
    for name in id_field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValidationError(id_field, "the field that --id-field names: a string or an integer", value)
    return content_id(kind, f"{id_field} {value}")


def _metadata(run: Run, conversation: Conversation, usage: Counter[str]) -> dict[str, Any]:
    size = len(json.dumps(run.messages)) if run.size > conversation.options.limits.document_bytes // 4 else run.size
    given = {name: value for name, value in run.metadata.items() if value not in (None, "", [], {})}
    others = flat(conversation, given)
    messages = [flat(conversation, message) for message in stored_messages(conversation, size)]
    values = (dict(+usage), _final_answer(conversation), dict(+run.not_taken), notes_of(conversation.notes))
    stated = {name: value for name, value in zip(DERIVED, values, strict=True) if value}
    return {"source": run.format, **others, **stated, "conversation": messages}


def _final_answer(conversation: Conversation) -> str:
    """Return the text of the last message, if it is the agent's and calls no tool."""
    last = conversation.messages[-1] if conversation.messages else {}
    calls = bool(last.get("step_numbers")) or any(
        isinstance(part, dict) and "step_number" in part for part in _parts(last)
    )
    return "" if last.get("role") != "assistant" or calls else spoken_text(last.get("content")).strip()


def _parts(message: Message) -> Iterator[object]:
    content = message.get("content")
    yield from content if isinstance(content, list) else ()
