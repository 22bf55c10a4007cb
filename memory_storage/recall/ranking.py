"""Chooses among the candidates of a recall: by their value, and by how much each differs from those chosen before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

from memory_storage.models import Episode, RecallWeights

from .candidates import Candidate, cosine

DUPLICATE = 0.95
"""The least similarity of two records of which only one is shown."""

_DAY = 86_400.0
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Choice:
    """A chosen candidate, its value from 0 to 1, and the candidates that are nearly the same."""

    candidate: Candidate
    value: float
    similar: tuple[Candidate, ...] = ()
    effectiveness: float | None = None


def choose(
    candidates: Sequence[Candidate],
    count: int,
    weights: RecallWeights,
    diversity: float,
    now: datetime,
    expected: Mapping[UUID, float] | None = None,
) -> list[Choice]:
    """Choose by maximal marginal relevance (Carbonell and Goldstein, 1998), the best first.

    Args:
        candidates: The candidates of one kind.
        count: How many to choose at most.
        weights: The weights of the value.
        diversity: From 0, the highest values, to 1, the least similar to those chosen before.
        now: The time from which their age is counted.
        expected: The success rate that is expected of the use of each, by its ID; None if that has no weight.

    Returns:
        The choices. Near-duplicates of a choice are named by it, and not chosen.
    """
    expected = expected or {}
    remaining = [_Comparable(one, value(one, weights, now, expected.get(one.item.id, 0.0))) for one in candidates]
    closest = [0.0] * len(remaining)  # the similarity of each to the nearest choice
    chosen: list[Choice] = []
    while remaining and len(chosen) < count:
        best = max(
            range(len(remaining)), key=lambda at: (1 - diversity) * remaining[at].value - diversity * closest[at]
        )
        choice = remaining[best]
        similarities = [choice.similarity(one) for one in remaining]
        same = [at != best and found >= DUPLICATE for at, found in enumerate(similarities)]
        folded = tuple(one.candidate for one, is_same in zip(remaining, same, strict=True) if is_same)
        chosen.append(Choice(choice.candidate, choice.value, folded, expected.get(choice.candidate.item.id)))
        rest = [at for at, is_same in enumerate(same) if at != best and not is_same]
        closest = [max(closest[at], similarities[at]) for at in rest]
        remaining = [remaining[at] for at in rest]
    return chosen


def value(candidate: Candidate, weights: RecallWeights, now: datetime, effectiveness: float = 0.0) -> float:
    """Return the weighted mean of a candidate's relevance, reward, recency and effectiveness, from 0 to 1."""
    item = candidate.item
    if isinstance(item, Episode):
        reward, moment = (item.reward.total if item.reward else 0.0), item.started_at
    else:
        reward, moment = item.expected_rate(), item.updated_at or now
    age = max(0.0, (now - moment).total_seconds()) / _DAY
    recency = 1 / (1 + age / weights.half_life)
    total = weights.similarity + weights.reward + weights.recency + weights.effectiveness
    parts = (
        weights.similarity * candidate.relevance,
        weights.reward * min(1.0, max(0.0, reward)),
        weights.recency * recency,
        weights.effectiveness * effectiveness,
    )
    return sum(parts) / total


class _Comparable:
    """A candidate that can be compared with others: by vectors if both have one, else by the words they share."""

    def __init__(self, candidate: Candidate, value: float) -> None:
        self.candidate, self.value = candidate, value

    @cached_property
    def words(self) -> frozenset[str]:
        item = self.candidate.item
        text = item.task_description if isinstance(item, Episode) else item.title
        return frozenset(_WORD.findall(text.lower()))

    def similarity(self, other: _Comparable) -> float:
        """Return the cosine of both vectors, or the Jaccard index of both sets of words; from 0 to 1."""
        mine, others = self.candidate.direction, other.candidate.direction
        if mine is not None and others is not None:
            return max(0.0, cosine(mine, others))
        union = self.words | other.words
        return len(self.words & other.words) / len(union) if union else 0.0
