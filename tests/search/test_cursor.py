"""Pages of a search together contain every match once, whatever the weights and concurrent writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import memory_storage as ms

START = datetime(2025, 6, 1, tzinfo=timezone.utc)
VECTOR = [1.0, 0.0, 0.0]
MATCHES = 60
WEIGHTS = {
    "no weights": None,
    "recency": ms.Weights(recency=3.0, half_life=1e-4),
    "recency and reward": ms.Weights(text=0.1, recency=0.5, reward=2.0),
    "nothing": ms.Weights(text=0.0, vector=0.0),
}


class Clock:
    """A clock that is an hour later at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> datetime:
        self.looks += 1
        return START + timedelta(hours=self.looks)


@pytest.fixture(params=["memory", "server"])
def target(request: pytest.FixtureRequest) -> str:
    return ":memory:" if request.param == "memory" else str(request.getfixturevalue("migrated_server_url"))


@pytest.fixture
def storage(target: str) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(target, now=Clock()) as opened:
        yield opened


def _episode(number: int, **fields: Any) -> ms.Episode:
    task = "needle " + "hay " * (number % 7)
    started_at = START - timedelta(minutes=number)
    reward = ms.RewardScore(total=number % 5 / 4)
    return ms.Episode(**{"task_description": task, "started_at": started_at, "reward": reward, **fields})


def _heuristic(number: int) -> ms.Heuristic:
    return ms.Heuristic(condition="needle " + "hay " * (number % 7), action="a", success_rate=number % 5 / 4)


def _vector(number: int) -> list[float]:
    return [1.0, 0.01 * (number % 11), 0.001 * number]


def _store(storage: ms.MemoryStorage, count: int) -> None:
    episodes = storage.episodes.save_many([_episode(number) for number in range(count)])
    patterns = storage.patterns.save_many([_heuristic(number) for number in range(count)])
    owners: list[tuple[Any, Any, Any]] = []
    for number, (episode, pattern) in enumerate(zip(episodes, patterns, strict=True)):
        owners += [("episode", episode.id, _vector(number)), ("pattern", pattern.id, _vector(count - number))]
    storage.embeddings.put_many(owners, model="m")


SEARCHES: dict[str, Callable[..., ms.Hits[Any]]] = {
    "episodes by words": lambda m, **o: m.episodes.search("needle", **o),
    "episodes by both": lambda m, **o: m.episodes.search("needle", vector=VECTOR, model="m", **o),
    "patterns by words": lambda m, **o: m.patterns.search("needle", **o),
    "patterns by both": lambda m, **o: m.patterns.search("needle", vector=VECTOR, model="m", **o),
}
BY_VECTOR: dict[str, Callable[..., ms.Hits[Any]]] = {
    "episodes by vector": lambda m, **o: m.episodes.similar_to(VECTOR, model="m", **o),
    "patterns by vector": lambda m, **o: m.patterns.similar_to(VECTOR, model="m", **o),
}


def _paged(search: Callable[..., ms.Hits[Any]], storage: ms.MemoryStorage, between: Any = None, **options: Any) -> list:
    found, cursor = [], None
    while True:
        hits = search(storage, k=10, cursor=cursor, **options)
        found += [hit.item.id for hit in hits]
        cursor = hits.next_cursor
        assert len(found) <= 2 * MATCHES
        if cursor is None:
            return found
        if between:
            between()


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_pages_have_each_match_once_whatever_the_weights(storage, weights):
    _store(storage, MATCHES)
    for search in SEARCHES.values():
        found = _paged(search, storage, weights=weights)
        assert (len(found), len(set(found))) == (MATCHES, MATCHES)


@pytest.mark.parametrize("name", ["episodes by words", "patterns by words"])
def test_words_alone_page_in_the_order_of_one_long_page(storage, name):
    _store(storage, MATCHES)
    search, weights = SEARCHES[name], ms.Weights(reward=0.5)
    one_page = [hit.item.id for hit in search(storage, k=MATCHES, weights=weights)]
    assert _paged(search, storage, weights=weights) == one_page


@pytest.mark.parametrize("search", [*SEARCHES.values(), *BY_VECTOR.values()], ids=[*SEARCHES, *BY_VECTOR])
def test_better_rows_written_between_pages_are_left_out(storage, search):
    _store(storage, MATCHES)
    stored = {one.id for one in [*storage.episodes.iterate(), *storage.patterns.iterate()]}

    def write_better_ones() -> None:
        task = "needle needle needle"
        episodes = [storage.episodes.save(_episode(0, task_description=task)) for _ in range(12)]
        patterns = [storage.patterns.save(ms.Heuristic(condition=task, action="", success_rate=1.0)) for _ in episodes]
        better: list[tuple[Any, Any, Any]] = [("episode", one.id, VECTOR) for one in episodes]
        storage.embeddings.put_many([*better, *(("pattern", one.id, VECTOR) for one in patterns)], model="m")

    found = _paged(search, storage, write_better_ones)
    assert (len(found), len(set(found))) == (MATCHES, MATCHES)
    assert set(found) <= stored


