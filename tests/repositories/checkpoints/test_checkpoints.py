"""A checkpoint is a state of an episode, read back equal; from one, an episode that follows the other continues."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.testing import FakeClock
from tests.backends import in_memory
from tests.checks import assert_consistent, dump
from tests.raising import raises

STATE = {"next": ["patch login.py"], "x": 0.1 + 0.2, "deep": [{"é": None, "n": 2**53 - 1}], "text": "a\nb"}


@pytest.fixture
def episode(storage, make_episode):
    return storage.episodes.save(make_episode(steps=3))


def test_a_checkpoint_is_read_back_equal(storage, episode):
    stored = storage.episodes.checkpoint(episode.id, "found the cause", state=STATE)
    assert (stored.step_number, stored.label, stored.state) == (3, "found the cause", STATE)
    assert stored.created_at is not None
    assert storage.checkpoints.get(stored.id) == storage.checkpoints.find(str(stored.id)) == stored
    early = storage.episodes.checkpoint(episode.id, "before all", step_number=0)
    assert (early.step_number, early.state) == (0, {})
    assert storage.episodes.checkpoint(episode.id, "in between", step_number=2).step_number == 2
    assert storage.episodes.get(episode.id) == episode  # nothing of it has changed
    assert (storage.checkpoints.count(), storage.checkpoints.count(episode.id)) == (3, 3)
    assert_consistent(storage.engine)


def test_the_newest_checkpoint_comes_first(storage, episode):
    stored = [storage.episodes.checkpoint(episode.id, f"{number}") for number in range(5)]
    other = storage.episodes.save(ms.Episode(task_description="other"))
    storage.episodes.checkpoint(other.id, "another episode's")
    page = storage.checkpoints.query(episode.id, limit=2)
    assert page.items == stored[:2:-1]
    second = storage.checkpoints.query(episode.id, limit=2, cursor=page.next_cursor)
    last = storage.checkpoints.query(episode.id, limit=2, cursor=second.next_cursor)
    assert (second.items, last.items, last.next_cursor) == (stored[2:0:-1], stored[:1], None)
    assert storage.checkpoints.query(episode.id, limit=2, cursor=last.previous_cursor).items == second.items
    assert storage.checkpoints.query(new_id()).items == []
    assert len(list(storage.checkpoints.iterate())) == 6


@in_memory
def test_pages_also_end_by_bytes(storage, episode):
    large = {"text": "x" * 1_500_000}
    stored = [storage.episodes.checkpoint(episode.id, f"{number}", state=large) for number in range(4)]
    first = storage.checkpoints.query(episode.id)
    assert first.items == stored[:1:-1]
    assert storage.checkpoints.query(episode.id, cursor=first.next_cursor).items == stored[1::-1]
    assert list(storage.checkpoints.iterate()) == sorted(stored, key=lambda one: str(one.id))


def test_checkpoints_end_with_their_episode(storage, episode):
    kept, gone = [storage.episodes.checkpoint(episode.id, label) for label in ("kept", "gone")]
    assert storage.checkpoints.delete(gone.id) is True
    assert storage.checkpoints.delete(gone.id) is False
    assert storage.checkpoints.find(gone.id) is None
    with raises(ms.NotFoundError, kind="checkpoint"):
        storage.checkpoints.get(gone.id)
    assert storage.checkpoints.count() == 1
    storage.episodes.delete(episode.id)
    assert storage.checkpoints.find(kept.id) is None
    assert storage.checkpoints.count() == 0


@pytest.mark.whole_database
def test_what_cannot_be_stored_is_refused(storage, episode):
    before = dump(storage.engine)
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.checkpoint(new_id(), "label")
    for field, arguments in (
        ("step_number", {"step_number": 4}),
        ("step_number", {"step_number": -1}),
        ("step_number", {"step_number": True}),
        ("label", {"label": ""}),
        ("label", {"label": "x" * 201}),
        ("label", {"label": "a\0b"}),
        ("state", {"state": [1]}),
        ("state", {"state": {"x": math.nan}}),
        ("state.a", {"state": {"a": object}}),
    ):
        with raises(ms.ValidationError, field=field):
            storage.episodes.checkpoint(episode.id, **{"label": "label", **arguments})
    assert dump(storage.engine) == before


def test_the_limit_of_documents_holds_for_a_state(tmp_path):
    settings = ms.Settings(database=str(tmp_path / "m.db"), limits=ms.Limits(document_bytes=1_000))
    with ms.MemoryStorage.open(settings) as storage:
        key = storage.episodes.save(ms.Episode(task_description="t")).id
        with raises(ms.ValidationError, field="document", setting="limits.document_bytes"):
            storage.episodes.checkpoint(key, "label", state={"text": "x" * 1_000})
        assert storage.checkpoints.count() == 0


def test_copies_are_imported_once(storage, episode):
    stored = [storage.episodes.checkpoint(episode.id, f"{number}", state=STATE) for number in range(3)]
    other = storage.in_namespace("copies")
    with raises(ms.NotFoundError, kind="episode", id=episode.id):
        other.checkpoints.import_many(stored)
    assert other.checkpoints.count() == 0
    other.episodes.import_many([episode])
    assert other.checkpoints.import_many(stored[:1]) == 1
    assert other.checkpoints.import_many(stored) == 2
    assert other.checkpoints.import_many(stored) == other.checkpoints.import_many([]) == 0
    assert list(other.checkpoints.iterate()) == list(storage.checkpoints.iterate())
    assert list(other.checkpoints.iterate()) == sorted(stored, key=lambda one: str(one.id))
    with raises(ms.ValidationError, field="checkpoints"):
        other.checkpoints.import_many([stored[0], stored[0]])
    with raises(ms.ValidationError, field="checkpoints.1"):
        other.checkpoints.import_many([stored[0], "a text"])


def test_a_resumed_episode_follows_the_other(storage, make_episode):
    before = storage.episodes.save(
        ms.Episode(
            task_description="Fix the login",
            task_type="debugging",
            context=ms.TaskContext(domain="web", language="python"),
            tags=["auth"],
            metadata={"ticket": 17},
            steps=[ms.Step(tool="grep")],
            outcome=ms.Failure(reason="out of time"),
        )
    )
    checkpoint = storage.episodes.checkpoint(before.id, "found the cause", state=STATE)
    resumed = storage.episodes.resume(checkpoint.id)
    assert storage.episodes.get(resumed.id) == resumed
    assert (resumed.version, resumed.outcome, list(resumed.steps)) == (1, None, [])
    for name in ("task_description", "task_type", "context", "tags"):
        assert getattr(resumed, name) == getattr(before, name)
    origin = {"resumed_from_episode": str(before.id), "resumed_from_checkpoint": str(checkpoint.id)}
    assert resumed.metadata == {"ticket": 17, **origin}
    (follows,) = storage.relationships.query(resumed.id).items
    assert (follows.kind, follows.from_id, follows.to_id) == ("follows", resumed.id, before.id)
    assert follows.metadata == {"checkpoint": str(checkpoint.id)}
    again = storage.episodes.resume(str(checkpoint.id))
    assert again.id != resumed.id
    chained = storage.episodes.resume(storage.episodes.checkpoint(again.id, "next").id)
    found = storage.relationships.ancestors(before.id, "follows").items
    assert {one.episode_id for one in found} == {resumed.id, again.id, chained.id}
    with raises(ms.NotFoundError, kind="checkpoint"):
        storage.episodes.resume(before.id)
    assert_consistent(storage.engine)


@in_memory
def test_a_checkpoint_that_is_deleted_concurrently_is_not_resumed(storage, episode, monkeypatch):
    checkpoint = storage.episodes.checkpoint(episode.id, "label")
    real = type(storage.episodes)._write

    def write(self, *arguments):
        storage.episodes.delete(episode.id)
        return real(self, *arguments)

    monkeypatch.setattr(type(storage.episodes), "_write", write)
    with raises(ms.NotFoundError, kind="episode", id=episode.id):
        storage.episodes.resume(checkpoint.id)
    assert storage.episodes.count() == storage.relationships.count() == 0


def test_a_resumption_is_part_of_its_transaction(storage, episode):
    checkpoint = storage.episodes.checkpoint(episode.id, "label")
    with raises(ValueError, match="roll back"), storage.transaction() as tx:
        resumed = tx.episodes.resume(checkpoint.id)
        tx.episodes.checkpoint(resumed.id, "again")
        tx.episodes.append_steps(resumed.id, [ms.Step(tool="t")])
        raise ValueError("roll back")
    assert (storage.episodes.count(), storage.checkpoints.count(), storage.relationships.count()) == (1, 1, 0)


def test_the_time_of_a_checkpoint_is_the_storages():
    clock = FakeClock()
    with ms.MemoryStorage.open(":memory:", now=clock.now) as storage:
        key = storage.episodes.save(ms.Episode(task_description="t")).id
        first = storage.episodes.checkpoint(key, "first")
        clock.advance(60)
        assert storage.episodes.checkpoint(key, "second").created_at - first.created_at == timedelta(seconds=60)
