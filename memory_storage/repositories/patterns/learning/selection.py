"""Selects which counts become patterns: sequences that lead to success or to failure, recoveries, and choices.

Sequences are compared with all episodes; those of one domain with the episodes of that domain. Of several sequences in
the same episodes the longest is selected (closed sequences; Yan, Han and Afshar, 2003).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from .chance import false_discovery_rates, lift_interval, tail
from .counts import Group
from .traces import EVERY, RECOVERY, TOOLS, Content

PRIOR_EPISODES = 2.0
"""Episodes of the average success that are added to those of a group, whose rate is an exception by selection."""

_ROUNDING = 1e-9

_MAX_FALSE_DISCOVERY = 0.05  # for what is to be avoided, for choices, and for exceptions of a domain


class Thresholds(NamedTuple):
    """The minimum evidence of a pattern, and the maximum numbers of patterns and of episodes that one names."""

    min_episodes: int
    min_lift: float
    max_patterns: int
    evidence: int


class Baseline(NamedTuple):
    """The episodes that a group is compared with, and how many of them succeeded; and their weights."""

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
        """The share that succeeded, by weight."""
        return self.success_weight / self.weight if self.weight else self.rate


@dataclass(frozen=True)
class Finding:
    """Something that may become a pattern.

    Attributes:
        content: The tools, or the recovery.
        group: The episodes that have it.
        baseline: What they are compared with.
        false_discovery_rate: The share of false discoveries among all findings that chance explains as little.
    """

    content: Content
    group: Group
    baseline: Baseline
    false_discovery_rate: float = 1.0

    @property
    def domain(self) -> str | None:
        """The domain of all episodes; None if there are several."""
        return self.group.context[0]

    @property
    def rate(self) -> float:
        """The share of its episodes that succeeded."""
        return self.group.successes / self.group.episodes

    @property
    def lift(self) -> float:
        """The success rate relative to that of the baseline; 0 if nothing succeeded."""
        return self.rate / self.baseline.rate if self.baseline.rate else 0.0

    @property
    def recent_lift(self) -> float:
        """The same by weight."""
        rate = self.group.success_weight / self.group.weight if self.group.weight else self.rate
        return rate / self.baseline.recent_rate if self.baseline.recent_rate else 0.0

    def leads(self, min_lift: float) -> bool:
        """Return whether its lift is high enough, and whether it still is above 1 among the latest episodes."""
        still = min(1.0, min_lift) * (1 - _ROUNDING)
        return bool(self.baseline.successes) and self.lift >= min_lift and self.recent_lift >= still

    @cached_property
    def lift_interval(self) -> tuple[float, float]:
        """The bounds of the lift, at 95 %."""
        return lift_interval(*self.group[1:3], *self.baseline[:2])

    @cached_property
    def probability(self) -> float:
        """How likely chance explains the number of successes; of failures, if the rate is below the baseline's."""
        return _chance(*self.group[1:3], *self.baseline[:2])

    def effective_episodes(self, weight_now: float) -> float:
        """Return how many episodes that end now its own ones weigh as much as.

        Args:
            weight_now: The weight of an episode that ends now.
        """
        return self.group.weight / weight_now

    def expected_rate(self, weight_now: float) -> float:
        """Return the rate to expect: of recent episodes more than of old ones, and of few of them less than of all.

        Args:
            weight_now: The weight of an episode that ends now.
        """
        recent, successes = self.group.weight / weight_now, self.group.success_weight / weight_now
        return min(1.0, (successes + PRIOR_EPISODES * self.baseline.recent_rate) / (recent + PRIOR_EPISODES))


class Findings(NamedTuple):
    """What is selected, the surest first."""

    sequences: list[Finding]
    recoveries: list[Finding]
    choices: list[Finding]
    avoided: list[Finding]


def select(
    overall: Sequence[Group], by_domain: Sequence[Group], thresholds: Thresholds, lengths: tuple[int, int]
) -> Findings:
    """Return what becomes patterns.

    Args:
        overall: The groups over all contexts.
        by_domain: The groups of each domain.
        thresholds: The minimum evidence.
        lengths: The smallest and the largest number of tools of a sequence.
    """
    compared = [*_general(overall), *_specific(overall, by_domain)]
    tools = [one for one in compared if one.content[0] == TOOLS and lengths[0] <= len(one.content[1]) <= lengths[1]]
    return Findings(
        _leading(tools, thresholds),
        _recoveries(compared, thresholds),
        _choices(overall, thresholds),
        _avoided(tools, thresholds),
    )


def _baselines(groups: Iterable[Group], *, by_domain: bool) -> dict[str | None, Baseline]:
    return {one.context[0] if by_domain else None: Baseline(*one[1:5]) for one in groups if one.content == EVERY}


