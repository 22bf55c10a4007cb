"""DDL that SQLAlchemy Core lacks: vectors and their index, FTS5, R*Tree, views, triggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.types import UserDefinedType

from .vectors import pack_vector, unpack_vector


class F32Blob(UserDefinedType[Sequence[float]]):
    """A vector of `dimension` 32-bit floats, stored as little-endian bytes."""

    cache_ok = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def get_col_spec(self, **_: Any) -> str:
        """Return the type in DDL, like `F32_BLOB(384)`."""
        return f"F32_BLOB({self.dimension})"

    def bind_processor(self, dialect: Any) -> Callable[[Any], bytes | None]:  # noqa: ARG002
        """Return the conversion of floats to bytes."""
        return lambda value: None if value is None else pack_vector(value)

    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], list[float] | None]:  # noqa: ARG002
        """Return the conversion of bytes to floats."""
        return lambda value: None if value is None else unpack_vector(value)


class _Statement(ExecutableDDLElement):
    """DDL whose SQL is its `str`."""


@compiles(_Statement)
def _text_of(statement: _Statement, compiler: Any, **_: Any) -> str:  # noqa: ARG001
    return str(statement)


@dataclass(eq=False)
class CreateVectorIndex(_Statement):
    """A DiskANN index. Create it in a transaction: a failure outside of one leaves an empty index.

    `neighbors` and `search` trade recall for bytes and time; a node takes about `neighbors` compressed vectors. The
    smaller `alpha` (from 1; the engine's default is 1.2), the fewer edges of a node are pruned.
    """

    name: str
    table: str
    column: str
    metric: str = "cosine"
    compress: str = "float8"  # without compression an updated row is still found by its old vector
    neighbors: int = 24
    insert: int = 64
    search: int = 128
    alpha: float | None = None

    def __str__(self) -> str:
        settings = (
            f"'metric={self.metric}', 'compress_neighbors={self.compress}', 'max_neighbors={self.neighbors}', "
            f"'insert_l={self.insert}', 'search_l={self.search}'" + (f", 'alpha={self.alpha}'" if self.alpha else "")
        )
        return f"CREATE INDEX {self.name} ON {self.table} (libsql_vector_idx({self.column}, {settings}))"


@dataclass(eq=False)
class CreateFullText(_Statement):
    """An FTS5 table over the rows of `content`, whose key is `rowid`. Triggers have to update it."""

    name: str
    columns: Sequence[str]
    content: str
    rowid: str
    tokenize: str = "porter unicode61 remove_diacritics 2"

    def __str__(self) -> str:
        return (
            f"CREATE VIRTUAL TABLE {self.name} USING fts5({', '.join(self.columns)}, "
            f"content='{self.content}', content_rowid='{self.rowid}', tokenize='{self.tokenize}')"
        )


@dataclass(eq=False)
class CreateRTree(_Statement):
    """An R*Tree: `key`, then a lower and an upper bound for each dimension, as 32-bit floats, rounded outwards."""

    name: str
    key: str
    bounds: Sequence[str]

    def __str__(self) -> str:
        return f"CREATE VIRTUAL TABLE {self.name} USING rtree({', '.join([self.key, *self.bounds])})"


@dataclass(eq=False)
class CreateView(_Statement):
    """A view."""

    name: str
    select: str

    def __str__(self) -> str:
        return f"CREATE VIEW {self.name} AS {self.select}"


@dataclass(eq=False)
class CreateTrigger(_Statement):
    """A row trigger: `event` like "AFTER INSERT ON episodes", `body` one or more statements."""

    name: str
    event: str
    body: Sequence[str]
    when: str = ""

    def __str__(self) -> str:
        condition = f" WHEN {self.when}" if self.when else ""
        return f"CREATE TRIGGER {self.name} {self.event}{condition} BEGIN {'; '.join(self.body)}; END"
