"""A storage that was opened before a fork keeps working on both sides of it."""

from __future__ import annotations

from pathlib import Path

import memory_storage as ms
from tests.checks import assert_consistent

from .processes import forked, succeeds
from .work import settings_of

CHILDREN, STEPS = 4, 100


def test_parent_and_child_both_go_on_with_a_file(database: Path, local_engine: str):
    with ms.MemoryStorage.open(settings_of(database, local_engine)) as storage:
        before = storage.episodes.save(ms.Episode(task_description="before the fork"))
        child = forked(lambda: _save_after(storage, before, "child"))
        _save_after(storage, before, "parent")
        succeeds(child)
        assert {episode.task_description for episode in storage.episodes.iterate()} == {
            "before the fork",
            "child",
            "parent",
        }
        assert_consistent(storage.engine)


def test_parent_and_child_each_have_their_copy_of_a_memory(local_engine: str):
    with ms.MemoryStorage.open(settings_of(":memory:", local_engine)) as storage:
        before = storage.episodes.save(ms.Episode(task_description="before the fork"))
        succeeds(forked(lambda: _save_after(storage, before, "child")))
        _save_after(storage, before, "parent")
        assert {e.task_description for e in storage.episodes.iterate()} == {"before the fork", "parent"}
        assert_consistent(storage.engine)


def test_a_fork_within_a_transaction_leaves_it_to_the_parent(database: Path, local_engine: str):
    with ms.MemoryStorage.open(settings_of(database, local_engine)) as storage:
        with storage.transaction() as tx:
            mine = tx.episodes.save(ms.Episode(task_description="the parent's"))
            succeeds(forked(lambda: _sees_nothing_of(storage, mine)))
        assert storage.episodes.get(mine.id) == mine
        assert_consistent(storage.engine)


def test_forked_workers_that_append_to_one_episode_lose_nothing(database: Path, local_engine: str):
    with ms.MemoryStorage.open(settings_of(database, local_engine)) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="shared")).id
        children = [forked(lambda: _append(storage, episode)) for _ in range(CHILDREN)]
        _append(storage, episode)
        for child in children:
            succeeds(child)
        numbers = [step.step_number for step in storage.steps.iterate(episode)]
        assert numbers == list(range(1, (CHILDREN + 1) * STEPS + 1))
        assert_consistent(storage.engine)


def _save_after(storage: ms.MemoryStorage, before: ms.Episode, text: str) -> None:
    assert storage.episodes.get(before.id) == before
    with storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description=text))


def _sees_nothing_of(storage: ms.MemoryStorage, episode: ms.Episode) -> None:
    assert storage.episodes.find(episode.id) is None


def _append(storage: ms.MemoryStorage, episode: object) -> None:
    for number in range(STEPS):
        storage.episodes.append_step(episode, ms.Step(tool="worker", action=f"{number}"))


def test_a_forked_child_begins_with_an_empty_buffer(database: Path, local_engine: str):
    with ms.MemoryStorage.open(settings_of(database, local_engine)) as storage:
        key = storage.episodes.save(ms.Episode(task_description="shared")).id
        with storage.buffered_steps(key, max_seconds=60) as buffer:
            buffer.add(ms.Step(tool="parent"))

            def work() -> None:
                assert buffer.pending == 0
                buffer.add(ms.Step(tool="child"))
                buffer.close()

            succeeds(forked(work))
        assert [step.tool for step in storage.steps.iterate(key)] == ["child", "parent"]
