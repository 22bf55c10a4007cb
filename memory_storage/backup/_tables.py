"""The layout of a database, and its rows in a fixed order, unconverted.

TEXT is read as bytes: the driver would cut a string at a NUL, and cannot read one that is not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Connection

from memory_storage.schema.vector_tables import METADATA_TABLE

Row = tuple[Any, ...]

MANIFEST = "backup_manifest"
_PAGE = 500
_PAGE_BYTES = 4_000_000
_RANGE = 2_000  # rows of an INSERT into a full-text index, which merges what each of them adds
_VALUES = 500  # bound by one INSERT; the local engine does not keep a prepared statement of more than 16 KB
_LAST_FROM = re.compile(r"\bFROM\s+(\w+)\s*$")  # of a view without conditions

_TABLES = """SELECT m.name, m.sql, t.wr FROM sqlite_master AS m JOIN pragma_table_list AS t ON t.name = m.name
WHERE m.type = 'table' AND t.schema = 'main' AND t.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY m.name"""
_OTHERS = """SELECT type, name, sql, tbl_name FROM sqlite_master
WHERE sql IS NOT NULL AND (type IN ('index', 'view', 'trigger')
    OR (type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%')) ORDER BY rowid"""


class Page(NamedTuple):
    """Consecutive rows of a table. None of them is larger than `largest` bytes."""

    rows: list[Row]
    largest: int


@dataclass(frozen=True)
class Column:
    """A column: its name, declared type, and position in the primary key, from 1; 0 if it is not part of the key."""

    name: str
    kind: str
    key: int

    @property
    def read_sql(self) -> str:
        """The SQL expression that reads the column."""
        return f"CAST({quoted(self.name)} AS BLOB)" if self.kind == "TEXT" else quoted(self.name)

    @property
    def write_sql(self) -> str:
        """The SQL expression that binds a value read by `read_sql`."""
        return "CAST(? AS TEXT)" if self.kind == "TEXT" else "?"


@dataclass(frozen=True)
class Table:
    """A table of user data."""

    name: str
    sql: str
    has_rowid: bool
    columns: tuple[Column, ...]

    @property
    def has_vectors(self) -> bool:
        """Whether this is the vector table of a model, whose index is left empty."""
        return self.name.startswith("vectors_") and {"indexed", "digest", "vector"} <= {c.name for c in self.columns}

    @cached_property
    def insert(self) -> str:
        """The INSERT statement for a row as it was read."""
        return self._insert(1)

    @cached_property
    def insert_many(self) -> str:
        """The INSERT statement for `rows_per_insert` rows as they were read."""
        return self._insert(self.rows_per_insert)

    @property
    def rows_per_insert(self) -> int:
        """The number of rows that `insert_many` takes."""
        return max(1, _VALUES // len(self.columns))

    def _insert(self, rows: int) -> str:
        names = ", ".join(quoted(column.name) for column in self.columns)
        values = ", ".join(column.write_sql for column in self.columns)
        return f"INSERT INTO {quoted(self.name)} ({names}) VALUES {', '.join([f'({values})'] * rows)}"

    @property
    def rowid_column(self) -> str:
        """The column that is an alias of the rowid; "" if there is none."""
        key = self._key
        return key[0].name if self.has_rowid and len(key) == 1 and key[0].kind == "INTEGER" else ""

    def pages(self, connection: Connection) -> Iterator[Page]:
        """Iterate over the rows in the order of their key, in pages limited by rows and bytes.

        A page has at most 500 rows and 4 MB, or one row that is larger. The iterator keeps no reference to a page that
        it has yielded, so that the caller can release it before the next one is read.
        """
        read = ", ".join([*self._key_read_sql, *map(self._read_sql, self.columns), "(SELECT max(bytes) FROM sized)"])
        width, after = len(self._key_read_sql), ()
        was_large = False
        while True:
            if was_large and not connection.engine.url.host:  # the cache is full of rows that are not read again
                connection.exec_driver_sql("PRAGMA shrink_memory")
            sql = self._page(read, continues=bool(after))
            rows = connection.exec_driver_sql(sql, (*after, *after)).all()
            if not rows:
                return
            was_large = len(rows) < _PAGE
            after = rows[-1][:width]
            page = [Page([row[width:-1] for row in rows], rows[-1][-1])]
            del rows
            yield page.pop()

    def rowid_ranges(self, connection: Connection) -> Iterator[tuple[int, int]]:
        """Iterate over the first and the last rowid of ranges of at most 2,000 rows and 4 MB, or one larger row."""
        after: tuple[int, ...] = ()
        while seqs := connection.exec_driver_sql(
            self._page("rowid", continues=bool(after), rows=_RANGE), (*after, *after)
        ).all():
            after = (seqs[-1][0],)
            yield seqs[0][0], seqs[-1][0]

    def _page(self, read: str, *, continues: bool, rows: int = _PAGE) -> str:
        """Return SQL for the next page. With `continues` it takes the last key, twice."""
        keys = ["rowid"] if self.has_rowid else [quoted(column.name) for column in self._key]
        order, marks = ", ".join(keys), ", ".join(self._key_parameters)
        size = " + ".join(f"coalesce(octet_length({quoted(column.name)}), 0)" for column in self.columns)
        listed = ", ".join(f"{key} AS key_{number}" for number, key in enumerate(keys))
        listed_order = ", ".join(f"key_{number}" for number in range(len(keys)))
        following = quoted(self.name) + (f" WHERE ({order}) > ({marks})" if continues else "")
        # The sizes are computed first, from the row headers: a sum over the rows themselves would copy their values.
        return f"""WITH sized AS MATERIALIZED (
    SELECT {listed}, {size} AS bytes FROM {following} ORDER BY {order} LIMIT {rows}),
summed AS (SELECT sum(bytes) OVER (ORDER BY {listed_order} ROWS UNBOUNDED PRECEDING) AS total FROM sized)
SELECT {read} FROM {following} ORDER BY {order}
LIMIT (SELECT max(1, count(*)) FROM summed WHERE total <= {_PAGE_BYTES})"""

    @property
    def _key(self) -> list[Column]:
        return sorted((column for column in self.columns if column.key), key=lambda column: column.key)

    @property
    def _key_read_sql(self) -> list[str]:
        return ["rowid"] if self.has_rowid else [column.read_sql for column in self._key]

    @property
    def _key_parameters(self) -> list[str]:
        return ["?"] if self.has_rowid else [f"+{column.write_sql}" for column in self._key]

    def _read_sql(self, column: Column) -> str:
        counts_index = self.name == "vector_models" and column.name in {"indexed", "removed"}
        return "0" if counts_index or (self.has_vectors and column.name == "indexed") else column.read_sql


@dataclass(frozen=True)
class FullText:
    """A full-text index over a view. `table` is the table that the view selects from; None if that is unknown."""

    name: str
    view: str
    table: Table | None

    def fill(self, connection: Connection) -> None:
        """Fill the empty index, with one statement per page of rows.

        Each row's JSON is parsed, and the engine keeps the last four parsed documents until the statement ends, which
        takes too much memory for large rows in a single statement.
        """
        name = quoted(self.name)
        if self.table is None:
            connection.exec_driver_sql(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")
            return
        columns = connection.exec_driver_sql("SELECT name FROM pragma_table_info(?)", (self.name,)).scalars()
        texts, key = ", ".join(map(quoted, columns)), quoted(self.table.rowid_column)
        index = f"""INSERT INTO {name} (rowid, {texts})
            SELECT {key}, {texts} FROM {quoted(self.view)} WHERE {key} BETWEEN ? AND ?"""
        for span in self.table.rowid_ranges(connection):
            connection.exec_driver_sql(index, span)


@dataclass(frozen=True)
class Layout:
    """A database: its tables, the SQL of its other objects, and its AUTOINCREMENT sequences."""

    tables: list[Table]
    definitions: list[tuple[str, str, str]]
    sequences: list[Row]

    @property
    def full_text(self) -> list[FullText]:
        """The full-text indexes with external content."""
        tables = [(name, sql) for kind, name, sql in self.definitions if kind == "table"]
        return [self._full_text(name, sql) for name, sql in tables if "fts5" in sql and "content=" in sql]

    def _full_text(self, name: str, sql: str) -> FullText:
        content, key = (_option(option, sql) for option in ("content", "content_rowid"))
        views = {view: of for kind, view, of in self.definitions if kind == "view"}
        source = _LAST_FROM.search(views.get(content, ""))
        found = [table for table in self.tables if source and table.name == source.group(1)]
        return FullText(name, content, found[0] if found and found[0].rowid_column == key else None)

    @property
    def virtual_tables(self) -> list[str]:
        """The other virtual tables, whose rows have to be copied."""
        virtual = [name for kind, name, _ in self.definitions if kind == "table"]
        full_text = {index.name for index in self.full_text}
        return [name for name in virtual if name not in full_text]

    def statements(self, kind: str) -> list[str]:
        """Return the CREATE statements of a kind: "index", "view", "table" (a virtual one) or "trigger"."""
        return [sql for found, _, sql in self.definitions if found == kind]


def layout(connection: Connection) -> Layout:
    """Read the layout of a database, without DiskANN indexes and the manifest.

    A storage with `vector_index="diskann"` creates the indexes again: the copy opens in either engine.
    """
    listed = connection.exec_driver_sql(_OTHERS).all()
    diskann = {name for kind, name, sql, _ in listed if kind == "index" and "libsql_vector_idx" in sql}
    left_out = {f"{name}_shadow" for name in diskann} | {METADATA_TABLE, MANIFEST}
    definitions = [
        (kind, name, sql) for kind, name, sql, table in listed if table not in left_out and name not in diskann
    ]
    found = [row for row in connection.exec_driver_sql(_TABLES) if row[0] not in left_out]
    tables = [Table(name, sql, not without, _columns(connection, name)) for name, sql, without in found]
    counted = any("AUTOINCREMENT" in table.sql.upper() for table in tables)
    names = "SELECT name, seq FROM sqlite_sequence ORDER BY name"
    sequences = [tuple(row) for row in connection.exec_driver_sql(names)] if counted else []
    return Layout(tables, definitions, sequences)


def _option(option: str, sql: str) -> str:
    """Return the value of an option of a full-text table; "" if it is not set."""
    found = re.search(rf"\b{option}='(\w+)'", sql)
    return found.group(1) if found else ""


def quoted(name: str) -> str:
    """Return an SQL identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def _columns(connection: Connection, table: str) -> tuple[Column, ...]:
    sql = "SELECT name, upper(type), pk FROM pragma_table_info(?)"
    return tuple(Column(*row) for row in connection.exec_driver_sql(sql, (table,)))
