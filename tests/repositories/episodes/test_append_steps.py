"""Many steps are appended in one round trip: numbered in order, all or none, and once however often it is repeated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.testing import Sqld
from tests.backends import in_memory
from tests.checks import assert_consistent, dump
from tests.proxy import Proxy
from tests.raising import raises

STEPS = 200  # more than one statement has


def _steps(count: int = STEPS) -> list[ms.Step]:
    results = [ms.StepOk(output="passé"), ms.StepError(message="no"), ms.StepTimeout(), None]
    return [
        ms.Step(tool=f"tool {number % 3}", action=f"{number}", parameters={"n": number / 7}, result=results[number % 4])
        for number in range(count)
    ]


def test_steps_are_numbered_in_their_order(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=2))
    steps = _steps()
    appended = storage.episodes.append_steps(episode.id, steps)
    numbered = [step.model_copy(update={"step_number": 3 + place}) for place, step in enumerate(steps)]
    assert appended == numbered
    stored = storage.episodes.get(episode.id)
    assert stored.steps[2:] == numbered
    assert stored.version == episode.version
    assert storage.episodes.append_step(episode.id, ms.Step(tool="next")).step_number == STEPS + 3
    assert_consistent(storage.engine)


def test_repeated_steps_are_stored_once(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=0))
    steps = _steps()
    first = storage.episodes.append_steps(episode.id, steps[:150])
    both = storage.episodes.append_steps(episode.id, steps[100:])  # as after a lost acknowledgement
    assert both[:50] == first[100:]
    assert [step.step_number for step in both] == list(range(101, STEPS + 1))
    assert storage.episodes.get(episode.id).steps == [*first, *both[50:]]
    assert storage.episodes.append_steps(episode.id, steps[::-1]) == [*first, *both[50:]][::-1]
    assert storage.steps.count() == STEPS


@pytest.mark.whole_database
def test_either_all_steps_are_stored_or_none(storage, make_episode):
    episode, other = storage.episodes.save_many([make_episode(steps=1), make_episode(steps=1)])
    taken = other.steps[0].model_copy(update={"step_number": None})
    changed = episode.steps[0].model_copy(update={"step_number": None, "tool": "another"})
    before = dump(storage.engine)
    for conflicting in (taken, changed):
        with raises(ms.ConflictError, kind="step", id=conflicting.id):
            storage.episodes.append_steps(episode.id, [*_steps(), conflicting])
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.append_steps(new_id(), _steps())
    assert dump(storage.engine) == before


@in_memory
def test_what_cannot_be_appended_is_refused_with_its_place(storage, make_episode):
    key = storage.episodes.save(make_episode(steps=0)).id
    step = ms.Step(tool="t")
    large = ms.Step(tool="t", result=ms.StepOk(output="x" * 1_000_001))
    for steps, field in (
        ([step, step.model_copy(update={"step_number": 1})], "steps.1.step_number"),
        ([step.model_copy(update={"step_number": 1})], "step_number"),
        ([step, "a text"], "steps.1"),
        ([step, step], "steps"),
        ([step, large], "steps.1.result"),
        ([step, ms.Step(tool="t").model_copy(update={"parameters": {"a": float("nan")}})], "steps.1.parameters"),
        (5, "steps"),
    ):
        with raises(ms.ValidationError, field=field):
            storage.episodes.append_steps(key, steps)
    with raises(ms.ValidationError, field="episode_id"):
        storage.episodes.append_steps("no id", [step])
    assert storage.episodes.append_steps(key, []) == []
    assert storage.steps.count() == 0


def test_the_limit_of_steps_rolls_all_back(tmp_path, make_episode):
    settings = ms.Settings(database=str(tmp_path / "m.db"), limits=ms.Limits(steps_per_episode=10))
    with ms.MemoryStorage.open(settings) as storage:
        key = storage.episodes.save(make_episode(steps=0)).id
        steps = _steps(10)
        storage.episodes.append_steps(key, steps[:8])
        with raises(ms.ValidationError, field="steps", setting="limits.steps_per_episode"):
            storage.episodes.append_steps(key, [*steps, ms.Step(tool="the eleventh")])
        assert storage.steps.count() == 8
        assert len(storage.episodes.append_steps(key, steps)) == 10
        assert storage.episodes.append_steps(key, steps)[-1].step_number == 10  # a repetition is within the limit


def test_concurrent_appends_lose_and_double_nothing(storage, make_episode):
    key = storage.episodes.save(make_episode(steps=0)).id
    batches = [_steps(30) for _ in range(4)]

    def append(batch: list[ms.Step]) -> list[ms.Step]:
        storage.episodes.append_steps(key, batch[:20])
        return storage.episodes.append_steps(key, batch)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(append, batches * 2))  # each batch by two threads
    assert found[:4] == found[4:]
    numbers = sorted(step.step_number for batch in found[:4] for step in batch)
    assert numbers == list(range(1, 121))
    assert storage.steps.count(key) == 120


@pytest.mark.slow
def test_ten_thousand_steps_take_one_round_trip(sqld: Sqld, migrated_server_url: str, make_episode):
    with Proxy(sqld.port, latency=0.02) as proxy:
        url = migrated_server_url.replace(f":{sqld.port}/", f":{proxy.port}/")
        with ms.MemoryStorage.open(url) as storage:
            key = storage.episodes.save(make_episode(steps=0)).id
            steps = _steps(10_000)
            proxy.reset_counts()
            storage.episodes.append_steps(key, steps)
            assert proxy.round_trips == 1
            assert [step.id for step in storage.steps.iterate(key)] == [step.id for step in steps]
