"""How many episodes a namespace may have, where a setting says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from tests.checks import assert_consistent
from tests.raising import raises
from tests.schema.spy import spied

START = datetime(2025, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def limited(target) -> Iterator[Callable[..., ms.MemoryStorage]]:
    opened = []

    def limited(**limits: object) -> ms.MemoryStorage:
        settings = target if isinstance(target, ms.Settings) else ms.Settings(database=target)
        opened.append(ms.MemoryStorage.open(settings.model_copy(update={"limits": ms.Limits(**limits)})))
        return opened[-1]

    yield limited
    for storage in opened:
        storage.close()


def _episodes(count: int, first: int = 0) -> list[ms.Episode]:
    return [
        ms.Episode(task_description=f"{n}", started_at=START + timedelta(days=n), steps=[ms.Step(tool="t")])
        for n in range(first, first + count)
    ]


@pytest.mark.whole_database
def test_a_full_namespace_refuses_an_episode_by_setting_name(limited):
    storage = limited(max_episodes=3)
    saved = storage.episodes.save_many(_episodes(3))
    for refused in (
        lambda: storage.episodes.save(_episodes(1)[0]),
        lambda: storage.episodes.import_many(_episodes(2)),
        lambda: storage.episodes.save_many([saved[0], *_episodes(1)]),
    ):
        with raises(ms.ValidationError, field="episodes", match="at most 3 in a namespace") as caught:
            refused()
        assert (caught.value.field, caught.value.setting) == ("episodes", "limits.max_episodes")
    assert [one.id for one in storage.episodes.iterate(direction="oldest_first")] == [one.id for one in saved]
    assert storage.episodes.save(saved[0].model_copy(update={"tags": ["changed"]})).version == 2
    assert storage.episodes.import_many(saved) == 0
    assert storage.in_namespace("another").episodes.save(_episodes(1)[0]).version == 1
    storage.episodes.delete(saved[0].id)
    storage.episodes.save(_episodes(1)[0])
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_evict_removes_the_oldest_that_is_no_evidence(limited):
    storage = limited(max_episodes=3, when_full="evict")
    a, b, c = storage.episodes.save_many(_episodes(3))
    storage.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[a.id]))
    d = storage.episodes.save(_episodes(1, first=9)[0])
    assert {one.id for one in storage.episodes.iterate()} == {a.id, c.id, d.id}
    older = storage.episodes.save(_episodes(1, first=-5)[0])  # not the one that is being saved, whatever its age
    assert {one.id for one in storage.episodes.iterate()} == {a.id, d.id, older.id}
    assert storage.episodes.find(b.id) is None
    assert_consistent(storage.engine)


def test_where_nothing_may_be_evicted_a_new_one_is_refused(limited):
    storage = limited(max_episodes=2, when_full="evict")
    saved = storage.episodes.save_many(_episodes(2))
    storage.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[one.id for one in saved]))
    with raises(ms.ValidationError, field="episodes", match="at most 2 in a namespace"):
        storage.episodes.save(_episodes(1)[0])
    with raises(ms.ValidationError, field="episodes", match="at most 2 in a namespace"):
        limited(max_episodes=2, when_full="evict").in_namespace("new").episodes.save_many(_episodes(3))
    assert storage.episodes.count() == 2


@pytest.mark.parametrize("when_full", ["refuse", "evict"])
def test_a_save_is_still_one_batch(limited, when_full):
    storage = limited(max_episodes=5, when_full=when_full)
    storage.episodes.save_many(_episodes(3))
    with spied(storage.engine) as batches:
        storage.episodes.save(_episodes(1)[0])
    assert len(batches) == 1


def test_without_the_setting_nothing_is_counted(storage):
    with spied(storage.engine) as batches:
        storage.episodes.save(_episodes(1)[0])
    assert "count(" not in str(batches)


@pytest.mark.parametrize("limits", [{"max_episodes": 0}, {"when_full": "sometimes"}])
def test_a_capacity_that_cannot_be_is_refused(limits):
    with pytest.raises(ms.ConfigurationError):
        ms.Limits(**limits)
