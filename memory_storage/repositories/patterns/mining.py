"""From the figures of sequences and of steps that failed to patterns, always the same ones. Runs no statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID, uuid5

from memory_storage.errors import ValidationError
from memory_storage.models import AnyPattern, ErrorRecovery, TaskContext, ToolSequence
from memory_storage.repositories.analytics.error_signature import error_class
from memory_storage.repositories.retention.task_quotes import MINED_TAG, TASK_QUOTE
from memory_storage.sql.arguments import finite, whole
from memory_storage.sql.session import Row

from .task_words import shared_words

_NAMESPACE = UUID("5f0c7c1e-6a0b-5c8e-9b57-3f1f4f7d2a10")
LONGEST_RECOVERY = 5
_MOST = 500
_MOST_EVIDENCE = 1_000
_MOST_LATENCY = 2**63 - 1


class Seen(NamedTuple):
    """How an episode went, and its domain, language and framework."""

    success: bool
    context: tuple[str | None, ...]


class Wanted(NamedTuple):
    """What is worth a pattern, and how many there may be."""

    min_episodes: int
    min_lift: float
    max_patterns: int
    evidence: int


def as_wanted(min_episodes: int, min_lift: float, max_patterns: int, evidence: int) -> Wanted:
    """The same, if it can be; else ValidationError."""
    if type(max_patterns) is not int or not 1 <= max_patterns <= _MOST:
        raise ValidationError("max_patterns", f"a whole number from 1 to {_MOST:,}", max_patterns)
    if type(evidence) is not int or not 1 <= evidence <= _MOST_EVIDENCE:
        raise ValidationError("evidence", f"a whole number from 1 to {_MOST_EVIDENCE:,}", evidence)
    return Wanted(whole("min_episodes", min_episodes), finite("min_lift", min_lift), max_patterns, evidence)


def learned_sequences(rows: Iterable[Row], wanted: Wanted) -> list[ToolSequence]:
    """The sequences whose episodes go well more often than all do, the highest lift first.

    Closed ones: a part of a longer sequence with the same episodes and successes says nothing of its own.
    """
    found = [(_lift(row), row) for row in _closed(list(rows))]
    kept = [(lift, row) for lift, row in found if lift is not None and lift >= wanted.min_lift]
    kept.sort(key=lambda pair: (-pair[0], -pair[1][1], pair[1][0]))
    return [_sequence(row) for _, row in kept[: wanted.max_patterns]]


def _closed(rows: list[Row]) -> list[Row]:
    """Return the rows without those that a longer one contains, with the same evidence and as many episodes."""
    alike: dict[object, list[tuple[str, ...]]] = {}
    kept = []
    for row in sorted(rows, key=lambda row: -len(json.loads(row[0]))):
        tools, evidence = tuple(json.loads(row[0])), (row[1], row[2], row[4])
        longer = alike.setdefault(evidence, [])
        if not any(_contains(other, tools) for other in longer):
            longer.append(tools)
            kept.append(row)
    return kept


def _contains(tools: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(tools[at : at + len(part)] == part for at in range(len(tools) - len(part) + 1))


def learned_recoveries(rows: Iterable[Row], wanted: Wanted) -> list[ErrorRecovery]:
    """What was done after an error until its tool was ok again, in enough episodes, the most frequent first."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, Seen]] = {}
    for tool, status, message, tools, statuses, episode, success, *context in rows:
        steps = _until_ok_again(tool, json.loads(tools), json.loads(statuses))
        if steps:
            key = tool, error_class(status, message), steps
            found.setdefault(key, {})[episode] = Seen(bool(success), tuple(context))
    kept = [
        (key, seen)
        for key, seen in found.items()
        if len(seen) >= wanted.min_episodes and any(one.success for one in seen.values())
    ]
    kept.sort(key=lambda pair: (-len(pair[1]), pair[0]))
    return [_recovery(*key, seen, wanted) for key, seen in kept[: wanted.max_patterns]]


def _until_ok_again(tool: str, tools: Sequence[str | None], statuses: Sequence[str | None]) -> tuple[str, ...]:
    for number, (name, status) in enumerate(zip(tools, statuses, strict=True), 1):
        if name == tool and status == "ok":
            return tuple(str(one) for one in tools[:number])
    return ()


def _lift(row: Row) -> float | None:
    _, episodes, successes, _, _, judged, all_successes, *_ = row
    return (successes * judged) / (episodes * all_successes) if all_successes else None


def _sequence(row: Row) -> ToolSequence:
    tools, episodes, successes, spent, ids, _, _, *shared = row
    names, context = json.loads(tools), _context(shared)
    return ToolSequence(
        id=_id("tool_sequence", context, names),
        description=" → ".join(names),
        context=context,
        tools=names,
        success_rate=successes / episodes,
        occurrence_count=episodes,
        avg_latency_ms=min(round(spent), _MOST_LATENCY),
        evidence=sorted(map(UUID, json.loads(ids))),
        tags=[MINED_TAG],
    )


def _recovery(tool: str, kind: str, steps: tuple[str, ...], found: dict[str, Seen], wanted: Wanted) -> ErrorRecovery:
    well = sorted(episode for episode, one in found.items() if one.success)
    context = _context([_only(values) for values in zip(*(one.context for one in found.values()), strict=True)])
    return ErrorRecovery(
        id=_id("error_recovery", context, [tool, kind, *steps]),
        description=f"after “{kind}” of {tool}: {' → '.join(steps)}",
        context=context,
        error_type=kind,
        recovery_steps=list(steps),
        success_rate=len(well) / len(found),
        occurrence_count=len(found),
        evidence=[UUID(episode) for episode in well[: wanted.evidence]],
        tags=[MINED_TAG],
        metadata={"tool": tool},
    )


def _id(kind: str, context: TaskContext, content: Sequence[str]) -> UUID:
    where = [context.domain, context.language, context.framework]
    return uuid5(_NAMESPACE, json.dumps([kind, where, *content], ensure_ascii=True))


def _context(shared: Sequence[str | None]) -> TaskContext:
    """The domain, language and framework that all episodes share; what they do not share stays open."""
    given = dict(zip(("domain", "language", "framework"), shared, strict=True))
    return TaskContext(**{name: value for name, value in given.items() if value is not None})


def _only(values: Sequence[str | None]) -> str | None:
    return values[0] if len(set(values)) == 1 else None


def with_tasks(patterns: Iterable[AnyPattern], tasks: Mapping[UUID, str]) -> list[AnyPattern]:
    """Return the patterns with the words that the tasks of their evidence share, in their descriptions."""
    told = []
    for pattern in patterns:
        words = shared_words([tasks[one] for one in pattern.evidence if one in tasks])
        about = f"{TASK_QUOTE}{', '.join(words)})" if words else ""
        told.append(pattern.model_copy(update={"description": pattern.description + about}))
    return told
