"""Conversion of messages into steps and a stored conversation, within the limits of the storage; for every format.

`messages.py` parses one message, `results.py` decides whether a result is an error, `media.py` stores data once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from memory_storage.errors import ValidationError
from memory_storage.models import Step, StepError, StepOk, StepResult, StepTimeout, utc_now
from memory_storage.settings import Limits
from memory_storage.sql.validation import replace_unstorable, unstorable_error

from .json_records import parse_json
from .media import Media, without_data
from .messages import Message, ReadMessage, ToolCall, ToolResult, read_message, text_of
from .results import status_of
from .timestamps import find_time
from .usage import tokens_of

NOT_DATED = "it has no times: it starts at the time of the import"

_STARTED = ("started_at", "created_at", "created", "timestamp")
_COMPLETED = ("completed_at", "finished_at", "ended_at")
_SAID = (*_STARTED, "time", "ts", "date")
_DEPTH = 100  # nesting that every reader of the stored JSON can follow
_MARGIN = 1_000  # bytes reserved next to a shortened value
_MICROSECOND = timedelta(microseconds=1)
_LONGEST = 10_000_000  # seconds; what is longer is not the duration of a call
_AHEAD = timedelta(days=1)  # tolerance for fast clocks and wrong time zones


@dataclass(frozen=True)
class RunOptions:
    """How runs are converted.

    Args:
        limits: the limits of the storage.
        id_field: the field of a record with the id of its session, `a.b` for a nested one.
        replace_invalid: replace characters that cannot be stored by U+FFFD.
    """

    limits: Limits = field(default_factory=Limits)
    id_field: str | None = None
    replace_invalid: bool = False


@dataclass
class _Call:
    """A tool call, and its result once found."""

    number: int
    call: ToolCall
    action: str
    called_at: datetime | None
    after: datetime | None
    """The time of an earlier message, used if the call has none."""
    result: StepResult | None = None
    answered_at: datetime | None = None
    tokens: int | None = None
    metadata: Message = field(default_factory=dict)


@dataclass
class Conversation:
    """The messages read so far and their calls. In `waiting`, the calls of the latest message come first."""

    options: RunOptions
    messages: list[Message] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    waiting: list[_Call] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    task: str = ""
    notes: Counter[str] = field(default_factory=Counter)
    excerpted: list[Message] = field(default_factory=list)
    """The messages that have the complete text of a result that is shortened in its step."""


def add_message(run: Conversation, message: object, where: str, action: str = "") -> None:
    """Parse the message, number its calls, and match its results with earlier calls.

    Args:
        run: the messages so far.
        message: the message, with a `role`.
        where: its path in the record, for errors.
        action: the action of its calls if it has no text.
    """
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValidationError(where, "an object with a `role`", message)
    said_at, bad = find_time(message, _SAID)
    if bad:
        run.notes[f"a message's `{bad}` is no time"] += 1
    earlier = run.times[-1] if run.times else None
    if said_at is not None:
        run.times.append(said_at)
    read = read_message(message, where)
    run.notes.update(read.unread)
    if message["role"] == "user" and not run.task:
        run.task = read.text.strip() and read.text
    calls = [
        _Call(number, call, read.text or action, said_at, earlier)
        for number, call in enumerate(read.calls, len(run.calls) + 1)
    ]
    if calls:  # the tokens are those of one response, which may have several calls
        calls[0].tokens = tokens_of(message.get("usage"))
    run.calls += calls
    run.waiting = calls + run.waiting
    numbers = _number_parts(read, calls)
    for result in read.results:
        _answer(run, read, result, said_at, numbers)
    run.messages.append({"step_numbers": numbers, **read.kept} if numbers else read.kept)


def _number_parts(read: ReadMessage, calls: list[_Call]) -> list[int]:
    """Set the step numbers in the parts; return the numbers of the calls that are not parts."""
    numbers = []
    for call in calls:
        part = next((part for of, part in read.parts if of is call.call), None)
        if part is None:
            numbers.append(call.number)
        else:
            part["step_number"] = call.number
    return numbers


def _answer(
    run: Conversation, read: ReadMessage, result: ToolResult, said_at: datetime | None, numbers: list[int]
) -> None:
    part = next((part for of, part in read.parts if of is result), None)
    waiting = [call for call in run.waiting if _answers(result, call.call)]
    # An id may not be unique: the name decides, then the order of the calls.
    call = next((call for call in waiting if result.name == call.call.name), waiting[0] if waiting else None)
    if call is None:
        run.notes["a tool result answers no call, and is kept in the conversation alone"] += 1
        _put_back(read, part, result.content)
        return
    run.waiting.remove(call)
    call.answered_at = said_at
    if part is None:
        numbers.append(call.number)
    else:
        part["step_number"] = call.number
    if not _judge(run, call, result):
        _put_back(read, part, result.content)
        if "result_excerpt" in call.metadata:
            run.excerpted.append(read.kept if part is None else part)


def _put_back(read: ReadMessage, part: Message | None, content: object) -> None:
    """Restore a result in the conversation: no step has it completely."""
    if content is not None:
        (read.kept if part is None else part).setdefault("content", content)


def _judge(run: Conversation, call: _Call, result: ToolResult) -> bool:
    """Set the result of the call; return whether it has the complete text."""
    text = text_of(result.content)
    status = status_of(result.signs, text)
    kept, note = _within(text, run.options.limits.step_bytes)
    if note:
        run.notes[f"a result is in its step an excerpt of {note}"] += 1
        call.metadata["result_excerpt"] = note
    results: dict[str, StepResult] = {
        "ok": StepOk(output=kept),
        "error": StepError(message=kept),
        "timeout": StepTimeout(),
    }
    call.result = results.get(status)
    if call.result is None:
        run.notes["a result does not say whether it is an error, and is kept in the conversation alone"] += 1
    return status in {"ok", "error"} and not note


def _answers(result: ToolResult, call: ToolCall) -> bool:
    if call.call_id is not None and result.call_id is not None:
        return str(call.call_id) == str(result.call_id)
    return result.name is None or result.name == call.name


def span_of(run: Conversation, record: Mapping[str, Any], default: datetime | None) -> tuple[datetime, datetime | None]:
    """Return when the run started, and when it ended or None."""
    start, bad_start = find_time(record, _STARTED)
    end, bad_end = find_time(record, _COMPLETED)
    run.notes.update(f"`{name}` is no time" for name in (bad_start, bad_end) if name)
    if start is None:
        start = min(run.times, default=None)
    if end is None and run.times and max(run.times) > (start or max(run.times)):
        end = max(run.times)
    if start is None and end is None:
        run.notes[NOT_DATED] += 1
        return default or utc_now(), None
    if start is None:
        run.notes["only its end is known: it starts there, and no duration is counted"] += 1
        return end or utc_now(), None
    if start > utc_now() + _AHEAD:
        run.notes[f"it is dated in the future: {start.isoformat()}"] += 1
    if end is not None and end < start:
        run.notes["it ends before it starts: the end is left out"] += 1
        end = None
    return start, end


def steps_of(run: Conversation, episode_id: UUID, start: datetime) -> list[Step]:
    """Return the steps in order of time; a step without a time follows its predecessor by a microsecond."""
    steps: list[Step] = []
    latest = start - _MICROSECOND
    for call in run.calls:
        known = call.called_at or call.after or call.answered_at
        if known is not None and known < latest:
            run.notes["a step is dated before the one that precedes it: it follows that"] += 1
        latest = max(latest + _MICROSECOND, known or start)
        steps.append(_step(run, call, episode_id, latest))
    return steps


def _step(run: Conversation, call: _Call, episode_id: UUID, started_at: datetime) -> Step:
    metadata = {"tool_call_id": call.call.call_id} if call.call.call_id is not None else {}
    latency = _duration(call.call.rest.get("execution_time"))
    if latency is None and call.called_at is not None and call.answered_at is not None:
        latency = max(call.answered_at - call.called_at, timedelta(0))
    return Step(
        id=content_id("step", f"{episode_id} {call.number}"),
        step_number=call.number,
        started_at=started_at,
        tool=call.call.name,
        action=call.action,
        parameters=_parameters(run, call),
        result=call.result,
        latency_ms=(latency or timedelta(0)) // timedelta(milliseconds=1),
        tokens_used=call.tokens,
        metadata={**metadata, **flat(run, call.call.rest), **call.metadata},
    )


def _duration(seconds: object) -> timedelta | None:
    """Return the duration that a format gives for a call; None if it gives none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _LONGEST:
        return None
    return timedelta(seconds=seconds)


