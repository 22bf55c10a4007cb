"""Saving again keeps everything that belongs to an episode, and loses no change without a ConflictError."""

from __future__ import annotations

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from tests.checks import assert_consistent, dump, index_all, row_counts
from tests.raising import raises

VECTOR = [0.5] * 384


@pytest.fixture
def rich(storage: ms.MemoryStorage, make_episode) -> ms.Episode:
    """An archived episode with steps, vectors and places of its own and of its first step."""
    episode = storage.episodes.save(make_episode(steps=3))
    for owner_type, owner_id in (("episode", episode.id), ("step", episode.steps[0].id)):
        storage.embeddings.put(owner_type, owner_id, VECTOR, model="m")
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(owner_type=owner_type, owner_id=owner_id, latitude=1.0, longitude=2.0)
        )
    storage.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[episode.id]))
    return storage.episodes.archive(episode.id)


@pytest.mark.whole_database
def test_what_belongs_to_an_episode_stays_when_it_is_saved_again(storage, rich):
    before = dump(storage.engine)
    saved = storage.episodes.save(rich.model_copy(update={"task_description": "changed"}))
    assert saved == storage.episodes.get(rich.id)
    assert saved.steps == rich.steps
    assert (saved.created_at, saved.archived_at) == (rich.created_at, rich.archived_at)
    after = dump(storage.engine)
    assert {name: rows for name, rows in after.items() if name != "episodes"} == {
        name: rows for name, rows in before.items() if name != "episodes"
    }
    assert_consistent(storage.engine)


def test_the_callers_values_of_managed_fields_are_ignored(storage, rich):
    others = {"created_at": None, "updated_at": rich.started_at, "archived_at": None}
    saved = storage.episodes.save(rich.model_copy(update=others))
    assert (saved.created_at, saved.archived_at) == (rich.created_at, rich.archived_at)


def test_saving_an_episode_loaded_without_steps_keeps_them(storage, rich):
    bare = storage.episodes.get(rich.id, steps=False)
    assert bare.steps == []
    storage.episodes.save(bare.model_copy(update={"tags": ["changed"]}))
    found = storage.episodes.get(rich.id)
    assert (found.steps, found.tags) == (rich.steps, ["changed"])
    assert storage.embeddings.count() == 2


def test_a_step_changed_in_the_episode_is_changed_in_the_store(storage, rich):
    changed = rich.steps[1].model_copy(update={"action": "another", "result": ms.StepTimeout()})
    storage.episodes.save(rich.model_copy(update={"steps": [changed]}))
    assert storage.episodes.get(rich.id).steps == [rich.steps[0], changed, rich.steps[2]]
    assert storage.episodes.count(text="another", archived=True) == 1


@pytest.mark.whole_database
@pytest.mark.parametrize("stale", [1, 3])
def test_a_stale_version_raises_a_conflict_with_both_versions(storage, make_episode, stale):
    episode = storage.episodes.save(storage.episodes.save(make_episode()))
    wrong = episode.model_copy(update={"version": stale, "task_description": "lost"})
    new = make_episode()
    before = dump(storage.engine)
    for save in (lambda: storage.episodes.save(wrong), lambda: storage.episodes.save_many([new, wrong])):
        with pytest.raises(ms.ConflictError) as caught:
            save()
        error = caught.value
        assert (error.kind, error.id, error.expected, error.actual) == ("episode", episode.id, stale, 2)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_a_stale_pattern_conflicts_and_names_both_versions(storage):
    pattern = storage.patterns.save(storage.patterns.save(ms.Heuristic(condition="c", action="a")))
    wrong = pattern.model_copy(update={"version": 1, "action": "lost"})
    new = ms.Heuristic(condition="c", action="a")
    before = dump(storage.engine)
    for save in (lambda: storage.patterns.save(wrong), lambda: storage.patterns.save_many([new, wrong])):
        with pytest.raises(ms.ConflictError) as caught:
            save()
        assert (caught.value.kind, caught.value.expected, caught.value.actual) == ("pattern", 1, 2)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_a_new_episode_saved_twice_is_there_once(storage, make_episode):
    episode, other = make_episode(), make_episode()
    saved = storage.episodes.save(episode)
    before = dump(storage.engine)
    assert storage.episodes.save(episode) == saved
    assert dump(storage.engine) == before
    assert storage.episodes.save_many([other, episode]) == [storage.episodes.get(other.id), saved]
    assert storage.episodes.count() == 2


def test_a_new_id_saved_with_other_content_is_a_conflict(storage, make_episode):
    episode = make_episode()
    storage.episodes.save(episode)
    for change in ({"task_description": "another"}, {"steps": [ms.Step(tool="t", step_number=9)]}):
        with pytest.raises(ms.ConflictError) as caught:
            storage.episodes.save(episode.model_copy(update=change))
        assert (caught.value.expected, caught.value.actual) == (0, 1)


