"""Makes patterns of findings, and brings the statistics of those that were made before up to date."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

from memory_storage.models import (
    AnyPattern,
    DecisionPoint,
    DomainRate,
    ErrorRecovery,
    Heuristic,
    PatternStatistics,
    TaskContext,
    ToolSequence,
)
from memory_storage.repositories.retention.sql import MINED_TAG, TASK_QUOTE

from .selection import PRIOR_EPISODES, Finding, contains
from .task_words import shared_words
from .traces import RECOVERY, TOOLS, Content

_NAMESPACE = UUID("5f0c7c1e-6a0b-5c8e-9b57-3f1f4f7d2a10")
_MAX_LATENCY_MS = 2**63 - 1
_DIGITS = 6  # of a statistic: sums of floats depend on their order, and a pattern that has not changed must be equal
_MAX_DOMAINS = 20
_MAX_TOOLS = 100  # of a joined sequence
_METADATA_TOOLS = "tools"


DomainWeights = Mapping[str, tuple[float, float]]
"""By domain, the sum of the weights of its episodes, and of those that succeeded."""


class EvidenceEpisode(NamedTuple):
    """What is read of an episode that is named as evidence: its ID, its task, and its tools with their latency."""

    id: UUID
    task: str
    steps: Sequence[tuple[str, int]]

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools in order."""
        return tuple(tool for tool, _ in self.steps)

    def latency_of(self, tools: tuple[str, ...]) -> int | None:
        """Return the duration of the first occurrence of a sequence, in milliseconds; None if it has none."""
        names = self.tools
        for at in range(len(names) - len(tools) + 1):
            if names[at : at + len(tools)] == tools:
                return sum(latency for _, latency in self.steps[at : at + len(tools)])
        return None


@dataclass(frozen=True)
class Evidence:
    """The evidence for findings.

    Attributes:
        episodes: The episodes, by `seq`.
        successes: The `seq` of those that succeeded, for each content in each domain.
        failures: The same of those that did not.
        domains: The weights of the episodes of each domain, and of those that succeeded, by content.
        weight_now: The weight of an episode that ends now.
    """

    episodes: Mapping[int, EvidenceEpisode]
    successes: Mapping[tuple[Content, str | None], Sequence[int]]
    failures: Mapping[tuple[Content, str | None], Sequence[int]]
    domains: Mapping[Content, DomainWeights]
    weight_now: float

    def of(self, finding: Finding) -> list[EvidenceEpisode]:
        """Return the successful episodes of a finding, by their `seq`."""
        return self._episodes(self.successes, finding)

    def against(self, finding: Finding) -> list[EvidenceEpisode]:
        """Return episodes of a finding that did not succeed."""
        return self._episodes(self.failures, finding)

    def _episodes(
        self, seqs: Mapping[tuple[Content, str | None], Sequence[int]], finding: Finding
    ) -> list[EvidenceEpisode]:
        keys = seqs.get((finding.content, finding.domain), ())
        return [self.episodes[seq] for seq in keys if seq in self.episodes]


def joined(findings: Sequence[Finding], longest: int, evidence: Evidence) -> list[tuple[Finding, tuple[str, ...]]]:
    """Return sequences, each with its tools; those that overlap in the same episodes are one longer sequence.

    Args:
        findings: The sequences, of which those with `longest` tools may be parts of a longer one.
        longest: The most tools of a sequence that is counted.
        evidence: Their evidence: all of it has to have the longer sequence.
    """
    followers: dict[object, list[Finding]] = {}
    ends = set()
    for one in findings:
        if len(one.content[1]) == longest:
            followers.setdefault(_overlap_key(one, one.content[1][:-1]), []).append(one)
            ends.add(_overlap_key(one, one.content[1][1:]))
    used: set[int] = set()
    sequences: dict[int, tuple[str, ...]] = {}
    # Those that follow no other one come first; what they leave is a circle.
    for one in sorted(findings, key=lambda one: _overlap_key(one, one.content[1][:-1]) in ends):
        if id(one) in used:
            continue
        used.add(id(one))
        tools, episodes = one.content[1], evidence.of(one)
        while len(tools) < _MAX_TOOLS:
            for other in followers.get(_overlap_key(one, tools[1 - longest :]), ()):
                longer = (*tools, other.content[1][-1])
                if id(other) not in used and all(contains(episode.tools, longer) for episode in episodes):
                    break
            else:
                break
            tools = longer
            used.add(id(other))
        sequences[id(one)] = tools
    return [(one, sequences[id(one)]) for one in findings if id(one) in sequences]


