"""The number of files of the package that one call enters: a measure of how far a reader has to follow it.

Each call is made on a local file, once to warm up and once traced: the trace lists every file below `memory_storage/`
whose functions ran in this thread. The numbers depend only on the code, not on the machine.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import memory_storage as ms

from ._report import Grid, Line, Report

PACKAGE = Path(ms.__file__).parent
BOUNDS = {"save": 17, "get": 14, "similar_to": 22, "run": 18, "open": 27, "forget": 28}
"""The maximum number of files for each call. Only lower it; the goals are 15, 12, 16, 13, 18 and 20.

One of them is the local engine's, of which there are two, and in a search one is that of the vector functions.
"""

_DIMENSIONS = 384
_MODEL = "a-model"
_NOTES = (
    "files: those of the package with a function that ran during the second (warm) call, traced by sys.setprofile.",
    "run: a transaction that reads one episode; forget: an episode, with the scrub of the file.",
)


def run(*, short: bool) -> Report:  # noqa: ARG001 - a trace takes no time
    """Trace every call."""
    rooms = measured()
    lines = [
        Line(name, len(files), len(files), len(files), at_most=BOUNDS[name], detail="files")
        for name, files in rooms.items()
    ]
    grid = Grid("Files that a call enters", ("call", "files", "names"), [_row(name, rooms[name]) for name in rooms])
    return Report("Files that a call enters", lines, list(_NOTES), [grid])


def measured() -> dict[str, list[str]]:
    """The files of each call, in the order in which it enters them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        with ms.MemoryStorage.open(path) as storage:
            rooms = {name: _traced(call) for name, call in _calls(storage).items()}
        ms.MemoryStorage.open(path).close()  # again, without the other storage on the same file
        rooms["open"] = traced(lambda: _opened.append(ms.MemoryStorage.open(path)))
        _opened.pop().close()
    return {name: rooms[name] for name in BOUNDS}


def traced(call: Callable[[], object]) -> list[str]:
    """Return the files below `memory_storage/` that a call enters in this thread, without their suffix."""
    files: dict[str, None] = {}

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files[frame.f_code.co_filename] = None

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    paths = [Path(name) for name in files]
    return [str(path.relative_to(PACKAGE).with_suffix("")) for path in paths if path.is_relative_to(PACKAGE)]


_opened: list[ms.MemoryStorage] = []


def _calls(storage: ms.MemoryStorage) -> dict[str, Callable[[], object]]:
    numbers = random.Random(0)
    episodes = [ms.Episode(task_description=f"task {n}", task_type="testing", steps=[_step(n)]) for n in range(6)]
    vectors = [[numbers.gauss(0, 1) for _ in range(_DIMENSIONS)] for _ in episodes]
    for episode, vector in zip(episodes, vectors, strict=True):
        storage.episodes.save(episode)
        storage.embeddings.put("episode", episode.id, vector, model=_MODEL)
    new = iter(ms.Episode(task_description=f"new {n}", task_type="testing", steps=[_step(n)]) for n in range(2))
    doomed = iter(episodes[4:])
    first = episodes[0].id
    return {
        "save": lambda: storage.episodes.save(next(new)),
        "get": lambda: storage.episodes.get(first),
        "similar_to": lambda: storage.episodes.similar_to(vectors[0], model=_MODEL, k=3, task_type="testing"),
        "run": lambda: storage.run(lambda tx: tx.episodes.get(first)),
        "forget": lambda: storage.forget(episode=next(doomed).id),
    }


def _step(number: int) -> ms.Step:
    return ms.Step(tool="pytest", action=f"run test {number}")


def _traced(call: Callable[[], object]) -> list[str]:
    call()
    return traced(call)


def _row(name: str, files: list[str]) -> tuple[str, ...]:
    return name, f"{len(files)} of {BOUNDS[name]}", ", ".join(files)
