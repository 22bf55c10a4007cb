"""Conversion of rows of counts and sums to statistics with their intervals."""

from __future__ import annotations

import json
from typing import NamedTuple

from memory_storage.models import RecallKind
from memory_storage.models.analytics import AttributionFigures, Change, Figures, Mean, SequenceFigures
from memory_storage.models.proportion import Rate, wilson
from memory_storage.sql.session import Row
from memory_storage.sql.time_buckets import Period

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


class AttributionCounts(NamedTuple):
    """The counts of a row of `sql.attribution`, after the number of episodes.

    Attributes:
        known: episodes of which it is known whether they used it.
        used: those that used it.
        judged: judged episodes, of all.
        successes: those that succeeded.
        judged_used: judged episodes, of those that used it.
        successes_used: those that succeeded.
        judged_unused: judged episodes, of those that are known not to have used it.
        successes_unused: those that succeeded.
        ratings: how many episodes have a rating.
        rating_sum: the sum of the ratings.
        rating_squares: the sum of their squares.
    """

    known: int = 0
    used: int = 0
    judged: int = 0
    successes: int = 0
    judged_used: int = 0
    successes_used: int = 0
    judged_unused: int = 0
    successes_unused: int = 0
    ratings: int = 0
    rating_sum: int = 0
    rating_squares: int = 0

    @property
    def rating(self) -> Sums:
        """The ratings, as a mean is computed from them."""
        if not self.ratings:
            return Sums(0, None, None)
        # Whole numbers, so that the difference of the two squares is exact.
        squares = (self.rating_squares * self.ratings - self.rating_sum**2) / self.ratings
        return Sums(self.ratings, self.rating_sum / self.ratings, squares)


class AttributionGroup(NamedTuple):
    """What a row of `sql.attribution` is about.

    Attributes:
        name: the ID of a record, a kind, or None for all.
        kind: the kind of its records, if they are all of one.
        description: the beginning of the record's description.
        period: None without a unit of time.
    """

    name: str | None
    kind: RecallKind | None
    description: str | None
    period: Period | None


_FEW = 20
"""Judged episodes, below which a side of a difference says little."""


def attribution_figures(
    group: AttributionGroup,
    episodes: int,
    counts: AttributionCounts,
    without: AttributionCounts,
    confidence: float,
) -> AttributionFigures:
    """Return the statistics of recalled records with their intervals.

    Args:
        group: What they are about.
        episodes: How many episodes it was shown to.
        counts: Of these.
        without: Of the episodes of the same period that were shown nothing.
        confidence: The level of the intervals.
    """
    shown = wilson(counts.successes, counts.judged, confidence)
    used = wilson(counts.successes_used, counts.judged_used, confidence)
    unused = wilson(counts.successes_unused, counts.judged_unused, confidence)
    none = wilson(without.successes, without.judged, confidence)
    sides = {"shown": shown, "used": used, "shown but not used": unused, "without a recall": none}
    starts_at, ends_at = group.period or (None, None)
    few = [f"{name} {rate.of}" for name, rate in sides.items() if rate.of < _FEW]
    return AttributionFigures(
        group.name,
        group.kind,
        group.description,
        starts_at,
        ends_at,
        episodes,
        wilson(counts.used, counts.known, confidence),
        shown,
        used,
        unused,
        none,
        mean(counts.rating, confidence),
        difference_of_rates(none, shown),
        difference_of_rates(unused, used),
        f"under {_FEW} judged episodes: {', '.join(few)}" if few else "",
    )


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
