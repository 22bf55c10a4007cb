"""The probabilities and intervals of learning, compared with exact fractions and with simulations."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_storage.repositories.patterns.learning.chance import false_discovery_rates, lift_interval, tail


def _exact(drawn: int, hits: int, total: int, all_hits: int) -> float:
    ways = sum(
        comb(all_hits, count) * comb(total - all_hits, drawn - count)
        for count in range(hits, min(drawn, all_hits) + 1)
        if drawn - count <= total - all_hits
    )
    return float(Fraction(ways, comb(total, drawn)))


@given(st.data())
def test_the_tail_is_fishers_exact_test(data):
    total = data.draw(st.integers(1, 90))
    all_hits, drawn = data.draw(st.integers(0, total)), data.draw(st.integers(1, total))
    hits = data.draw(st.integers(max(0, drawn - (total - all_hits)), min(drawn, all_hits)))
    assert tail(drawn, hits, total, all_hits) == pytest.approx(_exact(drawn, hits, total, all_hits), rel=1e-9)


@pytest.mark.parametrize("hits", [50, 55, 60, 70])
def test_of_many_episodes_the_tail_is_close(hits):
    assert tail(100, hits, 1000, 500) == pytest.approx(_exact(100, hits, 1000, 500), rel=0.25)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_false_discovery_rates_are_those_of_benjamini_and_hochberg(probabilities):
    rates = false_discovery_rates(probabilities, len(probabilities))
    for own, rate in zip(probabilities, rates, strict=True):
        least = min(
            len(probabilities) * other / sum(one <= other for one in probabilities)
            for other in probabilities
            if other >= own
        )
        assert rate == pytest.approx(min(1.0, least))


def test_19_of_20_intervals_hold_the_true_lift():
    dice = random.Random(5)
    held = 0
    for _ in range(1_000):
        successes, others = (sum(dice.random() < rate for _ in range(60)) for rate in (0.7, 0.4))
        low, high = lift_interval(60, successes, 120, successes + others)
        held += low <= 0.7 / 0.55 <= high
    assert 930 <= held <= 985


def test_an_interval_without_others_or_without_successes_is_bounded():
    assert lift_interval(10, 5, 10, 5) == (1.0, 1.0)
    assert lift_interval(5, 0, 10, 5)[0] == 0.0
    assert lift_interval(5, 5, 10, 5)[1] == 2.0
