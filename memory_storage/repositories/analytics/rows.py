"""Conversion of rows of counts and sums to statistics with their intervals."""

from __future__ import annotations

import json
from typing import NamedTuple

from memory_storage.models.analytics import Change, Figures, Mean, SequenceFigures
from memory_storage.models.proportion import Rate, wilson
from memory_storage.sql.session import Row

from .confidence import Sums, difference_of_means, difference_of_rates, mean


class GroupCounts(NamedTuple):
    """The counts and sums of a row of `sql.figures`."""

    episodes: int
    judged: int
    successes: int
    rewards: Sums
    durations: Sums

    def figures(self, confidence: float) -> Figures:
        """Return the statistics with their intervals."""
        success = wilson(self.successes, self.judged, confidence)
        return Figures(self.episodes, success, mean(self.rewards, confidence), mean(self.durations, confidence))

    def as_columns(self, confidence: float) -> tuple[int, Rate, Mean, Mean]:
        """Return the statistics as the columns of a row that begins with something else."""
        figures = self.figures(confidence)
        return figures.episodes, figures.success, figures.reward, figures.duration_s


NO_EPISODES = GroupCounts(0, 0, 0, Sums(0, None, None), Sums(0, None, None))


def counts_from_row(row: Row) -> GroupCounts:
    """Return the counts and sums of a row; they follow the period and the name."""
    return GroupCounts(row[2], row[3], row[4], Sums(*row[5:8]), Sums(*row[8:11]))


def sequence_from_row(row: Row, confidence: float) -> SequenceFigures:
    """Return the sequence in a row of `sql.sequences`."""
    tools, episodes, successes, _, judged, all_successes = row
    success = wilson(successes, episodes, confidence)
    lift = (successes * judged) / (episodes * all_successes) if all_successes else None
    return SequenceFigures(tuple(json.loads(tools)), episodes, episodes / judged, success, lift)


def change_between(name: str | None, before: GroupCounts, after: GroupCounts, confidence: float) -> Change:
    """Return the difference between two periods."""
    old, new = before.figures(confidence), after.figures(confidence)
    return Change(
        name,
        old,
        new,
        difference_of_rates(old.success, new.success),
        difference_of_means(before.rewards, after.rewards, confidence),
        difference_of_means(before.durations, after.durations, confidence),
    )
