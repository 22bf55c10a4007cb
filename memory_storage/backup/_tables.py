"""What a database consists of, and its rows in a fixed order, as the engine has them. Writes nothing.

A text is read as bytes: one with a NUL, or one that is no UTF-8, would else be cut, or not be read at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Connection

Row = tuple[Any, ...]

MANIFEST = "backup_manifest"
_PAGE = 500
_ENGINES_OWN = "libsql_vector_meta_shadow"

_TABLES = """SELECT m.name, m.sql, t.wr FROM sqlite_master AS m JOIN pragma_table_list AS t ON t.name = m.name
WHERE m.type = 'table' AND t.schema = 'main' AND t.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY m.name"""
_OTHERS = """SELECT type, name, sql, tbl_name FROM sqlite_master
WHERE sql IS NOT NULL AND (type IN ('index', 'view', 'trigger')
    OR (type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%')) ORDER BY rowid"""


@dataclass(frozen=True)
class Column:
    """A column: its name, its declared type, and its place in the primary key, from 1; 0 if it is no part of it."""

    name: str
    kind: str
    key: int

    @property
    def read(self) -> str:
        """SQL that reads it."""
        return f"CAST({quoted(self.name)} AS BLOB)" if self.kind == "TEXT" else quoted(self.name)

    @property
    def written(self) -> str:
        """SQL that takes what `read` gave."""
        return "CAST(? AS TEXT)" if self.kind == "TEXT" else "?"


@dataclass(frozen=True)
class Table:
    """A table of somebody's rows."""

    name: str
    sql: str
    has_rowid: bool
    columns: tuple[Column, ...]

    @property
    def holds_vectors(self) -> bool:
        """Whether it is the vectors of a model, whose index is left empty."""
        return self.name.startswith("vectors_") and {"indexed", "digest", "vector"} <= {c.name for c in self.columns}

    @cached_property
    def insert(self) -> str:
        """SQL that puts in a row as it was read."""
        names = ", ".join(quoted(column.name) for column in self.columns)
        values = ", ".join(column.written for column in self.columns)
        return f"INSERT INTO {quoted(self.name)} ({names}) VALUES ({values})"

    def pages(self, connection: Connection) -> Iterator[list[Row]]:
        """Its rows in the order of their key, in pages."""
        keys = ["rowid"] if self.has_rowid else [quoted(column.name) for column in self._key]
        read = ", ".join([*self._key_as_read, *map(self._as_read, self.columns)])
        order = ", ".join(keys)
        after: Sequence[Any] = ()
        while True:
            where = f"WHERE ({order}) > ({', '.join(self._marks)})" if after else ""
            sql = f"SELECT {read} FROM {quoted(self.name)} {where} ORDER BY {order} LIMIT {_PAGE}"
            rows = [tuple(row) for row in connection.exec_driver_sql(sql, tuple(after))]
            if rows:
                yield [row[len(keys) :] for row in rows]
            if len(rows) < _PAGE:
                return
            after = rows[-1][: len(keys)]

    @property
    def _key(self) -> list[Column]:
        return sorted((column for column in self.columns if column.key), key=lambda column: column.key)

    @property
    def _key_as_read(self) -> list[str]:
        return ["rowid"] if self.has_rowid else [column.read for column in self._key]

    @property
    def _marks(self) -> list[str]:
        return ["?"] if self.has_rowid else [column.written for column in self._key]

    def _as_read(self, column: Column) -> str:
        counts_index = self.name == "vector_models" and column.name in {"indexed", "removed"}
        return "0" if counts_index or (self.holds_vectors and column.name == "indexed") else column.read


@dataclass(frozen=True)
class Layout:
    """All of a database: tables of rows, and what is made from them."""

    tables: list[Table]
    others: list[tuple[str, str, str]]
    sequences: list[Row]

    @property
    def full_text(self) -> list[str]:
        """The full-text tables whose content is another table's."""
        return [name for kind, name, sql in self.others if kind == "table" and "fts5" in sql and "content=" in sql]

    @property
    def copied(self) -> list[str]:
        """The other virtual tables, whose rows are to be copied."""
        virtual = [name for kind, name, _ in self.others if kind == "table"]
        return [name for name in virtual if name not in self.full_text]

    def made(self, kind: str) -> list[str]:
        """The statements that make what is of that kind: index, view, table (a virtual one) or trigger."""
        return [sql for found, _, sql in self.others if found == kind]


def layout(connection: Connection) -> Layout:
    """What a database consists of."""
    listed = connection.exec_driver_sql(_OTHERS).all()
    vector_tables = {f"{name}_shadow" for _, name, sql, _ in listed if "libsql_vector_idx" in sql}
    left_out = vector_tables | {_ENGINES_OWN, MANIFEST}
    others = [(kind, name, sql) for kind, name, sql, table in listed if table not in left_out]
    found = [row for row in connection.exec_driver_sql(_TABLES) if row[0] not in left_out]
    tables = [Table(name, sql, not without, _columns(connection, name)) for name, sql, without in found]
    counted = any("AUTOINCREMENT" in table.sql.upper() for table in tables)
    names = "SELECT name, seq FROM sqlite_sequence ORDER BY name"
    sequences = [tuple(row) for row in connection.exec_driver_sql(names)] if counted else []
    return Layout(tables, others, sequences)


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _columns(connection: Connection, table: str) -> tuple[Column, ...]:
    sql = "SELECT name, upper(type), pk FROM pragma_table_info(?)"
    return tuple(Column(*row) for row in connection.exec_driver_sql(sql, (table,)))
