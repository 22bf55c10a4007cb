"""What goes over all episodes takes the memory of one of them, however many there are: measured as the kernel does.

Each operation runs in a process of its own. The full size, 60 episodes, is MEMORY_STORAGE_TEST_LARGE_EPISODES=60.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memory_storage as ms

from .large_work import BYTES

COUNT = int(os.environ.get("MEMORY_STORAGE_TEST_LARGE_EPISODES", "6"))  # in one read, six are over the bound
BOUND = 120  # MB; the imports take 60 to 65 of them


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of episodes of 9 MB, which every other one has in ten steps."""
    path = tmp_path_factory.mktemp("large") / "memory.db"
    with ms.MemoryStorage.open(path) as storage:
        for number in range(COUNT):
            storage.episodes.save(in_steps() if number % 2 else in_head())
    return path


def in_head() -> ms.Episode:
    return ms.Episode(task_description="in the head", metadata={"x": "x" * BYTES})


def in_steps() -> ms.Episode:
    outputs = [ms.StepOk(output="x" * (BYTES // 10)) for _ in range(10)]
    return ms.Episode(task_description="in steps", steps=[ms.Step(tool="t", result=one) for one in outputs])


def peak_of(work: str, database: str, other: Path) -> float:
    """Return the megabytes that a new process takes at most to do it."""
    command = [sys.executable, "-m", "tests.large_work", work, database, str(other)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **os.environ}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    peak, count = answer.stdout.split()
    assert int(count) == COUNT
    return float(peak)


@pytest.mark.parametrize("work", ["iterate", "export", "export_chat", "export_atif", "export_markdown", "embed"])
def test_reading_large_episodes_takes_the_memory_of_one(large, tmp_path, work):
    assert peak_of(work, str(large), tmp_path / "export.jsonl") < BOUND


def test_a_backup_of_large_episodes_takes_the_memory_of_one(large, tmp_path):
    backup = tmp_path / "memory.backup"
    assert peak_of("back_up_to", str(large), backup) < BOUND
    assert peak_of("restore_from", str(tmp_path / "restored.db"), backup) < BOUND