def _overlap_key(one: Finding, tools: tuple[str, ...]) -> object:
    return one.domain, one.group.episodes, one.group.successes, tools


def tool_sequence(finding: Finding, tools: tuple[str, ...], evidence: Evidence, most: int) -> ToolSequence:
    """Return the pattern of a sequence that leads to success.

    Args:
        finding: The sequence, or the first part of a joined one.
        tools: The tools.
        evidence: Its evidence.
        most: The maximum number of episodes that it names.
    """
    episodes, context = evidence.of(finding), _context(finding)
    latencies = [latency for one in episodes if (latency := one.latency_of(tools)) is not None]
    return ToolSequence(
        id=_pattern_id("tool_sequence", context, tools),
        description=" → ".join(tools) + _tasks(episodes),
        tools=list(tools),
        avg_latency_ms=min(round(sum(latencies) / len(latencies)) if latencies else 0, _MAX_LATENCY_MS),
        **_common(finding, context, episodes, evidence, most),
    )


def error_recovery(finding: Finding, evidence: Evidence, most: int) -> ErrorRecovery:
    """Return the pattern of what resolved an error."""
    tool, error, *steps = finding.content[1]
    episodes, context = evidence.of(finding), _context(finding)
    return ErrorRecovery(
        id=_pattern_id("error_recovery", context, finding.content[1]),
        description=f"after “{error}” of {tool}: {' → '.join(steps)}{_tasks(episodes)}",
        error_type=error,
        recovery_steps=steps,
        metadata={"tool": tool},
        **_common(finding, context, episodes, evidence, most),
    )


def decision_point(finding: Finding, evidence: Evidence, most: int) -> DecisionPoint:
    """Return the pattern of a tool that is a better choice after others than what else was chosen after them."""
    *before, action = tools = finding.content[1]
    episodes, context = evidence.of(finding), _context(finding)
    return DecisionPoint(
        id=_pattern_id("decision_point", context, tools),
        description=f"after {' → '.join(before)}: {action}{_tasks(episodes)}",
        condition=f"after {' → '.join(before)}",
        action=action,
        success_count=finding.group.successes,
        failure_count=finding.group.episodes - finding.group.successes,
        metadata={_METADATA_TOOLS: list(tools)},
        **_common(finding, context, episodes, evidence, most),
    )


def avoidance(finding: Finding, evidence: Evidence, most: int) -> Heuristic:
    """Return the pattern of a sequence that leads to failure. Its evidence are episodes that failed."""
    tools = finding.content[1]
    episodes, context = evidence.against(finding), _context(finding)
    condition = f"{' → '.join(tools)} leads to failure"
    return Heuristic(
        id=_pattern_id("heuristic", context, ["avoid", *tools]),
        description=f"avoid {' → '.join(tools)}{_tasks(episodes)}",
        condition=condition,
        action="do something else",
        confidence=_rounded(1 - finding.expected_rate(evidence.weight_now)),
        metadata={_METADATA_TOOLS: list(tools)},
        **_common(finding, context, episodes, evidence, most),
    )


def content_of(pattern: AnyPattern, longest: int) -> Content | None:
    """Return what a learned pattern was made of; None if that is not known, because it was edited.

    Args:
        pattern: The pattern.
        longest: The most tools of a sequence that is counted: of a joined one the last part is returned.
    """
    if isinstance(pattern, ToolSequence):
        return TOOLS, tuple(pattern.tools[-longest:])
    if isinstance(pattern, ErrorRecovery):
        tool = pattern.metadata.get("tool")
        return (RECOVERY, (tool, pattern.error_type, *pattern.recovery_steps)) if isinstance(tool, str) else None
    tools = pattern.metadata.get(_METADATA_TOOLS)
    if isinstance(pattern, DecisionPoint | Heuristic) and isinstance(tools, list):
        return TOOLS, tuple(str(tool) for tool in tools[-longest:])
    return None


