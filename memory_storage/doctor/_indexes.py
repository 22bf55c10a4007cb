"""What is made from rows by triggers: facets, full text, the R*Tree of positions. It is made from them anew."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, exc

from ._findings import Finding, about_rows, seqs_of
from ._objects import schema_sql

_FTS = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%' ORDER BY name"
_FACETS = " UNION ALL ".join(
    f"""SELECT namespace, '{owner}' AS owner_type, name, value, seq AS owner_seq FROM (
        SELECT t.namespace, 'tag' AS name, j.value, t.seq FROM {table} AS t, json_each(t.document, '$.tags') AS j
        UNION ALL SELECT t.namespace, 'metadata.' || j.key,
            substr(CASE WHEN j.type IN ('true', 'false', 'null') THEN j.type ELSE json_quote(j.value) END, 1, 256),
            t.seq
        FROM {table} AS t, json_each(t.document, '$.metadata') AS j WHERE j.type NOT IN ('object', 'array'))"""
    for table, owner in (("episodes", "episode"), ("patterns", "pattern"))
)
_NAMES = "namespace, owner_type, name, value, owner_seq"
_SURPLUS = f"SELECT {_NAMES} FROM facets EXCEPT SELECT {_NAMES} FROM ({_FACETS})"
_MISSING = f"SELECT {_NAMES} FROM ({_FACETS}) EXCEPT SELECT {_NAMES} FROM facets"

_TREE = "spatiotemporal_rtree"
# Rounded outwards to 32 bits: never within what it is about, and not far outside.
_WRONG_BOXES = f"""SELECT p.seq FROM spatiotemporal_index AS p LEFT JOIN {_TREE} AS r ON r.seq = p.seq
WHERE p.latitude IS NOT NULL AND (r.seq IS NULL
    OR r.min_latitude > p.latitude + 1e-44 OR r.max_latitude < p.latitude - 1e-44
    OR r.min_longitude > p.longitude + 1e-44 OR r.max_longitude < p.longitude - 1e-44
    OR abs(r.min_latitude - p.latitude) > 1e-4 OR abs(r.max_latitude - p.latitude) > 1e-4
    OR abs(r.min_longitude - p.longitude) > 1e-4 OR abs(r.max_longitude - p.longitude) > 1e-4
    OR r.min_at > coalesce(p.starts_at, -9.3e18) OR r.max_at < coalesce(p.ends_at, p.starts_at, 9.3e18)
    OR abs(r.min_at - coalesce(p.starts_at, -9.3e18)) > 1e-6 * abs(r.min_at) + 1
    OR abs(r.max_at - coalesce(p.ends_at, p.starts_at, 9.3e18)) > 1e-6 * abs(r.max_at) + 1)
UNION SELECT r.seq FROM {_TREE} AS r WHERE NOT EXISTS (
    SELECT 1 FROM spatiotemporal_index AS p WHERE p.seq = r.seq AND p.latitude IS NOT NULL) ORDER BY 1"""


def wrong_facets(connection: Connection) -> list[Finding]:
    """Facets that no document has, or that are missing."""
    seqs = [row[4] for sql in (_SURPLUS, _MISSING) for row in connection.exec_driver_sql(sql)]
    problem = "tags and metadata that are not those of the documents"
    return about_rows("indexes.facets", "facets", seqs, problem, "make them anew", _make_facets)


def _make_facets(connection: Connection) -> None:
    connection.exec_driver_sql(f"DELETE FROM facets WHERE ({_NAMES}) IN ({_SURPLUS})")
    connection.exec_driver_sql(f"INSERT OR IGNORE INTO facets ({_NAMES}) {_MISSING}")


def wrong_full_text(connection: Connection) -> list[Finding]:
    """Full-text indexes that do not have the words of their table."""
    found: list[Finding] = []
    for table in map(str, seqs_of(connection, _FTS)):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
        except exc.DatabaseError as error:
            if getattr(error.orig, "code", "") not in {"SQLITE_CORRUPT", "SQLITE_ERROR"}:
                raise
            problem = "the full-text index does not have the words of its rows"
            repair = partial(_make_text, table=table)
            found.append(Finding("indexes.text", table, 1, problem, "make it anew", repair=repair))
    return found


def _make_text(connection: Connection, *, table: str) -> None:
    # Its pages may be damaged so much that it cannot even be dropped: it has to be an empty one first.
    connection.exec_driver_sql(f"DELETE FROM {table}_data")
    connection.exec_driver_sql(f"INSERT INTO {table}_data (id, block) VALUES (1, x''), (10, x'00000000000000')")
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(schema_sql(table))
    connection.exec_driver_sql(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")


def wrong_positions(connection: Connection) -> list[Finding]:
    """Positions that are missing in the R*Tree, or are others there."""
    if connection.exec_driver_sql(f"SELECT rtreecheck('{_TREE}')").scalar() != "ok":
        problem = "the R*Tree contradicts itself"
        return [Finding("indexes.positions", _TREE, 1, problem, "make it anew", repair=_make_tree)]
    seqs, problem = seqs_of(connection, _WRONG_BOXES), "positions that are not those of the places"
    return about_rows("indexes.positions", _TREE, seqs, problem, "make the R*Tree anew", _make_tree)


def _make_tree(connection: Connection) -> None:
    connection.exec_driver_sql(f"DROP TABLE {_TREE}")
    connection.exec_driver_sql(schema_sql(_TREE))
    connection.exec_driver_sql("UPDATE spatiotemporal_index SET latitude = latitude")  # the trigger puts it in
