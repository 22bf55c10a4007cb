"""Counters of patterns: retrievals, applications, and their sums after a merge."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import new_id
from tests import strategies as made
from tests.checks import assert_consistent, dump
from tests.raising import raises

_number = itertools.count()

small = st.integers(0, 10**6)


def _pattern(**fields) -> ms.Heuristic:
    return ms.Heuristic(**{"condition": "c", "action": "a", **fields})


def test_a_retrieval_is_counted_once_per_named_pattern(storage):
    one, two, three = storage.patterns.save_many([_pattern(), _pattern(), _pattern()])
    storage.patterns.record_retrieval(one.id)
    storage.patterns.record_retrieval(str(one.id))
    storage.patterns.record_retrieval([one.id, two.id, str(two.id).upper()])
    storage.patterns.record_retrieval(iter([two.id]))
    storage.patterns.record_retrieval([])
    counted = [storage.patterns.get(pattern.id) for pattern in (one, two, three)]
    assert [pattern.effectiveness.times_retrieved for pattern in counted] == [3, 2, 0]
    assert counted[2] == three
    assert counted[0].effectiveness.last_used_at is not None
    assert [pattern.version for pattern in counted] == [1, 1, 1]


def test_a_retrieval_of_an_unknown_pattern_counts_nothing(storage):
    one = storage.patterns.save(_pattern())
    absent = new_id()
    with raises(ms.NotFoundError, kind="pattern", match=str(absent)):
        storage.patterns.record_retrieval([one.id, absent])
    assert storage.patterns.get(one.id) == one


@settings(max_examples=25)
@given(applied=st.lists(st.tuples(st.booleans(), st.floats(-100, 100)), max_size=12))
def test_applications_are_counted_and_their_reward_is_averaged(storage, applied):
    memory = storage.in_namespace(f"patterns {next(_number)}")
    pattern = memory.patterns.save(_pattern())
    for success, delta in applied:
        memory.patterns.record_application(pattern.id, success=success, reward_delta=delta)
    found = memory.patterns.get(pattern.id).effectiveness
    helped = sum(success for success, _ in applied)
    assert (found.times_applied, found.success_when_applied, found.failure_when_applied) == (
        len(applied),
        helped,
        len(applied) - helped,
    )
    mean = sum(delta for _, delta in applied) / len(applied) if applied else 0.0
    assert math.isclose(found.avg_reward_delta, mean, rel_tol=1e-9, abs_tol=1e-9)
    assert (found.last_used_at is None) == (not applied)


def test_an_application_of_an_unknown_pattern_is_not_found(storage):
    with raises(ms.NotFoundError, kind="pattern"):
        storage.patterns.record_application(new_id(), success=True)


def test_counters_survive_saving_again(storage):
    pattern = storage.patterns.save(_pattern(effectiveness=ms.models.Effectiveness(times_retrieved=5)))
    storage.patterns.record_retrieval(pattern.id)
    storage.patterns.record_application(pattern.id, success=True, reward_delta=0.5)
    counted = storage.patterns.get(pattern.id).effectiveness
    saved = storage.patterns.save(pattern.model_copy(update={"action": "another"}))
    assert saved == storage.patterns.get(pattern.id)
    assert (saved.effectiveness, saved.action, saved.version) == (counted, "another", 2)
    assert (counted.times_retrieved, counted.times_applied) == (6, 1)
    again = storage.patterns.save(saved.model_copy(update={"effectiveness": ms.models.Effectiveness()}))
    assert again.effectiveness == counted


def test_no_count_is_lost_between_threads(storage):
    pattern = storage.patterns.save(_pattern())
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda _: storage.patterns.record_retrieval(pattern.id), range(100)):
            pass
        deltas = [n / 10 for n in range(100)]
        list(
            threads.map(
                lambda delta: storage.patterns.record_application(pattern.id, success=delta > 5, reward_delta=delta),
                deltas,
            )
        )
    found = storage.patterns.get(pattern.id).effectiveness
    assert (found.times_retrieved, found.times_applied, found.success_when_applied) == (100, 100, 49)
    assert math.isclose(found.avg_reward_delta, 4.95)


effects = st.builds(
    ms.models.Effectiveness,
    times_retrieved=small,
    times_applied=small,
    success_when_applied=small,
    failure_when_applied=small,
    avg_reward_delta=st.floats(-100, 100),
    last_used_at=made.optional_moments,
)
mergeable = st.builds(
    _pattern,
    success_rate=made.ratios,
    occurrence_count=st.integers(1, 10**6),
    evidence=st.lists(st.uuids(), max_size=3, unique=True),
    tags=st.lists(st.sampled_from(["aa", "bb", "cc"]), max_size=3, unique=True),
    metadata=made.json_objects,
    effectiveness=effects,
)


def _weighted(one: float, two: float, weight: int, other_weight: int) -> float:
    return (one * weight + two * other_weight) / (weight + other_weight) if weight + other_weight else 0.0


@pytest.mark.slow
@pytest.mark.whole_database
@settings(max_examples=40)
@given(one=mergeable, two=mergeable, shared=st.lists(st.uuids(), max_size=2, unique=True))
def test_merging_adds_up_what_both_have_seen(storage, one, two, shared):
    memory = storage.in_namespace(f"patterns {next(_number)}")
    one, two = memory.patterns.save_many(
        [pattern.model_copy(update={"evidence": [*pattern.evidence, *shared]}) for pattern in (one, two)]
    )
    merged = memory.patterns.merge(one.id, two.id)
    assert memory.patterns.get(one.id) == merged
    assert memory.patterns.find(two.id) is None
    assert merged.version == one.version + 1
    assert merged.occurrence_count == one.occurrence_count + two.occurrence_count
    rate = _weighted(one.success_rate, two.success_rate, one.occurrence_count, two.occurrence_count)
    assert math.isclose(merged.success_rate, rate, rel_tol=1e-12, abs_tol=1e-300)
    assert set(merged.evidence) == {*one.evidence, *two.evidence}
    assert len(merged.evidence) == len(set(merged.evidence))
    assert set(merged.tags) == {*one.tags, *two.tags}
    first, second, sums = one.effectiveness, two.effectiveness, merged.effectiveness
    for name in ("times_retrieved", "times_applied", "success_when_applied", "failure_when_applied"):
        assert getattr(sums, name) == getattr(first, name) + getattr(second, name)
    mean = _weighted(first.avg_reward_delta, second.avg_reward_delta, first.times_applied, second.times_applied)
    assert math.isclose(sums.avg_reward_delta, mean, rel_tol=1e-9, abs_tol=1e-9)
    used = [moment for moment in (first.last_used_at, second.last_used_at) if moment]
    assert sums.last_used_at == (max(used) if used else None)
    kept = {"condition", "action", "confidence", "metadata", "context", "created_at", "id"}
    assert merged.model_dump(include=kept) == one.model_dump(include=kept)
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_a_merged_rate_is_still_a_rate(storage):
    for rates in ((1.0, 1.0), (0.0, 0.0), (0.1 + 0.2, 0.1 + 0.2), (1.0, 1 - 2**-53)):
        for counts in ((1, 2), (3, 7), (2**53 + 1, 3), (2**53 + 3, 2**53 + 3), (2**62, 2**61)):
            one, two = storage.patterns.save_many(
                [_pattern(success_rate=rate, occurrence_count=n) for rate, n in zip(rates, counts, strict=True)]
            )
            merged = storage.patterns.merge(one.id, two.id)
            assert min(rates) - 1e-15 <= merged.success_rate <= 1.0
            assert (
                merged
                == storage.patterns.get(one.id)
                == storage.patterns.save(merged).model_copy(update={"version": 2, "updated_at": merged.updated_at})
            )
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_counters_saturate_at_64_bits_and_can_be_read(storage):
    most = 2**63 - 1
    names = ("times_retrieved", "times_applied", "success_when_applied", "failure_when_applied")
    full = ms.models.Effectiveness(**dict.fromkeys(names, most), avg_reward_delta=1e308)
    one, two = storage.patterns.save_many([_pattern(occurrence_count=most, effectiveness=full) for _ in range(2)])
    storage.patterns.record_retrieval(one.id)
    storage.patterns.record_application(one.id, success=True, reward_delta=1e308)
    storage.patterns.record_application(one.id, success=False)
    merged = storage.patterns.merge(one.id, two.id)
    assert merged == storage.patterns.get(one.id) == next(iter(storage.patterns.query()))
    assert merged.occurrence_count == most
    assert [getattr(merged.effectiveness, name) for name in names] == [most] * 4
    assert storage.patterns.save(merged).version == merged.version + 1
    assert_consistent(storage.engine)


def test_a_mean_of_the_largest_floats_is_finite(storage):
    one, two = storage.patterns.save_many([_pattern(), _pattern()])
    for pattern, delta in itertools.product((one, two), (1.7e308, -1.7e308, 1.7e308)):
        storage.patterns.record_application(pattern.id, success=True, reward_delta=delta)
    merged = storage.patterns.merge(one.id, two.id)
    assert math.isclose(merged.effectiveness.avg_reward_delta, 1.7e308 / 3, rel_tol=1e-9)
    assert storage.patterns.save(merged).effectiveness == merged.effectiveness


@pytest.mark.whole_database
@pytest.mark.parametrize("kind", ["tool_sequence", "decision_point", "error_recovery", "context_pattern"])
def test_patterns_of_two_kinds_are_not_merged(storage, kind):
    fields = {
        "tool_sequence": (ms.ToolSequence, {"tools": []}),
        "decision_point": (ms.DecisionPoint, {"condition": "c", "action": "a"}),
        "error_recovery": (ms.ErrorRecovery, {"error_type": "e", "recovery_steps": []}),
        "context_pattern": (ms.ContextPattern, {"context_features": [], "recommended_approach": "r"}),
    }
    other_kind, values = fields[kind]
    one, other = storage.patterns.save(_pattern()), storage.patterns.save(other_kind(**values))
    before = dump(storage.engine)
    with raises(ms.ValidationError, field="other_id") as caught:
        storage.patterns.merge(one.id, other.id)
    assert (caught.value.field, caught.value.value) == ("other_id", kind)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_merging_with_itself_or_with_nothing_is_refused(storage):
    one = storage.patterns.save(_pattern())
    before = dump(storage.engine)
    with raises(ms.ValidationError, field="other_id"):
        storage.patterns.merge(one.id, str(one.id).upper())
    for pair in ((one.id, new_id()), (new_id(), one.id)):
        with raises(ms.NotFoundError, kind="pattern"):
            storage.patterns.merge(*pair)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_merging_takes_the_other_ones_vectors_along_into_nothing(storage):
    one, two = storage.patterns.save_many([_pattern(), _pattern()])
    for pattern in (one, two):
        storage.embeddings.put("pattern", pattern.id, [1.0] * 384, model="m")
    storage.patterns.merge(one.id, two.id)
    assert storage.embeddings.find("pattern", one.id, model="m") is not None
    assert storage.embeddings.find("pattern", two.id, model="m") is None
    assert_consistent(storage.engine)
