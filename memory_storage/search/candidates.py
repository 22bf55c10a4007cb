"""Where the candidates of a search come from: SQL that gives them, and what each source costs. Runs nothing.

A source gives the rows of a model's table that are likely to be near; the statement around it (see `retrieval`)
compares them exactly and filters. What a source does not know of yet is its tail, which is compared one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from memory_storage.models.embedding import WORN
from memory_storage.schema.vector_tables import FEW, PRESETS, Space

VECTOR = "(SELECT vector FROM query)"


@dataclass(frozen=True)
class Cost:
    """What a source takes for each vector, beside its row: bytes on disk, and in this process while it is in use."""

    disk: int
    memory: int


class Source(Protocol):
    """One way to get candidates."""

    @property
    def plan(self) -> str:
        """Its name in `Hits.plan`."""
        ...

    def candidates(self, space: Space, depth: str) -> str:
        """SELECTs of (seq, known): up to `depth` that are likely to be near, with 1, and the tail, with 0."""
        ...

    def is_fresh(self, space: Space) -> str:
        """SQL for whether it has most vectors, in the row of the model."""
        ...

    @property
    def max_candidates_sql(self) -> str:
        """SQL for how many candidates there can be."""
        ...

    @property
    def oversampling(self) -> float:
        """So many candidates are compared for each item that is wanted, where nearly all pass."""
        ...

    @property
    def max_candidates(self) -> int:
        """It never has more candidates."""
        ...

    @property
    def sample_size(self) -> int:
        """So many vectors are drawn to see how many pass the filters."""
        ...

    @property
    def max_k(self) -> int:
        """So many items can be asked of it; for more, all vectors are compared."""
        ...

    def cost(self, dimension: int, preset: str) -> Cost:
        """What it takes for each vector."""
        ...


@dataclass(frozen=True)
class Exact:
    """No index: all vectors for which the filters hold are compared."""

    plan: str = "exact"
    max_candidates_sql: str = "0"
    oversampling: float = 0
    sample_size: int = 1
    max_candidates: int = 0
    max_k: int = 0

    def candidates(self, space: Space, depth: str) -> str:  # noqa: ARG002 - there are none
        """None."""
        return "SELECT 0, 0 FROM strategy WHERE false"

    def is_fresh(self, space: Space) -> str:  # noqa: ARG002
        """Never."""
        return "false"

    def cost(self, dimension: int, preset: str) -> Cost:  # noqa: ARG002
        """Nothing."""
        return Cost(0, 0)


@dataclass(frozen=True)
class DiskANN:
    """The engine's index, in the database."""

    plan: str = "index"
    max_candidates_sql: str = "100"
    oversampling: float = 2
    sample_size: int = 40
    max_candidates: int = 1_000  # to ask for far more would overflow in the engine
    max_k: int = 40  # its list of candidates is short

    def candidates(self, space: Space, depth: str) -> str:
        """Those of the index, and the rows that have not entered it."""
        return f"""
    SELECT t.id, 1 FROM strategy CROSS JOIN vector_top_k('{space.index}', {VECTOR}, {depth}) AS t
    WHERE strategy.strategy = 'index'
    UNION ALL
    SELECT v.seq, 0 FROM strategy CROSS JOIN {space.table} AS v INDEXED BY {space.table}_tail
    WHERE strategy.strategy = 'index' AND v.indexed = 0"""

    def is_fresh(self, space: Space) -> str:  # noqa: ARG002 - its counters are in the row
        """It has more than half, and little was removed from it."""
        return f"indexed > vectors / 2 AND removed <= {WORN} * indexed"

    def cost(self, dimension: int, preset: str) -> Cost:
        """A node has its vector, and an edge with a compressed one for each neighbor (libsql, vectordiskann.c)."""
        chosen = PRESETS[preset]
        edge = 16 + (dimension // 8 + 1 if chosen.compress == "float1bit" else dimension + 8)
        return Cost(4 * dimension + 16 + chosen.neighbors * edge, 0)


@dataclass(frozen=True)
class Hnsw:
    """An index in this process: `near` has its candidates, the nearest first, `mark` the last row it knows of."""

    plan: str = "hnsw"
    max_candidates_sql: str = ":candidate_count"
    oversampling: float = (
        1.6  # its vectors are of 8 bits a number: its nearest 14 have 0.995 of the nearest ten that it knows
    )
    max_candidates: int = 1_500
    sample_size: int = 80  # to ask it in vain takes ten times as long
    max_k: int = 250

    def candidates(self, space: Space, depth: str) -> str:
        """Those that were handed in, and the rows after its mark. Rows that are gone are not joined by anything."""
        return f"""
    SELECT neighbor.value, 1 FROM strategy CROSS JOIN json_each(:neighbors) AS neighbor
    WHERE strategy.strategy = 'index' AND neighbor.key < {depth}
    UNION ALL
    SELECT v.seq, 0 FROM strategy CROSS JOIN {space.table} AS v WHERE strategy.strategy = 'index' AND v.seq > :mark"""

    def is_fresh(self, space: Space) -> str:
        """Its tail is short."""
        return f"{last_seq(space)} - :mark <= max({FEW}, vectors / 4)"

    def cost(self, dimension: int, preset: str) -> Cost:  # noqa: ARG002 - it has one setting
        """8 bits a number, and two lists of neighbors; in memory its arrays have room to grow."""
        return Cost(dimension + GRAPH_BYTES, 2 * (dimension + GRAPH_BYTES))


GRAPH_BYTES = 220
"""So many bytes has a vector's place in a graph of connectivity 24, measured."""

EXACT, DISKANN, HNSW = Exact(), DiskANN(), Hnsw()
SOURCES: dict[str, Source] = {"exact": EXACT, "diskann": DISKANN, "hnsw": HNSW}


OWN_SPACE = "(SELECT space FROM embeddings WHERE namespace = :namespace AND model = :model LIMIT 1)"
"""SQL for the token of the space in which a namespace has its vectors by a model; NULL if it has none."""


def last_seq(space: Space) -> str:
    """SQL for the last number that a row of a model's table was given. It only grows: nothing is given one again."""
    return f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{space.table}'), 0)"
