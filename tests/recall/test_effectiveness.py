"""Ranking by what the use of a record achieved: the mean of what is known, or a draw from it."""

from __future__ import annotations

import random

import pytest

import memory_storage as ms
from memory_storage.models import Effectiveness
from tests.backends import in_memory
from tests.checks import index_all
from tests.raising import raises

from .conftest import success

TASK = "deploy the shop"
BY_EFFECT = ms.RecallWeights(similarity=0.0, reward=0.0, recency=0.0, effectiveness=1.0)


def _pattern(storage, action, applied=0, succeeded=0, **fields):
    used = Effectiveness(
        times_applied=applied, success_when_applied=succeeded, failure_when_applied=applied - succeeded
    )
    return storage.patterns.save(
        ms.Heuristic(
            condition="deploy the shop",
            action=action,
            **{"success_rate": 0.5, "occurrence_count": 2, "effectiveness": used, **fields},
        )
    )


def _order(recall):
    return [one.item.id for one in recall]


def test_the_most_successful_pattern_comes_first(storage):
    bad = _pattern(storage, "a force push", 10, 1)
    good = _pattern(storage, "drain the queue", 10, 9)
    unknown = _pattern(storage, "ask the owner")
    recall = storage.recall(TASK, weights=BY_EFFECT, diversity=0.0)
    assert _order(recall) == [good.id, unknown.id, bad.id]
    assert [one.effectiveness for one in recall] == [11 / 14, 0.5, 3 / 14]
    assert [one.score for one in recall] == [one.effectiveness for one in recall]


@in_memory
def test_a_mined_rate_counts_as_twenty_applications_at_most(storage):
    _pattern(storage, "what was mined often", success_rate=1.0, occurrence_count=1_000)
    _pattern(storage, "but does not help", 20, 0, success_rate=1.0, occurrence_count=1_000)
    recall = storage.recall(TASK, weights=BY_EFFECT, diversity=0.0)
    assert [one.effectiveness for one in recall] == [21 / 22, 21 / 42]


def test_without_the_weight_nothing_is_known_of_it(storage):
    _pattern(storage, "a force push", 10, 1)
    (item,) = storage.recall(TASK)
    assert item.effectiveness is None


def test_the_same_seed_gives_the_same_recall(storage):
    for number in range(5):
        _pattern(storage, f"number {number}")
    storage.episodes.save_many([success("deploy the shop"), success("deploy the other shop")])
    explored = [
        [(one.item.id, one.effectiveness) for one in storage.recall(TASK, weights=BY_EFFECT, explore=seed)]
        for seed in (7, 7, random.Random(7), 8)
    ]
    assert explored[0] == explored[1] == explored[2]
    assert explored[0] != explored[3]


@in_memory
def test_a_generator_goes_on_where_it_was(storage):
    for number in range(5):
        _pattern(storage, f"number {number}")
    generator = random.Random(7)
    first, second = [storage.recall(TASK, weights=BY_EFFECT, explore=generator) for _ in range(2)]
    assert [one.effectiveness for one in first] != [one.effectiveness for one in second]


def test_draws_lead_to_the_best_arm_and_still_try_the_others():
    chances = {"rare": 0.2, "even": 0.5, "often": 0.8}
    generator, shown = random.Random(1), []
    with ms.MemoryStorage.open(":memory:") as storage:
        patterns = {_pattern(storage, action).id: chance for action, chance in chances.items()}
        for _ in range(120):
            recall = storage.recall(TASK, patterns=1, weights=BY_EFFECT, explore=generator)
            (item,) = recall
            shown.append(patterns[item.item.id])
            outcome = ms.Success(verdict="v") if generator.random() < shown[-1] else ms.Failure(reason="r")
            episode = storage.episodes.save(ms.Episode(task_description="anything else"))
            storage.episodes.complete(episode.id, outcome, recalled=recall, used=[item.item.id])
    assert set(shown) == set(chances.values())
    assert shown[60:].count(0.8) > 40


@in_memory
@pytest.mark.parametrize("explore", [True, 1.5, "7", object])
def test_an_invalid_seed_is_named(storage, explore):
    with raises(ms.ValidationError, field="explore"):
        storage.recall(TASK, weights=BY_EFFECT, explore=explore)


@in_memory
def test_exploring_without_the_weight_is_refused(storage):
    with raises(ms.ValidationError, field="explore"):
        storage.recall(TASK, explore=7)


@pytest.mark.parametrize("value", [-0.1, float("nan"), True, 1e7, "1"])
def test_an_invalid_weight_is_named(value):
    with raises(ms.ValidationError, field="weights.effectiveness"):
        ms.RecallWeights(effectiveness=value)


def test_the_weight_alone_is_enough():
    assert BY_EFFECT.effectiveness == 1.0


def _uses(storage, episode, *outcomes):
    for outcome in outcomes:
        recall = storage.recall(TASK)
        done = storage.episodes.save(ms.Episode(task_description="something else"))
        storage.episodes.complete(done.id, outcome, recalled=recall, used=[episode.id])


def test_an_episode_is_as_good_as_what_used_it(storage):
    good, bad, unknown = storage.episodes.save_many(
        [success("deploy the shop on monday"), success("deploy the shop by hand"), success("deploy the shop again now")]
    )
    _uses(storage, good, ms.Success(verdict="v"), ms.Success(verdict="v"), ms.Failure(reason="r"))
    _uses(storage, bad, ms.Failure(reason="r"), ms.Abstained(reason="r"))
    for _ in range(2):
        recall = storage.recall(TASK, weights=BY_EFFECT, diversity=0.0)
        assert [one.item.id for one in recall if one.kind == "success"][:3] == [good.id, unknown.id, bad.id]
        assert [one.effectiveness for one in recall][:3] == [3 / 5, 1 / 2, 1 / 4]
        index_all(storage.engine)


def test_uses_of_another_namespace_do_not_count(storage):
    other = storage.in_namespace("other")
    (saved,) = storage.episodes.save_many([success("deploy the shop")])
    other.episodes.import_many([saved])
    _uses(other, saved, ms.Failure(reason="r"))
    assert [one.effectiveness for one in storage.recall(TASK, weights=BY_EFFECT)] == [0.5]
    assert [one.effectiveness for one in other.recall(TASK, weights=BY_EFFECT)] == [1 / 3]