def test_a_new_pattern_saved_twice_is_there_once(storage):
    pattern = ms.ToolSequence(tools=["a", "b"])
    saved = storage.patterns.save(pattern)
    storage.patterns.record_retrieval(pattern.id)
    assert storage.patterns.save(pattern) == storage.patterns.get(pattern.id)
    assert storage.patterns.get(pattern.id).version == saved.version
    with pytest.raises(ms.ConflictError):
        storage.patterns.save(pattern.model_copy(update={"tools": ["c"]}))


@pytest.mark.whole_database
def test_a_stale_save_does_not_restore_a_deleted_episode(storage, rich):
    assert storage.episodes.delete(rich.id)
    before = dump(storage.engine)
    for save in (lambda: storage.episodes.save(rich), lambda: storage.episodes.save_many([rich])):
        with pytest.raises(ms.ConflictError) as caught:
            save()
        assert (caught.value.expected, caught.value.actual) == (rich.version, None)
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_a_stale_save_does_not_restore_a_deleted_pattern(storage):
    pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
    assert storage.patterns.delete(pattern.id)
    with pytest.raises(ms.ConflictError) as caught:
        storage.patterns.save(pattern)
    assert caught.value.actual is None
    assert row_counts(storage.engine)["patterns"] == 0


@pytest.mark.whole_database
def test_deleting_removes_owned_rows_and_nothing_else(storage, rich, make_episode):
    other = storage.episodes.save(make_episode(metadata={"kept": 1}))
    storage.embeddings.put("step", other.steps[0].id, VECTOR, model="m")
    assert storage.episodes.delete(rich.id) is True
    assert storage.episodes.delete(rich.id) is False
    index_all(storage.engine)
    expected = {"episodes": 1, "steps": 2, "patterns": 1, "embeddings": 1, "spatiotemporal_index": 0, "facets": 2}
    expected |= {"items": 0, "item_vectors": 0, "logs": 0, "relationships": 0, "checkpoints": 0, "recalls": 0}
    assert row_counts(storage.engine) == expected
    assert storage.steps.delete(other.steps[0].id) is True
    assert storage.embeddings.count() == 0
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_two_episodes_cannot_have_one_step(storage, make_episode):
    one, two = storage.episodes.save(make_episode()), storage.episodes.save(make_episode(steps=0))
    taken = one.steps[0]
    before = dump(storage.engine)
    for steal in (
        lambda: storage.episodes.save(two.model_copy(update={"steps": [taken]})),
        lambda: storage.episodes.save(make_episode(steps=0).model_copy(update={"steps": [taken]})),
        lambda: storage.episodes.save_many([make_episode(), two.model_copy(update={"steps": [taken]})]),
        lambda: storage.episodes.append_step(two.id, taken.model_copy(update={"step_number": None})),
        lambda: storage.episodes.import_many([make_episode(steps=0).model_copy(update={"steps": [taken]})]),
    ):
        with pytest.raises(ms.ConflictError):
            steal()
    assert dump(storage.engine) == before


@pytest.mark.whole_database
def test_steps_of_an_episode_cannot_share_a_number_or_an_id(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=2))
    before = dump(storage.engine)
    for steps in ([ms.Step(tool="t", step_number=2)], [episode.steps[0].model_copy(update={"step_number": 2})]):
        with pytest.raises(ms.ConflictError):
            storage.episodes.save(episode.model_copy(update={"steps": steps}))
    same = ms.Step(tool="t")
    with raises(ms.ValidationError, field="steps.1.id"):
        storage.episodes.save(make_episode(steps=0).model_copy(update={"steps": [same, same]}))
    with raises(ms.ValidationError, field="steps.1.id"):
        make_episode(steps=0, version=0).__class__(task_description="", steps=[ms.Step(tool="t", step_number=2)] * 2)
    assert dump(storage.engine) == before


def test_steps_of_one_episode_can_change_places(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=2))
    first, second = episode.steps
    swapped = [second.model_copy(update={"step_number": 1}), first.model_copy(update={"step_number": 2})]
    try:
        storage.episodes.save(episode.model_copy(update={"steps": swapped}))
    except ms.ConflictError:
        assert storage.episodes.get(episode.id) == episode
    else:
        assert storage.episodes.get(episode.id).steps == swapped


def test_a_repeated_append_is_idempotent_another_step_is_not(storage, make_episode):
    episode = storage.episodes.save(make_episode(steps=1))
    step = ms.Step(tool="t")
    appended = storage.episodes.append_step(episode.id, step)
    assert storage.episodes.append_step(episode.id, step) == appended
    with pytest.raises(ms.ConflictError) as caught:
        storage.episodes.append_step(episode.id, step.model_copy(update={"tool": "another"}))
    assert (caught.value.kind, caught.value.id) == ("step", step.id)
    assert storage.steps.count(episode.id) == 2
    assert storage.episodes.get(episode.id).version == episode.version


