"""A stale copy never overwrites a newer version, and never restores a removed row."""

from __future__ import annotations

from datetime import timedelta

import pytest

import memory_storage as ms
from memory_storage.models import utc_now
from tests.checks import assert_consistent, dump

HEURISTIC = {"condition": "c", "action": "a"}


@pytest.fixture
def one_left(target):
    """A storage whose namespaces hold one episode, the newest."""
    limits = ms.Limits(max_episodes=1, when_full="evict")
    settings = target if isinstance(target, ms.Settings) else ms.Settings(database=target)
    with ms.MemoryStorage.open(settings.model_copy(update={"limits": limits})) as storage:
        yield storage


def _refused(error: type[ms.MemoryStorageError], save, *arguments):
    with pytest.raises(error) as caught:
        save(*arguments)
    assert type(caught.value) is error
    return caught.value


@pytest.mark.whole_database
def test_a_stale_save_does_not_restore_a_deleted_step(storage, make_episode):
    copy = storage.episodes.save(make_episode(steps=3))
    assert storage.steps.delete(copy.steps[1].id) is True
    before = dump(storage.engine)
    error = _refused(ms.ConflictError, storage.episodes.save, copy)
    assert (error.kind, error.id, error.expected, error.actual) == ("episode", copy.id, 1, 2)
    assert dump(storage.engine) == before
    found = storage.episodes.get(copy.id)
    assert [step.step_number for step in found.steps] == [1, 3]
    assert found.updated_at > copy.updated_at
    assert storage.episodes.save(found).version == 3


@pytest.mark.whole_database
def test_deleting_an_absent_step_changes_no_version(storage, make_episode):
    saved = storage.episodes.save(make_episode(steps=1))
    storage.steps.delete(saved.steps[0].id)
    before = dump(storage.engine)
    assert storage.steps.delete(saved.steps[0].id) is False
    assert storage.in_namespace("other").steps.delete(saved.steps[0].id) is False
    assert dump(storage.engine) == before


@pytest.mark.whole_database
@pytest.mark.parametrize("stale", [1, 2])
def test_a_copy_of_a_deleted_episode_is_not_the_new_one(storage, make_episode, stale):
    draft = make_episode()
    copies = [storage.episodes.save(draft)]
    copies.append(storage.episodes.save(copies[0]))
    assert storage.episodes.delete(draft.id)
    new = storage.episodes.save(storage.episodes.save(draft))
    before = dump(storage.engine)
    copy = copies[stale - 1].model_copy(update={"task_description": "lost"})
    error = _refused(ms.ConflictError, storage.episodes.save, copy)
    assert (error.id, error.expected, error.actual) == (draft.id, stale, 2)
    _refused(ms.ConflictError, storage.episodes.save_many, [make_episode(), copy])
    assert dump(storage.engine) == before
    assert storage.episodes.save(new).version == 3


@pytest.mark.whole_database
def test_a_copy_of_a_deleted_pattern_is_not_the_new_one(storage):
    draft = ms.Heuristic(**HEURISTIC)
    copy = storage.patterns.save(draft)
    assert storage.patterns.delete(draft.id)
    new = storage.patterns.save(draft)
    before = dump(storage.engine)
    error = _refused(ms.ConflictError, storage.patterns.save, copy.model_copy(update={"action": "lost"}))
    assert (error.id, error.expected, error.actual) == (draft.id, 1, 1)
    assert "was stored under this id since" in str(error)
    assert dump(storage.engine) == before
    assert storage.patterns.save(new).version == 2


@pytest.mark.whole_database
def test_a_stale_save_does_not_restore_an_erased_pattern(storage, make_episode):
    source = storage.episodes.save(make_episode())
    drafts = [ms.Heuristic(evidence=evidence, **HEURISTIC) for evidence in ([], [source.id])]
    saved = storage.patterns.save_many(drafts)
    storage.forget(episode=source.id)
    assert storage.patterns.find(drafts[1].id) is None
    assert _refused(ms.ValidationError, storage.patterns.save, drafts[1]).field == "id"
    storage.forget(namespace=storage.namespace)
    for draft, copy in zip(drafts, saved, strict=True):
        assert _refused(ms.ValidationError, storage.patterns.save, draft).field == "id"
        _refused(ms.ValidationError, storage.patterns.save_many, [ms.Heuristic(**HEURISTIC), draft])
        error = _refused(ms.ConflictError, storage.patterns.save, copy)
        assert (error.expected, error.actual) == (1, None)
        assert storage.patterns.import_many([copy]) == 0
    assert storage.patterns.count() == 0


