"""An episode does not end before it starts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from tests.raising import raises

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
EARLIER = START - timedelta(microseconds=1)


def episode(**fields) -> ms.Episode:
    return ms.Episode(task_description="task", started_at=START, **fields)


def test_a_save_that_ends_before_it_starts_is_refused(storage):
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.save(episode(completed_at=EARLIER))
    assert caught.value.field == "completed_at"
    assert START.isoformat() in str(caught.value)
    assert EARLIER.isoformat() in str(caught.value)
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.save_many([episode(), episode(completed_at=EARLIER)])
    assert caught.value.field == "episodes.1.completed_at"
    assert storage.episodes.count() == 0


def test_a_completion_before_the_start_is_refused(storage):
    stored = storage.episodes.save(episode())
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.complete(stored.id, ms.Success(verdict="done"), completed_at=EARLIER)
    assert caught.value.field == "completed_at"
    assert storage.episodes.get(stored.id) == stored


def test_an_episode_may_end_as_it_starts(storage):
    assert storage.episodes.save(episode(completed_at=START)).completed_at == START
    stored = storage.episodes.save(episode())
    assert storage.episodes.complete(stored.id, ms.Success(verdict="done"), completed_at=START).completed_at == START


def test_a_clock_behind_the_start_ends_an_episode_at_its_start(target):
    stored = ms.Episode(task_description="task", started_at=datetime(2200, 1, 1, tzinfo=timezone.utc))
    with ms.MemoryStorage.open(target) as storage:
        storage.episodes.save(stored)
        ended = storage.episodes.complete(stored.id, ms.Success(verdict="done"))
        assert ended.completed_at == stored.started_at
        assert storage.episodes.get(stored.id) == ended
        assert storage.episodes.count(completed_since=stored.started_at) >= 1


def test_an_absent_episode_is_not_found_whatever_its_end(storage):
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.complete(ms.Episode(task_description="x").id, ms.Success(verdict="x"), completed_at=START)


def test_a_copy_that_ends_before_it_starts_can_be_imported(storage):
    copy = episode(completed_at=EARLIER)
    assert storage.episodes.import_many([copy]) == 1
    assert storage.episodes.get(copy.id).completed_at == EARLIER
