"""Reflects a server's schema with one query, instead of one for each table and pragma."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine.reflection import Inspector

_INSPECTOR = "libsql_inspector"
_CATALOGUE = "libsql_catalogue"
_VIRTUAL = "create virtual"
_PLAIN = f"m.type = 'table' AND m.sql NOT LIKE '{_VIRTUAL}%'"  # pragmas about virtual tables may fail

# Each row is one row of a pragma, preceded by the pragma's name and its argument.
_QUERY = f"""
    SELECT 'sql', name, sql, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM main.sqlite_master WHERE type = 'table'
    UNION ALL SELECT 'table_xinfo', m.name, p.cid, p.name, p.type, p."notnull", p.dflt_value, p.pk, p.hidden, NULL
        FROM main.sqlite_master m, pragma_table_xinfo(m.name, 'main') p WHERE {_PLAIN}
    UNION ALL SELECT 'foreign_key_list', m.name, p.id, p.seq, p."table", p."from", p."to", p.on_update, p.on_delete,
        p."match" FROM main.sqlite_master m, pragma_foreign_key_list(m.name, 'main') p WHERE {_PLAIN}
    UNION ALL SELECT 'index_list', m.name, p.seq, p.name, p."unique", p.origin, p.partial, NULL, NULL, NULL
        FROM main.sqlite_master m, pragma_index_list(m.name, 'main') p WHERE {_PLAIN}
    UNION ALL SELECT 'index_info', l.name, p.seqno, p.cid, p.name, NULL, NULL, NULL, NULL, NULL
        FROM main.sqlite_master m, pragma_index_list(m.name, 'main') l, pragma_index_info(l.name, 'main') p
        WHERE {_PLAIN}
    UNION ALL SELECT 'vector_index', name, name, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM main.sqlite_master WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'
"""  # noqa: S608 - fixed pieces


class Catalogue:
    """A snapshot of a database's tables and indexes, for the lifetime of an inspector's cache."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows: dict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
        for kind, of, *row in rows:
            self._rows[kind, of].append(tuple(row))
        self.vector_indexes = {of for kind, of in self._rows if kind == "vector_index"}
        self._known = {of for kind, of in self._rows if kind in {"sql", "index_info"}}

    def sql(self, table: str) -> str | None:
        """Return the statement that created a table; None if there is no table of exactly this name."""
        rows = self._rows.get(("sql", table))
        return str(rows[0][0]) if rows else None

    def pragma(self, pragma: str, name: str) -> list[tuple[Any, ...]] | None:
        """Return the rows of a pragma about a table or an index; None if they have to be queried."""
        is_virtual = (self.sql(name) or "").lower().startswith(_VIRTUAL)
        if name not in self._known or (pragma == "table_xinfo" and is_virtual):
            return None
        return self._rows.get((pragma, name), [])


class CatalogueInspector(Inspector):
    """An inspector that queries a server once, until `clear_cache`."""

    @contextmanager
    def _operation_context(self) -> Iterator[Connection]:
        # Not all methods of the dialect receive the inspector's cache, so the connection carries it.
        with super()._operation_context() as connection:
            info = connection.info
            outer = info.get(_INSPECTOR)
            info[_INSPECTOR] = self.info_cache
            try:
                yield connection
            finally:
                info[_INSPECTOR] = outer


def catalogue_of(connection: Any) -> Catalogue | None:
    """Return the catalogue of the inspector on this connection, read on first use; None without one, or locally."""
    cache = _cache_of(connection)
    if cache is None:
        return None
    if _CATALOGUE not in cache:
        cache[_CATALOGUE] = Catalogue(connection.exec_driver_sql(_QUERY).fetchall())
    found: Catalogue = cache[_CATALOGUE]
    return found


def known_catalogue_of(connection: Any) -> Catalogue | None:
    """Return the catalogue if it was read already."""
    return (_cache_of(connection) or {}).get(_CATALOGUE)


def _cache_of(connection: Any) -> dict[Any, Any] | None:
    if not connection.connection.dbapi_connection.is_remote:
        return None
    cache: dict[Any, Any] | None = connection.info.get(_INSPECTOR)
    return cache
