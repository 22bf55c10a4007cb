"""A run in the OpenAI chat format as an Episode. Does no I/O: the record alone decides what comes out.

What becomes of a record's parts:

    messages or traj        each tool call is a step; all messages stay, in order, in metadata["conversation"]: system
                            prompt and texts whole; an assistant's `tool_calls` and the `content` of their results
                            only in the steps, whose numbers stand in `step_numbers`
    reward                  reward.total, and the outcome: success from 1.0 on, partial_success above 0, else failure
    success                 the outcome, before the reward's
    info.task.instruction   task_description; without it the first user message is
    tags                    tags
    metadata                its keys are keys of metadata, unless one of them is a key of the record itself
    everything else         metadata, under its own name

Ids are taken from the SHA-256 of the record, so the same record is the same episode. Moments are the record's
(`started_at`, `created_at`, `created` or `timestamp`; numbers are seconds or milliseconds since 1970, text is ISO 8601,
without an offset in UTC), and a message's own for its steps. A record without one starts at 1970-01-01T00:00:00Z, which
says plainly that it is not known, and its steps follow one microsecond apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pydantic

from memory_storage.errors import ValidationError
from memory_storage.models import (
    Episode,
    Failure,
    Outcome,
    PartialSuccess,
    RewardScore,
    Step,
    StepError,
    StepOk,
    StepResult,
    Success,
)

from .records import parse_json

SOURCE = "openai-chat"
UNKNOWN = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When a record without any moment starts."""

_STARTED = ("started_at", "created_at", "created", "timestamp")
_COMPLETED = ("completed_at", "finished_at", "ended_at")
_USED = {"messages", "traj", "reward", "success", "tags", "metadata"}
_ERROR = re.compile(r"Error\b")
_TEXT_PARTS = {"text", "input_text", "output_text"}
_MOMENT = pydantic.TypeAdapter(datetime)

Message = dict[str, Any]


@dataclass
class _Call:
    """A tool call while its result is looked for."""

    number: int
    name: str
    arguments: object
    action: str
    started_at: datetime | None
    others: Message
    result: StepResult | None = None


@dataclass
class _Run:
    """The messages so far, as they are kept, and the calls in them. The latest message's calls wait first."""

    conversation: list[Message] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    waiting: list[_Call] = field(default_factory=list)


def episode_from(record: Mapping[str, Any]) -> Episode:
    """The episode of one run.

    Raises:
        ValidationError: it is no run in this format; `field` is where, like `messages.3.tool_calls`.
    """
    run = _read(*_messages(record))
    episode_id = _id("openai-chat/1", json.dumps(record, sort_keys=True, separators=(",", ":")))
    started_at = _moment(record, _STARTED, "") or UNKNOWN
    steps = [_step(call, episode_id, started_at) for call in run.calls]
    reward = _reward(record.get("reward"))
    outcome = _outcome(record.get("success"), reward)
    last = max([started_at, *(step.started_at for step in steps)])
    return Episode(
        id=episode_id,
        task_description=_task(record, run.conversation),
        started_at=started_at,
        completed_at=outcome and (_moment(record, _COMPLETED, "") or last),
        outcome=outcome,
        reward=reward,
        tags=record.get("tags") or [],
        metadata=_metadata(record, run.conversation),
        steps=steps,
    )


def _messages(record: Mapping[str, Any]) -> tuple[str, list[object]]:
    names = [name for name in ("messages", "traj") if record.get(name) is not None]
    if len(names) != 1:
        raise ValidationError("", "a run has `messages` or `traj`", sorted(record))
    found = record[names[0]]
    if not isinstance(found, list) or not found:
        raise ValidationError(names[0], "a list of messages", found)
    return names[0], found


def _read(name: str, messages: Iterable[object]) -> _Run:
    run = _Run()
    for index, message in enumerate(messages):
        where = f"{name}.{index}"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValidationError(where, "an object with a `role`", message)
        run.conversation.append(_read_message(run, message, where))
    return run


def _read_message(run: _Run, message: Message, where: str) -> Message:
    """The message as it is kept: without what its steps have."""
    if message["role"] in {"tool", "function"}:
        return _read_result(run, message)
    calls = _calls(message, where, len(run.calls) + 1)
    if not calls:
        return message
    run.calls += calls
    run.waiting = calls + run.waiting
    rest = {key: value for key, value in message.items() if key not in {"tool_calls", "function_call"}}
    return {"step_numbers": [call.number for call in calls], **rest}


def _read_result(run: _Run, message: Message) -> Message:
    call = next((call for call in run.waiting if _answers(message, call)), None)
    if call is None:
        return message
    run.waiting.remove(call)
    content = message.get("content")
    call.result = _result(message, _text(content))
    rest = {key: value for key, value in message.items() if key != "content" or not isinstance(content, str)}
    return {"step_numbers": [call.number], **rest}


