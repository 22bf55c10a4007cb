"""An episode as the turns of a conversation, from its imported messages or from its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory_storage.models import Abstained, Episode, Failure, Step, StepError, StepOk

from .notes import Notes

Message = Mapping[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = {"text", "input_text", "output_text"}
_REASONING_PARTS = {"thinking", "reasoning"}
_KNOWN_KEYS = {"role", "content", "step_numbers", "reasoning_content"}


@dataclass
class Call:
    """A tool call of a turn: the step, and its result."""

    step: Step
    output: str | None
    """The text of the result: complete where the step has only an excerpt; None if there is no text."""

    @property
    def call_id(self) -> str:
        """The id that the call had in its transcript, or one made of the step's number."""
        known = self.step.metadata.get("tool_call_id")
        return known if isinstance(known, str) and known else f"call_{self.step.step_number}"

    @property
    def status(self) -> str | None:
        """How the call ended: ok, error or timeout; None if unknown."""
        return self.step.result.status if self.step.result else None


@dataclass
class Turn:
    """A message of the system, the user or the assistant; an assistant's with its calls and their results.

    `parts` are the parts of the content that are not text, unchanged.
    """

    role: str
    text: str
    calls: list[Call] = field(default_factory=list)
    parts: list[Message] = field(default_factory=list)
    reasoning: str = ""
    said_at: datetime | None = None


def turns_of(episode: Episode, notes: Notes) -> Iterator[Turn]:
    """Yield the turns: the task, the steps and the verdict; or the messages of the transcript that it comes from."""
    messages = conversation_of(episode)
    if messages is None:
        yield Turn("user", episode.task_description, said_at=episode.started_at)
        yield from _turns_of_steps(episode.steps)
        if episode.outcome is not None:
            yield Turn("assistant", verdict_of(episode), said_at=episode.completed_at)
        return
    steps = {step.step_number: step for step in episode.steps}
    outputs = _whole_results(messages)
    for message in messages:
        for turn in _turns_of_message(message, steps, outputs, notes):
            for call in turn.calls:
                steps.pop(call.step.step_number, None)
            yield turn
    yield from _turns_of_steps(steps.values())  # appended since the import


def conversation_of(episode: Episode) -> list[Message] | None:
    """Return the messages that an import has stored; None if there are none, or something else has this name."""
    stored = episode.metadata.get("conversation")
    if not isinstance(stored, list) or not stored:
        return None
    messages = [message for message in stored if isinstance(message, dict) and isinstance(message.get("role"), str)]
    return [*messages] if len(messages) == len(stored) else None


def verdict_of(episode: Episode) -> str:
    """Return how the episode ended, in the words of its outcome."""
    outcome = episode.outcome
    if outcome is None:
        return ""
    return outcome.reason if isinstance(outcome, Failure | Abstained) else outcome.verdict


def _turns_of_steps(steps: Iterable[Step]) -> Iterator[Turn]:
    for step in steps:
        yield Turn("assistant", step.action, [Call(step, output_of(step))], said_at=step.started_at)


def output_of(step: Step) -> str | None:
    """Return the text of a step's result; None if it has none."""
    if isinstance(step.result, StepOk):
        return step.result.output
    return step.result.message if isinstance(step.result, StepError) else None


def _whole_results(messages: list[Message]) -> dict[int, str]:
    """Return the results whose complete text is in the conversation, by the numbers of their steps."""
    found: dict[int, str] = {}
    for message in messages:
        if message["role"] in {"tool", "function"} and message.get("content") is not None:
            for number in _numbers(message):
                found[number] = _text(message["content"])
        for part in _parts(message):
            if _is_result(part) and "content" in part and isinstance(part.get("step_number"), int):
                found[part["step_number"]] = _text(part["content"])
    return found


def _turns_of_message(
    message: Message, steps: Mapping[int | None, Step], outputs: Mapping[int, str], notes: Notes
) -> Iterator[Turn]:
    role = _ROLES.get(message["role"])
    if role is None:
        if message["role"] not in {"tool", "function"}:
            notes.omit(f"messages of the role {message['role']!r}")
        elif not _numbers(message):
            notes.omit("tool results that answer no call")
        return
    notes.omit(*(f"the field {name!r} of messages" for name in sorted(message.keys() - _KNOWN_KEYS)))
    content, thought = message.get("content"), message.get("reasoning_content")
    turn = Turn(role, _text(content), reasoning=thought if isinstance(thought, str) else "")
    numbers = _numbers(message) if role == "assistant" else []
    for part in _parts(message):
        _read_part(part, turn, numbers)
    turn.calls = [_call(steps[number], outputs) for number in numbers if number in steps]
    turn.said_at = turn.calls[0].step.started_at if turn.calls else None
    if turn.text or turn.calls or turn.parts or turn.reasoning or isinstance(content, str):
        yield turn


def _read_part(part: Message, turn: Turn, numbers: list[int]) -> None:
    """Add a part of the content to its turn, or the number of the step that it stands for."""
    kind = part.get("type")
    if isinstance(part.get("step_number"), int):
        if turn.role == "assistant" and not _is_result(part):
            numbers.append(part["step_number"])
    elif kind in _REASONING_PARTS:
        turn.reasoning = "\n".join(filter(None, [turn.reasoning, str(part.get(str(kind)) or "")]))
    elif kind not in _TEXT_PARTS:
        turn.parts.append(part)


def _call(step: Step, outputs: Mapping[int, str]) -> Call:
    whole = outputs.get(step.step_number or 0)
    return Call(step, output_of(step) if whole is None else whole)


def ids_of(calls: list[Call]) -> list[str]:
    """Return the ids of the calls of a turn, each once."""
    ids: list[str] = []
    for call in calls:
        ids.append(f"{call.call_id}_{call.step.step_number}" if call.call_id in ids else call.call_id)
    return ids


def _numbers(message: Message) -> list[int]:
    numbers = message.get("step_numbers")
    return [number for number in numbers if isinstance(number, int)] if isinstance(numbers, list) else []


def _parts(message: Message) -> list[Message]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _is_result(part: Message) -> bool:
    return any(word in str(part.get("type")) for word in ("result", "output", "response"))


def _text(content: object) -> str:
    """Return the text of a message: that of its text parts, one per line."""
    if isinstance(content, str):
        return content
    texts = [
        part if isinstance(part, str) else part.get("text") or part.get("value")
        for part in (content if isinstance(content, list) else [])
        if isinstance(part, str) or (isinstance(part, dict) and part.get("type") in _TEXT_PARTS)
    ]
    return "\n".join(text for text in texts if isinstance(text, str))
