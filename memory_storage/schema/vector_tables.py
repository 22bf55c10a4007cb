"""Vector spaces: the table and the DiskANN index of the vectors of one model and dimension, as DDL.

Each distinct vector is one row of the table, and `embeddings` says which owners have it. A new row is not in the index
yet (`indexed` = 0): a search compares these rows exactly, and they enter the index in batches. So the index may lag,
be dropped or be rebuilt at any time without a search missing a vector.

Names in the schema contain the space's token, a digest in hexadecimal: no string of a caller is part of any SQL.
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
    """Settings of a DiskANN index. `python -m benchmarks retrieval` measures their recall, size and speed.

    Attributes:
        compress: how the vectors of a node's neighbors are stored.
        neighbors: edges of a node, at most.
        insert: candidates kept while a vector is inserted (`insert_l`).
        search: candidates kept by a search (`search_l`) of 20,000 vectors.
    """

    name: str
    compress: str
    neighbors: int
    insert: int
    search: int

    def search_among(self, vectors: int) -> int:
        """Return `search_l` for this number of vectors. It grows with the number, so that recall does not fall."""
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

    The first dimension that any namespace stores by a model has no `variant`. Namespaces that use the model's name for
    another dimension share another space, whose `variant` is that dimension.
    """

    model: str
    variant: int | None = None

    @classmethod
    def of(cls, token: str, model: str, dimension: int) -> VectorSpace:
        """Return the space of a row of `vector_models`."""
        first = cls(model)
        return first if first.token == token else cls(model, dimension)

    @cached_property
    def token(self) -> str:
        """Digest that the names of the space in the schema contain; the primary key of `vector_models`."""
        # No model's name contains NUL, so a variant's name is no other model's.
        name = self.model if self.variant is None else f"{self.model}\0{self.variant}"
        return blake2b(name.encode(), digest_size=8).hexdigest()

    @property
    def table(self) -> str:
        """Name of the table."""
        return f"vectors_{self.token}"

    @property
    def index(self) -> str:
        """Name of the DiskANN index."""
        return f"{self.table}_ann"

    def create(self, dimension: int, preset: Preset) -> Iterator[str]:
        """Yield the DDL of the table, its indexes and its triggers."""
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
        """Yield the triggers that count the rows of the table, and delete vectors without an embedding."""
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
        """Return the DDL of the index, which has the rows that are `indexed`."""
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
        """Yield statements that replace the index, even a damaged one, by an empty index."""
        yield from self.drop_index()
        yield self.create_index(preset)

    def drop_index(self) -> Iterator[str]:
        """Yield statements that drop the index. Searches then compare all vectors."""
        yield f"DROP INDEX IF EXISTS {self.index}"
        yield f"DROP TABLE IF EXISTS {self.index}_shadow"  # a new index of this name would use a remaining shadow table
        yield f"DELETE FROM libsql_vector_meta_shadow WHERE name = '{self.index}'"
        yield f"UPDATE {self.table} SET indexed = 0 WHERE indexed = 1"

    def drop(self) -> Iterator[str]:
        """Yield the DDL that undoes `create`. The index first: its shadow table goes with it."""
        yield f"DROP INDEX IF EXISTS {self.index}"
        yield f"DROP TRIGGER {self.table}_free"
        yield f"DROP TRIGGER {self.table}_swap"
        yield f"DROP TABLE {self.table}"


def digest(packed: bytes) -> bytes:
    """Return the digest that identifies a packed vector within its space."""
    return blake2b(packed, digest_size=16).digest()


def patch_search_l(metadata: bytes, search: int) -> bytes:
    """Return the metadata of a DiskANN index with another `search_l`; unchanged if they have no such entry.

    An entry is nine bytes: a key, and a little-endian value (libsql, vectorIndex.c, "VectorIdxParams").

    Args:
        metadata: as `libsql_vector_meta_shadow` has them.
        search: candidates that a search keeps.
    """
    for at in range(0, len(metadata) - 8, 9):
        if metadata[at] == _SEARCH_L:
            return metadata[: at + 1] + search.to_bytes(8, "little") + metadata[at + 9 :]
    return metadata
