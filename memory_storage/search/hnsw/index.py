"""In-process HNSW indexes, kept in sync with the vector tables, which are the source of truth.

A row of a vector table never changes and its number is never reused, so an index that contains all rows up to its
high-water mark needs only the rows after it. A search compares the rows after the mark exactly, and joins the
candidates with the table: a deleted row drops out of the join, and a rolled-back row was never read.
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
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from memory_storage._files import MaintenanceLock, mode_of
from memory_storage.dbapi import BatchStep, register_after_fork
from memory_storage.errors import ConfigurationError, MemoryStorageError, NotFoundError, SchemaError
from memory_storage.models.embedding import MAX_REMOVED_RATIO
from memory_storage.schema.vector_tables import EXACT_SCAN_MAX, VectorSpace
from memory_storage.search import vector_sql as sql
from memory_storage.search.candidates import HNSW
from memory_storage.sql.session import Row

from . import Graph, IndexHeader, Sidecar, delete_sidecars
from .graph import EXPANSION_SEARCH
from .scan_gate import ScanGate

_log = logging.getLogger(__name__)

MIN_PENDING = 64
"""Pending rows up to which an index is not synced: an exact scan of them is cheaper."""

MAX_INLINE = 500
"""Pending rows that a search adds inline; more are added by a background thread."""

_BUILD_BATCH = 1_000  # rows read and added at once, to a graph that is not searched yet
_LIVE_BATCH = 100  # rows added at once while searches wait
_SAVE_EVERY = 50_000  # rows; an interrupted build resumes from the last save
_FINGERPRINTS = 128
_BACKOFF = 60.0  # seconds
_MAX_BACKOFFS = 1_000
_BROAD, _FILTERED = (EXPANSION_SEARCH, 100_000, 0.4), (400, 20_000, 0.8)
"""Candidates that keep recall up to this number of vectors, for broad and for narrow filters.

Above it, the number of candidates grows with the number of vectors to this power.
"""

Progress = Callable[[str, int, int], None]

SCHEMA_VERSION = BatchStep("SELECT schema_version FROM pragma_schema_version")


def is_installed() -> bool:
    """Return whether usearch is installed."""
    return find_spec("usearch") is not None


class Neighbors(NamedTuple):
    """Candidates of an index.

    Args:
        mark: The last row number that the index contains.
        candidate_count: The number of candidates requested.
        shortlist: The number of nearest candidates that suffice if nearly all pass the filters.
        seqs: Row numbers, nearest first.
    """

    mark: int
    candidate_count: int
    shortlist: int
    seqs: list[int]


class TableState(NamedTuple):
    """The state of a vector table: dimension, number of vectors, last row number."""

    dimension: int
    vectors: int
    last: int


class HnswIndexes:
    """The indexes of one database, one for each vector table, over all namespaces. Thread-safe."""

    def __init__(
        self, read: Callable[[BatchStep], Sequence[Row]], path: Path | None, limit: int, maintenance: MaintenanceLock
    ) -> None:
        """Create the indexes; none is loaded or built yet.

        Args:
            read: Runs one SELECT.
            path: The database file, next to which sidecar files are written; None for no files.
            limit: The most bytes of memory for all indexes together.
            maintenance: The lock under which the database file is scrubbed or repaired.
        """
        self.read = read
        self.maintenance = maintenance
        self.limit = limit
        self.exact_scan_max = EXACT_SCAN_MAX
        self.stop = threading.Event()
        self.scan_gate: ScanGate | None = None  # until the first build
        self._path = None if path is None else Path(os.path.realpath(path))
        self._alias = path  # earlier versions wrote sidecars next to a symbolic link to the database
        # Weak: an empty index is dropped with the last search that uses it, since callers may pass any model name.
        self._models: weakref.WeakValueDictionary[str, HnswIndex] = weakref.WeakValueDictionary()
        self._kept: set[HnswIndex] = set()
        self._lock = threading.Lock()
        register_after_fork(self)
        _open.add(self)

    def of(self, space: VectorSpace) -> HnswIndex:
        """Return the index of a vector table; it may be empty."""
        with self._lock:
            index = self._models.get(space.token)
            if index is None:
                index = self._models[space.token] = HnswIndex(self, space)
            return index

    def register(self, index: HnswIndex) -> None:
        """Keep an index alive that has vectors, or has opened its file."""
        self._kept.add(index)

    def close_gate(self) -> AbstractContextManager[None]:
        """Return a block during which exact scans take turns, since an index is being built."""
        with self._lock:
            self.scan_gate = self.scan_gate or ScanGate()
        return self.scan_gate.closed()

    def sidecar(self, space: VectorSpace) -> Sidecar | None:
        """Return the sidecar file of a vector table; None for a database in memory."""
        return Sidecar(self._path.with_name(f"{self._path.name}.{space.token}.usearch")) if self._path else None

    def delete_files(self) -> None:
        """Delete all sidecar files, including those and temporary ones of other processes.

        The caller must hold the maintenance lock, under which no process writes one.
        """
        for path in {self._path, self._alias}:
            if path is not None:
                delete_sidecars(path)

    def mode(self) -> int:
        """Return the permissions for a sidecar: those of the database."""
        return mode_of(self._path)

    def memory_used(self, but: HnswIndex) -> int:
        """Return the memory in bytes of all indexes except one."""
        with self._lock:
            return sum(index.size for index in self._models.values() if index is not but)

    def wait(self) -> None:
        """Stop the background threads after their current batch, and wait for them."""
        self.stop.set()
        for index in list(self._models.values()):
            index.wait()

    def close(self) -> None:
        """Wait for the threads, and save the indexes."""
        self.wait()
        for index in list(self._models.values()):
            index.close()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent process may have held, and the gate, which it closed."""
        self._lock, self.scan_gate = threading.Lock(), None
        for index in self._models.values():
            index.after_fork_in_child()


