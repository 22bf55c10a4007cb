"""libSQL's driver for Python, with two plain tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libsql

from ._raw_tables import RawTables
from ._store import Array, K, VectorStore


class LibSQL(RawTables):
    """One connection of libSQL's driver."""

    def connect(self, path: Path) -> Any:
        return libsql.connect(str(path), isolation_level=None)


class LibSQLVectors(VectorStore):
    """A table with a column of vectors, without an index."""

    method = "exact"

    def __init__(self, directory: Path, vectors: Array) -> None:
        self._connection: Any = libsql.connect(str(directory / "raw.db"), isolation_level=None)
        self._connection.execute(f"CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector F32_BLOB({vectors.shape[1]}))")
        self._connection.execute("BEGIN")
        rows = [(number, vector.tobytes()) for number, vector in enumerate(vectors)]
        self._connection.executemany("INSERT INTO vectors VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def similar(self, query: Array) -> list[int]:
        nearest = f"SELECT id FROM vectors ORDER BY vector_distance_cos(vector, ?) LIMIT {K}"
        return [key for (key,) in self._connection.execute(nearest, (query.tobytes(),)).fetchall()]

    def close(self) -> None:
        self._connection.close()


open_store = LibSQL
open_vectors = LibSQLVectors
