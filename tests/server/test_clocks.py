"""Two clients of one server whose clocks differ by 24 hours: no clock decides about a write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms

DAY = timedelta(hours=24)


@pytest.fixture(params=[("ahead", "right"), ("right", "ahead"), ("behind", "right"), ("right", "behind")], ids="-".join)
def pair(request: pytest.FixtureRequest, migrated_server_url: str) -> Iterator[list[ms.MemoryStorage]]:
    """Two storages on one database, one of whose clocks is wrong by a day."""
    wrong = {"ahead": DAY, "behind": -DAY, "right": timedelta()}
    with ExitStack() as opened:
        yield [
            opened.enter_context(
                ms.MemoryStorage.open(migrated_server_url, now=lambda by=wrong[name]: datetime.now(timezone.utc) + by)
            )
            for name in request.param
        ]


def test_versions_decide_which_save_is_first(pair: list[ms.MemoryStorage], make_episode: Callable[..., ms.Episode]):
    one, other = pair
    saved = one.episodes.save(make_episode())
    changed = other.episodes.save(saved.model_copy(update={"task_description": "by the other"}))
    with pytest.raises(ms.ConflictError) as caught:
        one.episodes.save(saved.model_copy(update={"task_description": "by the first"}))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert one.episodes.get(saved.id) == other.episodes.get(saved.id) == changed
    again = one.episodes.save(changed.model_copy(update={"task_description": "after reading it"}))
    assert (again.version, other.episodes.get(saved.id)) == (3, again)


def test_an_episode_is_completed_archived_and_restored(pair: list[ms.MemoryStorage]):
    one, other = pair
    started = one.episodes.save(ms.Episode(task_description="t", started_at=one._context.now()))
    other.episodes.append_step(started.id, ms.Step(tool="t"))
    done = other.episodes.complete(started.id, ms.Success(verdict="done"))
    assert done.completed_at is not None
    assert done.completed_at >= done.started_at
    assert one.episodes.get(started.id) == done
    other.episodes.archive(started.id)
    assert one.episodes.restore(started.id).archived_at is None
    assert [found.id for found in other.episodes.query().items] == [started.id]


def test_a_row_erased_by_one_client_is_refused_from_another(
    pair: list[ms.MemoryStorage], make_episode: Callable[..., ms.Episode]
):
    one, other = pair
    episode = make_episode()
    one.episodes.save(episode)
    other.forget(episode=episode.id, scrub=False)
    with pytest.raises(ms.ValidationError, match="it was erased") as caught:
        one.episodes.save(episode)
    assert (caught.value.field, one.episodes.count()) == ("id", 0)


def test_applications_of_a_pattern_are_counted_once_each(pair: list[ms.MemoryStorage]):
    one, other = pair
    pattern = one.patterns.save(ms.Heuristic(condition="c", action="a"))
    for storage in (one, other, one):
        storage.patterns.record_application(pattern.id, success=True)
    assert other.patterns.get(pattern.id).effectiveness.times_applied == 3


def test_retention_lets_nothing_go_that_is_young_by_either_clock(pair: list[ms.MemoryStorage]):
    policy = ms.RetentionPolicy(max_age=timedelta(hours=12), keep_pattern_sources=False)
    fresh = pair[0].episodes.save(ms.Episode(task_description="now"))
    old = pair[0].episodes.save(
        ms.Episode(task_description="old", started_at=datetime.now(timezone.utc) - timedelta(days=3))
    )
    for storage in pair:
        plan = storage.retention.plan(policy)
        assert [item.id for item in plan] == [old.id]
        assert plan.now <= datetime.now(timezone.utc) + timedelta(minutes=1)
    for storage in pair[::-1]:
        storage.retention.apply(policy)
        assert [found.id for found in storage.episodes.query().items] == [fresh.id]


def test_retention_follows_the_given_time(pair: list[ms.MemoryStorage]):
    policy = ms.RetentionPolicy(max_age=timedelta(hours=12), keep_pattern_sources=False)
    fresh = pair[0].episodes.save(ms.Episode(task_description="now"))
    later = datetime.now(timezone.utc) + DAY
    plan = pair[1].retention.plan(policy, now=later)
    assert ([item.id for item in plan], plan.now) == ([fresh.id], later)
    assert pair[1].retention.apply(plan).removed == 1
