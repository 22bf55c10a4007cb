"""Iterators read pages that end by bytes too, and no slower than a page of 100 where rows are small."""

from __future__ import annotations

import pytest

import memory_storage as ms
from memory_storage.sql import paging
from tests.schema.spy import spied

LARGE = "x" * 1_500_000


@pytest.fixture
def memory():
    with ms.MemoryStorage.open(":memory:") as storage:
        yield storage


def _read(storage: ms.MemoryStorage, iterator) -> tuple[list, int]:
    with spied(storage.engine) as batches:
        return list(iterator), len(batches)


def test_large_episodes_make_small_pages(memory):
    for number in range(6):
        memory.episodes.save(ms.Episode(task_description=f"{number}", metadata={"x": LARGE}, tags=["large"]))
    for filters in ({}, {"tags_any": ["large"]}, {"steps": False}, {"direction": "oldest_first"}):
        found, pages = _read(memory, memory.episodes.iterate(**filters))
        assert sorted(one.task_description for one in found) == list("012345")
        assert pages >= 3


def test_the_bytes_of_steps_count(memory):
    for number in range(4):
        steps = [ms.Step(tool="t", result=ms.StepOk(output=LARGE[:900_000])) for _ in range(3)]
        memory.episodes.save(ms.Episode(task_description=f"{number}", steps=steps))
    found, pages = _read(memory, memory.episodes.iterate())
    assert ([len(one.steps) for one in found], pages) == ([3] * 4, 4)
    assert _read(memory, memory.episodes.iterate(steps=False))[1] == 1


def test_large_steps_patterns_and_entries_make_small_pages(memory):
    episode = memory.episodes.save(ms.Episode(task_description=""))
    for _ in range(5):
        memory.episodes.append_step(episode.id, ms.Step(tool="t", result=ms.StepOk(output=LARGE[:900_000])))
        memory.patterns.save(ms.Heuristic(condition="c", action=LARGE))
        place = ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, place_name="p", metadata={"x": LARGE})
        memory.spatiotemporal.put(place)
    for iterator in (memory.steps.iterate(episode.id), memory.patterns.iterate(), memory.spatiotemporal.iterate()):
        found, pages = _read(memory, iterator)
        assert len({one.id for one in found}) == 5
        assert pages >= 2


def test_small_rows_take_one_round_trip_a_hundred(memory):
    memory.episodes.save_many([ms.Episode(task_description=f"{n}", steps=[ms.Step(tool="t")]) for n in range(250)])
    found, pages = _read(memory, memory.episodes.iterate())
    assert (len({one.id for one in found}), pages) == (250, 3)


def test_an_item_is_let_go_as_it_is_handed_over():
    items = paging.draining([1, 2, 3])
    assert [next(items), next(items), next(items), next(items, None)] == [1, 2, 3, None]
