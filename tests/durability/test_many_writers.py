"""Eight processes of eight threads write to the same rows: no write is lost or duplicated, and all succeed."""

from __future__ import annotations

from pathlib import Path

import pytest

import memory_storage as ms
from tests.checks import assert_consistent

from .processes import together
from .work import THREADS, append_and_apply, open_at_once

PROCESSES, STEPS, APPLICATIONS = 8, 40, 20


@pytest.mark.slow
def test_eight_processes_of_eight_threads_write_exactly_once(database: Path):
    with ms.MemoryStorage.open(database) as storage:
        saved = storage.episodes.save_many([ms.Episode(task_description=f"shared {n}") for n in range(4)])
        learned = storage.patterns.save_many([ms.ToolSequence(tools=["a", f"{n}"]) for n in range(3)])
    episodes, patterns = [one.id for one in saved], [one.id for one in learned]

    call = (database, episodes, patterns, STEPS, APPLICATIONS)
    writes = [one for answer in together(append_and_apply, [call] * PROCESSES) for one in answer]
    print(f"the longest of {len(writes)} writes took {max(seconds for seconds, *_ in writes):.2f} s")

    acknowledged = sorted((step, number) for _, step, number in writes if step)
    assert len(acknowledged) == PROCESSES * THREADS * STEPS
    with ms.MemoryStorage.open(database) as storage:
        stored = [step for episode in episodes for step in storage.steps.iterate(episode)]
        assert sorted((str(step.id), step.step_number) for step in stored) == acknowledged
        for episode in episodes:
            numbers = [step.step_number for step in storage.steps.iterate(episode)]
            assert numbers == list(range(1, len(numbers) + 1))
        effects = [storage.patterns.get(pattern).effectiveness for pattern in patterns]
        assert sum(effect.times_applied for effect in effects) == PROCESSES * THREADS * APPLICATIONS
        assert sum(effect.success_when_applied for effect in effects) == PROCESSES * THREADS * APPLICATIONS // 2
        assert all(e.success_when_applied + e.failure_when_applied == e.times_applied for e in effects)
        assert [effect.avg_reward_delta for effect in effects] == pytest.approx([0.5] * 3)
        assert_consistent(storage.engine)


@pytest.mark.slow
def test_eight_processes_can_open_a_new_file_at_once(tmp_path: Path):
    for attempt in range(4):
        path = tmp_path / f"new-{attempt}" / "memory.db"
        ids = together(open_at_once, [(path,)] * PROCESSES)
        with ms.MemoryStorage.open(path) as storage:
            assert sorted(ids) == sorted(str(episode.id) for episode in storage.episodes.iterate())
            assert_consistent(storage.engine)
