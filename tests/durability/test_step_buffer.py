"""A buffer of steps in a process that is killed or exits: what a flush has acknowledged is stored, once."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

import memory_storage as ms
from tests.checks import assert_consistent

from .processes import forked

FILE_KILLS, SERVER_KILLS = 80, 20
FLUSHED = 7  # steps of a flush; the buffer flushes by itself at 10, and by time


def _kill(storage: ms.MemoryStorage, kills: int) -> tuple[int, int]:
    """Kill forked processes at random moments; how many steps were acknowledged, and how many more are stored."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged = more = 0
    for number in range(kills):
        key = storage.episodes.save(ms.Episode(task_description=f"kill {number}")).id
        seconds = (None, 0.005, 1.0)[number % 3]
        flushed = FLUSHED * _flushes_until_killed(storage, key, seconds, moments.uniform(0, 0.15))
        steps = list(storage.steps.iterate(key))
        # Each once, in order, without a gap: so all that were acknowledged are there.
        assert [step.action for step in steps] == [f"{place}" for place in range(len(steps))]
        assert [step.step_number for step in steps] == list(range(1, len(steps) + 1))
        assert len(steps) >= flushed > 0
        acknowledged += flushed
        more += len(steps) - flushed
    assert_consistent(storage.engine)
    return acknowledged, more


def _flushes_until_killed(storage: ms.MemoryStorage, key: UUID, seconds: float | None, after: float) -> int:
    """Fork a process that adds and flushes, and kill it some time after its first flush; the number of flushes."""
    receiver, sender = os.pipe()

    def record() -> None:
        buffer = storage.buffered_steps(key, max_steps=10, max_seconds=seconds)
        for number in range(10**6):
            buffer.add(ms.Step(tool="t", action=f"{number}"))
            if number % FLUSHED == FLUSHED - 1:
                buffer.flush()
                os.write(sender, b".")

    child = forked(record)
    os.close(sender)
    assert select.select([receiver], [], [], 60)[0], "the process did not begin"
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with os.fdopen(receiver, "rb") as stream:
        return len(stream.read())


def test_a_killed_process_loses_no_step_that_was_flushed(database: Path):
    with ms.MemoryStorage.open(database) as storage:
        acknowledged, more = _kill(storage, FILE_KILLS)
    print(f"{acknowledged} steps acknowledged, {more} more stored, in {FILE_KILLS} kills")
    assert acknowledged > 10 * FILE_KILLS


def test_a_killed_client_of_a_server_loses_no_step_that_was_flushed(migrated_server_url: str):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        acknowledged, more = _kill(storage, SERVER_KILLS)
    print(f"{acknowledged} steps acknowledged, {more} more stored, in {SERVER_KILLS} kills")
    assert acknowledged > FLUSHED * SERVER_KILLS


_EXIT = """
import sys
import memory_storage as ms
storage = ms.MemoryStorage.open(sys.argv[1])
buffer = storage.buffered_steps(sys.argv[2], max_seconds=None if sys.argv[3] == "no thread" else 60)
for number in range(5):
    buffer.add(ms.Step(tool="t", action=str(number)))
if sys.argv[4] == "lost":
    del buffer
if sys.argv[4] == "error":
    raise ValueError("the program's own")
"""


@pytest.mark.parametrize(("end", "thread"), [("exits", "thread"), ("lost", "no thread"), ("error", "thread")])
def test_steps_of_an_unclosed_buffer_are_stored_at_exit(database: Path, end: str, thread: str):
    with ms.MemoryStorage.open(database) as storage:
        key = storage.episodes.save(ms.Episode(task_description="exits")).id
    arguments = [sys.executable, "-c", _EXIT, str(database), str(key), thread, end]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (1 if end == "error" else 0), done.stderr
    with ms.MemoryStorage.open(database) as storage:
        assert [step.action for step in storage.steps.iterate(key)] == list("01234")