def _parameters(run: Conversation, call: _Call) -> dict[str, Any]:
    """Parse the arguments, a JSON string. Those that are not an object are kept under `arguments`."""
    arguments = call.call.arguments
    if arguments in (None, ""):
        return {}
    try:
        parsed = parse_json(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        parsed = arguments
    if unstorable_error("", parsed):
        parsed = replace_unstorable(parsed) if run.options.replace_invalid else arguments
    if is_deep(parsed):
        arguments = parsed = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    parameters = parsed if isinstance(parsed, dict) else {"arguments": arguments}
    text = json.dumps(parameters, ensure_ascii=False)
    kept, note = _within(text, run.options.limits.step_bytes)
    if not note:
        return parameters
    run.notes[f"the arguments of a call are an excerpt of {note}"] += 1
    call.metadata["arguments_excerpt"] = note
    return {"arguments": kept}


def _within(text: str, limit: int) -> tuple[str, str]:
    """Return the text, shortened to what a step may have, and a description of the complete one if shortened."""
    if 6 * len(text) <= limit - _MARGIN:  # no character takes more bytes of JSON
        return text, ""
    size = len(json.dumps(text, ensure_ascii=False).encode(errors="replace"))
    if size <= limit - _MARGIN:
        return text, ""
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    kept = text
    while (found := len(json.dumps(kept, ensure_ascii=False).encode(errors="replace"))) > limit - _MARGIN:
        kept = kept[: max(len(kept) * (limit - _MARGIN) // found - 1, 0)]
    return kept, f"{len(text):,} characters (SHA-256 {digest})"


def task_of(run: Conversation, instruction: object = None) -> str:
    """Return the task description: the instruction if it is a text, else the first user message."""
    text = instruction if isinstance(instruction, str) and instruction.strip() else run.task or _wordless_task(run)
    limit = run.options.limits.task_description
    if len(text) <= limit:
        return text
    run.notes[f"the task description is an excerpt of {len(text):,} characters"] += 1
    return text[: limit - 1] + "…"


def _wordless_task(run: Conversation) -> str:
    """Return the description of the first user message that has content other than text."""
    users = (message.get("content") for message in run.messages if message["role"] == "user")
    for content in users:
        if text := text_of(content).strip():
            return text
    raise ValidationError("task_description", "info.task.instruction or a user message", None)


def notes_of(notes: Mapping[str, int]) -> list[str]:
    """Format the notes with their counts."""
    return [note if count == 1 else f"{note} ({count:,} times)" for note, count in notes.items()]


def flat(run: Conversation, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those that are nested too deeply as JSON strings."""
    flat = dict(values)
    for key, value in values.items():
        if is_deep(value):
            run.notes[f"`{key}` is nested too deep, and is kept as JSON text"] += 1
            flat[key] = json.dumps(value, ensure_ascii=False)
    return flat


def is_deep(value: object) -> bool:
    """Return whether the value has more than `_DEPTH` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEPTH):
        children = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [child for group in children for child in group if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def stored_messages(run: Conversation, size: int) -> list[Message]:
    """Return the messages with each image once; if they are too large, without the data and shortened results."""
    conversation, saved = _each_once(run.messages)
    if size - saved <= run.options.limits.document_bytes - 100 * _MARGIN:
        return conversation
    for message in run.excerpted:
        run.notes["the whole of a result is left out: the document would be too large"] += 1
        del message["content"]
    without = [without_data(message) for message in _each_once(run.messages)[0]]
    if count := sum(count for _, count in without):
        run.notes["the data of an image or a file is left out: the document would be too large"] += count
    return [message for message, _ in without]


def _each_once(messages: list[Message]) -> tuple[list[Message], int]:
    media = Media()
    return [media.once(number, message) for number, message in enumerate(messages, 1)], media.saved


def content_id(kind: str, content: str) -> UUID:
    """A UUID of version 8 (RFC 9562, 5.8 and B.2) from the SHA-256 of the content."""
    digest = hashlib.sha256(f"memory-storage {kind}\n{content}".encode()).digest()
    value = int.from_bytes(digest[:16], "big")
    return UUID(int=value & ~(0xF << 76 | 0b11 << 62) | 0x8 << 76 | 0b10 << 62)