@pytest.mark.whole_database
def test_a_stale_save_does_not_restore_an_evicted_episode(one_left, make_episode):
    draft = make_episode(started_at=utc_now() - timedelta(days=1))
    copy = one_left.episodes.save(draft)
    newer = one_left.episodes.save(make_episode())
    assert one_left.episodes.find(draft.id) is None
    before = dump(one_left.engine)
    assert _refused(ms.ValidationError, one_left.episodes.save, draft).field == "id"
    assert _refused(ms.ConflictError, one_left.episodes.save, copy).actual is None
    assert one_left.episodes.import_many([copy]) == 0
    assert dump(one_left.engine) == before
    assert one_left.in_namespace("another").episodes.save(draft).version == 1
    assert one_left.episodes.save(newer).version == 2
    assert_consistent(one_left.engine)


@pytest.mark.whole_database
@pytest.mark.parametrize("whole_namespace", [False, True])
def test_forgetting_leaves_no_id_of_an_evicted_episode(one_left, make_episode, whole_namespace):
    draft = make_episode(started_at=utc_now() - timedelta(days=1))
    one_left.episodes.save(draft)
    one_left.episodes.save(make_episode())
    assert str(draft.id).encode() in _tombstones(one_left)
    one_left.forget(**({"namespace": one_left.namespace} if whole_namespace else {"episode": draft.id}))
    assert str(draft.id).encode() not in _tombstones(one_left)
    assert _refused(ms.ValidationError, one_left.episodes.save, draft).field == "id"


def _tombstones(storage: ms.MemoryStorage) -> bytes:
    with storage.engine.connect() as connection:
        return b"".join(row[0] for row in connection.exec_driver_sql("SELECT digest FROM forgotten"))


def test_a_stale_save_does_not_restore_an_expired_episode(storage, make_episode):
    draft = make_episode(started_at=utc_now() - timedelta(days=9))
    copy = storage.episodes.save(draft)
    assert storage.retention.apply(ms.RetentionPolicy(max_age=timedelta(days=1))).removed == 1
    assert _refused(ms.ValidationError, storage.episodes.save, draft).field == "id"
    assert _refused(ms.ConflictError, storage.episodes.save, copy).actual is None


@pytest.mark.whole_database
def test_the_error_for_an_erased_episode_advises_a_new_id(storage, make_episode):
    copy, pattern = storage.episodes.save(make_episode()), storage.patterns.save(ms.Heuristic(**HEURISTIC))
    storage.forget(namespace=storage.namespace)
    for save, stale in ((storage.episodes.save, copy), (storage.patterns.save, pattern)):
        message = str(_refused(ms.ConflictError, save, stale))
        assert "erased" in message
        assert "new id" in message
        assert "load it again" not in message
        new = stale.model_copy(update={"id": ms.models.new_id(), "version": 0, "steps": []})
        if stale is pattern:
            new = stale.model_copy(update={"id": ms.models.new_id(), "version": 0})
        assert save(new).version == 1


def test_the_error_for_a_deleted_episode_has_a_remedy(storage, make_episode):
    copy, pattern = storage.episodes.save(make_episode()), storage.patterns.save(ms.Heuristic(**HEURISTIC))
    storage.episodes.delete(copy.id)
    storage.patterns.delete(pattern.id)
    for save, stale in ((storage.episodes.save, copy), (storage.patterns.save, pattern)):
        message = str(_refused(ms.ConflictError, save, stale))
        assert "version=0" in message
        assert "load it again" not in message
        assert save(stale.model_copy(update={"version": 0})).version == 1


