"""Which of what is counted become patterns: sequences that lead to success or failure, recoveries, and choices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .counts import Group
from .chance import corrected, tail
from .traces import EVERY, RECOVERY, TOOLS, Content

_PRIOR = 2.0
"""Episodes of the average success that are added to those of a group, whose rate is an exception by selection."""

_FALSE = 0.05  # of what is to be avoided, and of choices, at most this share are false discoveries


class MiningLimits(NamedTuple):
    """The minimum evidence of a pattern, and the maximum number of patterns."""

    min_episodes: int
    min_lift: float
    max_patterns: int
    evidence: int


class Baseline(NamedTuple):
    """All episodes that a group is compared with: how many are judged, and how many succeeded; and their weights."""

    episodes: int
    successes: int
    weight: float
    success_weight: float

    @property
    def rate(self) -> float:
        """The share that succeeded."""
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def recent_rate(self) -> float:
        """The same by weight."""
        return self.success_weight / self.weight if self.weight else self.rate


@dataclass(frozen=True)
class Finding:
    """What may become a pattern.

    Attributes:
        content: The tools, or the recovery.
        group: The episodes that have it.
        baseline: What they are compared with.
        probability: How likely chance explains the difference.
        corrected: The share of false discoveries among all findings that are as unlikely.
    """

    content: Content
    group: Group
    baseline: Baseline
    probability: float
    corrected: float = 1.0

    @property
    def lift(self) -> float:
        """The success rate relative to that of the baseline; 0 without any success."""
        return self.rate / self.baseline.rate if self.baseline.rate else 0.0

    @property
    def rate(self) -> float:
        """The share of its episodes that succeeded."""
        return self.group.successes / self.group.episodes

    def expected_rate(self, weight_now: float) -> float:
        """Return the rate to expect: of recent episodes more than of old ones, and of few of them less than of all.

        Args:
            weight_now: The weight of an episode that ends now.
        """
        recent = self.group.weight / weight_now
        return (self.group.success_weight / weight_now + _PRIOR * self.baseline.recent_rate) / (recent + _PRIOR)


class Findings(NamedTuple):
    """What was found, the best first."""

    sequences: list[Finding]
    avoided: list[Finding]
    recoveries: list[Finding]
    choices: list[Finding]


def find(overall: Sequence[Group], by_domain: Sequence[Group], limits: MiningLimits) -> Findings:
    """Return what may become patterns.

    Args:
        overall: The groups over all contexts.
        by_domain: The groups of each domain.
        limits: The minimum evidence.
    """
    compared = [*_compared(overall, None), *_specific(overall, by_domain)]
    tools = [one for one in compared if one.content[0] == TOOLS]
    return Findings(
        _leading(tools, limits),
        _avoided(tools, limits),
        _recoveries(overall, limits),
        _choices(overall, limits),
    )


def _baselines(groups: Iterable[Group], *, by_domain: bool) -> dict[str | None, Baseline]:
    return {one.context[0] if by_domain else None: Baseline(*one[1:5]) for one in groups if one.content == EVERY}


def _compared(groups: Iterable[Group], domain: str | None) -> list[Finding]:
    groups = list(groups)
    baseline = _baselines(groups, by_domain=False).get(domain)
    if baseline is None:
        return []
    return [_finding(one, baseline) for one in groups if one.content != EVERY]


def _specific(overall: Sequence[Group], by_domain: Sequence[Group]) -> list[Finding]:
    """Return the groups of one domain of what occurs in several."""
    spread = {one.content for one in overall if one.context[0] is None}
    baselines = _baselines(by_domain, by_domain=True)
    return [
        _finding(one, baselines[one.context[0]])
        for one in by_domain
        if one.content in spread and one.content != EVERY and one.context[0] in baselines
    ]


def _finding(group: Group, baseline: Baseline) -> Finding:
    return Finding(group.content, group, baseline, _chance(group, baseline))


def _chance(group: Group, baseline: Baseline) -> float:
    """Return how likely chance explains that so many succeeded; or so few, if it is less than of all."""
    episodes, successes = group.episodes, group.successes
    total, all_successes = baseline.episodes, baseline.successes
    if successes * total >= all_successes * episodes:
        return tail(episodes, successes, total, all_successes)
    return tail(episodes, episodes - successes, total, total - all_successes)


def _with_correction(selected: Sequence[Finding], comparisons: int) -> list[Finding]:
    shares = corrected([one.probability for one in selected], comparisons)
    return [
        Finding(one.content, one.group, one.baseline, one.probability, share)
        for one, share in zip(selected, shares, strict=True)
    ]


def _leading(compared: Sequence[Finding], limits: MiningLimits) -> list[Finding]:
    """Return the sequences that lead to success, the highest lift first; of one domain only if not in all."""
    found = [one for one in compared if one.baseline.successes and one.lift >= limits.min_lift]
    general = {one.content for one in found if one.group.context[0] is None}
    found = [one for one in found if one.group.context[0] is None or one.content not in general]
    found = _with_correction(found, len(compared))
    return sorted(found, key=lambda one: (-one.lift, -one.group.episodes, one.content))


def _avoided(compared: Sequence[Finding], limits: MiningLimits) -> list[Finding]:
    """Return the sequences that lead to failure, the surest first. Only those that chance does not explain."""
    found = [one for one in compared if one.baseline.successes and one.lift * limits.min_lift <= 1]
    found = [one for one in _with_correction(found, len(compared)) if one.corrected <= _FALSE]
    return sorted(found, key=lambda one: (one.probability, -one.group.episodes, one.content))


def _recoveries(overall: Iterable[Group], limits: MiningLimits) -> list[Finding]:
    """Return the recoveries of which one led to success, the most frequent first."""
    found = [one for one in _compared(overall, None) if one.content[0] == RECOVERY and one.group.successes]
    return sorted(found, key=lambda one: (-one.group.episodes, one.content))[: limits.max_patterns]


def _choices(overall: Iterable[Group], limits: MiningLimits) -> list[Finding]:
    """Return the last tools of sequences that succeed more often than the other ones after the same beginning."""
    after: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for one in overall:
        kind, tools = one.content
        if kind == TOOLS and len(tools) > 1:
            after[tools[:-1]].append(one)
    compared = []
    for branches in after.values():
        if len(branches) > 1:
            sums = (sum(getattr(one, name) for one in branches) for name in Baseline._fields)
            baseline = Baseline(*sums)
            compared += [_finding(one, baseline) for one in branches]
    found = [one for one in compared if one.baseline.successes and one.lift >= limits.min_lift]
    found = [one for one in _with_correction(found, len(compared)) if one.corrected <= _FALSE]
    found.sort(key=lambda one: (one.probability, -one.group.episodes, one.content))
    return _longest(found)


def _longest(found: Iterable[Finding]) -> list[Finding]:
    """Return the findings without those that end a longer one with the same episodes."""
    kept: list[Finding] = []
    ends: set[tuple[tuple[str, ...], int, int]] = set()
    for one in sorted(found, key=lambda one: -len(one.content[1])):
        tools, numbers = one.content[1], one.group[1:3]
        if (tools, *numbers) not in ends:
            kept.append(one)
        ends.update((tools[at:], *numbers) for at in range(1, len(tools) - 1))
    return sorted(kept, key=lambda one: (one.probability, -one.group.episodes, one.content))
