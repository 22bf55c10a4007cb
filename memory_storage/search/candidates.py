"""Candidate sources of a vector search: exact scan, DiskANN and HNSW, as SQL, with what each of them costs.

A source yields the rows of a vector table that are likely to be near the query; the statement around it (see
`statement`) compares them exactly and filters them. Rows that a source does not contain yet, its tail, are compared
exactly too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from memory_storage.models.embedding import MAX_REMOVED_RATIO
from memory_storage.schema.vector_tables import EXACT_SCAN_MAX, PRESETS, VectorSpace

VECTOR = "(SELECT vector FROM query)"


@dataclass(frozen=True)
class Cost:
    """Bytes that a source takes for each vector, besides its row: on disk, and in this process while it is loaded."""

    disk: int
    memory: int


class Source(Protocol):
    """A source of candidates."""

    @property
    def plan(self) -> str:
        """The name of the source in `Hits.plan`."""
        ...

    def candidates(self, space: VectorSpace, depth: str) -> str:
        """Return SELECTs of (seq, known): up to `depth` likely neighbors with known = 1, and the tail with 0.

        Args:
            space: The vector table.
            depth: SQL for the number of candidates.
        """
        ...

    def is_fresh(self, space: VectorSpace) -> str:
        """Return SQL, on the model's row of `vector_models`, for whether the source contains most vectors."""
        ...

    @property
    def max_candidates_sql(self) -> str:
        """SQL for the number of candidates that the source can return."""
        ...

    @property
    def oversampling(self) -> float:
        """Candidates compared for each requested row, where nearly all rows pass the filters."""
        ...

    @property
    def max_candidates(self) -> int:
        """The most candidates that the source returns."""
        ...

    @property
    def sample_size(self) -> int:
        """Vectors sampled to estimate how many pass the filters."""
        ...

    @property
    def max_k(self) -> int:
        """The largest number of requested rows; above it, all vectors are compared."""
        ...

    def cost(self, dimension: int, preset: str) -> Cost:
        """Return the cost of a vector of this dimension."""
        ...


@dataclass(frozen=True)
class Exact:
    """No index: all vectors whose rows pass the filters are compared."""

    plan: str = "exact"
    max_candidates_sql: str = "0"
    oversampling: float = 0
    sample_size: int = 1
    max_candidates: int = 0
    max_k: int = 0

    def candidates(self, space: VectorSpace, depth: str) -> str:  # noqa: ARG002 - there are none
        """Return SQL without rows."""
        return "SELECT 0, 0 FROM strategy WHERE false"

    def is_fresh(self, space: VectorSpace) -> str:  # noqa: ARG002
        """Return SQL for false."""
        return "false"

    def cost(self, dimension: int, preset: str) -> Cost:  # noqa: ARG002
        """Return a cost of zero."""
        return Cost(0, 0)


@dataclass(frozen=True)
class DiskANN:
    """The engine's DiskANN index, in the database."""

    plan: str = "index"
    max_candidates_sql: str = "100"
    oversampling: float = 2
    sample_size: int = 40
    max_candidates: int = 1_000  # the engine overflows on far larger values
    max_k: int = 40  # its candidate list is short

    def candidates(self, space: VectorSpace, depth: str) -> str:
        """Return the index's candidates, and the rows that are not indexed yet."""
        # `strategy` is the outer loop: if it is 'exact', the index is not asked. The depth is never 0, with which
        # vector_top_k() corrupts the memory of the engine, also of a server. INDEXED BY finds the pending rows without
        # reading the others, each as long as its vector.
        return f"""
    SELECT t.id, 1 FROM strategy CROSS JOIN vector_top_k('{space.index}', {VECTOR}, {depth}) AS t
    WHERE strategy.strategy = 'index'
    UNION ALL
    SELECT v.seq, 0 FROM strategy CROSS JOIN {space.table} AS v INDEXED BY {space.table}_tail
    WHERE strategy.strategy = 'index' AND v.indexed = 0"""

    def is_fresh(self, space: VectorSpace) -> str:  # noqa: ARG002 - its counters are in the row
        """Return SQL for whether more than half of the vectors are indexed, and few indexed ones were removed."""
        return f"indexed > vectors / 2 AND removed <= {MAX_REMOVED_RATIO} * indexed"

    def cost(self, dimension: int, preset: str) -> Cost:
        """Return the size of a node: its vector, and an edge with a compressed vector for each neighbor.

        Source: libsql, vectordiskann.c.
        """
        chosen = PRESETS[preset]
        edge = 16 + (dimension // 8 + 1 if chosen.compress == "float1bit" else dimension + 8)
        return Cost(4 * dimension + 16 + chosen.neighbors * edge, 0)


@dataclass(frozen=True)
class Hnsw:
    """An in-process HNSW index: `:neighbors` are its candidates, nearest first, `:mark` the last row it contains."""

    plan: str = "hnsw"
    max_candidates_sql: str = ":candidate_count"
    oversampling: float = 1.6  # vectors are quantized to 8 bits: its nearest 14 hold 0.995 of the true nearest ten
    max_candidates: int = 1_500
    sample_size: int = 80  # a wasted index query costs about ten times a wasted sample
    max_k: int = 250

    def candidates(self, space: VectorSpace, depth: str) -> str:
        """Return the bound neighbors, and the rows after the mark. Deleted rows drop out of the join."""
        return f"""
    SELECT neighbor.value, 1 FROM strategy CROSS JOIN json_each(:neighbors) AS neighbor
    WHERE strategy.strategy = 'index' AND neighbor.key < {depth}
    UNION ALL
    SELECT v.seq, 0 FROM strategy CROSS JOIN {space.table} AS v WHERE strategy.strategy = 'index' AND v.seq > :mark"""

    def is_fresh(self, space: VectorSpace) -> str:
        """Return SQL for whether the tail is short."""
        return f"{last_seq(space)} - :mark <= max({EXACT_SCAN_MAX}, vectors / 4)"

    def cost(self, dimension: int, preset: str) -> Cost:  # noqa: ARG002 - it has one setting
        """Return 8 bits for each number and two neighbor lists; in memory, arrays have spare capacity."""
        return Cost(dimension + GRAPH_BYTES, 2 * (dimension + GRAPH_BYTES))


GRAPH_BYTES = 220
"""Bytes of a node without its vector, measured at connectivity 24."""

EXACT, DISKANN, HNSW = Exact(), DiskANN(), Hnsw()
SOURCES: dict[str, Source] = {"exact": EXACT, "diskann": DISKANN, "hnsw": HNSW}


# Any row tells: a write checks that all vectors of a namespace and model are in one space (see `vector_sql.ADMIT`).
OWN_SPACE = "(SELECT space FROM embeddings WHERE namespace = :namespace AND model = :model LIMIT 1)"
"""SQL for the token of the vector space of a namespace and model; NULL if the namespace has no such vectors."""


def last_seq(space: VectorSpace) -> str:
    """Return SQL for the highest row number ever assigned in a vector table. Numbers are never reused."""
    # max(seq) of the table would fall when its last row is deleted.
    return f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{space.table}'), 0)"
