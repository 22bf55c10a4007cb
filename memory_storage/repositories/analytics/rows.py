"""Rows of counts and sums to figures with their intervals. Runs nothing."""

from __future__ import annotations

import json
from typing import NamedTuple

from memory_storage.models.analytics import Change, Figures, Mean, Rate, SequenceFigures
from memory_storage.sql.session import Row

from .confidence import Sums, difference_of_means, difference_of_rates, mean, wilson


class GroupCounts(NamedTuple):
    """A row of `_analytics_sql.figures`."""

    episodes: int
    judged: int
    successes: int
    rewards: Sums
    durations: Sums

    def figures(self, confidence: float) -> Figures:
        """With their intervals."""
        success = wilson(self.successes, self.judged, confidence)
        return Figures(self.episodes, success, mean(self.rewards, confidence), mean(self.durations, confidence))

    def as_columns(self, confidence: float) -> tuple[int, Rate, Mean, Mean]:
        """The same, for a row that begins with something else."""
        figures = self.figures(confidence)
        return figures.episodes, figures.success, figures.reward, figures.duration_s


NO_EPISODES = GroupCounts(0, 0, 0, Sums(0, None, None), Sums(0, None, None))


def counts_from_row(row: Row) -> GroupCounts:
    """Its counts and sums, which come after the period and the name."""
    return GroupCounts(row[2], row[3], row[4], Sums(*row[5:8]), Sums(*row[8:11]))


def sequence_from_row(row: Row, confidence: float) -> SequenceFigures:
    """The sequence in a row of `_analytics_sql.sequences`."""
    tools, episodes, successes, _, _, judged, all_successes = row
    success = wilson(successes, episodes, confidence)
    lift = (successes * judged) / (episodes * all_successes) if all_successes else None
    return SequenceFigures(tuple(json.loads(tools)), episodes, episodes / judged, success, lift)


def change_between(name: str | None, before: GroupCounts, after: GroupCounts, confidence: float) -> Change:
    """What is different between the two."""
    old, new = before.figures(confidence), after.figures(confidence)
    return Change(
        name,
        old,
        new,
        difference_of_rates(old.success, new.success),
        difference_of_means(before.rewards, after.rewards, confidence),
        difference_of_means(before.durations, after.durations, confidence),
    )
