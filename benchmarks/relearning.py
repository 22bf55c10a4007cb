"""Learning again: how long it takes after a few new episodes, relative to the first time, and how long writers wait.

The episodes are random walks over 15 tools in six domains. While all are counted for the first time, another process
saves episodes, one at a time; what it waits for longest is compared with the 50 ms that the documentation promises.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import memory_storage as ms

from ._measure import timed
from ._report import Grid, Report, line_of

_EPISODES, _FEW = 200_000, 4_000
_NEW_SHARE = 200
_TOOLS = [f"tool_{number}" for number in range(15)]
_DOMAINS = ("billing", "flights", "hotels", "parcels", "insurance", "energy")
_PROMISED_WAIT = 0.050
_AT_MOST = 1 / 20  # of the first time: 1,000 episodes after 200,000
_NOTES = (
    "again: after new episodes, one for each 200; nothing new: the patterns are selected from the counts alone.",
    "wait: the longest save of another process while all episodes are counted for the first time.",
)


def run(*, short: bool) -> Report:
    """Learn a file for the first time, and again."""
    chance = random.Random(5)
    followers = {tool: chance.choices(_TOOLS, k=4) for tool in _TOOLS}
    count = _FEW if short else _EPISODES
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        with ms.MemoryStorage.open(path) as storage:
            _fill(storage, chance, followers, count)
            first, wait = _with_a_writer(path, storage.patterns.learn)
            _fill(storage, chance, followers, count // _NEW_SHARE)
            again, unchanged = timed(storage.patterns.learn), timed(storage.patterns.learn)
    lines = [
        line_of("learning again, to the first time", again / first, "one run", at_most=None if short else _AT_MOST),
        line_of("longest wait of a writer, to 50 ms", wait / _PROMISED_WAIT, "one run", at_most=None if short else 1.0),
    ]
    rows = [("first time", f"{first:.2f} s"), ("again", f"{again:.2f} s"), ("nothing new", f"{unchanged:.2f} s")]
    grid = Grid(f"Learning {count:,} episodes", ("what", "takes"), [*rows, ("wait", f"{wait * 1_000:.1f} ms")])
    return Report("Learning again", lines, list(_NOTES), [grid])


def _fill(storage: ms.MemoryStorage, chance: random.Random, followers: dict[str, list[str]], count: int) -> None:
    for start in range(0, count, 1_000):
        storage.episodes.save_many([_episode(chance, followers) for _ in range(min(1_000, count - start))])


def _episode(chance: random.Random, followers: dict[str, list[str]]) -> ms.Episode:
    tool, steps = chance.choice(_TOOLS), []
    for _ in range(chance.randint(3, 14)):
        is_error = chance.random() < 0.1
        result = ms.StepError(message="ValueError: wrong") if is_error else ms.StepOk(output="done")
        steps.append(ms.Step(tool=tool, result=result, latency_ms=3))
        tool = chance.choice(followers[tool])
    outcome = ms.Success(verdict="solved") if chance.random() < 0.6 else ms.Failure(reason="wrong")
    context = ms.TaskContext(domain=chance.choice(_DOMAINS))
    return ms.Episode(task_description="a task", context=context, steps=steps, outcome=outcome)


def _with_a_writer(path: Path, call: Callable[[], object]) -> tuple[float, float]:
    """Return the duration of a call, and the longest save of another process during it, in seconds."""
    processes = multiprocessing.get_context("spawn")
    ours, its = processes.Pipe()
    writer = processes.Process(target=_write, args=(path, its))
    writer.start()
    ours.recv()
    seconds = timed(call)
    ours.send("stop")
    longest: float = ours.recv()
    writer.join()
    return seconds, longest


def _write(path: Path, connection: Connection) -> None:
    longest = 0.0
    with ms.MemoryStorage.open(path) as storage:
        storage.episodes.save(ms.Episode(task_description="the first save opens what it needs"))
        connection.send("ready")
        while not connection.poll():
            longest = max(longest, timed(lambda: storage.episodes.save(ms.Episode(task_description="another"))))
            time.sleep(0.01)
        connection.send(longest)
