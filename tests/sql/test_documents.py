"""Every saved value is read back equal in every field by every method, or refused before it is written."""

from __future__ import annotations

import itertools
import json
import struct

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests import strategies as made
from tests.checks import assert_consistent, row_counts

_number = itertools.count()

STORE_OWNED = {"version", "created_at", "updated_at", "archived_at"}


def _alone(storage: ms.MemoryStorage) -> ms.MemoryStorage:
    """A namespace that no other example has used."""
    return storage.in_namespace(f"example {next(_number)}")


def _content(model: pydantic.BaseModel) -> str:
    """All that the user gave, with its types: 1 is not 1.0, and 0.0 is not -0.0."""
    return json.dumps(model.model_dump(mode="json", exclude=STORE_OWNED | {"effectiveness"}), sort_keys=True)


def _assert_same(given: pydantic.BaseModel, stored: pydantic.BaseModel) -> None:
    state = {name: getattr(stored, name) for name in STORE_OWNED & set(type(stored).model_fields)}
    assert stored == given.model_copy(update=state)
    assert type(stored) is type(given)
    assert _content(stored) == _content(given)


@settings(max_examples=40)
@given(episode=made.episodes())
def test_an_episode_is_read_back_equal_from_every_method(storage, episode):
    memory = _alone(storage)
    saved = memory.episodes.save(episode)
    _assert_same(episode, saved)
    assert saved.version == 1
    found = [
        memory.episodes.get(episode.id),
        memory.episodes.find(str(episode.id)),
        *memory.episodes.query(),
        *memory.episodes.query(direction="oldest_first", limit=1),
        *memory.episodes.iterate(),
        memory.episodes.archive(episode.id).model_copy(update={"archived_at": None}),
        memory.episodes.restore(episode.id),
        memory.episodes.save(episode),
    ]
    assert found == [saved] * 8
    assert all(_content(one) == _content(saved) for one in found)
    without_steps = saved.model_copy(update={"steps": []})
    assert memory.episodes.get(episode.id, steps=False) == without_steps
    assert list(memory.episodes.query(steps=False)) == list(memory.episodes.iterate(steps=False)) == [without_steps]


@settings(max_examples=40)
@given(episode=made.episodes())
def test_steps_are_read_back_equal_from_the_step_repository(storage, episode):
    memory = _alone(storage)
    steps = memory.episodes.save(episode).steps
    assert steps == episode.steps
    assert list(memory.steps.iterate(episode.id)) == memory.steps.latest(episode.id) == steps
    assert memory.steps.range(episode.id) == [memory.steps.get(step.id) for step in steps] == steps


@settings(max_examples=40)
@given(step=made.steps())
def test_an_appended_step_is_read_back_equal(storage, make_episode, step):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode(steps=2))
    appended = memory.episodes.append_step(episode.id, step)
    assert appended == step.model_copy(update={"step_number": 3})
    assert _content(appended) == _content(memory.steps.get(step.id))
    assert memory.steps.get(step.id) == memory.episodes.get(episode.id).steps[2] == appended
    assert memory.episodes.append_step(episode.id, step) == appended
    memory.episodes.save(memory.episodes.get(episode.id))
    assert memory.episodes.append_step(episode.id, step) == memory.steps.get(step.id) == appended


@settings(max_examples=30)
@given(step=made.steps())
def test_appending_a_saved_step_again_is_a_no_op(storage, make_episode, step):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode(steps=0).model_copy(update={"steps": [_first(step)]}))
    assert memory.episodes.append_step(episode.id, step) == _first(step)
    assert memory.episodes.get(episode.id) == episode


def _first(step: ms.Step) -> ms.Step:
    return step.model_copy(update={"step_number": 1})


@given(
    outcome=made.outcomes,
    reward=st.none() | made.rewards | made.floats,
    reflection=st.none() | made.reflections(),
    completed_at=made.optional_moments,
)
def test_an_ending_is_read_back_equal(storage, make_episode, outcome, reward, reflection, completed_at):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode())
    completed_at = completed_at and max(completed_at, episode.started_at)
    ended = memory.episodes.complete(
        episode.id, outcome, reward=reward, reflection=reflection, completed_at=completed_at
    )
    assert ended == memory.episodes.get(episode.id)
    assert ended.outcome == outcome
    assert ended.reward == (ms.RewardScore(total=reward) if isinstance(reward, float) else reward)
    assert ended.reflection == reflection
    assert ended.completed_at == (completed_at or ended.updated_at)
    kept = {"outcome": None, "reward": None, "reflection": None, "completed_at": None}
    assert ended.model_copy(update={**kept, "version": 1, "updated_at": episode.updated_at}) == episode


@settings(max_examples=20)
@given(episodes=st.lists(made.episodes(), max_size=3, unique_by=lambda episode: episode.id))
def test_episodes_saved_together_are_read_back_equal(storage, episodes):
    memory = _alone(storage)
    steps = [step.id for episode in episodes for step in episode.steps]
    if len(set(steps)) != len(steps):
        return
    saved = memory.episodes.save_many(episodes)
    assert [one.id for one in saved] == [one.id for one in episodes]
    for episode, stored in zip(episodes, saved, strict=True):
        _assert_same(episode, stored)
        assert memory.episodes.get(episode.id) == stored


@settings(max_examples=40)
@given(episode=made.stored_episodes())
def test_an_imported_episode_keeps_its_version_and_times(storage, episode):
    memory = _alone(storage)
    assert memory.episodes.import_many([episode]) == 1
    assert memory.episodes.get(episode.id) == episode
    assert memory.episodes.import_many([episode]) == 0
    assert list(memory.episodes.iterate(archived=None)) == [episode]


