"""How much more often episodes succeed with something than without, and how likely chance explains that."""

from __future__ import annotations

import math
from collections.abc import Sequence


def tail(drawn: int, hits: int, total: int, all_hits: int) -> float:
    """Return the probability that at least `hits` of `drawn` episodes succeed by chance (Fisher's exact test).

    Args:
        drawn: How many episodes have something in common.
        hits: How many of these succeeded.
        total: How many episodes there are.
        all_hits: How many of all succeeded.
    """
    most = min(drawn, all_hits)
    if hits > most:
        return 0.0
    if hits <= max(0, drawn - (total - all_hits)):
        return 1.0
    failed = total - all_hits
    term = math.exp(_combinations(all_hits, hits) + _combinations(failed, drawn - hits) - _combinations(total, drawn))
    probability = term
    for count in range(hits, most):
        term *= (all_hits - count) * (drawn - count) / ((count + 1) * (failed - drawn + count + 1))
        probability += term
        if term < probability * 1e-15:
            break
    return min(1.0, probability)


def _combinations(total: int, drawn: int) -> float:
    """Return the logarithm of the number of ways to draw."""
    return math.lgamma(total + 1) - math.lgamma(drawn + 1) - math.lgamma(total - drawn + 1)


def corrected(probabilities: Sequence[float], comparisons: int) -> list[float]:
    """Return the share of false discoveries among all with a probability as low (Benjamini and Hochberg, 1995).

    Args:
        probabilities: Of the comparisons that are looked at: the lowest ones of all, or all.
        comparisons: How many comparisons were made.
    """
    order = sorted(range(len(probabilities)), key=lambda place: -probabilities[place])
    results = [1.0] * len(probabilities)
    least = 1.0
    for rank, place in zip(range(len(order), 0, -1), order, strict=True):
        least = min(least, probabilities[place] * comparisons / rank)
        results[place] = least
    return results
