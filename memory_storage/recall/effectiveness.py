"""What is known of the success of what was recalled: Beta distributions, their means, and draws from them."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple
from uuid import UUID

from memory_storage.models import Episode

from .candidates import Candidate

MAX_MINED = 20
"""The greatest weight of a pattern's mined success rate, in applications: its own applications outweigh it in time."""


class Posterior(NamedTuple):
    """A Beta distribution of a success rate; before anything is known, the uniform one.

    Attributes:
        successes: the first parameter, at least 1.
        failures: the second parameter, at least 1.
    """

    successes: float
    failures: float

    @property
    def mean(self) -> float:
        """The expected success rate."""
        return self.successes / (self.successes + self.failures)

    def draw(self, random: Random) -> float:
        """Return a success rate at random: the less is known, the further it may be from the mean."""
        return random.betavariate(self.successes, self.failures)


def posterior(candidate: Candidate) -> Posterior:
    """Return what is known of the use of a candidate.

    The mined rate of a pattern counts as its observations, up to `MAX_MINED` of them, and its counters as they are. Of
    an episode the outcomes of the episodes that used it are known.
    """
    item = candidate.item
    if isinstance(item, Episode):
        return Posterior(1.0 + candidate.successes, 1.0 + candidate.failures)
    mined, counted = min(item.occurrence_count, MAX_MINED), item.effectiveness
    return Posterior(
        1.0 + mined * item.success_rate + counted.success_when_applied,
        1.0 + mined * (1.0 - item.success_rate) + counted.failure_when_applied,
    )


def expected_success(candidates: Iterable[Candidate], explore: Random | None) -> dict[UUID, float]:
    """Return the expected success rate of each candidate by its ID, or one drawn at random (Thompson 1933).

    Args:
        candidates: The candidates.
        explore: The generator to draw with; None for the means.
    """
    # In the order of the IDs: with the same seed the same records get the same draws, in whatever order they are found.
    known = sorted(((one.item.id, posterior(one)) for one in candidates), key=lambda pair: pair[0])
    return {key: one.mean if explore is None else one.draw(explore) for key, one in known}
