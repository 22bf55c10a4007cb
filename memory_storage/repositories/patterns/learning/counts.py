"""Counts of what episodes have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from .traces import Content, Context, Trace

MAX_EVIDENCE = 20
"""Episodes that are kept as evidence of a content in a context."""


@dataclass(slots=True)
class Tally:
    """How many episodes have something in common, how many of them succeeded, their weights, and the first successes."""

    episodes: int = 0
    successes: int = 0
    weight: float = 0.0
    success_weight: float = 0.0
    evidence: list[int] = field(default_factory=list)

    def add(self, trace: Trace, evidence: int) -> None:
        """Count an episode."""
        self.episodes += 1
        self.weight += trace.weight
        if trace.success:
            self.successes += 1
            self.success_weight += trace.weight
            if len(self.evidence) < evidence:
                self.evidence.append(trace.seq)


Counts = dict[tuple[Content, Context], Tally]


def count(traces: Iterable[Trace], lengths: tuple[int, int], evidence: int, into: Counts) -> dict[int, list[Content]]:
    """Count what the episodes have in common.

    Args:
        traces: The episodes.
        lengths: The smallest and the largest number of tools of a sequence.
        evidence: The most successes that a tally names.
        into: The counts, which are added to.

    Returns:
        The contents of each episode, by its `seq`.
    """
    contents = {}
    for trace in traces:
        context = trace.context
        contents[trace.seq] = found = list(trace.contents(lengths))
        for content in found:
            key = content, context
            tally = into.get(key)
            if tally is None:
                tally = into[key] = Tally()
            tally.add(trace, evidence)
    return contents


class Group(NamedTuple):
    """The episodes that have something in common, in all contexts or in those of one domain.

    Attributes:
        content: What they have in common.
        episodes: How many they are.
        successes: How many of them succeeded.
        weight: The sum of their weights.
        success_weight: The sum of the weights of those that succeeded.
        context: The domain, language, framework and task type that all of them have; None for one that differs.
    """

    content: Content
    episodes: int
    successes: int
    weight: float
    success_weight: float
    context: tuple[str | None, ...]


def groups(counts: Counts, least: int, *, by_domain: bool) -> Iterator[Group]:
    """Return the groups of at least so many episodes, as `sql.groups` does for counts that are stored.

    Args:
        counts: The counts.
        least: The least number of episodes.
        by_domain: Whether each domain is a group of its own.
    """

    def key(entry: tuple[tuple[Content, Context], Tally]) -> tuple[Content, str]:
        (content, context), _ = entry
        return content, context[0] if by_domain else ""

    for (content, _), entries in groupby(sorted(counts.items(), key=lambda entry: entry[0]), key):
        tallies, contexts = [], []
        for (_, context), tally in entries:
            tallies.append(tally)
            contexts.append(context)
        if sum(one.episodes for one in tallies) >= least:
            shared = tuple(values[0] if len(set(values)) == 1 else None for values in zip(*contexts, strict=True))
            yield Group(
                content,
                sum(one.episodes for one in tallies),
                sum(one.successes for one in tallies),
                sum(one.weight for one in tallies),
                sum(one.success_weight for one in tallies),
                shared,
            )
