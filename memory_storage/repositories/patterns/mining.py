"""Pattern mining: from the statistics of tool sequences and failed steps to patterns. Deterministic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID, uuid5

from memory_storage.errors import ValidationError
from memory_storage.models import AnyPattern, ErrorRecovery, TaskContext, ToolSequence
from memory_storage.repositories.analytics.error_signature import error_class
from memory_storage.repositories.retention.sql import MINED_TAG, TASK_QUOTE
from memory_storage.sql.session import Row
from memory_storage.sql.validation import finite, whole

from .task_words import shared_words

_NAMESPACE = UUID("5f0c7c1e-6a0b-5c8e-9b57-3f1f4f7d2a10")
MAX_RECOVERY_STEPS = 5
_MAX_PATTERNS = 500
_MAX_EVIDENCE = 1_000
_MAX_LATENCY_MS = 2**63 - 1


class EpisodeResult(NamedTuple):
    """Whether an episode succeeded, and its domain, language and framework."""

    success: bool
    context: tuple[str | None, ...]


class MiningLimits(NamedTuple):
    """The minimum evidence of a pattern, and the maximum number of patterns."""

    min_episodes: int
    min_lift: float
    max_patterns: int
    evidence: int


def mining_limits(min_episodes: int, min_lift: float, max_patterns: int, evidence: int) -> MiningLimits:
    """Return the limits; ValidationError if one is out of range."""
    if type(max_patterns) is not int or not 1 <= max_patterns <= _MAX_PATTERNS:
        raise ValidationError("max_patterns", f"a whole number from 1 to {_MAX_PATTERNS:,}", max_patterns)
    if type(evidence) is not int or not 1 <= evidence <= _MAX_EVIDENCE:
        raise ValidationError("evidence", f"a whole number from 1 to {_MAX_EVIDENCE:,}", evidence)
    return MiningLimits(whole("min_episodes", min_episodes), finite("min_lift", min_lift), max_patterns, evidence)


def mine_sequences(rows: Iterable[Row], limits: MiningLimits) -> list[ToolSequence]:
    """Return the sequences whose episodes succeed more often than all do, the highest lift first.

    Closed ones: a part of a longer sequence with the same episodes and successes adds no information.
    """
    with_lift = [(_lift(row), row) for row in _closed(list(rows))]
    selected = [(lift, row) for lift, row in with_lift if lift is not None and lift >= limits.min_lift]
    selected.sort(key=lambda pair: (-pair[0], -pair[1][1], pair[1][0]))
    return [_sequence(row) for _, row in selected[: limits.max_patterns]]


def _closed(rows: list[Row]) -> list[Row]:
    """Return the rows without those that a longer sequence with the same evidence contains."""
    tools_by_evidence: dict[object, list[tuple[str, ...]]] = {}
    selected = []
    # The longest come first, so that each is compared only with those that may contain it.
    for row in sorted(rows, key=lambda row: -len(json.loads(row[0]))):
        tools, evidence = tuple(json.loads(row[0])), (row[1], row[2], row[4])
        longer = tools_by_evidence.setdefault(evidence, [])
        if not any(_contains(other, tools) for other in longer):
            longer.append(tools)
            selected.append(row)
    return selected


def _contains(tools: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(tools[at : at + len(part)] == part for at in range(len(tools) - len(part) + 1))


def mine_recoveries(rows: Iterable[Row], limits: MiningLimits) -> list[ErrorRecovery]:
    """Return the steps after an error until its tool succeeds again, the most frequent first."""
    by_recovery: dict[tuple[str, str, tuple[str, ...]], dict[str, EpisodeResult]] = {}
    for tool, status, message, tools, statuses, episode, success, *context in rows:
        steps = _recovery_path(tool, json.loads(tools), json.loads(statuses))
        if steps:
            key = tool, error_class(status, message), steps
            by_recovery.setdefault(key, {})[episode] = EpisodeResult(bool(success), tuple(context))
    selected = [
        (key, results)
        for key, results in by_recovery.items()
        if len(results) >= limits.min_episodes and any(result.success for result in results.values())
    ]
    selected.sort(key=lambda pair: (-len(pair[1]), pair[0]))
    return [_recovery(*key, results, limits) for key, results in selected[: limits.max_patterns]]


def _recovery_path(tool: str, tools: Sequence[str | None], statuses: Sequence[str | None]) -> tuple[str, ...]:
    for number, (name, status) in enumerate(zip(tools, statuses, strict=True), 1):
        if name == tool and status == "ok":
            return tuple(str(name) for name in tools[:number])
    return ()


def _lift(row: Row) -> float | None:
    _, episodes, successes, _, _, judged, all_successes, *_ = row
    # The success rate of the episodes with the sequence, relative to that of all.
    return (successes * judged) / (episodes * all_successes) if all_successes else None


def _sequence(row: Row) -> ToolSequence:
    tools, episodes, successes, spent, ids, _, _, *shared = row
    names, context = json.loads(tools), _context(shared)
    return ToolSequence(
        id=_pattern_id("tool_sequence", context, names),
        description=" → ".join(names),
        context=context,
        tools=names,
        success_rate=successes / episodes,
        occurrence_count=episodes,
        avg_latency_ms=min(round(spent), _MAX_LATENCY_MS),
        evidence=sorted(map(UUID, json.loads(ids))),
        tags=[MINED_TAG],
    )


def _recovery(
    tool: str, kind: str, steps: tuple[str, ...], results: dict[str, EpisodeResult], limits: MiningLimits
) -> ErrorRecovery:
    successful = sorted(episode for episode, result in results.items() if result.success)
    columns = zip(*(result.context for result in results.values()), strict=True)
    context = _context([values[0] if len(set(values)) == 1 else None for values in columns])
    return ErrorRecovery(
        id=_pattern_id("error_recovery", context, [tool, kind, *steps]),
        description=f"after “{kind}” of {tool}: {' → '.join(steps)}",
        context=context,
        error_type=kind,
        recovery_steps=list(steps),
        success_rate=len(successful) / len(results),
        occurrence_count=len(results),
        evidence=[UUID(episode) for episode in successful[: limits.evidence]],
        tags=[MINED_TAG],
        metadata={"tool": tool},
    )


def _pattern_id(kind: str, context: TaskContext, content: Sequence[str]) -> UUID:
    where = [context.domain, context.language, context.framework]
    return uuid5(_NAMESPACE, json.dumps([kind, where, *content], ensure_ascii=True))


def _context(shared: Sequence[str | None]) -> TaskContext:
    """Return the context that all episodes share; fields that they do not share keep their defaults."""
    context = dict(zip(("domain", "language", "framework"), shared, strict=True))
    return TaskContext(**{name: value for name, value in context.items() if value is not None})


def with_task_words(patterns: Iterable[AnyPattern], tasks: Mapping[UUID, str]) -> list[AnyPattern]:
    """Return the patterns, their descriptions extended by the words that the tasks of their evidence share."""
    described = []
    for pattern in patterns:
        words = shared_words([tasks[one] for one in pattern.evidence if one in tasks])
        about = f"{TASK_QUOTE}{', '.join(words)})" if words else ""
        described.append(pattern.model_copy(update={"description": pattern.description + about}))
    return described