def test_completing_again_keeps_omitted_fields(storage, make_episode):
    episode = storage.episodes.save(make_episode())
    reflection = ms.Reflection(insights=["look at the clock first"])
    storage.episodes.complete(episode.id, ms.Failure(reason="r"), reward=0.25, reflection=reflection)
    ended = storage.episodes.complete(episode.id, ms.Success(verdict="v"))
    assert (ended.version, ended.reward, ended.reflection) == (3, ms.RewardScore(total=0.25), reflection)
    assert ended.steps == episode.steps
    assert storage.episodes.count(outcome="failure") == 0
    assert storage.episodes.count(outcome="success", min_reward=0.25) == 1


def test_archiving_twice_keeps_the_first_moment(storage, make_episode):
    episode = storage.episodes.save(make_episode())
    first = storage.episodes.archive(episode.id)
    assert storage.episodes.archive(episode.id) == first
    assert storage.episodes.restore(episode.id) == storage.episodes.restore(episode.id) == episode


def test_the_same_ids_in_two_namespaces_are_two_things(storage, make_episode):
    other = storage.in_namespace("other")
    episode = make_episode()
    pattern = ms.Heuristic(condition="c", action="a")
    for memory in (storage, other):
        memory.episodes.save(episode)
        memory.patterns.save(pattern)
        memory.embeddings.put("step", episode.steps[0].id, VECTOR, model="m")
    other.episodes.save(other.episodes.get(episode.id).model_copy(update={"task_description": "another"}))
    assert storage.episodes.get(episode.id).task_description == episode.task_description
    assert other.episodes.delete(episode.id)
    assert storage.episodes.get(episode.id).steps == episode.steps
    assert (storage.embeddings.count(), other.embeddings.count()) == (1, 0)


@pytest.mark.parametrize("method", ["get", "complete", "archive", "restore", "append_step"])
def test_a_missing_episode_is_not_found(storage, method):
    absent = new_id()
    more = {"complete": [ms.Success(verdict="v")], "append_step": [ms.Step(tool="t")]}.get(method, [])
    with raises(ms.NotFoundError, kind="episode") as caught:
        getattr(storage.episodes, method)(absent, *more)
    assert (caught.value.kind, str(caught.value.id)) == ("episode", str(absent))
    assert storage.episodes.find(absent) is None
    assert storage.episodes.delete(absent) is False


def test_an_owner_that_is_not_there_can_own_nothing(storage, make_episode):
    absent = new_id()
    episode = storage.episodes.save(make_episode())
    for owner_type in ("episode", "step", "pattern"):
        with pytest.raises(ms.NotFoundError) as caught:
            storage.embeddings.put_many([("episode", episode.id, VECTOR), (owner_type, absent, VECTOR)], model="m")
        assert (caught.value.kind, caught.value.id) == (owner_type, absent)
    for owner_type in ("episode", "step"):
        with raises(ms.NotFoundError, kind=owner_type):
            storage.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type=owner_type, owner_id=absent, place_name="x"))
    assert storage.embeddings.count() == storage.spatiotemporal.count() == 0


def test_a_place_cannot_move_to_another_owner(storage, make_episode):
    one, two = storage.episodes.save_many([make_episode(), make_episode()])
    entry = storage.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type="episode", owner_id=one.id, place_name="here"))
    with pytest.raises(ms.ConflictError):
        storage.spatiotemporal.put(entry.model_copy(update={"owner_id": two.id}))
    assert storage.spatiotemporal.get(entry.id) == entry
    assert storage.spatiotemporal.delete(entry.id) is True
    assert storage.spatiotemporal.delete(entry.id) is False


def test_a_step_that_is_added_to_a_copy_gets_the_next_number(storage, make_episode):
    found = storage.episodes.get(storage.episodes.save(make_episode(2)).id)
    more = found.model_copy(update={"steps": [*found.steps, ms.Step(tool="added")]})
    assert [step.step_number for step in storage.episodes.save(more).steps] == [1, 2, 3]
    assert storage.episodes.get(found.id).steps[-1].tool == "added"


@pytest.mark.whole_database
def test_steps_that_take_the_numbers_of_others_are_a_conflict(storage, make_episode):
    saved = storage.episodes.save(make_episode(2))
    before = dump(storage.engine)
    with pytest.raises(ms.ConflictError, match="another step has one of these ids or step numbers") as caught:
        storage.episodes.save(saved.model_copy(update={"steps": [ms.Step(tool="instead of the first")]}))
    assert caught.value.kind == "step"
    assert dump(storage.engine) == before