def statistics(finding: Finding, weight_now: float, domains: DomainWeights) -> PatternStatistics:
    """Return the statistics of a pattern, rounded.

    Args:
        finding: What the pattern is made of.
        weight_now: The weight of an episode that ends now.
        domains: The weights of its domains.
    """
    low, high = finding.lift_interval
    rate = finding.expected_rate(weight_now)
    return PatternStatistics(
        support=_rounded(finding.group.episodes / finding.baseline.episodes),
        lift=_rounded(finding.lift),
        lift_low=_rounded(low),
        lift_high=_rounded(high),
        false_discovery_rate=_rounded(finding.false_discovery_rate),
        baseline_rate=_rounded(finding.baseline.rate),
        expected_rate=_rounded(rate),
        effective_episodes=_rounded(min(finding.group.episodes, finding.effective_episodes(weight_now))),
        task_type=finding.group.context[3] or None,
        domains={} if finding.domain is not None else _domain_rates(domains, rate, weight_now),
    )


def _domain_rates(domains: DomainWeights, rate: float, weight_now: float) -> dict[str, DomainRate]:
    rates = {}
    for domain, (weight, success_weight) in sorted(domains.items(), key=lambda pair: (-pair[1][0], pair[0])):
        episodes, successes = max(0.0, weight / weight_now), max(0.0, success_weight / weight_now)
        expected = (successes + PRIOR_EPISODES * rate) / (episodes + PRIOR_EPISODES)
        rates[domain] = DomainRate(expected_rate=_rounded(min(1.0, expected)), effective_episodes=_rounded(episodes))
        if len(rates) == _MAX_DOMAINS:
            break
    return rates


def updated(pattern: AnyPattern, finding: Finding, weight_now: float, domains: DomainWeights) -> AnyPattern:
    """Return a pattern with the statistics of now; the evidence and what was edited stay."""
    now = statistics(finding, weight_now, domains)
    update: dict[str, object] = {
        "success_rate": finding.rate,
        "occurrence_count": finding.group.episodes,
        "statistics": now,
    }
    if isinstance(pattern, DecisionPoint) and pattern.statistics is not None:
        # What else was chosen is not read again: the lift over it stays as it was.
        update["success_count"] = finding.group.successes
        update["failure_count"] = finding.group.episodes - finding.group.successes
        figures = {name: getattr(now, name) for name in ("expected_rate", "effective_episodes", "task_type", "domains")}
        update["statistics"] = pattern.statistics.model_copy(update=figures)
    if isinstance(pattern, Heuristic):
        update["confidence"] = _rounded(1 - now.expected_rate)
    return pattern.model_copy(update=update)


def _common(
    finding: Finding, context: TaskContext, episodes: Sequence[EvidenceEpisode], evidence: Evidence, most: int
) -> dict[str, object]:
    return {
        "context": context,
        "success_rate": finding.rate,
        "occurrence_count": finding.group.episodes,
        "evidence": sorted(one.id for one in episodes[:most]),
        "tags": [MINED_TAG],
        "statistics": statistics(finding, evidence.weight_now, evidence.domains.get(finding.content, {})),
    }


def _tasks(episodes: Iterable[EvidenceEpisode]) -> str:
    words = shared_words([one.task for one in episodes])
    return f"{TASK_QUOTE}{', '.join(words)})" if words else ""


def _pattern_id(kind: str, context: TaskContext, content: Sequence[str]) -> UUID:
    where = [context.domain, context.language, context.framework]
    return uuid5(_NAMESPACE, json.dumps([kind, where, *content], ensure_ascii=True))


def _context(finding: Finding) -> TaskContext:
    """Return the context that all episodes share; fields that they do not share keep their defaults."""
    context = dict(zip(("domain", "language", "framework"), finding.group.context, strict=False))
    return TaskContext(**{name: value for name, value in context.items() if value})


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