def _answers(message: Message, call: _Call) -> bool:
    asked, answered = call.others.get("id"), message.get("tool_call_id")
    if asked is not None and answered is not None:
        return bool(asked == answered)
    return message.get("name") in {None, call.name}


def _calls(message: Message, where: str, first: int) -> list[_Call]:
    listed = message.get("tool_calls") or []
    if not isinstance(listed, list):
        raise ValidationError(f"{where}.tool_calls", "a list of calls", listed)
    given = [(f"{where}.tool_calls.{index}", call) for index, call in enumerate(listed)]
    if message.get("function_call"):
        given.append((f"{where}.function_call", {"function": message["function_call"]}))
    started_at = _moment(message, _STARTED, where)
    action = _text(message.get("content"))
    return [_call(call, place, number, action, started_at) for number, (place, call) in enumerate(given, first)]


def _call(call: object, where: str, number: int, action: str, started_at: datetime | None) -> _Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValidationError(where, "an object with a `function` that has a `name`", call)
    others = {key: value for key, value in call.items() if key != "function"}
    unknown = {key: value for key, value in function.items() if key not in {"name", "arguments"}}
    if unknown:
        others["function"] = unknown
    return _Call(number, function["name"], function.get("arguments"), action, started_at, others)


def _step(call: _Call, episode_id: UUID, started_at: datetime) -> Step:
    return Step(
        id=_id("step", f"{episode_id} {call.number}"),
        step_number=call.number,
        started_at=call.started_at or started_at + timedelta(microseconds=call.number - 1),
        tool=call.name,
        action=call.action,
        parameters=_parameters(call.arguments),
        result=call.result,
        metadata={("tool_call_id" if key == "id" else key): value for key, value in call.others.items()},
    )


def _parameters(arguments: object) -> dict[str, Any]:
    """The arguments, which are JSON in a text. Those that are not an object are kept whole under `arguments`."""
    if arguments in (None, ""):
        return {}
    try:
        found = parse_json(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        found = arguments
    return found if isinstance(found, dict) else {"arguments": arguments}


def _result(message: Message, text: str) -> StepResult:
    says_error = message.get("is_error") is True or message.get("status") == "error"
    return StepError(message=text) if says_error or _ERROR.match(text) else StepOk(output=text)


def _text(content: object) -> str:
    """The text of a message's content: a string, nothing, or parts; what is no text stays JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if _is_text(part)]
    return "\n".join(texts) if texts and len(texts) == len(parts) else json.dumps(content, ensure_ascii=False)


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)


def _task(record: Mapping[str, Any], conversation: list[Message]) -> str:
    info = record.get("info")
    task = info.get("task") if isinstance(info, dict) else None
    instruction = task.get("instruction") if isinstance(task, dict) else None
    users = (_text(message.get("content")) for message in conversation if message["role"] == "user")
    for text in (instruction, *users):
        if isinstance(text, str) and text.strip():
            return text
    raise ValidationError("task_description", "info.task.instruction or a user message", None)


def _reward(value: object) -> RewardScore | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValidationError("reward", "a number", value)
    return RewardScore(total=value)


def _outcome(success: object, reward: RewardScore | None) -> Outcome | None:
    if not isinstance(success, bool | None):
        raise ValidationError("success", "true or false", success)
    words = "success: " + str(success).lower() if reward is None else f"reward {reward.total}"
    if success or (success is None and reward is not None and reward.total >= 1):
        return Success(verdict=words)
    if success is None and reward is not None and reward.total > 0:
        return PartialSuccess(verdict=words)
    return None if success is None and reward is None else Failure(reason=words)


def _metadata(record: Mapping[str, Any], conversation: list[Message]) -> dict[str, Any]:
    others = {key: value for key, value in record.items() if key not in _USED}
    given = record.get("metadata")
    if isinstance(given, dict) and not given.keys() & {*others, "conversation"}:
        others |= given
    elif given is not None:
        others["metadata"] = given
    if "conversation" in others:
        raise ValidationError("conversation", "the importer needs this name; rename it", others["conversation"])
    return {"source": SOURCE, **others, "conversation": conversation}


def _moment(values: Mapping[str, Any], names: Iterable[str], where: str) -> datetime | None:
    name = next((name for name in names if values.get(name) is not None), None)
    if name is None:
        return None
    place = f"{where}.{name}".lstrip(".")
    if isinstance(values[name], bool):
        raise ValidationError(place, "a moment", values[name])
    try:
        found = _MOMENT.validate_python(values[name])
    except pydantic.ValidationError as error:
        raise ValidationError(place, "a moment: ISO 8601, or seconds since 1970", values[name]) from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _id(kind: str, content: str) -> UUID:
    """A UUID of version 8 (RFC 9562, 5.8 and B.2) from the SHA-256 of the content."""
    digest = hashlib.sha256(f"memory-storage {kind}\n{content}".encode()).digest()
    value = int.from_bytes(digest[:16], "big")
    return UUID(int=value & ~(0xF << 76 | 0b11 << 62) | 0x8 << 76 | 0b10 << 62)
