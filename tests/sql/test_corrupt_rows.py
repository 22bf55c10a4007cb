"""A row that cannot be decoded is an error that names it; a query skips it on request, and reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import memory_storage as ms
from tests.raising import raises

VECTOR = [1.0, 0.5, 0.25]


@pytest.fixture
def fill(storage: ms.MemoryStorage) -> tuple[list[ms.Episode], list[ms.Heuristic]]:
    episodes = storage.episodes.save_many(
        [ms.Episode(task_description=f"word {n}", steps=[ms.Step(tool="t"), ms.Step(tool="u")]) for n in range(7)]
    )
    patterns = storage.patterns.save_many(
        [ms.Heuristic(description="word", condition="c", action="a", success_rate=n / 10) for n in range(7)]
    )
    rows: list[tuple[Any, ...]] = [("episode", one.id, VECTOR) for one in episodes]
    storage.embeddings.put_many([*rows, *(("pattern", one.id, VECTOR) for one in patterns)], model="m")
    return episodes, patterns


def damage(storage: ms.MemoryStorage, table: str, row_id: object, change: str = "document = '{}'") -> None:
    with storage.transaction() as tx:
        tx.execute([(f"UPDATE {table} SET {change} WHERE id = ?", [str(row_id)])])


READ: dict[str, Callable[..., list[Any]]] = {
    "episodes.query": lambda m, **on: list(m.episodes.query(**on)),
    "episodes.query in small pages": lambda m, **on: _in_pages(m.episodes, **on),
    "episodes.iterate": lambda m, **on: list(m.episodes.iterate(**on)),
    "episodes.similar_to": lambda m, **on: [hit.item for hit in m.episodes.similar_to(VECTOR, model="m", **on)],
    "episodes.search": lambda m, **on: [hit.item for hit in m.episodes.search("word", **on)],
    "patterns.query": lambda m, **on: list(m.patterns.query(**on)),
    "patterns.query in small pages": lambda m, **on: _in_pages(m.patterns, **on),
    "patterns.iterate": lambda m, **on: list(m.patterns.iterate(**on)),
    "patterns.similar_to": lambda m, **on: [hit.item for hit in m.patterns.similar_to(VECTOR, model="m", **on)],
    "patterns.search": lambda m, **on: [hit.item for hit in m.patterns.search("word", **on)],
}


def _in_pages(repository: Any, **on: Any) -> list[Any]:
    found, cursor = [], None
    while True:
        page = repository.query(limit=1, cursor=cursor, **on)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("change", ["document = json_set(document, '$.unheard_of', 1)", "created_at = 9e300"])
def test_the_error_names_the_row_and_a_query_can_go_on_past_it(storage, fill, change):
    bad = {"episodes": [fill[0][0].id, fill[0][3].id], "patterns": [fill[1][0].id, fill[1][3].id]}
    for table, ids in bad.items():
        for one in ids:
            damage(storage, table, one, change)
    for name, read in READ.items():
        table = name.split(".")[0]
        kept = {one.id for one in (fill[0] if table == "episodes" else fill[1])}
        with pytest.raises(ms.CorruptDataError, match=rf"{table}: the row of .* cannot be decoded.*on_corr") as caught:
            read(storage)
        assert (caught.value.table, caught.value.id in map(str, bad[table])) == (table, True), name
        skipped: list[ms.CorruptDataError] = []
        found = read(storage, on_corrupt=skipped.append)
        assert {one.id for one in found} == kept - set(bad[table]), name
        assert sorted((error.table, error.id) for error in skipped) == sorted((table, str(one)) for one in bad[table])


def test_a_step_that_cannot_be_decoded_is_omitted(storage, fill):
    episode = fill[0][0]
    damage(storage, "steps", episode.steps[0].id)
    with pytest.raises(ms.CorruptDataError, match="steps: the row of"):
        [len(one.steps) for one in storage.episodes.query()]
    skipped: list[ms.CorruptDataError] = []
    found = {one.id: one for one in storage.episodes.query(on_corrupt=skipped.append)}
    assert [step.tool for step in found[episode.id].steps] == ["u"]
    assert [(error.table, error.id) for error in skipped] == [("steps", str(episode.steps[0].id))]
    assert sum(len(one.steps) for one in found.values()) == 13


def test_a_page_skips_rows_that_cannot_be_decoded(storage, fill):
    for episode in fill[0][2:]:
        damage(storage, "episodes", episode.id)
    page = storage.episodes.query(limit=3, on_corrupt=lambda error: None)
    assert {one.id for one in page.items} == {one.id for one in fill[0][:2]}
    assert page.next_cursor is None
    assert len(list(storage.episodes.iterate(on_corrupt=lambda error: None))) == 2


def test_get_never_skips_an_episode_that_cannot_be_decoded(storage, fill):
    damage(storage, "episodes", fill[0][0].id, "archived_at = 'never'")
    damage(storage, "patterns", fill[1][0].id, "last_used_at = 'never'")
    for get, one in ((storage.episodes.get, fill[0][0]), (storage.patterns.get, fill[1][0])):
        with pytest.raises(ms.CorruptDataError) as caught:
            get(one.id)
        assert caught.value.id == str(one.id)


def test_an_on_corrupt_that_is_not_callable_is_refused(storage, fill):
    for read in READ.values():
        with raises(ms.ValidationError, field="on_corrupt", match="on_corrupt: None, or a function"):
            read(storage, on_corrupt="skip")
