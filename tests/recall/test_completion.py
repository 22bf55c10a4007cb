"""Completing an episode with a recall stores its receipt and counts the recalled patterns, once."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.repositories.episodes import recalls
from tests.backends import in_memory
from tests.raising import raises

TASK = "the login test is flaky"
DONE = ms.Success(verdict="v")


def _use(storage, pattern):
    used = storage.patterns.get(pattern.id).effectiveness
    return used.times_retrieved, used.times_applied, used.success_when_applied, used.failure_when_applied


@pytest.fixture
def episode(storage):
    return storage.episodes.save(ms.Episode(task_description="again"))


@pytest.mark.parametrize(
    "as_argument", [lambda recall: recall, lambda recall: recall.id, lambda recall: str(recall.id)]
)
def test_the_receipt_is_stored_and_what_it_shows_is_counted(storage, login, episode, as_argument):
    recall = storage.recall(TASK)
    completed = storage.episodes.complete(episode.id, DONE, recalled=as_argument(recall))
    assert completed == storage.episodes.get(episode.id)
    assert completed.recalled.id == recall.id
    assert completed.recalled.items == [(kind, login[kind].id) for kind in ("success", "failure", "pattern")]
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)
    assert storage.patterns.get(login["pattern"].id).effectiveness.last_used_at == completed.updated_at


@pytest.mark.parametrize("outcome", [ms.Failure(reason="r"), ms.Abstained(reason="r"), ms.PartialSuccess(verdict="v")])
def test_any_other_outcome_counts_as_no_success(storage, login, episode, outcome):
    storage.episodes.complete(episode.id, outcome, recalled=storage.recall(TASK))
    assert _use(storage, login["pattern"]) == (1, 1, 0, 1)


def test_completing_again_counts_nothing_more(storage, login, episode):
    recall = storage.recall(TASK)
    for outcome in (DONE, DONE, ms.Failure(reason="after all")):
        completed = storage.episodes.complete(episode.id, outcome, recalled=recall)
    assert completed.recalled.id == recall.id
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_completing_again_without_the_recall_keeps_the_receipt(storage, login, episode):
    recall = storage.recall(TASK)
    storage.episodes.complete(episode.id, DONE, recalled=recall)
    assert storage.episodes.complete(episode.id, ms.Failure(reason="r")).recalled == recall.receipt


def test_another_recall_is_refused_and_nothing_changes(storage, login, episode):
    first = storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK))
    with raises(ms.ValidationError, field="recalled"):
        storage.episodes.complete(episode.id, ms.Failure(reason="r"), recalled=storage.recall(TASK))
    assert storage.episodes.get(episode.id) == first
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_a_missing_episode_counts_nothing(storage, login):
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.complete(UUID(int=7), DONE, recalled=storage.recall(TASK))
    assert _use(storage, login["pattern"]) == (0, 0, 0, 0)


def test_a_pattern_that_was_deleted_since_is_not_counted(storage, login, episode):
    recall = storage.recall(TASK)
    storage.patterns.delete(login["pattern"].id)
    assert storage.episodes.complete(episode.id, DONE, recalled=recall).recalled == recall.receipt


def test_an_empty_recall_leaves_a_receipt_too(storage, episode):
    recall = storage.recall("nothing is stored")
    assert storage.episodes.complete(episode.id, DONE, recalled=recall).recalled == recall.receipt


def test_a_receipt_counts_for_the_size_of_the_episode(target):
    limits = ms.Limits(document_bytes=220)  # an episode with an outcome has 175, and the receipt more than 100
    settings = target if isinstance(target, ms.Settings) else ms.Settings(database=target)
    with ms.MemoryStorage.open(settings.model_copy(update={"limits": limits})) as storage:
        saved = storage.episodes.save_many([ms.Episode(task_description="a"), ms.Episode(task_description="b")])
        storage.episodes.complete(saved[0].id, DONE)
        recall = storage.recall("a")
        with raises(ms.ValidationError, field="document"):
            storage.episodes.complete(saved[1].id, DONE, recalled=recall)
        assert storage.episodes.get(saved[1].id) == saved[1]


def test_a_saved_copy_keeps_the_receipt(storage, login, episode):
    completed = storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK))
    saved = storage.episodes.save(completed.model_copy(update={"tags": ["later"]}))
    assert saved.recalled == completed.recalled
    assert storage.episodes.get(episode.id) == saved
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_a_transaction_completes_with_the_id_of_a_recall(storage, login, episode):
    recall = storage.recall(TASK)
    with storage.transaction() as tx:
        tx.episodes.complete(episode.id, DONE, recalled=recall.id)
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_a_recall_of_another_namespace_is_refused(storage, login):
    recall, other = storage.recall(TASK), storage.in_namespace("other")
    episode = other.episodes.save(ms.Episode(task_description="again"))
    for recalled in (recall, recall.id):
        with raises(ms.ValidationError, field="recalled"):
            other.episodes.complete(episode.id, DONE, recalled=recalled)
    assert not other.episodes.get(episode.id).is_complete


@in_memory
@pytest.mark.parametrize("unknown", [UUID(int=7), str(UUID(int=7)), "no id", 5])
def test_an_unknown_id_is_refused_with_advice(storage, episode, unknown):
    with raises(ms.ValidationError, field="recalled"):
        storage.episodes.complete(episode.id, DONE, recalled=unknown)


@in_memory
def test_views_share_the_latest_recalls(storage, login, episode):
    recall = storage.acting_as("alice").recall(TASK)
    assert storage.episodes.complete(episode.id, DONE, recalled=recall.id).recalled.id == recall.id


@in_memory
def test_the_oldest_receipts_are_dropped(storage, login, episode, monkeypatch):
    monkeypatch.setattr(recalls, "REMEMBERED", 2)
    first, *_ = [storage.recall(TASK) for _ in range(3)]
    with raises(ms.ValidationError, field="recalled"):
        storage.episodes.complete(episode.id, DONE, recalled=first.id)
    assert storage.episodes.complete(episode.id, DONE, recalled=first).recalled.id == first.id


@in_memory
def test_an_episode_without_a_recall_has_no_key_for_it(storage, episode):
    storage.episodes.complete(episode.id, DONE)
    with storage.transaction() as tx:
        (rows,) = tx.execute([("SELECT document FROM episodes", ())])
    assert "recalled" not in rows[0][0]


def test_erasure_removes_a_record_from_receipts(storage, login, episode):
    learned = storage.patterns.save(
        ms.Heuristic(condition="login test", action="a", evidence=[login["failure"].id], success_rate=1.0)
    )
    completed = storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK))
    assert len(completed.recalled.items) == 4
    storage.forget(episode=login["failure"].id)
    kept = storage.episodes.get(episode.id)
    assert kept.recalled.items == [("success", login["success"].id), ("pattern", login["pattern"].id)]
    assert kept.recalled.id == completed.recalled.id
    assert kept.version == completed.version + 1
    with storage.transaction() as tx:
        (rows,) = tx.execute([("SELECT document FROM episodes", ())])
    assert not any(str(one) in row[0] for row in rows for one in (login["failure"].id, learned.id))


def test_what_was_used_is_stored_and_counted_as_applied(storage, login, episode):
    other = storage.patterns.save(ms.Heuristic(condition="a login test", action="wait", success_rate=0.8))
    recall = storage.recall(TASK)
    used = [login["pattern"].id, login["success"].id]
    completed = storage.episodes.complete(episode.id, DONE, recalled=recall, used=used, rating=4)
    assert (completed.recalled.used, completed.recalled.rating) == (used, 4)
    assert completed == storage.episodes.get(episode.id)
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)
    assert _use(storage, other) == (1, 0, 0, 0)


def test_nothing_used_applies_nothing(storage, login, episode):
    completed = storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK), used=[])
    assert completed.recalled.used == []
    assert _use(storage, login["pattern"]) == (1, 0, 0, 0)


def test_what_is_known_later_is_counted_once(storage, login, episode):
    recall = storage.recall(TASK)
    storage.episodes.complete(episode.id, DONE, recalled=recall, used=[], rating=2)
    for _ in range(2):
        completed = storage.episodes.complete(episode.id, DONE, recalled=recall, used=[str(login["pattern"].id)])
        assert (completed.recalled.used, completed.recalled.rating) == ([login["pattern"].id], 2)
        assert _use(storage, login["pattern"]) == (1, 1, 1, 0)
    kept = storage.episodes.complete(episode.id, ms.Failure(reason="r"), recalled=recall)
    assert kept.recalled == completed.recalled
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_what_was_used_after_all_was_counted_as_unknown(storage, login, episode):
    recall = storage.recall(TASK)
    storage.episodes.complete(episode.id, DONE, recalled=recall)
    completed = storage.episodes.complete(episode.id, DONE, recalled=recall, used=[login["pattern"].id])
    assert completed.recalled.used == [login["pattern"].id]
    assert _use(storage, login["pattern"]) == (1, 1, 1, 0)


def test_a_receipt_without_use_is_written_as_before(storage, login, episode):
    storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK))
    with storage.transaction() as tx:
        (rows,) = tx.execute([("SELECT document ->> '$.recalled' FROM episodes WHERE id = ?", (str(episode.id),))])
    assert set(json.loads(rows[0][0])) == {"id", "items"}


@in_memory
@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("used", {"used": [UUID(int=7)]}),
        ("used", {"used": ["no id"]}),
        ("used", {"used": "text"}),
        ("used", {"used": 5}),
        ("rating", {"rating": 0}),
        ("rating", {"rating": 6}),
        ("rating", {"rating": True}),
        ("rating", {"rating": "5"}),
    ],
)
def test_invalid_use_is_named(storage, login, episode, field, arguments):
    with raises(ms.ValidationError, field=field):
        storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK), **arguments)
    assert not storage.episodes.get(episode.id).is_complete


@in_memory
def test_a_record_is_used_once(storage, login, episode):
    with raises(ms.ValidationError, field="used"):
        storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK), used=[login["pattern"].id] * 2)


@in_memory
@pytest.mark.parametrize("arguments", [{"used": []}, {"rating": 3}])
def test_use_without_a_recall_is_refused(storage, episode, arguments):
    with raises(ms.ValidationError, field=next(iter(arguments))):
        storage.episodes.complete(episode.id, DONE, **arguments)


def test_erasure_removes_a_record_from_what_was_used(storage, login, episode):
    used = [login["success"].id, login["failure"].id]
    storage.episodes.complete(episode.id, DONE, recalled=storage.recall(TASK), used=used)
    storage.forget(episode=login["failure"].id)
    assert storage.episodes.get(episode.id).recalled.used == [login["success"].id]
