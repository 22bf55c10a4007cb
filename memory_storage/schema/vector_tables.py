"""A vector space: the vectors of one model and dimension, their table and DiskANN index. Runs nothing.

Each distinct vector is one row of the table, and `embeddings` says whose it is. A new row is not in the index yet
(`indexed` = 0): a search compares these one by one, and they enter the index in portions. So the index may be behind,
be dropped or be rebuilt at any time: no search loses anything by it.

Names in the schema are made of the space's token, a digest in hexadecimal: no text of a caller is part of any SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from memory_storage.models.embedding import EXACT_SCAN_MAX as EXACT_SCAN_MAX

from .ddl import CreateTrigger, CreateVectorIndex
from .vectors import MAX_DIMENSION


@dataclass(frozen=True)
class Preset:
    """Settings of a DiskANN index. What they give and cost is measured by `python -m benchmarks retrieval`.

    `neighbors` is how many edges a node has, `compress` how the vectors in them are stored, `insert` and `search` how
    many candidates are kept while a vector is put in and looked for; `search` is that of an index of 20,000 vectors.
    """

    name: str
    compress: str
    neighbors: int
    insert: int
    search: int

    def search_among(self, vectors: int) -> int:
        """How many candidates to keep among so many vectors: more among more, or recall would fall."""
        grown = self.search * math.pow(vectors / 20_000, 0.4)
        return round(min(max(grown, 0.75 * self.search), 4 * self.search))


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("compact", compress="float1bit", neighbors=64, insert=64, search=136),
        Preset("balanced", compress="float8", neighbors=28, insert=64, search=128),
        Preset("accurate", compress="float8", neighbors=40, insert=96, search=136),
    )
}

_SEARCH_L = 9
_ALPHA = 1.1  # with the engine's own, 1.2, a search has to keep a third more candidates for the same recall


@dataclass(frozen=True)
class VectorSpace:
    """The vectors of one model and dimension.

    The first dimension that any namespace stores by a model has no `variant`. Namespaces that use the name of the model
    for another dimension share a space of their own, whose `variant` is that dimension.
    """

    model: str
    variant: int | None = None

    @classmethod
    def of(cls, token: str, model: str, dimension: int) -> VectorSpace:
        """The space of a row of `vector_models`."""
        first = cls(model)
        return first if first.token == token else cls(model, dimension)

    @cached_property
    def token(self) -> str:
        """The digest that its names in the schema have in common; its key in `vector_models`."""
        # No model's name contains NUL, so a variant's name is no other model's.
        name = self.model if self.variant is None else f"{self.model}\0{self.variant}"
        return blake2b(name.encode(), digest_size=8).hexdigest()

    @property
    def table(self) -> str:
        """The table's name."""
        return f"vectors_{self.token}"

    @property
    def index(self) -> str:
        """The name of its DiskANN index."""
        return f"{self.table}_ann"

    def create(self, dimension: int, preset: Preset) -> Iterator[str]:
        """DDL for the table, its indexes, and its triggers."""
        table = self.table
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"no such dimension: {dimension}")
        yield f"""CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    indexed INTEGER NOT NULL DEFAULT 0,
    digest BLOB NOT NULL UNIQUE,
    vector F32_BLOB({dimension}) NOT NULL,
    CONSTRAINT dimension CHECK (length(vector) = {4 * dimension})
)"""
        yield f"CREATE INDEX {table}_tail ON {table} (seq) WHERE indexed = 0"
        yield self.create_index(preset)
        yield from map(str, self.triggers())

    def triggers(self) -> Iterator[CreateTrigger]:
        """The triggers that count the rows of the table, and delete vectors that no embedding leads to."""
        table, token = self.table, self.token
        counts, one = "UPDATE vector_models SET", f"WHERE token = '{token}'"
        deleted = "vectors = vectors - 1, indexed = indexed - OLD.indexed, removed = removed + OLD.indexed"
        free = f"""DELETE FROM {table} WHERE seq = OLD.vector_seq AND NOT EXISTS (
        SELECT 1 FROM embeddings WHERE model = OLD.model AND vector_seq = OLD.vector_seq AND space = OLD.space)"""
        yield CreateTrigger(
            f"{table}_insert",
            f"AFTER INSERT ON {table}",
            [f"{counts} vectors = vectors + 1, indexed = indexed + NEW.indexed {one}"],
        )
        yield CreateTrigger(
            f"{table}_update",
            f"AFTER UPDATE OF indexed ON {table}",
            [f"{counts} indexed = indexed + NEW.indexed - OLD.indexed {one}"],
        )
        yield CreateTrigger(f"{table}_delete", f"AFTER DELETE ON {table}", [f"{counts} {deleted} {one}"])
        yield CreateTrigger(f"{table}_free", "AFTER DELETE ON embeddings", [free], when=f"OLD.space = '{token}'")
        yield CreateTrigger(
            f"{table}_swap",
            "AFTER UPDATE OF vector_seq ON embeddings",
            [free],
            when=f"OLD.space = '{token}' AND OLD.vector_seq IS NOT NEW.vector_seq",
        )

    def create_index(self, preset: Preset) -> str:
        """DDL for the index, which is empty as long as no row is `indexed`."""
        index = CreateVectorIndex(
            self.index,
            self.table,
            "vector",
            compress=preset.compress,
            neighbors=preset.neighbors,
            insert=preset.insert,
            search=preset.search,
            alpha=_ALPHA,
        )
        return f"{index} WHERE indexed = 1"

    def empty_index(self, preset: Preset) -> Iterator[str]:
        """Statements that put an empty index in place of the one there is, however damaged that may be."""
        yield from self.drop_index()
        yield self.create_index(preset)

    def drop_index(self) -> Iterator[str]:
        """Statements that take the index away. Searches do without it."""
        yield f"DROP INDEX IF EXISTS {self.index}"
        yield f"DROP TABLE IF EXISTS {self.index}_shadow"  # what may be left of it would be taken for the new one's
        yield f"DELETE FROM libsql_vector_meta_shadow WHERE name = '{self.index}'"
        yield f"UPDATE {self.table} SET indexed = 0 WHERE indexed = 1"

    def drop(self) -> Iterator[str]:
        """DDL that undoes `create`. The index goes first, with its shadow."""
        yield f"DROP INDEX IF EXISTS {self.index}"
        yield f"DROP TRIGGER {self.table}_free"
        yield f"DROP TRIGGER {self.table}_swap"
        yield f"DROP TABLE {self.table}"


def digest(packed: bytes) -> bytes:
    """What identifies a vector among those of a model."""
    return blake2b(packed, digest_size=16).digest()


def patch_search_l(metadata: bytes, search: int) -> bytes:
    """An index's metadata, but for how many candidates a search keeps; unchanged if they look otherwise than expected.

    They are entries of nine bytes: a key, and a little-endian value (libsql, vectorIndex.c, "VectorIdxParams").
    """
    for at in range(0, len(metadata) - 8, 9):
        if metadata[at] == _SEARCH_L:
            return metadata[: at + 1] + search.to_bytes(8, "little") + metadata[at + 9 :]
    return metadata
