"""Vector spaces: the table of the vectors of one model and dimension, and its optional DiskANN index, as DDL.

Each distinct vector is one row of the table, and `embeddings` says which owners have it. Only a database that is opened
with `vector_index="diskann"` has DiskANN indexes: they bind it to libSQL. A new row is not in the index yet
(`indexed` = 0): a search compares these rows exactly, and they enter the index in batches. So the index may lag, be
dropped or be rebuilt at any time without a search missing a vector.

Names in the schema contain the space's token, a digest in hexadecimal: no string of a caller is part of any SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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

METADATA_TABLE = "libsql_vector_meta_shadow"
"""The engine's table of the parameters of DiskANN indexes."""

DISKANN_INDEXES = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'"
"""SELECT of the names of the DiskANN indexes of a database."""

FILLED_DISKANN = f"SELECT 1 FROM vector_models WHERE indexed > 0 AND EXISTS ({DISKANN_INDEXES}) LIMIT 1"
"""SELECT of a row if a database has a DiskANN index with vectors."""

FORMER_INDEXES = tuple(f"ix_embeddings_vector_{dimension}" for dimension in (384, 768, 1024, 1536, 3072))
"""The DiskANN indexes of revisions 0001 and 0002. SQLite leaves their shadow tables when it drops them."""

# As libSQL itself creates it (vectorIndex.c).
_CREATE_METADATA = f"CREATE TABLE IF NOT EXISTS {METADATA_TABLE} ( name TEXT PRIMARY KEY, metadata BLOB ) WITHOUT ROWID"
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

    def create(self, dimension: int) -> Iterator[str]:
        """Yield the DDL of the table, its tail index and its triggers. `create_index` is the DiskANN index."""
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
        """Return the DDL of the DiskANN index, which has the rows that are `indexed`."""
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
        yield _CREATE_METADATA  # as the engine does; a database that never had an index has no such table
        yield from _drop_index(self.index)
        yield f"DELETE FROM {METADATA_TABLE} WHERE name = '{self.index}'"
        yield self.mark_pending()
        yield self.create_index(preset)

    def mark_pending(self) -> str:
        """Return SQL that marks all vectors as not indexed. Run it after the index is dropped."""
        # SQLite would evaluate libsql_vector_idx(), which it does not have, for each updated row of an index.
        return f"UPDATE {self.table} SET indexed = 0 WHERE indexed = 1"

    def drop(self) -> Iterator[str]:
        """Yield the DDL that undoes `create`. The index first: its shadow table goes with it."""
        yield f"DROP INDEX IF EXISTS {self.index}"
        yield f"DROP TRIGGER {self.table}_free"
        yield f"DROP TRIGGER {self.table}_swap"
        yield f"DROP TABLE {self.table}"


def drop_diskann(spaces: Iterable[VectorSpace], kept: Iterable[str] = ()) -> Iterator[str]:
    """Yield statements that drop the DiskANN indexes of these spaces, and those of revisions 0001 and 0002.

    Both engines can run them, SQLite also without a function libsql_vector_idx(). If no index is kept, the file is a
    plain SQLite file afterwards. Run `mark_pending` of each space after them.

    Args:
        spaces: Vector spaces, with or without an index.
        kept: The names of the DiskANN indexes that stay, with the engine's metadata of them.
    """
    for name in (*(space.index for space in spaces), *FORMER_INDEXES):
        yield from _drop_index(name)
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in kept)
    # All other rows, by a scan: VACUUM leaves rows there out of order, which cannot be found by key.
    yield (
        f"DELETE FROM {METADATA_TABLE} WHERE name NOT IN ({names})"
        if names
        else f"DROP TABLE IF EXISTS {METADATA_TABLE}"
    )


def _drop_index(name: str) -> Iterator[str]:
    yield f"DROP INDEX IF EXISTS {name}"
    # SQLite leaves it, and a new index of this name would use it. Its own index goes with it.
    yield f"DROP TABLE IF EXISTS {name}_shadow"


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
