"""The steps of an episode that was read: a list that decodes its items on first access."""

from __future__ import annotations

import copy
import pickle

import pytest

import memory_storage as ms
from memory_storage.models import LazyList


@pytest.fixture
def read(storage, make_episode) -> ms.Episode:
    return storage.episodes.get(storage.episodes.save(make_episode(3)).id)


def test_it_is_read_at_the_first_look_and_only_once():
    reads: list[int] = []
    lazy = LazyList(lambda: reads.append(1) or ["a", "b"])
    assert reads == []
    assert len(lazy) == 2
    assert list(lazy) == ["a", "b"]
    assert reads == [1]


def test_an_error_of_decoding_is_raised_at_each_access():
    def fail() -> list[str]:
        raise ms.CorruptDataError("no")

    lazy = LazyList(fail)
    for look in (lambda: lazy[0], lambda: len(lazy), lambda: list(lazy), lambda: lazy == [], lambda: repr(lazy)):
        with pytest.raises(ms.CorruptDataError):
            look()


def test_it_is_equal_to_a_list_of_the_same_from_both_sides():
    lazy = LazyList(lambda: [1, 2])
    assert lazy == [1, 2]
    assert lazy == [1, 2]
    assert lazy == LazyList(lambda: [1, 2])
    assert lazy != [1]
    assert lazy != (1, 2)


def test_it_can_be_cut_and_added_to_like_a_list():
    lazy = LazyList(lambda: [1, 2, 3])
    more = [4]
    assert (lazy[-1], lazy[1:], lazy + more, more + lazy) == (3, [2, 3], [1, 2, 3, 4], [4, 1, 2, 3])
    with pytest.raises(TypeError, match="unhashable"):
        hash(lazy)


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_an_episode_that_was_read_travels_with_its_steps(read, travel):
    assert travel(read) == read
    assert [step.step_number for step in travel(read).steps] == [1, 2, 3]


def test_an_episode_that_was_read_survives_dump_and_validate(read):
    assert ms.Episode.model_validate(read.model_dump()) == read
    assert ms.Episode.model_validate_json(read.model_dump_json()) == read
    assert ms.Episode(**dict(read)) == read


def test_without_steps_there_is_an_empty_list(storage, read):
    assert storage.episodes.get(read.id, steps=False).steps == []


def test_the_json_schema_says_that_steps_are_an_array_of_steps():
    for mode in ("validation", "serialization"):
        steps = ms.Episode.model_json_schema(mode=mode)["properties"]["steps"]
        assert (steps["type"], steps["items"]) == ("array", {"$ref": "#/$defs/Step"})


def test_a_damaged_step_is_named_on_access_only(storage, read):
    damaged = read.steps[1]
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE steps SET document = '{\"id\": 1}' WHERE id = ?", (str(damaged.id),))
    episode = storage.episodes.get(read.id)
    with pytest.raises(ms.CorruptDataError) as caught:
        list(episode.steps)
    assert (caught.value.table, caught.value.id) == ("steps", str(damaged.id))
    assert storage.steps.get(read.steps[2].id) == read.steps[2]


def test_a_damaged_episode_is_named(storage, read):
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE episodes SET document = '[]'")
    for call in (
        lambda: storage.episodes.get(read.id),
        storage.episodes.query,
        lambda: list(storage.episodes.iterate()),
    ):
        with pytest.raises(ms.CorruptDataError) as caught:
            call()
        assert (caught.value.table, caught.value.id) == ("episodes", str(read.id))