@pytest.mark.whole_database
def test_steps_change_places_in_one_save(storage, make_episode):
    saved = storage.episodes.save(make_episode(steps=4))
    first, second, third, fourth = saved.steps
    order = [third, first, second]
    moved = [step.model_copy(update={"step_number": number}) for number, step in enumerate(order, 1)]
    again = storage.episodes.save(saved.model_copy(update={"steps": moved}))
    assert (again.version, again.steps) == (2, moved)
    assert storage.episodes.get(saved.id).steps == [*moved, fourth]
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_a_step_is_put_between_others_in_one_save(storage, make_episode):
    saved = storage.episodes.save(make_episode(steps=2))
    first, second = saved.steps
    new = ms.Step(tool="between", step_number=2)
    steps = [first, new, second.model_copy(update={"step_number": 3})]
    with storage.transaction() as tx:
        assert tx.episodes.save(saved.model_copy(update={"steps": steps})).steps == steps
    assert storage.episodes.get(saved.id).steps == steps
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_a_number_of_a_step_left_out_is_refused_with_advice(storage, make_episode):
    saved = storage.episodes.save(make_episode(steps=2))
    taken = saved.steps[0].model_copy(update={"step_number": 2})
    before = dump(storage.engine)
    error = _refused(ms.ConflictError, storage.episodes.save, saved.model_copy(update={"steps": [taken]}))
    assert error.kind == "step"
    assert "all of the episode's steps" in str(error)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
@pytest.mark.parametrize("is_new", [True, False])
def test_two_steps_with_one_id_are_refused(storage, make_episode, is_new):
    episode = make_episode(steps=2)
    episode = episode if is_new else storage.episodes.save(episode)
    twice = [episode.steps[0], episode.steps[0].model_copy(update={"step_number": 2, "tool": "another"})]
    broken = episode.model_copy(update={"steps": twice})
    before = dump(storage.engine)
    for save, argument in (
        (storage.episodes.save, broken),
        (storage.episodes.import_many, [broken]),
        (lambda steps: ms.Episode(task_description="", steps=steps), twice),
    ):
        error = _refused(ms.ValidationError, save, argument)
        assert (error.field, error.value) == ("steps.1.id", str(twice[0].id))
    assert _refused(ms.ValidationError, storage.episodes.save_many, [make_episode(), broken]).field == (
        "episodes.1.steps.1.id"
    )
    assert dump(storage.engine) == before


def test_two_episodes_that_carry_one_step_are_refused(storage, make_episode):
    one, other = make_episode(steps=1), make_episode(steps=1)
    other = other.model_copy(update={"steps": [other.steps[0].model_copy(update={"id": one.steps[0].id})]})
    for save in (storage.episodes.save_many, storage.episodes.import_many):
        assert _refused(ms.ValidationError, save, [one, other]).field == "episodes.1.steps.0.id"
    assert storage.episodes.count() == 0


def test_two_steps_with_one_number_are_refused(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=2))
    same = [step.model_copy(update={"step_number": 1}) for step in episode.steps]
    error = _refused(ms.ValidationError, storage.episodes.save, episode.model_copy(update={"steps": same}))
    assert error.field == "steps.1.step_number"


def test_evidence_named_twice_is_refused(storage, make_episode):
    source = storage.episodes.save(make_episode())
    pattern = ms.Heuristic(evidence=[source.id, source.id], **HEURISTIC)
    assert _refused(ms.ValidationError, storage.patterns.save, pattern).field == "evidence"
    others = [ms.Heuristic(**HEURISTIC), pattern]
    assert _refused(ms.ValidationError, storage.patterns.save_many, others).field == "patterns.1.evidence"
    assert storage.patterns.count() == 0


def test_an_id_given_twice_is_refused(storage, make_episode):
    episode, pattern = make_episode(), ms.Heuristic(**HEURISTIC)
    for save, twice, field in (
        (storage.episodes.save_many, [episode, episode], "episodes"),
        (storage.episodes.import_many, [episode, episode], "episodes"),
        (storage.patterns.save_many, [pattern, pattern], "patterns"),
        (storage.patterns.import_many, [pattern, pattern], "patterns"),
    ):
        assert _refused(ms.ValidationError, save, twice).field == field
    assert storage.episodes.count() == storage.patterns.count() == 0
