"""Checks of what triggers derive from rows: facets, full text, the R*Tree of positions. Repairs rebuild it."""

from __future__ import annotations

import re
from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.doctor.findings import Finding, about_rows, seqs_of

from .schema import schema_sql

_FTS = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%' ORDER BY name"
_NAMES = "namespace, owner_type, name, value, owner_seq"
_TREES = re.compile(r"INSERT INTO (\w+)\s+SELECT (.+?)\s+WHERE (.+?);", re.DOTALL)
_READS_JSON = re.compile(r"FROM (json_(?:each|tree)\()")
_PLACES = "spatiotemporal_index AS p"


def wrong_facets(connection: Connection) -> list[Finding]:
    """Find facets that are missing, or that no document has."""
    surplus, missing = _facets()
    seqs = [row[4] for sql in (surplus, missing) for row in connection.exec_driver_sql(sql)]
    problem = "tags and metadata that differ from the documents"
    return about_rows("indexes.facets", "facets", seqs, problem, "rebuild them", _make_facets)


def _make_facets(connection: Connection) -> None:
    surplus, missing = _facets()
    connection.exec_driver_sql(f"DELETE FROM facets WHERE ({_NAMES}) IN ({surplus})")
    connection.exec_driver_sql(f"INSERT OR IGNORE INTO facets ({_NAMES}) {missing}")


def _facets() -> tuple[str, str]:
    """Return the SQL for surplus facets and for missing ones."""
    wanted = " UNION ALL ".join(f"SELECT * FROM ({_facets_of(table)})" for table in ("episodes", "patterns"))
    surplus = f"SELECT {_NAMES} FROM facets EXCEPT SELECT * FROM ({wanted})"
    return surplus, f"SELECT * FROM ({wanted}) EXCEPT SELECT {_NAMES} FROM facets"


def _facets_of(table: str) -> str:
    # Derived from the trigger's SQL for one row, so that both always agree.
    body = schema_sql(f"{table}_facets_insert")
    select = body[body.index("SELECT") : body.rindex(";")]
    return _READS_JSON.sub(rf"FROM {table} AS t, \1", select.replace("NEW.", "t."))


def wrong_full_text(connection: Connection) -> list[Finding]:
    """Find full-text indexes that differ from the words of their table."""
    found: list[Finding] = []
    for table in map(str, seqs_of(connection, _FTS)):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
        except exc.DatabaseError as error:
            if getattr(error.orig, "code", "") not in {"SQLITE_CORRUPT", "SQLITE_ERROR"}:
                raise
            problem = "the full-text index differs from its rows"
            repair = partial(_make_text, table=table)
            found.append(Finding("indexes.text", table, 1, problem, "rebuild it", repair=repair))
    return found


def _make_text(connection: Connection, *, table: str) -> None:
    # A badly damaged index cannot even be dropped: its pages are replaced by those of an empty one first.
    connection.exec_driver_sql(f"DELETE FROM {table}_data")
    connection.exec_driver_sql(f"INSERT INTO {table}_data (id, block) VALUES (1, x''), (10, x'00000000000000')")
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(schema_sql(table))
    connection.exec_driver_sql(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")


def wrong_positions(connection: Connection) -> list[Finding]:
    """Find positions and intervals that are missing in their R*Tree, or differ there."""
    found: list[Finding] = []
    for tree, sides, condition in _TREES.findall(schema_sql("spatiotemporal_insert")):
        rows = f"SELECT {sides} FROM {_PLACES} WHERE {condition}".replace("NEW.", "p.")
        repair = partial(_make_tree, tree=tree, rows=rows)
        seqs = _others_there(connection, tree, rows)
        problem = "positions and times that differ from the spatiotemporal entries"
        found += about_rows("indexes.positions", tree, seqs, problem, "rebuild the R*Tree", repair)
    return found


def _others_there(connection: Connection, tree: str, rows: str) -> list[int]:
    if connection.exec_driver_sql(f"SELECT rtreecheck('{tree}')").scalar() != "ok":
        return [0]
    columns = [str(row[0]) for row in connection.exec_driver_sql("SELECT name FROM pragma_table_info(?)", (tree,))]
    # The R*Tree rounds outwards to 32-bit floats.
    same = " AND ".join(f"abs(r.{name} - e.{name}) <= 1e-6 * abs(e.{name}) + 1e-30" for name in columns[1:])
    return seqs_of(
        connection,
        f"""WITH e ({", ".join(columns)}) AS MATERIALIZED ({rows})
        SELECT seq FROM e WHERE NOT EXISTS (SELECT 1 FROM {tree} AS r WHERE r.seq = e.seq AND {same})
        UNION SELECT seq FROM {tree} WHERE seq NOT IN (SELECT seq FROM e) ORDER BY 1""",
    )


def _make_tree(connection: Connection, *, tree: str, rows: str) -> None:
    connection.exec_driver_sql(f"DROP TABLE {tree}")
    connection.exec_driver_sql(schema_sql(tree))
    connection.exec_driver_sql(f"INSERT INTO {tree} {rows}")
