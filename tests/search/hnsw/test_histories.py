"""Whatever two processes do to a file, even if killed, the in-process index equals an exact search."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import memory_storage as ms
from tests.durability.processes import PROCESSES, together
from tests.search import oracle, work

COUNT = 40
ROWS = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12, unique=True)
SEEDS = st.integers(0, 30)  # so that some vectors are the same
WHICH = st.integers(0, 1)
HOWS = st.sampled_from(["save", "rebuild", "reopen"])


@cache
def _template() -> tuple[Path, list[Any]]:
    path = Path(tempfile.mkdtemp(), "memory.db")
    with ms.MemoryStorage.open(ms.Settings(database=str(path), vector_index="exact")) as storage:
        saved = storage.episodes.save_many([ms.Episode(task_description=f"e{n}") for n in range(COUNT)])
        storage.embeddings.put("episode", saved[0].id, _vectors([0], 0)[0], model=work.MODEL)
    return path, [episode.id for episode in saved]


def _vectors(rows: list[int], seed: int) -> Any:
    return np.array([np.random.default_rng([seed, row % 7]).normal(size=6) for row in rows], dtype=np.float32)


class Histories(RuleBasedStateMachine):
    """Two processes at one file, and a dictionary of what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(), "memory.db")
        path, self.ids = _template()
        shutil.copy(path, self.path)
        self.vectors = {0: _vectors([0], 0)[0]}
        self.processes: list[Any] = [None, None]

    @initialize()
    def begin(self) -> None:
        for which in (0, 1):
            self._start(which)

    @rule(which=WHICH, rows=ROWS, seed=SEEDS)
    def put(self, which: int, rows: list[int], seed: int) -> None:
        vectors = _vectors(rows, seed)
        self._ask(which, "put", self._owners(rows), vectors)
        self.vectors |= dict(zip(rows, vectors, strict=True))

    @rule(which=WHICH, rows=ROWS)
    def delete(self, which: int, rows: list[int]) -> None:
        self._ask(which, "delete", self._owners(rows))
        self.vectors = {row: vector for row, vector in self.vectors.items() if row not in rows}

    @rule(which=WHICH, rows=ROWS, seed=SEEDS)
    def undo(self, which: int, rows: list[int], seed: int) -> None:
        vectors = _vectors(rows, seed)
        found = self._ask(which, "undo", self._owners(rows), vectors)
        self._is_nearest(found[1], vectors[0], self.vectors | dict(zip(rows, vectors, strict=True)), 3)

    @rule(which=WHICH, seed=SEEDS, k=st.integers(1, 15))
    def search(self, which: int, seed: int, k: int) -> None:
        vector = _vectors([seed], seed)[0]
        self._is_nearest(self._ask(which, "search", vector, k)[1], vector, self.vectors, k)

    @rule(which=WHICH, how=st.sampled_from(["save", "rebuild"]), seed=SEEDS)
    def search_what_is_kept(self, which: int, how: str, seed: int) -> None:
        vector = _vectors([seed], seed)[0]
        self._ask(which, how)
        plan, found = self._ask(which, "search", vector, 5)
        self._is_nearest(found, vector, self.vectors, 5)
        assert plan in {"hnsw", "hnsw, then exact"} or not self.vectors

    @rule(which=WHICH, how=HOWS)
    def look_after(self, which: int, how: str) -> None:
        self._ask(which, how)

    @rule(
        which=WHICH, how=st.sampled_from(["save", "rebuild", "reopen", None]), after=st.sampled_from([0, 0.002, 0.01])
    )
    def kill(self, which: int, how: str | None, after: float) -> None:
        """In the midst of what changes no row, or of nothing."""
        process, pipe = self.processes[which]
        if how:
            pipe.send((how,))
        process.join(after)
        self._end(which)
        self._start(which)

    @rule(cut=st.floats(0, 1))
    def damage(self, cut: float) -> None:
        for path in self.path.parent.glob("*.usearch"):
            data = bytearray(path.read_bytes())
            data[int(cut * (len(data) - 1))] ^= 16
            scratch = path.with_name("scratch")  # in place it would change under who has it open
            scratch.write_bytes(data)
            scratch.replace(path)

    def teardown(self) -> None:
        for which in (0, 1):
            if self.processes[which]:
                self._end(which)
        shutil.rmtree(self.path.parent)

    def _owners(self, rows: list[int]) -> list[Any]:
        return [self.ids[row] for row in rows]

    def _is_nearest(self, found: list[Any], vector: Any, vectors: dict[int, Any], k: int) -> None:
        possible = oracle.similarities(vector, {self.ids[row]: [one] for row, one in vectors.items()})
        hits = [ms.Hit(ms.Episode(id=key, task_description="e"), similarity, similarity) for key, similarity in found]
        oracle.assert_nearest(hits, possible, k=k)

    def _ask(self, which: int, *question: Any) -> Any:
        _, pipe = self.processes[which]
        pipe.send(question)
        assert pipe.poll(60), f"no answer to {question[0]}"
        return pipe.recv()

    def _start(self, which: int) -> None:
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=work.serve, args=(theirs, self.path))
        process.start()
        theirs.close()
        self.processes[which] = process, ours

    def _end(self, which: int) -> None:
        process, pipe = self.processes[which]
        process.kill()
        process.join()
        process.close()
        pipe.close()
        self.processes[which] = None


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=10, stateful_step_count=25)


@pytest.mark.slow
def test_eight_processes_find_what_was_committed_before_a_search(database):
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="hnsw")) as storage:
        saved = storage.episodes.save_many([ms.Episode(task_description="e") for _ in range(12_000)])
        ids = [episode.id for episode in saved]
        filled = oracle.clustered(4_000, 16)
        items = [("episode", one, vector) for one, vector in zip(ids[:4_000], filled, strict=True)]
        storage.embeddings.put_many(items, model=work.MODEL)
        storage.embeddings.index.catch_up(work.MODEL)
    with PROCESSES.Manager() as manager:
        board = manager.list()
        seconds = float(os.environ.get("MEMORY_STORAGE_PROCESSES_SECONDS", "4"))
        tasks = [(database, ids[4_000 + part :: 4], board, seconds) for part in range(4)]
        found = together(_do, [*tasks, *[(database, [], board, seconds)] * 4], timeout=180)
    assert all(found[:4])
    assert all(done and "hnsw" in plans for done, plans in found[4:]), found


def _do(barrier: Any, path: Path, ids: list[Any], board: Any, seconds: float) -> Any:
    if ids:
        return work.write_and_tell(barrier, path, ids, board, seconds)
    return work.search_what_is_told(barrier, path, board, seconds)