def contains(tools: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Return whether a sequence contains another one, without gaps."""
    return any(tools[at : at + len(part)] == part for at in range(len(tools) - len(part) + 1))


def _general(overall: Sequence[Group]) -> Iterator[Finding]:
    baseline = _baselines(overall, by_domain=False).get(None)
    if baseline is not None:
        yield from (Finding(one.content, one, baseline) for one in overall if one.content != EVERY)


def _specific(overall: Sequence[Group], by_domain: Sequence[Group]) -> Iterator[Finding]:
    """Yield the groups of one domain of what occurs in several."""
    spread = {one.content for one in overall if one.context[0] is None and one.content != EVERY}
    of_domain = _baselines(by_domain, by_domain=True)
    for one in by_domain:
        if one.content in spread and one.context[0] in of_domain:
            yield Finding(one.content, one, of_domain[one.context[0]])


def _chance(episodes: int, successes: int, total: int, all_successes: int) -> float:
    if successes * total >= all_successes * episodes:
        return tail(episodes, successes, total, all_successes)
    return tail(episodes, episodes - successes, total, total - all_successes)


def _with_rates(selected: Sequence[Finding], comparisons: int) -> list[Finding]:
    rates = false_discovery_rates([one.probability for one in selected], comparisons)
    return [replace(one, false_discovery_rate=rate) for one, rate in zip(selected, rates, strict=True)]


def _leading(compared: Sequence[Finding], thresholds: Thresholds) -> list[Finding]:
    """Return the sequences that lead to success, those with the highest lower bound of the lift first."""
    above = [one for one in compared if one.leads(thresholds.min_lift)]
    selected = _closed(_with_rates(_without_repetitions(above, compared), len(compared)))
    return sorted(selected, key=lambda one: (-one.lift_interval[0], -one.group.episodes, one.content, one.domain or ""))


def _avoided(compared: Sequence[Finding], thresholds: Thresholds) -> list[Finding]:
    """Return the sequences that lead to failure, the surest first. Only those that chance does not explain."""
    below = [one for one in compared if one.baseline.successes and one.lift * max(1.0, thresholds.min_lift) <= 1]
    rated = _with_rates(_without_repetitions(below, compared), len(compared))
    sure = _closed([one for one in rated if one.false_discovery_rate <= _MAX_FALSE_DISCOVERY])
    return sorted(sure, key=_by_probability)[: thresholds.max_patterns]


def _without_repetitions(selected: Sequence[Finding], compared: Sequence[Finding]) -> list[Finding]:
    """Return the findings without those of a domain that say no more than the one of all domains.

    One of a domain remains if none of all domains is selected, or if its rate differs from the rate elsewhere by more
    than chance explains.
    """
    general = {one.content: one.group for one in selected if one.domain is None}
    repeated = [one for one in selected if one.domain is not None and one.content in general]
    chances = [_chance(*one.group[1:3], *general[one.content][1:3]) for one in repeated]
    rates = false_discovery_rates(chances, max(1, sum(one.domain is not None for one in compared)))
    omitted = {id(one) for one, rate in zip(repeated, rates, strict=True) if rate > _MAX_FALSE_DISCOVERY}
    return [one for one in selected if id(one) not in omitted]


def _closed(selected: Iterable[Finding]) -> list[Finding]:
    """Return the findings without those that a longer one contains and that are in no other episodes."""
    longer: dict[object, list[Finding]] = defaultdict(list)
    # Episodes that have a sequence have each part of it: if there are as many of both, they are the same.
    for one in sorted(selected, key=lambda one: -len(one.content[1])):
        others = longer[one.domain, one.group.episodes, one.group.successes]
        if not any(contains(other.content[1], one.content[1]) for other in others):
            others.append(one)
    return [one for others in longer.values() for one in others]


def _recoveries(compared: Iterable[Finding], thresholds: Thresholds) -> list[Finding]:
    """Return the recoveries of which one led to success, the most frequent first."""
    recoveries = [one for one in compared if one.content[0] == RECOVERY and one.group.successes]
    general = {one.content for one in recoveries if one.domain is None}
    recoveries = [one for one in recoveries if one.domain is None or one.content not in general]
    rated = _with_rates(recoveries, len(recoveries))
    return sorted(rated, key=lambda one: (-one.group.episodes, one.content))[: thresholds.max_patterns]


def _choices(overall: Iterable[Group], thresholds: Thresholds) -> list[Finding]:
    """Return the last tools of sequences that succeed more often than the other ones after the same beginning."""
    branches: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for one in overall:
        kind, tools = one.content
        if kind == TOOLS and len(tools) > 1:
            branches[tools[:-1]].append(one)
    compared = []
    for groups in branches.values():
        if len(groups) > 1:
            baseline = Baseline(*(sum(column) for column in zip(*(one[1:5] for one in groups), strict=True)))
            compared += [Finding(one.content, one, baseline) for one in groups]
    above = [one for one in compared if one.leads(thresholds.min_lift)]
    sure = [one for one in _with_rates(above, len(compared)) if one.false_discovery_rate <= _MAX_FALSE_DISCOVERY]
    return sorted(_shortest_choices(sure), key=_by_probability)[: thresholds.max_patterns]


def _shortest_choices(selected: Iterable[Finding]) -> list[Finding]:
    """Return the findings without those whose end is a choice of the same rate, which the longer beginning repeats."""
    shortest: dict[tuple[str, ...], float] = {}
    remaining = []
    for one in sorted(selected, key=lambda one: len(one.content[1])):
        tools = one.content[1]
        ends = [tools[at:] for at in range(1, len(tools) - 1)]
        if not any(end in shortest and one.rate <= shortest[end] for end in ends):
            remaining.append(one)
        shortest[tools] = one.rate
    return remaining


def _by_probability(one: Finding) -> tuple[object, ...]:
    return one.probability, -one.group.episodes, one.content, one.domain or ""
