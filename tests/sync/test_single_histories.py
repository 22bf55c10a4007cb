"""Histories in which long runs have found an error, one for each error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_storage.dbapi import BatchStep

from .world import World, small_pages


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
