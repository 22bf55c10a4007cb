"""The simulated world of the benchmark `learning` is what it says, and a run can be repeated."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import _plot, _tau, learning
from benchmarks._world import DOMAINS, PLANS, execute, plan_of, tasks, world


@pytest.mark.parametrize("seed", range(5))
def test_each_domain_has_one_clearly_good_plan_of_its_own(seed):
    rates = world(seed).rates
    best = [row.index(max(row)) for row in rates]
    assert len(set(best)) == len(DOMAINS)
    assert 0 not in best  # the one that works everywhere
    assert all(sorted(row)[-1] - sorted(row)[-2] >= 0.3 for row in rates)


def test_a_seed_gives_the_same_world_and_the_same_tasks():
    assert world(3) == world(3) != world(4)
    assert tasks(3, 20) == tasks(3, 20) != tasks(4, 20)


def test_a_drift_leaves_no_plan_its_rate():
    drifting = world(1, drift_at=5)
    for task in tasks(1, 10):
        expected = drifting.rates if task.number < 5 else drifting.later
        assert drifting.at(task) == expected[task.context]
    for before, after in zip(drifting.rates, drifting.later, strict=True):
        assert sorted(before) == sorted(after)
        assert all(one != other for one, other in zip(before, after, strict=True))


def test_texts_name_their_domain_only_in_part():
    stream = tasks(1, 400)
    words = {domain: {task.text for task in stream if task.domain == domain} for domain in DOMAINS}
    assert all(words.values())
    assert any("please look into it" in task.text for task in stream)


@pytest.mark.parametrize("plan", range(len(PLANS)))
def test_what_is_executed_is_recognized_as_its_plan(plan):
    for task in tasks(2, 100):
        done = [step.tool for step in execute(plan, task) if step.result.status == "ok"]
        assert plan_of(done) == plan
    assert plan_of(PLANS[plan]) == plan


def test_about_a_tenth_of_the_outcomes_is_flipped_and_explored():
    stream = tasks(1, 2_000)
    assert 150 <= sum(task.is_flipped for task in stream) <= 250
    assert 150 <= sum(task.explores for task in stream) <= 250


def test_the_regret_of_chance_is_that_of_the_mean_plan():
    course = learning.course(0, "steady", "chance", 2_000)
    rates = world(0).rates
    expected = sum(max(row) - sum(row) / len(row) for row in rates) / len(rates)
    assert sum(course.regrets) / 2_000 == pytest.approx(expected, abs=0.05)


def test_calibration_error_is_that_of_the_claims():
    claims = [learning.Claim(0.85, 0.75, True)] * 3 + [learning.Claim(0.15, 0.15, False)]
    assert learning.calibration_error(claims) == pytest.approx(0.075)
    assert learning.brier(claims) == pytest.approx((3 * 0.15**2 + 0.15**2) / 4)


def test_an_interval_over_seeds_contains_the_figure():
    values = [0.1, 0.2, 0.3, 0.4]
    interval = learning.over_seeds(lambda seeds: sum(values[seed] for seed in seeds) / len(values), len(values))
    assert interval.low < interval.figure < interval.high
    assert interval.figure == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.parametrize("agent", [learning.SIMILARITY, learning.LEARNING])
def test_a_run_of_an_agent_can_be_repeated(agent):
    assert learning.course(1, "poison", agent, 45) == learning.course(1, "poison", agent, 45)


def test_sequences_are_those_of_two_to_four_tools():
    assert _tau.sequences(["a", "b", "c"]) == {("a", "b"), ("b", "c"), ("a", "b", "c")}


def test_the_plot_is_svg_with_each_curve_named():
    curve = _plot.Curve("an <agent>", "#123456", [(0.0, 0.0, 0.0, 0.0), (500.0, 90.0, 80.0, 100.0)])
    svg = _plot.drawn("A title", "what it says", [_plot.Panel("a world", [curve])], ("episodes", "regret"))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert {"A title", "what it says", "a world", "an <agent>", "episodes", "regret"} <= set(texts)
