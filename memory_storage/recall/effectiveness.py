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


_LEAST = 0.05  # of a parameter: Beta distributions have positive ones


class Posterior(NamedTuple):
    """A Beta distribution of a success rate; before anything is known, the uniform one.

    Attributes:
        successes: the first parameter.
        failures: the second parameter.
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


def posterior(candidate: Candidate, domain: str | None = None) -> Posterior:
    """Return what is known of the use of a candidate.

    Of an episode the outcomes of the episodes that used it are known. A pattern's expected rate counts as its episodes,
    up to `MAX_MINED` of them. Its applications are among these, if they are learned; what exceeds them counts besides.

    Args:
        candidate: The candidate.
        domain: The domain of the task, if it has one.
    """
    item = candidate.item
    if isinstance(item, Episode):
        return Posterior(1.0 + candidate.successes, 1.0 + candidate.failures)
    rate, episodes = item.observations(domain)
    counted = item.effectiveness
    if item.statistics is None:  # written, with a rate of other sources
        more = counted.times_applied
        prior = Posterior(1.0, 1.0)
    else:  # the expected rate has a prior
        more = max(0, counted.times_applied - item.occurrence_count)
        prior = Posterior(2.0 * rate, 2.0 * (1.0 - rate))
    mined, share = min(episodes, MAX_MINED), more / counted.times_applied if more else 0.0
    return Posterior(
        max(_LEAST, prior.successes + mined * rate + share * counted.success_when_applied),
        max(_LEAST, prior.failures + mined * (1.0 - rate) + share * counted.failure_when_applied),
    )


def expected_success(
    candidates: Iterable[Candidate], explore: Random | None, domain: str | None = None
) -> dict[UUID, float]:
    """Return the expected success rate of each candidate by its ID, or one drawn at random (Thompson 1933).

    Args:
        candidates: The candidates.
        explore: The generator to draw with; None for the means.
        domain: The domain of the task, if it has one.
    """
    # In the order of the IDs: with the same seed the same records get the same draws, in whatever order they are found.
    known = sorted(((one.item.id, posterior(one, domain)) for one in candidates), key=lambda pair: pair[0])
    return {key: one.mean if explore is None else one.draw(explore) for key, one in known}
