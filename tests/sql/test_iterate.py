"""Iterating over a filter: each row once, in order, with concurrent writes, in linear time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

import memory_storage as ms
from tests.schema.spy import spied

START = datetime(2025, 6, 1, tzinfo=timezone.utc)
FEW = int(os.environ.get("MEMORY_STORAGE_TEST_ITERATED", "1000"))  # and twice as many
COUNT = 250
RECALLED = UUID(int=7)
FILTERS: dict[str, dict[str, Any]] = {
    "text": {"text": "needle"},
    "text of a step": {"text": "thread"},
    "a tag": {"tags_any": ["common"]},
    "two tags": {"tags_all": ["common", "usual"]},
    "metadata": {"metadata": {"kind": "a"}},
    "reward": {"min_reward": 0.5},
    "completion": {"completed": True, "completed_since": START - timedelta(days=365)},
    "a domain": {"domain": "web"},
    "a recalled record": {"recalled": RECALLED, "used": RECALLED},
    "nothing": {},
}
YEAR = timedelta(days=365)
SORTED_FILTERS: dict[str, dict[str, Any]] = {
    "a start": {"since": START - YEAR},
    "an end": {"until": START + YEAR},
    "a period": {"since": START - YEAR, "until": START + YEAR},
    "a period of a domain": {"domain": "web", "since": START - YEAR, "until": START + YEAR},
    "an outcome and a period": {"outcome": "success", "since": START - YEAR, "until": START + YEAR},
    "what was completed in a period": {"completed_since": START - YEAR, "completed_until": START + YEAR},
    "a reward and a tag": {"max_reward": 9.0, "tags_any": ["common"]},
    "a text and a period": {"text": "needle", "until": START + YEAR},
    "the context": {"task_type": "other", "complexity": "simple", "language": "python", "framework": "django"},
    "archived or not": {"archived": None},
    "not archived": {"archived": False},
}


@pytest.fixture(params=["memory", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    return ":memory:" if request.param == "memory" else request.getfixturevalue("server_target")


def _episode(number: int, *, steps: int = 1) -> ms.Episode:
    started = START + timedelta(minutes=number // 3)  # many at one moment
    return ms.Episode(
        task_description=f"needle {number}",
        context=ms.TaskContext(domain="web", language="python", framework="django", complexity="simple"),
        started_at=started,
        outcome=ms.Success(verdict="v"),
        completed_at=started,
        reward=ms.RewardScore(total=0.5 + number % 3),
        tags=["common", "usual"],
        metadata={"kind": "a"},
        recalled=ms.RecallReceipt(id=RECALLED, items=[("pattern", RECALLED)], used=[RECALLED]),
        steps=[ms.Step(tool="t", action="thread") for _ in range(steps)],
    )


def _others(count: int) -> list[ms.Episode]:
    return [ms.Episode(task_description="hay", started_at=START + timedelta(minutes=n)) for n in range(count)]


@pytest.fixture
def stored(storage: ms.MemoryStorage) -> list[ms.Episode]:
    storage.episodes.save_many(_others(20))
    return storage.episodes.save_many([_episode(number) for number in range(COUNT)])


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("direction", ["newest_first", "oldest_first"])
def test_each_is_returned_once_and_in_order(storage, stored, filters, direction):
    wanted = []
    cursor = None
    while True:
        page = storage.episodes.query(limit=90, cursor=cursor, direction=direction, **filters)
        wanted += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    found = list(storage.episodes.iterate(direction=direction, **filters))
    assert found == wanted
    assert len(found) == COUNT + (20 if not filters else 0)
    assert [len(one.steps) for one in storage.episodes.iterate(direction=direction, steps=False, **filters)] == [
        0 for _ in found
    ]


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in {"a domain", "nothing"}])
def test_concurrent_writes_neither_repeat_nor_hide_one(storage, stored, name):
    found = []
    for number, episode in enumerate(storage.episodes.iterate(**FILTERS[name])):
        found.append(episode.id)
        if number == 120:  # in the second page
            storage.episodes.save(_episode(0).model_copy(update={"started_at": START - timedelta(days=1)}))
            storage.episodes.save(_episode(COUNT * 2))
            storage.episodes.delete(stored[3].id)
            storage.episodes.archive(stored[4].id)
            moved = storage.episodes.get(stored[5].id)
            later = START + timedelta(days=9)
            end = moved.completed_at and max(moved.completed_at, later)
            storage.episodes.save(moved.model_copy(update={"started_at": later, "completed_at": end}))
    assert len(found) == len(set(found))
    assert {one.id for one in stored} - set(found) == {stored[3].id, stored[4].id}
    assert set(found) <= {one.id for one in stored}


def test_one_round_trip_a_page_and_one_for_the_list(storage, stored):
    with spied(storage.engine) as batches:
        assert len(list(storage.episodes.iterate(text="needle"))) == COUNT
    assert len(batches) == 4
    with spied(storage.engine) as batches:
        assert len(list(storage.patterns.iterate())) == 0
    assert len(batches) == 1


def test_patterns_whose_rates_change_are_returned_once(storage):
    saved = storage.patterns.save_many(
        [ms.Heuristic(condition=f"c{n}", action="a", success_rate=n / 250) for n in range(250)]
    )
    by_id = {pattern.id: pattern for pattern in saved}
    found: list[ms.AnyPattern] = []
    for pattern in storage.patterns.iterate():
        found.append(pattern)
        if len(found) in {50, 150}:  # those at the end come to the front, those at the front go to the end
            for one, rate in ((saved[len(found) - 45], 1.0), (saved[-len(found)], 0.0)):
                current = storage.patterns.get(one.id)
                storage.patterns.save(current.model_copy(update={"success_rate": rate}))
        if len(found) == 120:
            storage.patterns.delete(saved[0].id)
    assert len(found) == 249
    assert {one.id for one in found} == set(by_id) - {saved[0].id}
    before = [by_id[one.id].success_rate for one in found]
    assert before == sorted(before, reverse=True)


def test_unreadable_patterns_are_passed_over(storage):
    saved = storage.patterns.save_many(
        [ms.Heuristic(condition="c", action="a", success_rate=n / 250) for n in range(250)]
    )
    bad = [saved[n].id for n in (249, 100, 0)]
    with storage.transaction() as tx:
        for one in bad:
            tx.execute([("UPDATE patterns SET document = '{}' WHERE id = ?", [str(one)])])
    reported: list[ms.CorruptDataError] = []
    assert len(list(storage.patterns.iterate(on_corrupt=reported.append))) == 247
    assert [error.id for error in reported] == [str(one) for one in bad]
    with pytest.raises(ms.CorruptDataError):
        list(storage.patterns.iterate())


@pytest.fixture(scope="module")
def sizes() -> Iterator[tuple[ms.MemoryStorage, ms.MemoryStorage]]:
    """Storages of some episodes, and of twice as many, by the engine whose instructions are counted."""
    settings = ms.Settings(database=":memory:", local_engine="sqlite")
    with ms.MemoryStorage.open(settings) as few, ms.MemoryStorage.open(settings) as many:
        for storage, count in ((few, FEW), (many, 2 * FEW)):
            for first in range(0, count, 1000):
                storage.episodes.save_many([_episode(n) for n in range(first, min(first + 1000, count))])
        yield few, many


def test_every_filter_is_iterated_over():
    names = {name for filters in [*FILTERS.values(), *SORTED_FILTERS.values()] for name in filters}
    assert names == set(ms.models.EpisodeFilter.model_fields) - {"child_of"}  # tested with the relationships


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["newest_first", "oldest_first"])
@pytest.mark.parametrize("name", [*FILTERS, *SORTED_FILTERS])
def test_twice_as_many_take_twice_as_many_instructions(sizes, engine_steps, name, direction):
    filters = {**FILTERS, **SORTED_FILTERS}[name]
    costs: list[tuple[int, int]] = []
    for number, storage in enumerate(sizes, 1):
        engine_steps[0] = 0
        with spied(storage.engine) as batches:
            episodes = sum(1 for _ in storage.episodes.iterate(steps=False, direction=direction, **filters))
        assert episodes == number * FEW
        costs.append((engine_steps[0], len(batches)))
    (few, few_pages), (many, many_pages) = costs
    assert FEW / 10 < many < 2.15 * few
    assert many_pages <= 2 * few_pages + 1


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["newest_first", "oldest_first"])
def test_a_page_within_a_range_reads_no_earlier_page(sizes, engine_steps, direction):
    filters: Any = {"since": START - YEAR, "until": START + YEAR, "direction": direction, "limit": 50, "steps": False}
    costs: list[int] = []
    cursor = None
    for _ in range(15):
        engine_steps[0] = 0
        page = sizes[1].episodes.query(cursor=cursor, **filters)
        costs.append(engine_steps[0])
        cursor = page.next_cursor
    engine_steps[0] = 0
    sizes[1].episodes.query(cursor=page.previous_cursor, **filters)
    assert max(*costs, engine_steps[0]) < 1.3 * min(costs) + 2


def test_those_of_one_moment_are_listed_once(storage):
    saved = storage.episodes.save_many([ms.Episode(task_description="x", started_at=START) for _ in range(450)])
    later = storage.episodes.save(ms.Episode(task_description="x", started_at=START + YEAR))
    for direction, expected in (("oldest_first", [*saved, later]), ("newest_first", [later, *saved[::-1]])):
        with spied(storage.engine) as batches:
            assert [one.id for one in storage.episodes.iterate(direction=direction)] == [one.id for one in expected]
        assert len(batches) == 6  # five pages, and the list
