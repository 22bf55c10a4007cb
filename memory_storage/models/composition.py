"""Composition of a playbook from patterns: its steps, its statistics and its context. Deterministic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import Field, model_validator
from typing_extensions import Self

from memory_storage.errors import ValidationError

from .episode import TaskContext
from .model import JsonObject, Model

if TYPE_CHECKING:  # that module imports this one
    from uuid import UUID

    from .pattern import AnyPattern, ErrorRecovery

T = TypeVar("T")

TASK_QUOTE = " (tasks: "
"""The separator before the words of tasks in the description of a learned pattern, by which erasure finds them."""

_MAX_OCCURRENCES = 2**63 - 1
_MAX_STEPS = 1_000  # of all parts: their comparison takes a time in proportion to the square


class PlaybookStep(Model):
    """A step of a playbook.

    Attributes:
        action: what to do; may be empty if there is a tool.
        tool: the tool to use, a hint; None if there is none.
        condition: when to do it; None: always.
        parameters: hints for the tool's arguments, a JSON object.
        expected_result: what shows that the step succeeded; None if that is not known.
        on_error: what to do if it fails; None if that is not known.
    """

    action: str = ""
    tool: str | None = None
    condition: str | None = None
    parameters: JsonObject = Field(default_factory=dict)
    expected_result: str | None = None
    on_error: str | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if not self.action and not self.tool:
            raise ValidationError("action", "a text, unless there is a tool", self.action)
        return self


class _Part(NamedTuple):
    """The steps of one pattern: joined with others if it is a sequence, and what identifies each step."""

    place: int
    steps: list[PlaybookStep]
    keys: tuple[str, ...]
    evidence: frozenset[UUID]
    is_sequence: bool


def compose_steps(patterns: Sequence[AnyPattern]) -> list[PlaybookStep]:
    """Return the steps of a playbook; see `Playbook.from_patterns`."""
    recoveries = [(place, one) for place, one in enumerate(patterns) if one.kind == "error_recovery"]
    parts = [_part(place, one) for place, one in enumerate(patterns) if one.kind != "error_recovery"]
    if (total := sum(len(part.steps) for part in parts)) > _MAX_STEPS:
        raise ValidationError("patterns", f"at most {_MAX_STEPS:,} steps before they are joined", f"{total} steps")
    sequences = _without_contained([part for part in parts if part.is_sequence])
    units = [*_chains(sequences), *(part for part in parts if not part.is_sequence)]
    tools = {step.tool for unit in units for step in unit.steps if step.tool}
    rest = [(place, one) for place, one in recoveries if _tool_of(one) not in tools]
    units += [_part(place, one) for place, one in rest]
    steps = [step for unit in sorted(units, key=lambda unit: unit.place) for step in unit.steps]
    return [_with_recoveries(step, [one for _, one in recoveries if _tool_of(one) == step.tool]) for step in steps]


def _part(place: int, pattern: AnyPattern) -> _Part:
    steps = list(_steps_of(pattern))
    is_sequence = pattern.kind in ("tool_sequence", "playbook")
    keys = tuple(step.model_dump_json() for step in steps) if is_sequence else ()
    return _Part(place, steps, keys, frozenset(pattern.evidence), is_sequence)


def _steps_of(pattern: AnyPattern) -> Iterator[PlaybookStep]:
    if pattern.kind == "playbook":
        yield from pattern.steps
    elif pattern.kind == "tool_sequence":
        yield from (PlaybookStep(tool=tool) for tool in pattern.tools if tool)
    elif pattern.kind == "context_pattern":
        condition = ", ".join(filter(None, pattern.context_features))
        yield from _conditional(condition, pattern.recommended_approach)
    elif pattern.kind == "error_recovery":
        yield from _conditional(pattern.error_type, _recovery_path(pattern))
    else:
        yield from _conditional(pattern.condition, pattern.action)


def _conditional(condition: str, action: str) -> Iterator[PlaybookStep]:
    if action:
        yield PlaybookStep(action=action, condition=condition or None)


def _without_contained(parts: Sequence[_Part]) -> list[_Part]:
    """Return the parts whose steps are not all in another one, next to each other; of equal ones the first."""
    chosen: list[_Part] = []
    for part in sorted((part for part in parts if part.keys), key=lambda part: -len(part.keys)):
        n = len(part.keys)
        if not any(other.keys[at : at + n] == part.keys for other in chosen for at in range(len(other.keys) - n + 1)):
            chosen.append(part)
    return sorted(chosen, key=lambda part: part.place)


def _chains(parts: Sequence[_Part]) -> list[_Part]:
    """Join parts that overlap, greedily: the longest overlap first, then the most evidence in common.

    No part contains another, so that the overlap of two chains is that of the parts at their ends.
    """
    overlaps = [
        (-length, -len(one.evidence & other.evidence), at, following)
        for at, one in enumerate(parts)
        for following, other in enumerate(parts)
        if at != following and (length := _overlap(one.keys, other.keys))
    ]
    successor: dict[int, tuple[int, int]] = {}
    first_of = list(range(len(parts)))  # of a last part of a chain, its first one; and the other way around
    has_predecessor: set[int] = set()
    for negative, _, at, following in sorted(overlaps):
        if at in successor or following in has_predecessor or first_of[at] == following:
            continue
        successor[at] = following, -negative
        has_predecessor.add(following)
        first, last = first_of[at], first_of[following]
        first_of[first], first_of[last] = last, first
    return [_chain(parts, at, successor) for at in range(len(parts)) if at not in has_predecessor]


def _overlap(keys: tuple[str, ...], following: tuple[str, ...]) -> int:
    """Return how many of the last keys are the first ones of the following part."""
    lengths = range(min(len(keys), len(following)) - 1, 0, -1)
    return next((length for length in lengths if keys[-length:] == following[:length]), 0)


def _chain(parts: Sequence[_Part], at: int, successor: dict[int, tuple[int, int]]) -> _Part:
    place, steps = parts[at].place, list(parts[at].steps)
    while at in successor:
        at, overlap = successor[at]
        place = min(place, parts[at].place)
        steps += parts[at].steps[overlap:]
    return _Part(place, steps, (), frozenset(), is_sequence=True)


def _tool_of(recovery: ErrorRecovery) -> str | None:
    tool = recovery.metadata.get("tool")
    if isinstance(tool, str) and tool:
        return tool
    return recovery.recovery_steps[-1] if recovery.recovery_steps else None


def _recovery_path(recovery: ErrorRecovery) -> str:
    return " → ".join(filter(None, recovery.recovery_steps))


def _with_recoveries(step: PlaybookStep, recoveries: Sequence[ErrorRecovery]) -> PlaybookStep:
    texts = [step.on_error] if step.on_error else []
    if step.tool:
        paths = ((one.error_type, _recovery_path(one)) for one in recoveries)
        texts += [": ".join(filter(None, (error, path))) for error, path in paths if path]
    return step.model_copy(update={"on_error": "; ".join(dict.fromkeys(texts))}) if texts else step


def pooled_statistics(patterns: Sequence[AnyPattern]) -> tuple[float, int]:
    """Return the mean success rate, weighted by the occurrences, and the sum of the occurrences."""
    occurrences = sum(one.occurrence_count for one in patterns)
    rate = math.fsum(one.success_rate * (one.occurrence_count / occurrences) for one in patterns)
    return min(1.0, rate), min(occurrences, _MAX_OCCURRENCES)


def shared_context(patterns: Sequence[AnyPattern]) -> TaskContext:
    """Return the context that all patterns share; fields in which they differ keep their defaults."""
    first = patterns[0].context
    names = ("language", "framework", "complexity", "domain")
    shared = {
        name: getattr(first, name)
        for name in names
        if all(getattr(one.context, name) == getattr(first, name) for one in patterns)
    }
    return TaskContext(**shared, tags=[tag for tag in first.tags if all(tag in one.context.tags for one in patterns)])


def united(lists: Iterable[Iterable[T]]) -> list[T]:
    """Return what is in any of the lists, each once, in the order of the first occurrence."""
    return list(dict.fromkeys(chain.from_iterable(lists)))


def task_words(name: str, patterns: Sequence[AnyPattern]) -> str:
    """Return the name with the words of tasks that the descriptions of the patterns end with; "" if none does."""
    quotes = (one.description.rpartition(TASK_QUOTE)[1:] for one in patterns)
    words = united(quoted[:-1].split(", ") for mark, quoted in quotes if mark and quoted.find(")") == len(quoted) - 1)
    return f"{name}{TASK_QUOTE}{', '.join(words)})" if words else ""
