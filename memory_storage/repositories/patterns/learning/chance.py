"""How much more often episodes succeed with something than without, and how likely chance explains that."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EXACT_BELOW = 25
"""The expected number of successes, and of failures, from which the normal distribution is close enough."""

_QUANTILE = 1.959963984540054  # of a 95 % interval


def tail(drawn: int, hits: int, total: int, all_hits: int) -> float:
    """Return the probability that at least `hits` of `drawn` episodes succeed by chance.

    Fisher's exact test; from 25 expected successes and failures on, its normal approximation with the correction for
    continuity.

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
    expected = drawn * all_hits / total
    if min(expected, drawn - expected, all_hits - expected, total - all_hits - drawn + expected) >= _EXACT_BELOW:
        deviation = math.sqrt(expected * (1 - all_hits / total) * (total - drawn) / (total - 1))
        return 0.5 * math.erfc((hits - 0.5 - expected) / deviation / math.sqrt(2))
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


def lift_interval(episodes: int, successes: int, total: int, all_successes: int) -> tuple[float, float]:
    """Return the 95 % interval of the success rate of some episodes relative to that of all, which include them.

    It follows from the interval of the ratio of their rate to that of the other ones (Katz and others, 1978, with half
    a success and half a failure added): the lift is 1 / (share + (1 - share) * ratio).
    """
    others, other_successes = total - episodes, all_successes - successes
    if not others:
        return 1.0, 1.0
    rate, other_rate = (successes + 0.5) / (episodes + 1), (other_successes + 0.5) / (others + 1)
    variance = (1 - rate) / (successes + 0.5) + (1 - other_rate) / (other_successes + 0.5)
    ratio, reach, share = other_rate / rate, math.exp(_QUANTILE * math.sqrt(variance)), episodes / total
    low = 1 / (share + (1 - share) * ratio * reach) if successes else 0.0
    high = 1 / (share + (1 - share) * ratio / reach) if other_successes else 1 / share
    return low, high


def false_discovery_rates(probabilities: Sequence[float], comparisons: int) -> list[float]:
    """Return for each comparison the share of false discoveries among all with a probability as low.

    Benjamini and Hochberg, 1995.

    Args:
        probabilities: Of the comparisons that are reported: all of them, or a selection, whose rates are then higher.
        comparisons: How many comparisons were made.
    """
    order = sorted(range(len(probabilities)), key=lambda place: -probabilities[place])
    rates = [1.0] * len(probabilities)
    lowest = 1.0
    for rank, place in zip(range(len(order), 0, -1), order, strict=True):
        lowest = min(lowest, probabilities[place] * comparisons / rank)
        rates[place] = lowest
    return rates
