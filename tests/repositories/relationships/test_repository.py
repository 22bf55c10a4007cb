"""Relationships: what is stored, refused, paged, copied and deleted."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import pairwise
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.models import RelatedEpisode, Relationship, new_id
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.raising import raises

from .graphs import save_episodes


@pytest.fixture
def ids(storage: ms.MemoryStorage) -> list[UUID]:
    return save_episodes(storage, 5)


def test_a_relationship_is_stored_and_read_back_equal(storage, ids):
    one = storage.relationships.add(
        ids[0], str(ids[1]), "parent_child", weight=0.1 + 0.2, metadata={"reason": ["ü", 1]}
    )
    assert (one.from_id, one.to_id, one.kind) == (ids[0], ids[1], "parent_child")
    assert (one.weight, one.metadata) == (0.1 + 0.2, {"reason": ["ü", 1]})
    assert one.created_at is not None
    assert storage.relationships.get(one.id) == storage.relationships.find(str(one.id)) == one
    assert list(storage.relationships.iterate()) == storage.relationships.query(ids[1]).items == [one]
    assert storage.relationships.count() == 1


def test_a_repeated_add_changes_weight_and_metadata(storage, ids):
    before = storage.relationships.add(ids[0], ids[1], "blocks", weight=1.0, metadata={"a": 1})
    after = storage.relationships.add(ids[0], ids[1], "blocks", weight=2.0)
    assert after == before.model_copy(update={"weight": 2.0, "metadata": {}})
    assert storage.relationships.add(ids[0], ids[1], "blocks", weight=2.0) == after
    assert storage.relationships.count() == 1


def test_many_are_stored_in_their_order_or_none_at_all(storage, ids):
    assert storage.relationships.add_many([]) == []
    new = [
        Relationship(from_id=ids[0], to_id=ids[2], kind="related_to"),
        Relationship(from_id=ids[0], to_id=ids[1], kind="depends_on", weight=1e300),
        Relationship(from_id=ids[1], to_id=ids[0], kind="a-kind_2"),
    ]
    stored = storage.relationships.add_many(new)
    assert [one.model_copy(update={"created_at": None}) for one in stored] == new
    more = Relationship(from_id=ids[1], to_id=ids[2], kind="blocks")
    missing = Relationship(from_id=ids[1], to_id=new_id(), kind="blocks")
    with raises(ms.NotFoundError, kind="episode", id=missing.to_id):
        storage.relationships.add_many([more, missing])
    assert storage.relationships.count() == 3


@in_memory
def test_invalid_relationships_are_refused(storage, ids):
    for field, arguments in {
        "to_id": (ids[0], ids[0], "blocks"),
        "kind": (ids[0], ids[1], "Blocks"),
        "from_id": ("x", ids[1], "blocks"),
    }.items():
        with raises(ms.ValidationError, field=field):
            storage.relationships.add(*arguments)
    with raises(ms.ValidationError, field="weight"):
        storage.relationships.add(ids[0], ids[1], "blocks", weight=-1.0)
    twice = Relationship(from_id=ids[0], to_id=ids[1], kind="blocks")
    for others in ([twice, twice], [twice, twice.model_copy(update={"id": new_id()})]):
        with raises(ms.ValidationError, field="relationships"):
            storage.relationships.add_many(others)
    assert storage.relationships.count() == 0


@in_memory
def test_invalid_arguments_of_walks_are_refused(storage, ids):
    for field, call in {
        "edges": lambda: storage.relationships.query(ids[0], edges="from"),
        "kind": lambda: storage.relationships.topological_order(ids[0], "related_to"),
        "max_depth": lambda: storage.relationships.ancestors(ids[0], max_depth=10_001),
        "limit": lambda: storage.relationships.descendants(ids[0], limit=0),
        "cursor": lambda: storage.relationships.topological_order(ids[0], cursor="x"),
        "to_id": lambda: storage.relationships.path(ids[0], "x"),
    }.items():
        with raises(ms.ValidationError, field=field):
            call()


def test_an_id_of_another_relationship_is_a_conflict(storage, ids):
    stored = storage.relationships.add(ids[0], ids[1], "related_to")
    other = Relationship(id=stored.id, from_id=ids[1], to_id=ids[2], kind="related_to")
    with raises(ms.ConflictError):
        storage.relationships.add_many([other])
    with raises(ms.ConflictError):
        storage.relationships.import_many([other])
    assert list(storage.relationships.iterate()) == [stored]


@pytest.mark.parametrize("kind", ["parent_child", "depends_on", "follows", "blocks"])
def test_acyclic_kinds_refuse_a_cycle(storage, ids, kind):
    storage.relationships.add_many(
        [Relationship(from_id=one, to_id=other, kind=kind) for one, other in pairwise(ids[:4])]
    )
    for end in (2, 0, 1):
        with raises(ms.ValidationError, field="to_id", value=str(ids[end])):
            storage.relationships.add(ids[3], ids[end], kind)
    assert storage.relationships.count() == 3
    storage.relationships.add(ids[3], ids[0], "related_to")
    storage.relationships.add(ids[3], ids[0], "a-kind")


def test_a_cycle_among_new_relationships_names_the_one_that_closes_it(storage, ids):
    new = [Relationship(from_id=ids[n], to_id=ids[(n + 1) % 3], kind="blocks") for n in range(3)]
    free = Relationship(from_id=ids[1], to_id=ids[0], kind="references")
    with raises(ms.ValidationError, field="relationships.3.to_id", value=str(ids[0])):
        storage.relationships.add_many([free, *new])
    with raises(ms.ValidationError, field="relationships.2.to_id"):
        storage.relationships.import_many(new)
    assert storage.relationships.count() == 0


def test_relationships_of_an_episode_are_paged(storage, ids):
    others = save_episodes(storage, 23)
    storage.relationships.add_many(
        [Relationship(from_id=ids[0], to_id=one, kind="parent_child") for one in others[:12]]
        + [Relationship(from_id=one, to_id=ids[0], kind="related_to") for one in others[12:]]
    )

    def all_pages(**arguments):
        cursor, items = None, []
        while True:
            page = storage.relationships.query(ids[0], limit=5, cursor=cursor, **arguments)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                return items, page

    items, last = all_pages()
    assert {one.id for one in items} == {one.id for one in storage.relationships.iterate()}
    assert len(items) == 23
    before = storage.relationships.query(ids[0], limit=5, cursor=last.previous_cursor)
    assert before.items == items[15:20]
    assert {one.to_id for one in all_pages(edges="outgoing")[0]} == set(others[:12])
    assert {one.from_id for one in all_pages(edges="incoming")[0]} == set(others[12:])
    assert all_pages(edges="incoming", kind="parent_child")[0] == []
    assert len(all_pages(kind="related_to")[0]) == 11


def test_relationships_vanish_with_either_episode(storage, ids):
    relationships = storage.relationships
    for one, other in ((0, 1), (1, 2), (2, 3)):
        relationships.add(ids[one], ids[other], "follows")
    storage.episodes.archive(ids[2])
    assert relationships.path(ids[0], ids[3], "follows") == ids[:4]
    storage.episodes.delete(ids[0])
    assert {one.from_id for one in relationships.iterate()} == {ids[1], ids[2]}
    storage.episodes.delete(ids[3])
    assert [(one.from_id, one.to_id) for one in relationships.iterate()] == [(ids[1], ids[2])]
    assert_consistent(storage.engine)


def test_saving_an_episode_again_keeps_its_relationships(storage, ids):
    one = storage.relationships.add(ids[0], ids[1], "follows")
    storage.episodes.save(storage.episodes.get(ids[0]).model_copy(update={"tags": ["new"]}))
    assert storage.relationships.get(one.id) == one


def test_delete_returns_whether_the_relationship_existed(storage, ids):
    one = storage.relationships.add(ids[0], ids[1], "follows")
    assert storage.relationships.delete(one.id) is True
    assert storage.relationships.delete(one.id) is False
    assert storage.relationships.find(one.id) is None
    with raises(ms.NotFoundError, kind="relationship", id=one.id):
        storage.relationships.get(one.id)
    storage.relationships.add(ids[1], ids[0], "follows")


def test_walks_of_missing_episodes_are_empty(storage, ids):
    missing = new_id()
    for walk in ("ancestors", "descendants", "topological_order"):
        assert getattr(storage.relationships, walk)(missing).items == []
    assert storage.relationships.path(missing, missing) == []
    assert storage.relationships.path(ids[0], ids[0]) == [ids[0]]
    assert storage.relationships.path(ids[0], ids[1]) == []
    assert storage.relationships.query(missing).items == []


def test_copies_keep_their_times_and_leave_existing_rows(storage, ids):
    then = datetime(2020, 1, 1, tzinfo=timezone.utc)
    copy = Relationship(from_id=ids[0], to_id=ids[1], kind="blocks", weight=0.1, created_at=then)
    existing = storage.relationships.add(ids[1], ids[2], "blocks", metadata={"a": 1})
    changed = existing.model_copy(update={"metadata": {}, "weight": 7.0})
    assert storage.relationships.import_many([copy, changed]) == 1
    assert storage.relationships.import_many([changed, copy]) == 0
    assert storage.relationships.import_many([]) == 0
    assert storage.relationships.get(copy.id) == copy
    assert storage.relationships.get(existing.id) == existing


def test_an_iteration_has_each_relationship_once(storage, ids):
    new = [Relationship(from_id=ids[0], to_id=ids[1], kind=f"kind-{n}", metadata={"n": n}) for n in range(250)]
    storage.relationships.add_many(new)
    assert sorted(one.metadata["n"] for one in storage.relationships.iterate()) == list(range(250))


def test_a_transaction_adds_episode_and_relationship_together(storage, ids):
    with storage.transaction() as tx:
        episode = tx.episodes.save(ms.Episode(task_description="child"))
        tx.relationships.add(ids[0], episode.id, "parent_child")
    assert storage.relationships.descendants(ids[0]).items == [RelatedEpisode(episode.id, 1)]


def test_a_corrupt_document_is_a_typed_error(storage, ids):
    one = storage.relationships.add(ids[0], ids[1], "follows")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE relationships SET document = '{'")
    with raises(ms.CorruptDataError, table="relationships", id=str(one.id)):
        storage.relationships.get(one.id)


@in_memory
def test_walks_end_at_a_cycle_that_is_stored(storage, ids):
    storage.relationships.add(ids[0], ids[1], "follows")
    storage.relationships.add(ids[1], ids[2], "follows")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO relationships (namespace, id, from_id, to_id, kind, created_at, document)"
            " VALUES (?, ?, ?, ?, 'follows', 0, '{}')",
            (storage.namespace, str(new_id()), str(ids[2]), str(ids[0])),
        )
    related = storage.relationships.descendants(ids[0], "follows", max_depth=10_000)
    assert related.items == [RelatedEpisode(ids[1], 1), RelatedEpisode(ids[2], 2)]
    assert storage.relationships.path(ids[2], ids[1], "follows") == [ids[2], ids[0], ids[1]]
    with raises(ms.CorruptDataError, table="relationships", id=str(ids[0])):
        storage.relationships.topological_order(ids[0], "follows")


def test_a_long_series_is_extended_and_walked(storage):
    ids = save_episodes(storage, 300)
    pairs = zip(ids[1:], ids, strict=False)
    storage.relationships.add_many([Relationship(from_id=one, to_id=other, kind="follows") for one, other in pairs])
    related = storage.relationships.descendants(ids[-1], "follows", max_depth=1_000, limit=1_000)
    assert [one.episode_id for one in related] == ids[-2::-1]
    assert len(storage.relationships.descendants(ids[-1], "follows").items) == 20
    assert len(storage.relationships.path(ids[-1], ids[0], "follows", max_depth=299)) == 300
    assert storage.relationships.path(ids[-1], ids[0], "follows", max_depth=298) == []