def test_a_hit_that_becomes_better_is_not_repeated(storage):
    _store(storage, MATCHES)
    hits = storage.episodes.search("needle hay", k=10)
    shown = [hit.item for hit in hits]
    storage.episodes.save_many([one.model_copy(update={"task_description": "needle hay"}) for one in shown])
    rest = storage.episodes.search("needle hay", k=MATCHES, cursor=hits.next_cursor)
    assert len(rest) == MATCHES - 10
    assert not {one.id for one in shown} & {hit.item.id for hit in rest}


def test_hits_deleted_between_pages_leave_no_gap(storage):
    _store(storage, MATCHES)
    first = storage.episodes.search("needle", vector=VECTOR, model="m")
    for hit in first:
        storage.episodes.delete(hit.item.id)
    rest = storage.episodes.search("needle", vector=VECTOR, model="m", k=100, cursor=first.next_cursor)
    assert {hit.item.id for hit in rest} == {one.id for one in storage.episodes.iterate()}


def _damage(storage: ms.MemoryStorage, ids: list[Any]) -> None:
    values = [json.dumps([str(one) for one in ids])]
    damage = "UPDATE {} SET document = json_set(document, '$.x', 1) WHERE id IN (SELECT value FROM json_each(?))"
    with storage.transaction() as tx:
        tx.execute([(damage.format(table), values) for table in ("episodes", "patterns")])


def _as_cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [_as_cursor([0.5, 7, 10]), _as_cursor([0.5, 7, 0]), _as_cursor([2, 0, 9, [1]]), "", "AAAA", "é", "=", 7, b"AA"],
    ids=repr,
)
def test_a_cursor_of_another_kind_is_refused_by_name(storage, cursor):
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.search("needle", cursor=cursor)
    assert caught.value.field == "cursor"


def test_the_cursor_of_a_query_is_refused_by_a_search(storage):
    _store(storage, 3)
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.search("needle", cursor=storage.episodes.query(limit=1).next_cursor)
    assert caught.value.field == "cursor"


@pytest.mark.parametrize("search", [*SEARCHES.values(), *BY_VECTOR.values()], ids=[*SEARCHES, *BY_VECTOR])
def test_unreadable_hits_do_not_count_among_the_k(storage, search):
    _store(storage, 8)  # a search for 2 reads 4 times as many of both orders: all of them
    best = [hit.item.id for hit in search(storage, k=8)]
    with storage.transaction() as tx:
        for table in ("episodes", "patterns"):
            tx.execute(
                [
                    (f"UPDATE {table} SET document = json_set(document, '$.x', 1) WHERE id = ?", [str(one)])
                    for one in best[:3]
                ]
            )
    reported: list[ms.CorruptDataError] = []
    hits = search(storage, k=2, on_corrupt=reported.append)
    assert [hit.item.id for hit in hits] == best[3:5]
    assert [error.id for error in reported] == [str(one) for one in best[:3]]
    assert len(search(storage, k=12, cursor=hits.next_cursor, on_corrupt=reported.append)) == 3
    assert len(reported) == 3


QUERIES: dict[str, Callable[..., ms.Page[Any]]] = {
    "episodes": lambda m, **o: m.episodes.query(**o),
    "episodes, oldest first": lambda m, **o: m.episodes.query(direction="oldest_first", **o),
    "patterns": lambda m, **o: m.patterns.query(**o),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_unreadable_rows_do_not_count_in_a_page(storage, query):
    _store(storage, 12)
    ids = [one.id for one in query(storage)]
    bad = [ids[0], ids[3], ids[4], ids[7]]
    with storage.transaction() as tx:
        for table in ("episodes", "patterns"):
            tx.execute(
                [
                    (f"UPDATE {table} SET document = json_set(document, '$.x', 1) WHERE id = ?", [str(one)])
                    for one in bad
                ]
            )
    readable = [one for one in ids if one not in bad]
    reported: list[ms.CorruptDataError] = []
    pages = [query(storage, limit=2, on_corrupt=reported.append)]
    while pages[-1].next_cursor:
        pages.append(query(storage, limit=2, cursor=pages[-1].next_cursor, on_corrupt=reported.append))
    assert [len(page) for page in pages] == [2, 2, 2, 2]
    assert [one.id for page in pages for one in page] == readable
    assert [error.id for error in reported] == [str(one) for one in bad]
    back = query(storage, limit=2, cursor=pages[-1].previous_cursor, on_corrupt=reported.append)
    assert [one.id for one in back] == readable[4:6]
    start = query(storage, limit=8, cursor=pages[-1].previous_cursor, on_corrupt=reported.append)
    assert ([one.id for one in start], start.previous_cursor) == (readable[:6], None)
