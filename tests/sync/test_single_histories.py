"""Histories in which long runs have found an error, one for each error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.dbapi import BatchStep
from tests.raising import raises

from .world import World, contents, small_pages


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


def test_what_was_sent_and_refused_is_no_base(world: World) -> None:
    first, second, _ = world.clients
    world.save(first, steps=0)
    world.copy(first)
    copy = world.clients[-1]
    second.sync()
    world.edit(copy, 0, "d")
    copy.line.faults = ["late"] * 10
    assert not copy.sync()
    first.sync()
    world.edit(copy, 0, "o")
    world.check()
    assert copy.storage.conflicts.count() == 1


def test_a_conflict_of_a_place_is_erased_with_its_episode(world: World) -> None:
    first, second, third = world.clients
    world.save(first, steps=0)
    for client in (first, second):
        client.sync()
    for _ in range(6):
        world.save(third, steps=0)
    third.sync()
    world.forget(second, 0)
    second.sync()
    world.place(first, 0)
    with small_pages():  # the digest comes after the place was refused
        world.check()


def _episodes(world: World, count: int) -> list[UUID]:
    for _ in range(count):
        world.save(world.clients[0], steps=0)
    for client in world.clients:
        client.sync()
    return sorted(world.model.episodes)


@pytest.mark.parametrize("pages", [nullcontext, small_pages])
def test_replicas_that_close_a_cycle_together_keep_a_conflict(world: World, pages: Any) -> None:
    ids = _episodes(world, 4)
    for client, one, other in zip(world.clients, ids, ids[1:], strict=False):
        client.storage.relationships.add(one, other, "follows")
    world.clients[0].storage.relationships.add(ids[3], ids[0], "follows", weight=0.1 + 0.2)
    with pages():
        for number in (2, 1, 0):
            world.clients[number].sync()
        world.check()
    (conflict,) = world.clients[0].storage.conflicts.iterate()
    assert (conflict.kind, conflict.fields, conflict.theirs) == ("relationship", ["deleted"], None)
    assert conflict.mine is not None
    conflicts, relationships = world.clients[0].storage.conflicts, world.clients[0].storage.relationships
    with raises(ms.ValidationError, field="to_id"):
        conflicts.take_mine(conflict.id)
    (first,) = relationships.query(ids[0], edges="incoming" if conflict.mine["from_id"] == str(ids[0]) else "outgoing")
    relationships.delete(first.id)
    conflicts.take_mine(conflict.id)
    world.check()
    assert world.server.relationships.count() == 3


def test_rows_of_one_push_close_no_cycle_with_the_server(world: World) -> None:
    ids = _episodes(world, 3)
    first, second, _ = world.clients
    first.storage.relationships.add(ids[1], ids[2], "blocks")
    first.sync()
    for one, other in ((0, 1), (2, 0)):
        second.storage.relationships.add(ids[one], ids[other], "blocks")
    second.sync()
    assert second.storage.conflicts.count() == 1
    world.check()


def test_a_relationship_that_two_replicas_have_added_is_one(world: World) -> None:
    ids = _episodes(world, 3)
    first, second, third = world.clients
    for client, weight in ((first, 1.0), (second, 1.0), (third, 2.0)):
        client.storage.relationships.add(ids[0], ids[1], "related_to", weight=weight)
        client.sync()
    world.check()
    assert world.server.relationships.count() == 1
    assert second.storage.conflicts.count() == 0
    (conflict,) = third.storage.conflicts.iterate()
    assert conflict.difference()["weight"] == (None, 2.0, 1.0)
    third.storage.conflicts.take_mine(conflict.id)
    world.check()
    assert next(world.server.relationships.iterate()).weight == 2.0


def test_weights_of_many_digits_are_no_change(world: World) -> None:
    ids = _episodes(world, 2)
    first, second, _ = world.clients
    stored = first.storage.relationships.add(ids[0], ids[1], "related_to", weight=1 / 3, metadata={"a": 1})
    world.check()
    second.storage.relationships.add(ids[0], ids[1], "related_to", weight=1 / 3, metadata={"a": 2})
    first.storage.relationships.add(ids[0], ids[1], "related_to", weight=0.1 + 0.2, metadata={"a": 1})
    second.sync()
    first.sync()
    (conflict,) = first.storage.conflicts.iterate()
    assert conflict.object_id == stored.id
    assert conflict.difference() == {
        "metadata": ({"a": 1}, {"a": 1}, {"a": 2}),
        "weight": (pytest.approx(1 / 3, rel=1e-14), 0.1 + 0.2, 1 / 3),
    }
    world.check()


@pytest.mark.parametrize("end", [0, 1])
def test_a_conflict_of_a_relationship_is_erased_with_either_episode(world: World, end: int) -> None:
    ids = _episodes(world, 2)
    first, second, third = world.clients
    for client, weight in ((first, 1.0), (second, 2.0)):
        client.storage.relationships.add(ids[0], ids[1], "related_to", weight=weight)
        client.sync()
    assert second.storage.conflicts.count() == 1
    third.sync()
    third.storage.forget(episode=ids[end], scrub=False)
    world.model.erased.add(ids[end])
    world.check()
    assert second.storage.conflicts.count() == 0


def test_a_checkpoint_that_was_changed_here_and_deleted_there_is_restored(world: World) -> None:
    ids = _episodes(world, 1)
    first, second, _ = world.clients
    world.checkpoint(first, 0)
    world.check()
    stored = next(iter(contents(first.storage)["checkpoints"].values()))
    with second.storage.transaction() as tx:
        tx.execute([("UPDATE checkpoints SET label = 'changed'", [])])
    with first.storage.transaction() as tx:
        tx.execute([("DELETE FROM checkpoints", [])])
    first.sync()
    second.sync()
    (conflict,) = second.storage.conflicts.iterate()
    assert (conflict.kind, conflict.episode_id, conflict.fields) == ("checkpoint", ids[0], ["deleted"])
    episode = second.storage.episodes.get(ids[0])
    second.storage.episodes.delete(ids[0])
    with raises(ms.NotFoundError, kind="episode"):
        second.storage.conflicts.take_mine(conflict.id)
    second.storage.episodes.import_many([episode])
    second.storage.conflicts.take_mine(conflict.id)
    restored = next(iter(contents(second.storage)["checkpoints"].values()))
    assert restored[:5] == (*stored[:3], "changed", stored[4])
    assert json.loads(restored[5]) == json.loads(stored[5])


def test_two_processes_count_in_one_file(world: World) -> None:
    first = world.clients[0]
    world.learn(first)
    for number in (1, 0):  # by one of the processes, and by the other
        world.count(first, number)
    first.sync()
    for _ in range(3):
        world.count(first, 1)
    world.check()


def test_a_process_counts_after_totals_were_removed(world: World) -> None:
    first = world.clients[0]
    with small_pages():
        for number in range(6):
            world.learn(first)
            world.count(first, number)
            first.sync()
            world.count(first, number)
        world.check()
    rows = first.storage._context.executor.read(BatchStep("SELECT generation FROM sync_state"))
    assert rows[0][0] > 0


def test_a_first_sync_that_was_interrupted_continues_with_small_requests(world: World) -> None:
    first, second, third = world.clients
    for _ in range(9):
        world.save(first, steps=2)
    first.sync()
    with small_pages():
        second.sync()
        in_peace = second.line.requests
        third.line.faults = ["", "answer"]  # of the first page
        assert not third.sync()
        third.reopen()
        third.line.requests = 0
        third.sync()
        assert third.line.requests > in_peace
        world.check()
