"""The vector indexes in this process: they follow the models' tables, which are the truth. Filters nothing.

A row of a model's table never changes, and its number is never given again: so an index that knows all rows up to a
number, its mark, needs only those after it. Who searches compares the rows after the mark one by one, and joins the
candidates with the table: a row that was removed is not found, one that was rolled back was never read.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memory_storage._files import MaintenanceLock, mode_of
from memory_storage.dbapi import BatchStep, register_after_fork
from memory_storage.errors import ConfigurationError, MemoryStorageError, NotFoundError, SchemaError
from memory_storage.models.embedding import WORN
from memory_storage.schema.vector_tables import FEW, Space
from memory_storage.search import vector_sql as sql
from memory_storage.search.candidates import HNSW
from memory_storage.sql.session import Row

from . import Graph, IndexHeader, Sidecar, delete_sidecars
from .graph import EXPANSION_SEARCH

_log = logging.getLogger(__name__)

MIN_PENDING = 64
"""So many rows after its mark do not make an index go on: to compare them takes no time."""

MAX_INLINE = 500
"""So many rows are added by the search that finds the index behind; more are added by a thread."""

_BUILD_BATCH = 1_000  # rows that are read, and added to a graph that nobody searches yet
_LIVE_BATCH = 100  # rows that are added while searches wait
_SAVE_EVERY = 50_000  # rows: a build that is interrupted goes on from there
_FINGERPRINTS = 128
_BACKOFF = 60.0  # seconds
_MAX_BACKOFFS = 1_000
_BROAD, _FILTERED = (EXPANSION_SEARCH, 100_000, 0.4), (400, 20_000, 0.8)
"""So many candidates are enough among so many vectors, where nearly all will pass, and where filters refuse some.

More are among more, by this power of the number, or recall would fall.
"""

Progress = Callable[[str, int, int], None]

SCHEMA_VERSION = BatchStep("SELECT schema_version FROM pragma_schema_version")


class Neighbors(NamedTuple):
    """Candidates, the nearest first, how many were asked for, and the last row that the index knows of.

    The first `few` are enough, if nearly all of them pass the filters.
    """

    mark: int
    candidate_count: int
    shortlist: int
    seqs: list[int]


class TableState(NamedTuple):
    """What a model's table has."""

    dimension: int
    vectors: int
    last: int


class HnswIndexes:
    """Those of one database: one for each model, for all namespaces. Threads may share them."""

    def __init__(
        self, read: Callable[[BatchStep], Sequence[Row]], path: Path | None, limit: int, maintenance: MaintenanceLock
    ) -> None:
        """Indexes that read by `read`, take `limit` bytes at most, and are kept beside the database at `path`."""
        self.read = read
        self.maintenance = maintenance
        self.limit = limit
        self.exact_scan_max = FEW
        self.stop = threading.Event()
        self._path = None if path is None else Path(os.path.realpath(path))
        self._alias = path  # beside a link to the database there may be sidecars of earlier versions
        # Those that have nothing go with the last search that uses them: any text may be asked for as a model.
        self._models: weakref.WeakValueDictionary[str, HnswIndex] = weakref.WeakValueDictionary()
        self._kept: set[HnswIndex] = set()
        self._lock = threading.Lock()
        register_after_fork(self)
        _open.add(self)

    def of(self, space: Space) -> HnswIndex:
        """The index of a model; it may be empty."""
        with self._lock:
            index = self._models.get(space.token)
            if index is None:
                index = self._models[space.token] = HnswIndex(self, space)
            return index

    def register(self, index: HnswIndex) -> None:
        """Hold an index that has something, or that has looked at a file."""
        self._kept.add(index)

    def sidecar(self, space: Space) -> Sidecar | None:
        """The file that keeps a model's; None for a database in memory."""
        return Sidecar(self._path.with_name(f"{self._path.name}.{space.token}.usearch")) if self._path else None

    def delete_files(self) -> None:
        """Delete the sidecars of all models, also what other processes have written or begun.

        For who holds the lock for maintenance: under it no process writes one.
        """
        for path in {self._path, self._alias}:
            if path is not None:
                delete_sidecars(path)

    def mode(self) -> int:
        """The permissions of a sidecar: those of the database."""
        return mode_of(self._path)

    def memory_used(self, but: HnswIndex) -> int:
        """The bytes that all but one take."""
        with self._lock:
            return sum(index.size for index in self._models.values() if index is not but)

    def wait(self) -> None:
        """Have the threads end after the rows that they are at."""
        self.stop.set()
        for index in list(self._models.values()):
            index.wait()

    def close(self) -> None:
        """Wait for the threads, and keep what was added in the files."""
        self.wait()
        for index in list(self._models.values()):
            index.close()

    def after_fork_in_child(self) -> None:
        """There are no threads, and a lock may be held for ever."""
        self._lock = threading.Lock()
        for index in self._models.values():
            index.after_fork_in_child()