@pytest.mark.parametrize("kind", made.PATTERNS_BY_KIND)
def test_a_pattern_is_read_back_equal_from_every_method(storage, kind):
    @settings(max_examples=25)
    @given(pattern=made.PATTERNS_BY_KIND[kind])
    def check(pattern):
        memory = _alone(storage)
        saved = memory.patterns.save(pattern)
        _assert_same(pattern, saved)
        found = [memory.patterns.get(pattern.id), *memory.patterns.query(), *memory.patterns.iterate()]
        assert [*found, memory.patterns.save(pattern)] == [saved] * 4
        assert memory.patterns.save_many([saved])[0] == memory.patterns.get(pattern.id)
        _assert_same(pattern, memory.patterns.get(pattern.id))

    check()


@settings(max_examples=40)
@given(pattern=made.patterns, version=st.integers(1, 2**53 - 1), created=made.moments, updated=made.moments)
def test_an_imported_pattern_keeps_its_version_and_times(storage, pattern, version, created, updated):
    memory = _alone(storage)
    copy = pattern.model_copy(update={"version": version, "created_at": created, "updated_at": updated})
    assert memory.patterns.import_many([copy]) == 1
    assert memory.patterns.get(pattern.id) == copy
    assert memory.patterns.import_many([copy]) == 0


@given(data=st.data())
def test_a_place_is_read_back_equal_from_every_method(storage, make_episode, data):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode(steps=1))
    owner_type, owner_id = data.draw(st.sampled_from([("episode", episode.id), ("step", episode.steps[0].id)]))
    entry = data.draw(made.places(owner_type, owner_id))
    stored = memory.spatiotemporal.put(entry)
    _assert_same(entry, stored)
    again = memory.spatiotemporal.put(stored)
    assert [memory.spatiotemporal.get(entry.id), *memory.spatiotemporal.for_owner(owner_type, owner_id)] == [stored] * 2
    assert again == stored


@settings(max_examples=25)
@given(data=st.data(), owner_type=st.sampled_from(["episode", "step", "pattern"]))
def test_a_vector_is_read_back_equal_as_32_bit_floats(storage, make_episode, data, owner_type):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode(steps=1))
    pattern = memory.patterns.save(ms.Heuristic(condition="c", action="a"))
    owner = {"episode": episode.id, "step": episode.steps[0].id, "pattern": pattern.id}[owner_type]
    for dimension in data.draw(
        st.lists(st.sampled_from([1, 2, 5, 384, 1000, 3072]), min_size=2, max_size=2, unique=True)
    ):
        vector = data.draw(made.vectors(dimension))
        memory.embeddings.put(owner_type, owner, vector, model=f"by {dimension}")
        found = memory.embeddings.get(owner_type, owner, model=f"by {dimension}")
        assert struct.pack(f"<{dimension}f", *found.vector) == struct.pack(f"<{dimension}f", *vector)
        assert (found.owner_type, found.owner_id, found.model) == (owner_type, owner, f"by {dimension}")
        assert found.dimension == dimension
    assert memory.embeddings.count() == 2


@pytest.mark.whole_database
@settings(max_examples=20)
@given(episode=made.episodes(), odd=made.odd_moments, field=st.sampled_from(["started_at", "completed_at"]))
def test_an_odd_timestamp_is_stored_exactly_or_refused(storage, episode, odd, field):
    memory = _alone(storage)
    before = row_counts(storage.engine)
    given = episode.model_copy(update={field: odd})
    try:
        saved = memory.episodes.save(given)
    except ms.ValidationError:
        assert row_counts(storage.engine) == before
    else:
        _assert_same(given, saved)
        assert memory.episodes.get(episode.id) == saved


@pytest.mark.whole_database
@settings(max_examples=20)
@given(when=made.odd_moments)
def test_an_odd_moment_is_stored_or_refused_wherever_it_stands(storage, make_episode, when):
    memory = _alone(storage)
    episode = memory.episodes.save(make_episode())
    entry = ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, place_name="here")
    pattern = ms.Heuristic(condition="c", action="a")
    copy = make_episode(version=1)
    for write, read in [
        (
            lambda: memory.spatiotemporal.put(entry.model_copy(update={"starts_at": when})),
            lambda: memory.spatiotemporal.get(entry.id).starts_at,
        ),
        (
            lambda: memory.patterns.save(
                pattern.model_copy(update={"effectiveness": ms.models.Effectiveness(last_used_at=when)})
            ),
            lambda: memory.patterns.get(pattern.id).effectiveness.last_used_at,
        ),
        (
            lambda: memory.episodes.import_many(
                [copy.model_copy(update={"created_at": when, "updated_at": when, "archived_at": when})]
            ),
            lambda: memory.episodes.get(copy.id).created_at,
        ),
        (
            lambda: memory.episodes.append_step(episode.id, ms.Step(tool="t", started_at=when)),
            lambda: memory.steps.latest(episode.id)[-1].started_at,
        ),
        (
            lambda: memory.episodes.complete(episode.id, ms.Success(verdict="v"), completed_at=when),
            lambda: memory.episodes.get(episode.id).completed_at,
        ),
    ]:
        before = row_counts(storage.engine)
        try:
            write()
        except ms.ValidationError:
            assert row_counts(storage.engine) == before
        else:
            assert read() == when


@pytest.mark.whole_database
@pytest.mark.slow
def test_what_the_tests_of_this_module_store_is_consistent(storage, make_episode):
    @settings(max_examples=20)
    @given(episode=made.episodes(), pattern=made.patterns, data=st.data())
    def fill(episode, pattern, data):
        memory = _alone(storage)
        memory.episodes.save(episode)
        memory.patterns.save(pattern)
        memory.spatiotemporal.put(data.draw(made.places("episode", episode.id)))

    fill()
    assert_consistent(storage.engine)
