"""A recall that is kept in the database: any process completes an episode with its ID."""

from __future__ import annotations

from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.repositories.episodes import recalls
from tests.backends import in_memory
from tests.raising import raises

TASK = "the login test is flaky"
DONE = ms.Success(verdict="v")


@pytest.fixture
def forgetful(storage, login, monkeypatch):
    """A storage of a process that remembers no recall."""
    monkeypatch.setattr(recalls, "REMEMBERED", 0)
    return storage


@pytest.fixture
def episode(storage):
    return storage.episodes.save(ms.Episode(task_description="again"))


def _use(storage, pattern):
    used = storage.patterns.get(pattern.id).effectiveness
    return used.times_retrieved, used.times_applied, used.success_when_applied, used.failure_when_applied


def _documents(storage):
    with storage.transaction() as tx:
        (rows,) = tx.execute([("SELECT document FROM recalls ORDER BY number", ())])
    return [row[0] for row in rows]


def test_an_episode_is_completed_with_a_kept_recall(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    used = [login["pattern"].id]
    completed = forgetful.episodes.complete(episode.id, DONE, recalled=recall.id, used=used, rating=5)
    assert completed.recalled.items == recall.receipt.items
    assert (completed.recalled.id, completed.recalled.used, completed.recalled.rating) == (recall.id, used, 5)
    assert completed == forgetful.episodes.get(episode.id)
    assert _use(forgetful, login["pattern"]) == (1, 1, 1, 0)
    assert [one.id for one in forgetful.episodes.query(used=login["pattern"].id)] == [episode.id]


def test_without_what_was_used_all_are_counted_as_applied(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    completed = forgetful.episodes.complete(episode.id, ms.Failure(reason="r"), recalled=str(recall.id))
    assert completed.recalled == recall.receipt
    assert _use(forgetful, login["pattern"]) == (1, 1, 0, 1)


def test_completing_again_counts_nothing_more(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    for used in ([], [login["pattern"].id], None):
        completed = forgetful.episodes.complete(episode.id, DONE, recalled=recall.id, used=used)
    assert completed.recalled.used == [login["pattern"].id]
    assert _use(forgetful, login["pattern"]) == (1, 1, 1, 0)


def test_a_receipt_of_the_episode_outlives_the_kept_one(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    forgetful.episodes.complete(episode.id, DONE, recalled=recall.id, used=[])
    with forgetful.transaction() as tx:
        tx.execute([("DELETE FROM recalls", ())])
    completed = forgetful.episodes.complete(episode.id, DONE, recalled=recall.id, used=[login["pattern"].id])
    assert completed.recalled.items == recall.receipt.items
    assert _use(forgetful, login["pattern"]) == (1, 1, 1, 0)


def test_a_transaction_completes_with_a_kept_recall(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    with forgetful.transaction() as tx:
        completed = tx.episodes.complete(episode.id, DONE, recalled=recall.id)
    assert completed.recalled == recall.receipt
    assert _use(forgetful, login["pattern"]) == (1, 1, 1, 0)


def test_a_recall_that_is_not_kept_is_refused(forgetful, login, episode):
    recall = forgetful.recall(TASK)
    with raises(ms.ValidationError, field="recalled"):
        forgetful.episodes.complete(episode.id, DONE, recalled=recall.id)
    assert forgetful.episodes.get(episode.id) == episode
    assert _use(forgetful, login["pattern"]) == (0, 0, 0, 0)


def test_a_kept_recall_of_another_namespace_is_refused(forgetful, login):
    recall, other = forgetful.recall(TASK, keep=True), forgetful.in_namespace("other")
    episode = other.episodes.save(ms.Episode(task_description="again"))
    with raises(ms.ValidationError, field="recalled"):
        other.episodes.complete(episode.id, DONE, recalled=recall.id)
    assert other.episodes.get(episode.id) == episode


def test_another_kept_recall_is_refused(forgetful, login, episode):
    first, second = (forgetful.recall(TASK, keep=True) for _ in range(2))
    completed = forgetful.episodes.complete(episode.id, DONE, recalled=first.id)
    with raises(ms.ValidationError, field="recalled"):
        forgetful.episodes.complete(episode.id, DONE, recalled=second.id)
    assert forgetful.episodes.get(episode.id) == completed


def test_what_it_did_not_show_cannot_be_used(forgetful, login, episode):
    recall = forgetful.recall(TASK, keep=True)
    with raises(ms.ValidationError, field="used"):
        forgetful.episodes.complete(episode.id, DONE, recalled=recall.id, used=[login["other"].id])
    assert forgetful.episodes.get(episode.id) == episode
    assert _use(forgetful, login["pattern"]) == (0, 0, 0, 0)


def test_a_missing_episode_is_not_found(forgetful, login):
    recall = forgetful.recall(TASK, keep=True)
    with raises(ms.NotFoundError, kind="episode"):
        forgetful.episodes.complete(UUID(int=7), DONE, recalled=recall.id)


def test_an_empty_recall_is_kept_too(storage, episode, monkeypatch):
    monkeypatch.setattr(recalls, "REMEMBERED", 0)
    recall = storage.recall("nothing is stored", keep=True)
    assert storage.episodes.complete(episode.id, DONE, recalled=recall.id).recalled == recall.receipt


def test_the_newest_receipts_of_a_namespace_are_kept(forgetful, login, episode, monkeypatch):
    monkeypatch.setattr(recalls, "KEPT", 3)
    other = forgetful.in_namespace("other")
    other.recall(TASK, keep=True)
    first, *later = [forgetful.recall(TASK, keep=True) for _ in range(4)]
    assert len(_documents(forgetful)) == 4
    with raises(ms.ValidationError, field="recalled"):
        forgetful.episodes.complete(episode.id, DONE, recalled=first.id)
    for one in later:
        again = forgetful.episodes.save(ms.Episode(task_description="again"))
        assert forgetful.episodes.complete(again.id, DONE, recalled=one.id).recalled == one.receipt


def test_the_task_is_not_stored(forgetful, login):
    forgetful.recall("a secret login", keep=True)
    (document,) = _documents(forgetful)
    assert "secret" not in document


def test_erasure_removes_a_record_from_kept_receipts(forgetful, login, episode):
    learned = forgetful.patterns.save(
        ms.Heuristic(condition="login test", action="a", evidence=[login["failure"].id], success_rate=1.0)
    )
    recall = forgetful.recall(TASK, keep=True)
    assert {login["failure"].id, learned.id} < {one.item.id for one in recall}
    forgetful.forget(episode=login["failure"].id)
    (document,) = _documents(forgetful)
    assert not any(str(one) in document for one in (login["failure"].id, learned.id))
    completed = forgetful.episodes.complete(episode.id, DONE, recalled=recall.id)
    assert completed.recalled.items == [("success", login["success"].id), ("pattern", login["pattern"].id)]


def test_erasing_a_namespace_removes_its_receipts_only(forgetful, login):
    other = forgetful.in_namespace("other")
    other.recall(TASK, keep=True)
    forgetful.recall(TASK, keep=True)
    forgetful.forget(namespace="default")
    assert len(_documents(forgetful)) == 1
    other.forget(namespace="other")
    assert _documents(forgetful) == []


@in_memory
@pytest.mark.parametrize("keep", [1, "yes", None])
def test_an_invalid_keep_is_named(storage, keep):
    with raises(ms.ValidationError, field="keep"):
        storage.recall(TASK, keep=keep)


def test_a_kept_receipt_counts_for_the_size_of_the_episode(target, monkeypatch):
    monkeypatch.setattr(recalls, "REMEMBERED", 0)
    limits = ms.Limits(document_bytes=220)
    settings = target if isinstance(target, ms.Settings) else ms.Settings(database=target)
    with ms.MemoryStorage.open(settings.model_copy(update={"limits": limits})) as storage:
        saved = storage.episodes.save_many([ms.Episode(task_description="a"), ms.Episode(task_description="b")])
        storage.episodes.complete(saved[0].id, DONE)
        recall = storage.recall("a", keep=True)
        with raises(ms.ValidationError, field="document"):
            storage.episodes.complete(saved[1].id, DONE, recalled=recall.id)
        assert storage.episodes.get(saved[1].id) == saved[1]