_open: weakref.WeakSet[HnswIndexes] = weakref.WeakSet()


@atexit.register
def _stop() -> None:
    """A thread that comes back from native code while the interpreter ends would take the process down."""
    for indexes in list(_open):
        indexes.wait()


class HnswIndex:
    """The index of one model's vectors in this process."""

    def __init__(self, indexes: HnswIndexes, space: Space) -> None:
        self._indexes, self._space = indexes, space
        self._sql = sql.of(space)
        self._sidecar = indexes.sidecar(space)
        self._lock = threading.Lock()  # a graph is searched by one thread at a time, or added to
        self._work = threading.Lock()  # one thread looks after it
        self._reset()

    def _reset(self) -> None:
        self._graph: Graph | None = None
        self._mark = 0
        self._since = time.monotonic()
        self._unsaved = 0  # rows
        self._generation = 0
        self._is_opened = False
        self._is_rejected = False  # the file: it is not to be spared
        self._over_budget = False
        self._schema_version = 0  # of the database, before the graph's first row was read
        self._oversampling = 1.0  # candidates to ask for, to have one that is still there
        self._thread: threading.Thread | None = None
        self._shortlist_failures: dict[str, float] = {}  # namespaces, and when

    @property
    def size(self) -> int:
        """How much memory it takes."""
        graph = self._graph
        return graph.size if graph is not None else 0

    @property
    def mark(self) -> int:
        """The last row that it knows of."""
        return self._mark

    @property
    def note(self) -> str:
        """Why it gives no candidates, if a caller should know; else nothing."""
        if self._over_budget:
            return "hnsw index over its limit"
        return "hnsw index being built" if self._thread and self._thread.is_alive() else ""

    def candidates(
        self, vector: bytes, reach: int, *, are_broad: bool, began: float | None, search: bool = True
    ) -> Neighbors | None:
        """Those near to a vector; None if there is no index yet, or none for a transaction that began before it.

        In a transaction nothing is read for it: what that has written must not get in. Without a `search` there are no
        numbers yet, only how many there would be.
        """
        if not self._is_opened and began is None:
            self._open()
        with self._lock:
            graph, mark = self._graph, self._mark
            if graph is None or len(vector) != 4 * graph.dimension or (began is not None and began < self._since):
                return None
            enough, among, power = _BROAD if are_broad else _FILTERED
            least = enough * max(1.0, len(graph) / among) ** power
            count = min(HNSW.max_candidates, round(max(least, 4 * reach) * self._oversampling))
            shortlist = math.ceil(reach * HNSW.oversampling * self._oversampling)
            return Neighbors(mark, count, shortlist, graph.nearest(vector, count) if search else [])

    def shortlist_failed(self, namespace: str) -> bool:
        """Whether of the nearest few too few were of use of late, in this namespace."""
        return self._shortlist_failures.get(namespace, -math.inf) > time.monotonic() - _BACKOFF

    def record_shortlist_failure(self, namespace: str) -> None:
        """Remember for a while that of the nearest few too few were of use."""
        if len(self._shortlist_failures) >= _MAX_BACKOFFS:
            self._shortlist_failures.clear()
        self._shortlist_failures[namespace] = time.monotonic()

    def notify(self, last: int, vectors: int) -> None:
        """Catch up, if it is behind: a search has seen that so many vectors are there, and the last row's number."""
        behind = last - self._mark
        if self._graph is None:
            self._sync_if_needed(vectors, wanted=vectors > self._indexes.exact_scan_max and not self._over_budget)
        elif behind < 0 or self._is_fragmented(vectors):
            self._sync_if_needed(vectors, wanted=True)
        else:
            self._sync_if_needed(behind, wanted=behind > MIN_PENDING)

    def catch_up(self, *, rebuild: bool = False, progress: Progress | None = None, background: bool = False) -> int:
        """Add what is missing, and keep it in the file; how many that were. `rebuild`: all of them, to an empty graph.

        NotFoundError if there is no such model; ConfigurationError if it would be over the limit.
        """
        state = self._state()
        if state is None:
            raise NotFoundError("embedding model", self._space.model)
        if background:
            self._start(rebuild=rebuild, progress=progress)
            return 0
        self._open()
        with self._work:
            added = self._catch_up(rebuild=rebuild, progress=progress)
        if self._over_budget:
            raise ConfigurationError(
                f"hnsw_max_bytes: {self._indexes.limit:,} bytes are too few for {state.vectors:,} vectors of "
                f"{self._space.model!r}: give it more, or use diskann"
            )
        self._save(is_wanted=bool(self._unsaved or rebuild))
        return added

    def entries(self) -> tuple[int, int]:
        """How many vectors are in it, with those that were removed from the table, and its mark."""
        self._open()
        with self._lock:
            return (len(self._graph) if self._graph else 0), self._mark

    def present(self) -> tuple[int, int]:
        """How many rows there are up to its mark, and how many of them it has. They differ if it is damaged."""
        self._open()
        with self._lock:
            numbers, mark = (self._graph.numbers() if self._graph else []), self._mark
        rows = self._read(self._sql.present.bind(mark=mark, seqs=json.dumps(numbers)))
        return rows[0][0], rows[0][1]

    def recall(self, sample: int, count: int) -> float | None:
        """Of the nearest to some stored vectors, how many are among the candidates that a search compares."""
        found = possible = 0
        for (vector,) in self._read(self._sql.some.bind(mark=self._mark, limit=sample)):
            near = self.candidates(vector, count, are_broad=True, began=None)
            values = {"vector": vector, "mark": near.mark if near else 0, "limit": count}
            wanted = {row[0] for row in self._read(self._sql.nearest.bind(**values))}
            found += len(wanted & set(near.seqs[: near.shortlist])) if near else 0
            possible += len(wanted)
        return found / possible if possible else None

    def drop(self) -> None:
        """Forget it, and remove the file."""
        with self._work, self._lock:
            self._reset()
            if self._sidecar:
                self._sidecar.delete()

    def wait(self) -> None:
        """Wait for the thread."""
        if self._thread:
            self._thread.join()

    def close(self) -> None:
        """Keep what is worth it."""
        with self._work:
            graph = self._graph
            self._save(is_wanted=graph is not None and self._unsaved > max(MIN_PENDING, len(graph) // 100))
            with self._lock:
                self._reset()

    def after_fork_in_child(self) -> None:
        """A graph that was being changed is none."""
        torn = self._lock.locked()
        self._lock, self._work, self._thread = threading.Lock(), threading.Lock(), None
        if torn:
            self._reset()

    def _sync_if_needed(self, rows: int, *, wanted: bool) -> None:
        if not wanted or not self._work.acquire(blocking=False):
            return  # another thread is at it
        try:
            if rows <= MAX_INLINE:
                self._catch_up()
        finally:
            self._work.release()
        if rows > MAX_INLINE:
            self._start()

    def _start(self, *, rebuild: bool = False, progress: Progress | None = None) -> None:
        def work() -> None:
            try:
                self._open()
                with self._work:
                    self._catch_up(rebuild=rebuild, progress=progress)
                    self._save(is_wanted=bool(self._unsaved or rebuild))
            except MemoryStorageError as error:
                _log.warning("the memory index of %r is left behind: %s", self._space.model, error)

        with self._lock:
            if (self._thread and self._thread.is_alive()) or self._indexes.stop.is_set():
                return
            self._indexes.register(self)
            self._thread = threading.Thread(target=work, name="memory-storage index", daemon=True)
            self._thread.start()

    def _catch_up(self, *, rebuild: bool = False, progress: Progress | None = None) -> int:
        """With `_work` held."""
        state = self._state()
        if state is not None:
            self._indexes.register(self)
        if state is None or not self._has_room(state):
            self._replace_graph(None, 0)
            return 0
        graph = self._graph
        if graph is None:
            return self._build(state, progress)
        if rebuild or state.last < self._mark or self._is_fragmented(state.vectors) or self._has_erased_rows(graph):
            self._is_rejected = True  # what the file has is no better
            return self._build(state, progress)
        added = self._extend(graph, self._mark, state, progress, waiting=True)
        return added + self._build(state, progress) if self._is_fragmented(state.vectors) else added

    def _build(self, state: TableState, progress: Progress | None) -> int:
        if state.vectors <= self._indexes.exact_scan_max:
            self._replace_graph(None, 0)
            return 0
        graph, self._schema_version = Graph(state.dimension), self._read_schema_version()
        added = self._extend(graph, 0, state, progress, waiting=False)
        return 0 if self._indexes.stop.is_set() else added

    def _extend(self, graph: Graph, mark: int, state: TableState, progress: Progress | None, *, waiting: bool) -> int:
        """Add all rows after a mark; `waiting`: searches of it wait meanwhile, so it is done by little and little."""
        size, added, kept = _LIVE_BATCH if waiting else _BUILD_BATCH, 0, 0
        total = max(0, state.vectors - (len(graph) if waiting else 0))
        while not self._indexes.stop.is_set():
            rows = self._read(self._sql.after.bind(mark=mark, limit=size))
            ended = len(rows) < size
            mark = max(state.last, mark) if ended else mark
            mark = max(mark, rows[-1][0]) if rows else mark
            if waiting:
                self._add(graph, rows, mark)
            elif rows:
                graph.add([row[0] for row in rows], b"".join(row[1] for row in rows))
            added += len(rows)
            if progress and rows:
                progress("indexed", added, max(total, added))
            if ended or (not waiting and added - kept >= _SAVE_EVERY):
                kept = added
                if not waiting:
                    self._replace_graph(graph, mark) if ended else self._save_partial(graph, mark)
            if ended:
                break
        self._unsaved += added
        return added

    def _add(self, graph: Graph, rows: Sequence[Row], mark: int) -> None:
        with self._lock:
            if graph is self._graph:
                if rows:
                    graph.add([row[0] for row in rows], b"".join(row[1] for row in rows))
                self._mark = mark

    def _replace_graph(self, graph: Graph | None, mark: int) -> None:
        with self._lock:
            self._graph, self._mark, self._since = graph, mark, time.monotonic()

    def _is_fragmented(self, vectors: int) -> bool:
        """Whether much of it was removed from the table."""
        graph = self._graph
        if graph is None:
            return False
        self._oversampling = max(1.0, len(graph) / max(1, vectors))
        return len(graph) > (1 + WORN) * vectors

    def _has_room(self, state: TableState) -> bool:
        expected = state.vectors * HNSW.cost(state.dimension, "").memory
        self._over_budget = expected + self._indexes.memory_used(self) > self._indexes.limit
        if self._over_budget:
            _log.warning("hnsw_max_bytes is too little for %r: its vectors are compared exactly", self._space.model)
        return not self._over_budget

    def _state(self) -> TableState | None:
        try:
            rows = self._read(self._sql.state.bind(space=self._space.token))
        except SchemaError:  # no model was ever registered: there is no table that numbers its rows
            return None
        return TableState(*rows[0]) if rows else None

    def _read(self, step: BatchStep) -> Sequence[Row]:
        return self._indexes.read(step)

    def _open(self) -> None:
        """Take what is in the file, if it is right."""
        with self._work:
            if self._is_opened:
                return
            self._is_opened = True
            if self._sidecar is None or not self._sidecar.path.exists():
                return
            self._indexes.register(self)
            try:
                kept, graph = self._sidecar.read(self._space.model)
                state = self._validate(kept, graph)
            except FileNotFoundError:
                return
            except (ValueError, OSError) as error:
                self._is_rejected = True
                _log.warning("the index %s is not used and will be built rebuild: %s", self._sidecar.path.name, error)
                return
            if self._has_room(state):
                self._generation = kept.generation
                self._replace_graph(graph, kept.mark)
                self._is_fragmented(state.vectors)

    def _has_erased_rows(self, graph: Graph) -> bool:
        """Whether the database was scrubbed since the graph was begun, and the graph has vectors that are gone.

        VACUUM changes the schema's version, and so does whatever changes a table; then it is looked for each vector.
        """
        version = self._read_schema_version()
        if version == self._schema_version:
            return False
        numbers = graph.numbers()
        if self._read(self._sql.present.bind(mark=0, seqs=json.dumps(numbers)))[0][1] < len(numbers):
            return True
        self._schema_version = version
        return False

    def _read_schema_version(self) -> int:
        return int(self._read(SCHEMA_VERSION)[0][0])

    def _validate(self, kept: IndexHeader, graph: Graph) -> TableState:
        """ValueError if the graph is not of this table."""
        state = self._state()
        if state is None or state.last < kept.mark or state.dimension != kept.dimension:
            raise ValueError("it is of another database, or of another time")
        found = self._digests([seq for seq, _ in kept.fingerprints])
        if any(found.get(seq, digest) != digest for seq, digest in kept.fingerprints) or not (
            found or not state.vectors
        ):
            raise ValueError("it has other vectors than the table")
        self._schema_version = kept.schema_version
        if self._has_erased_rows(graph):
            raise ValueError("it has vectors that were erased")
        return state

    def _digests(self, seqs: Sequence[int]) -> dict[int, str]:
        rows = self._read(self._sql.digests.bind(seqs=json.dumps(seqs)))
        return {seq: digest for seq, digest in rows}  # noqa: C416 - rows are untyped

    def _save(self, *, is_wanted: bool) -> None:
        """Write the file, unless another process has written one that knows more. With `_work` held."""
        with self._lock:
            graph, mark = self._graph, self._mark
        if not is_wanted or graph is None or self._sidecar is None:
            return
        self._write(graph, mark, spare=not self._is_rejected)
        self._unsaved, self._is_rejected = 0, False

    def _save_partial(self, graph: Graph, mark: int) -> None:
        self._write(graph, mark, spare=True)

    def _write(self, graph: Graph, mark: int, *, spare: bool) -> None:
        """Write the file, unless the database is being scrubbed or the graph has vectors that were erased by that."""
        if self._sidecar is None:
            return
        with self._indexes.maintenance.shared() as may_write:
            if not may_write:
                return
            if not self._has_erased_rows(graph):
                self._write_now(graph, mark, self._sidecar, spare=spare)
                return
        _log.info("the index %s is not written: it has vectors that were erased", self._sidecar.path.name)
        if graph is self._graph:
            self._replace_graph(None, 0)

    def _write_now(self, graph: Graph, mark: int, sidecar: Sidecar, *, spare: bool) -> None:
        there = sidecar.read_header()
        if spare and there and there.model == self._space.model and there.mark >= mark:
            return
        numbers = graph.numbers()
        step = max(1, len(numbers) // _FINGERPRINTS)
        chosen: dict[int, Any] = self._digests(sorted({*numbers[::step], *numbers[-_FINGERPRINTS:]}))
        self._generation = max(self._generation, there.generation if there else 0) + 1
        found = graph.duplicates, sorted(graph.unreachable), self._schema_version
        kept = IndexHeader(self._space.model, graph.dimension, mark, self._generation, list(chosen.items()), *found)
        try:
            sidecar.write(graph, kept, self._indexes.mode())
        except OSError as error:
            _log.warning("the index %s cannot be kept: %s", sidecar.path.name, error)
