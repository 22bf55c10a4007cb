"""Searches of few vectors equal brute force, for any data, filter, page size, threshold and source."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.raising import raises
from tests.repositories import oracle as queries
from tests.search import oracle, work
from tests.sql.test_filters import FILTERS, PATTERN_FILTERS, _episode, _pattern

MODES = st.sampled_from(["exact", "auto", "index"])
VECTORS = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]), min_size=3, max_size=3).filter(any)
FLOORS = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 1.0]) | st.floats(-1, 1)


class Stored:
    """Episodes and patterns with vectors, in a storage and in dictionaries."""

    def __init__(self, storage: ms.MemoryStorage) -> None:
        rng = random.Random(5)
        self.storage = storage
        self.episodes = [_episode(rng) for _ in range(120)]
        storage.episodes.import_many(self.episodes)
        self.patterns = storage.patterns.save_many([_pattern(rng) for _ in range(40)])
        self.vectors: dict[UUID, list[list[float]]] = {}
        items = [*self._of_episodes(rng), *self._of_patterns(rng)]
        storage.embeddings.put_many(items, model="m")
        other = storage.in_namespace("default2")  # others are never found, and are in the same table
        other.episodes.import_many(self.episodes[:30])
        other.embeddings.put_many([("episode", one.id, [1.0, 0.5, 0.0]) for one in self.episodes[:30]], model="m")

    def _of_episodes(self, rng: random.Random) -> Iterator[tuple[Any, UUID, list[float]]]:
        for episode in self.episodes:
            owners = [("episode", episode.id), *(("step", step.id) for step in episode.steps)]
            for owner in rng.sample(owners, rng.randint(0, len(owners))):
                vector = self._vector(rng)
                self.vectors.setdefault(episode.id, []).append(vector)
                yield (*owner, vector)

    def _of_patterns(self, rng: random.Random) -> Iterator[tuple[Any, UUID, list[float]]]:
        for pattern in rng.sample(self.patterns, 30):
            self.vectors[pattern.id] = [self._vector(rng)]
            yield "pattern", pattern.id, self.vectors[pattern.id][0]

    def _vector(self, rng: random.Random) -> list[float]:
        return [rng.choice([-1.0, 0.25, 1.0, 3.0]) for _ in range(3)]

    def similar(self, query: list[float], rows: list[Any]) -> dict[UUID, float]:
        """How similar those of the rows are that have a vector."""
        return oracle.similarities(query, {row.id: self.vectors.get(row.id, []) for row in rows})


@pytest.fixture(params=["memory", "file", "server", "index in memory"])
def storage(request: pytest.FixtureRequest) -> Iterator[ms.MemoryStorage]:
    if request.param == "memory":
        opened = ms.MemoryStorage.open(":memory:")
    elif request.param == "index in memory":
        opened = work.opened(request.getfixturevalue("database"))
    else:
        opened = ms.MemoryStorage.open(
            str(request.getfixturevalue("database" if request.param == "file" else "migrated_server_url"))
        )
    with opened:
        yield opened


@pytest.fixture
def stored(storage: ms.MemoryStorage) -> Stored:
    found = Stored(storage)
    if storage.vector_index == "hnsw":
        storage.embeddings.index.catch_up("m")
    return found


def test_the_index_in_memory_is_used_among_few(database):
    with work.opened(database) as storage:
        stored = Stored(storage)
        assert storage.embeddings.index.catch_up("m") > 0
        hits = stored.storage.episodes.similar_to([1.0, 1.0, 1.0], model="m", k=3, mode="index")
        assert hits.plan == "hnsw"


def _pages(search: Any, k: int) -> list[ms.Hit[Any]]:
    """All hits, page by page."""
    page = search(None)
    found = list(page)
    while page.next_cursor:
        assert len(page) == k
        page = search(page.next_cursor)
        assert page, "an empty page"
        found += page
    return found


@settings(max_examples=60)
@given(vector=VECTORS, filters=queries.some(**FILTERS), k=st.integers(1, 12), floor=FLOORS, mode=MODES)
@pytest.mark.slow
def test_pages_of_episodes_equal_brute_force(stored, vector, filters, k, floor, mode):
    possible = stored.similar(vector, queries.episodes(stored.episodes, **filters))
    options = {"model": "m", "k": k, "mode": mode, "min_similarity": floor, **filters}
    hits = _pages(lambda cursor: stored.storage.episodes.similar_to(vector, cursor=cursor, **options), k)
    oracle.assert_nearest(hits, possible, k=len(possible), floor=-2.0 if floor is None else floor)
    first = stored.storage.episodes.similar_to(vector, **options)
    assert [hit.item.id for hit in first] == [hit.item.id for hit in hits[:k]]


@settings(max_examples=40)
@given(vector=VECTORS, filters=queries.some(**PATTERN_FILTERS), k=st.integers(1, 12), mode=MODES)
def test_pages_of_patterns_equal_brute_force(stored, vector, filters, k, mode):
    possible = stored.similar(vector, queries.patterns(stored.patterns, **filters))
    options = {"model": "m", "k": k, "mode": mode, **filters}
    hits = _pages(lambda cursor: stored.storage.patterns.similar_to(vector, cursor=cursor, **options), k)
    oracle.assert_nearest(hits, possible, k=len(possible))


def test_an_episode_is_found_once_by_its_nearest_vector(stored):
    hits = stored.storage.episodes.similar_to([1.0, 1.0, 1.0], model="m", k=1000)
    whole = {episode.id: episode for episode in stored.episodes}
    assert [hit.item for hit in hits] == [whole[hit.item.id] for hit in hits]
    heads = stored.storage.episodes.similar_to([1.0, 1.0, 1.0], model="m", k=1000, steps=False)
    assert [hit.item.id for hit in heads] == [hit.item.id for hit in hits]
    assert not any(hit.item.steps for hit in heads)
    assert hits.next_cursor is None


def test_updated_items_are_found_by_the_new_vector_only(stored):
    episode = stored.episodes[0]
    stored.storage.embeddings.put("episode", episode.id, [5.0, -7.0, 0.125], model="m")
    best = stored.storage.episodes.similar_to([5.0, -7.0, 0.125], model="m", k=1, archived=None)
    assert (best[0].item.id, round(best[0].similarity, 5)) == (episode.id, 1.0)
    stored.storage.embeddings.put("episode", episode.id, [-5.0, 7.0, -0.125], model="m")
    again = stored.storage.episodes.similar_to([5.0, -7.0, 0.125], model="m", k=1000, archived=None)
    assert next(hit.similarity for hit in again if hit.item.id == episode.id) < 0.99


def test_deleted_items_are_not_found(stored):
    storage = stored.storage
    for episode in stored.episodes[:60]:
        storage.episodes.delete(episode.id)
    possible = stored.similar([1.0, 0.0, 0.0], queries.episodes(stored.episodes[60:]))
    oracle.assert_nearest(storage.episodes.similar_to([1.0, 0.0, 0.0], model="m", k=1000), possible, k=1000)


def test_a_search_in_a_transaction_sees_what_it_has_written(stored):
    episode = next(one for one in stored.episodes if one.archived_at is None)
    with stored.storage.transaction() as tx:
        tx.embeddings.put("episode", episode.id, [9.0, -4.0, 0.5], model="m")
        assert tx.episodes.similar_to([9.0, -4.0, 0.5], model="m", k=1)[0].item.id == episode.id
        tx.embeddings.put("episode", episode.id, [1.0, 2.0], model="of two")
        assert tx.episodes.similar_to([1.0, 2.0], model="of two")[0].item.id == episode.id


def test_the_only_model_need_not_be_named(stored):
    named = stored.storage.episodes.similar_to([1.0, 0.0, 0.0], model="m")
    assert stored.storage.episodes.similar_to([1.0, 0.0, 0.0]) == named
    stored.storage.embeddings.put("episode", stored.episodes[0].id, [1.0], model="another")
    with raises(ms.ValidationError, field="model", match="one of 'another', 'm'"):
        stored.storage.episodes.similar_to([1.0, 0.0, 0.0])