_open: weakref.WeakSet[HnswIndexes] = weakref.WeakSet()


@atexit.register
def _stop() -> None:
    """Wait for background threads: one that returns from native code during interpreter shutdown would crash it."""
    for indexes in list(_open):
        indexes.wait()


class HnswIndex:
    """The in-process index of one vector table."""

    def __init__(self, indexes: HnswIndexes, space: VectorSpace) -> None:
        self._indexes, self._space = indexes, space
        self._sql = sql.of(space)
        self._sidecar = indexes.sidecar(space)
        self._lock = threading.Lock()  # guards the graph: one thread at a time searches it or adds to it
        self._work = threading.Lock()  # held by the one thread that syncs, builds or saves
        self._reset()

    def _reset(self) -> None:
        self._graph: Graph | None = None
        self._mark = 0
        self._since = time.monotonic()
        self._unsaved = 0  # rows
        self._generation = 0
        self._is_opened = False
        self._is_rejected = False  # the file was rejected: overwrite it, whatever its mark
        self._over_budget = False
        self._schema_version = 0  # of the database, before the graph's first row was read
        self._oversampling = 1.0  # candidates to request for each that still exists
        self._thread: threading.Thread | None = None
        self._shortlist_failures: dict[str, float] = {}  # time of the last failure, by namespace

    @property
    def size(self) -> int:
        """Memory in bytes."""
        graph = self._graph
        return graph.size if graph is not None else 0

    @property
    def mark(self) -> int:
        """The last row number that the index contains."""
        return self._mark

    @property
    def note(self) -> str:
        """Why the index returns no candidates, if a caller should know; else an empty string."""
        if self._over_budget:
            return "hnsw index over its limit"
        return "hnsw index being built" if self._thread and self._thread.is_alive() else ""

    def candidates(
        self, vector: bytes, reach: int, *, are_broad: bool, began: float | None, search: bool = True
    ) -> Neighbors | None:
        """Return the nearest neighbors of a vector; None if there is no index, or it is newer than the transaction.

        In a transaction the index is not loaded: rows that are not committed must not enter it.

        Args:
            vector: Little-endian 32-bit floats.
            reach: The number of requested rows.
            are_broad: Whether nearly all rows pass the filters.
            began: When the transaction began, by the monotonic clock; None outside of one.
            search: False to return only the number of candidates.
        """
        if not self._is_opened and began is None:
            self._open()
        with self._lock:
            graph, mark = self._graph, self._mark
            # A graph that was built after the transaction began lacks rows that were deleted since, which its snapshot
            # still has. usearch must not add and search at once, so the lock is held during the search.
            if graph is None or len(vector) != 4 * graph.dimension or (began is not None and began < self._since):
                return None
            enough, among, power = _BROAD if are_broad else _FILTERED
            least = enough * max(1.0, len(graph) / among) ** power
            count = min(HNSW.max_candidates, round(max(least, 4 * reach) * self._oversampling))
            shortlist = math.ceil(reach * HNSW.oversampling * self._oversampling)
            return Neighbors(mark, count, shortlist, graph.nearest(vector, count) if search else [])

    def shortlist_failed(self, namespace: str) -> bool:
        """Return whether the shortlist of this namespace had too few rows that pass, in the last 60 seconds."""
        return self._shortlist_failures.get(namespace, -math.inf) > time.monotonic() - _BACKOFF

    def record_shortlist_failure(self, namespace: str) -> None:
        """Skip the shortlist in this namespace for 60 seconds."""
        if len(self._shortlist_failures) >= _MAX_BACKOFFS:
            self._shortlist_failures.clear()
        self._shortlist_failures[namespace] = time.monotonic()

    def notify(self, last: int, vectors: int) -> None:
        """Sync the index if it is behind the state of the table that a search has seen.

        Args:
            last: The last row number of the table.
            vectors: The number of vectors.
        """
        behind = last - self._mark
        if self._graph is None:
            self._sync_if_needed(vectors, wanted=vectors > self._indexes.exact_scan_max and not self._over_budget)
        # Row numbers never fall: the file was replaced by an earlier state, such as a restored backup.
        elif behind < 0 or self._is_fragmented(vectors):
            self._sync_if_needed(vectors, wanted=True)
        else:
            self._sync_if_needed(behind, wanted=behind > MIN_PENDING)

    def catch_up(self, *, rebuild: bool = False, progress: Progress | None = None, background: bool = False) -> int:
        """Add the pending rows, and save the index.

        Args:
            rebuild: Add all rows to an empty graph.
            progress: Called after each batch.
            background: Run in a thread, and return 0 immediately.

        Returns:
            The number of vectors added.

        Raises:
            NotFoundError: there is no such model.
            ConfigurationError: the index would exceed the limit.
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
        """Return the number of vectors in the index, removed ones included, and its mark."""
        self._open()
        with self._lock:
            return (len(self._graph) if self._graph else 0), self._mark

    def present(self) -> tuple[int, int]:
        """Return the number of rows up to the mark, and how many of them the index contains; unequal if damaged."""
        self._open()
        with self._lock:
            numbers, mark = (self._graph.numbers() if self._graph else []), self._mark
        rows = self._read(self._sql.present.bind(mark=mark, seqs=json.dumps(numbers)))
        return rows[0][0], rows[0][1]

    def recall(self, sample: int, count: int) -> float | None:
        """Return the recall of the shortlist, measured on a random sample of stored vectors; None if there are none.

        Args:
            sample: The number of vectors searched for.
            count: The number of nearest neighbors of each.
        """
        found = possible = 0
        for (vector,) in self._read(self._sql.some.bind(mark=self._mark, limit=sample)):
            near = self.candidates(vector, count, are_broad=True, began=None)
            values = {"vector": vector, "mark": near.mark if near else 0, "limit": count}
            wanted = {row[0] for row in self._read(self._sql.nearest.bind(**values))}
            found += len(wanted & set(near.seqs[: near.shortlist])) if near else 0
            possible += len(wanted)
        return found / possible if possible else None

    def drop(self) -> None:
        """Drop the index, and delete its file."""
        with self._work, self._lock:
            self._reset()
            if self._sidecar:
                self._sidecar.delete()

    def wait(self) -> None:
        """Wait for the background thread."""
        if self._thread:
            self._thread.join()

    def close(self) -> None:
        """Save the index if more than 1 % of it is unsaved, and drop it from memory."""
        with self._work:
            graph = self._graph
            self._save(is_wanted=graph is not None and self._unsaved > max(MIN_PENDING, len(graph) // 100))
            with self._lock:
                self._reset()

    def after_fork_in_child(self) -> None:
        """Replace the locks, and drop a graph that a thread of the parent process was changing."""
        torn = self._lock.locked()
        self._lock, self._work, self._thread = threading.Lock(), threading.Lock(), None
        if torn:
            self._reset()

    def _sync_if_needed(self, rows: int, *, wanted: bool) -> None:
        if not wanted or not self._work.acquire(blocking=False):
            # No search waits for another one's sync: it compares the rows after the mark exactly.
            return  # another thread is syncing it
        try:
            if rows <= MAX_INLINE:
                self._catch_up()
        finally:
            self._work.release()
        # After the release, since the thread needs `_work` too.
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
                _log.warning("the hnsw index of %r could not be synced: %s", self._space.model, error)

        with self._lock:
            if (self._thread and self._thread.is_alive()) or self._indexes.stop.is_set():
                return
            self._indexes.register(self)
            self._thread = threading.Thread(target=work, name="memory-storage index", daemon=True)
            self._thread.start()

    def _catch_up(self, *, rebuild: bool = False, progress: Progress | None = None) -> int:
        """Add pending rows, or build the graph. The caller holds `_work`."""
        state = self._state()
        if state is not None:
            self._indexes.register(self)
        if state is None or not self._has_room(state):
            self._replace_graph(None, 0)
            return 0
        graph = self._graph
        if graph is None:
            return self._build(state, progress)
        # Rows that were scrubbed from the database, maybe by another process, must not stay here or in the file.
        if rebuild or state.last < self._mark or self._is_fragmented(state.vectors) or self._has_erased_rows(graph):
            self._is_rejected = True  # the file is equally stale
            return self._build(state, progress)
        with self._indexes.close_gate():
            added = self._extend(graph, self._mark, state, progress, waiting=True)
        return added + self._build(state, progress) if self._is_fragmented(state.vectors) else added

    def _build(self, state: TableState, progress: Progress | None) -> int:
        if state.vectors <= self._indexes.exact_scan_max:
            self._replace_graph(None, 0)
            return 0
        # The version is read before the first row: so a VACUUM during the build is noticed before a file is written.
        graph, self._schema_version = Graph(state.dimension), self._read_schema_version()
        with self._indexes.close_gate():
            added = self._extend(graph, 0, state, progress, waiting=False)
        return 0 if self._indexes.stop.is_set() else added

    def _extend(self, graph: Graph, mark: int, state: TableState, progress: Progress | None, *, waiting: bool) -> int:
        """Add all rows after a mark, in small batches if searches of this graph are `waiting`."""
        size, added, kept = _LIVE_BATCH if waiting else _BUILD_BATCH, 0, 0
        total = max(0, state.vectors - (len(graph) if waiting else 0))
        while not self._indexes.stop.is_set():
            rows = self._read(self._sql.after.bind(mark=mark, limit=size))
            ended = len(rows) < size
            # Numbers of deleted and rolled-back rows count as contained, else the index would always look behind. The
            # state was read before the rows, so all rows up to `state.last` are among those that were read.
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
                    self._replace_graph(graph, mark) if ended else self._write(graph, mark, spare=True)
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
        """Return whether many of its vectors were deleted from the table."""
        graph = self._graph
        if graph is None:
            return False
        # Candidates whose rows were deleted drop out of the join, so more are requested in that proportion.
        self._oversampling = max(1.0, len(graph) / max(1, vectors))
        return len(graph) > (1 + MAX_REMOVED_RATIO) * vectors

    def _has_room(self, state: TableState) -> bool:
        expected = state.vectors * HNSW.cost(state.dimension, "").memory
        self._over_budget = expected + self._indexes.memory_used(self) > self._indexes.limit
        if self._over_budget:
            _log.warning("hnsw_max_bytes is too small for %r: its vectors are compared exactly", self._space.model)
        return not self._over_budget

    def _state(self) -> TableState | None:
        try:
            rows = self._read(self._sql.state.bind(space=self._space.token))
        except SchemaError:  # no model was ever registered: the sequence table does not exist
            return None
        return TableState(*rows[0]) if rows else None

    def _read(self, step: BatchStep) -> Sequence[Row]:
        return self._indexes.read(step)

    def _open(self) -> None:
        """Load the graph from the file, if the file is valid."""
        with self._work:
            if self._is_opened:
                return
            # Also if the file is missing or rejected: a search must not read it again each time.
            self._is_opened = True
            if self._sidecar is None or not self._sidecar.path.exists():
                return
            self._indexes.register(self)
            try:
                kept, graph = self._sidecar.read(self._space.model)
                state = self._validate(kept, graph)
            # A scrub of another process may delete it between the two calls.
            except FileNotFoundError:
                return
            except (ValueError, OSError) as error:
                self._is_rejected = True
                _log.warning("the index %s is not used and will be rebuilt: %s", self._sidecar.path.name, error)
                return
            if self._has_room(state):
                self._generation = kept.generation
                self._replace_graph(graph, kept.mark)
                self._is_fragmented(state.vectors)

    def _has_erased_rows(self, graph: Graph) -> bool:
        """Return whether the graph holds vectors that a scrub has erased from the database.

        VACUUM changes the schema version, as DDL does; only then are the vectors looked up.
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
        """Return the state of the table; ValueError if the graph does not belong to it."""
        state = self._state()
        if state is None or state.last < kept.mark or state.dimension != kept.dimension:
            raise ValueError("the file is of another database, or of another state of it")
        found = self._digests([seq for seq, _ in kept.fingerprints])
        # A deleted row contradicts nothing. If all of them are gone from a table with vectors, that is another table.
        if any(found.get(seq, digest) != digest for seq, digest in kept.fingerprints) or not (
            found or not state.vectors
        ):
            raise ValueError("its vectors are not those of the table")
        self._schema_version = kept.schema_version
        if self._has_erased_rows(graph):
            raise ValueError("it holds vectors that were erased")
        return state

    def _digests(self, seqs: Sequence[int]) -> dict[int, str]:
        rows = self._read(self._sql.digests.bind(seqs=json.dumps(seqs)))
        return {seq: digest for seq, digest in rows}  # noqa: C416 - rows are untyped

    def _save(self, *, is_wanted: bool) -> None:
        """Save the index, unless another process has saved a later one. The caller holds `_work`."""
        with self._lock:
            graph, mark = self._graph, self._mark
        if not is_wanted or graph is None or self._sidecar is None:
            return
        self._write(graph, mark, spare=not self._is_rejected)
        self._unsaved, self._is_rejected = 0, False

    def _write(self, graph: Graph, mark: int, *, spare: bool) -> None:
        """Write the file, unless the database is being scrubbed, or the graph holds vectors that a scrub erased."""
        if self._sidecar is None:
            return
        # A scrub deletes the files while it holds the lock: a file written at that time would keep erased vectors.
        with self._indexes.maintenance.shared() as may_write:
            if not may_write:
                return
            if not self._has_erased_rows(graph):
                self._write_now(graph, mark, self._sidecar, spare=spare)
                return
        _log.info("the index file %s is not written: it holds vectors that were erased", self._sidecar.path.name)
        if graph is self._graph:
            self._replace_graph(None, 0)

    def _write_now(self, graph: Graph, mark: int, sidecar: Sidecar, *, spare: bool) -> None:
        there = sidecar.read_header()
        # Another process has saved a state that is at least as new.
        if spare and there and there.model == self._space.model and there.mark >= mark:
            return
        # Rows from all of the table tell another database; the last ones tell a copy that went its own way.
        numbers = graph.numbers()
        step = max(1, len(numbers) // _FINGERPRINTS)
        chosen: dict[int, Any] = self._digests(sorted({*numbers[::step], *numbers[-_FINGERPRINTS:]}))
        self._generation = max(self._generation, there.generation if there else 0) + 1
        found = graph.duplicates, sorted(graph.unreachable), self._schema_version
        kept = IndexHeader(self._space.model, graph.dimension, mark, self._generation, list(chosen.items()), *found)
        try:
            sidecar.write(graph, kept, self._indexes.mode())
        # The index can be built again, so a full disk must not fail the search or the close that saves it.
        except OSError as error:
            _log.warning("the index file %s cannot be written: %s", sidecar.path.name, error)
