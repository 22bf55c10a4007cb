"""What is made from rows by triggers: facets, full text, the R*Trees of places. It is made from them anew."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.schema.regions import FOREVER, beginning, ending, number_of, scaled

from ._findings import Finding, about_rows, seqs_of
from ._objects import schema_sql

_FTS = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%' ORDER BY name"
_FACETS_OF_BOTH = " UNION ALL ".join(
    f"""SELECT namespace, '{owner}' AS owner_type, name, value, seq AS owner_seq FROM (
        SELECT t.namespace, 'tag' AS name, j.value, t.seq FROM {table} AS t, json_each(t.document, '$.tags') AS j
        UNION ALL SELECT t.namespace, 'metadata.' || j.key,
            substr(CASE WHEN j.type IN ('true', 'false', 'null') THEN j.type ELSE json_quote(j.value) END, 1, 256),
            t.seq
        FROM {table} AS t, json_each(t.document, '$.metadata') AS j WHERE j.type NOT IN ('object', 'array'))"""
    for table, owner in (("episodes", "episode"), ("patterns", "pattern"))
)
_FACETS = f"""{_FACETS_OF_BOTH} UNION ALL SELECT t.namespace, 'pattern', 'evidence', j.value, t.seq
    FROM patterns AS t, json_each(t.document, '$.evidence') AS j"""
_NAMES = "namespace, owner_type, name, value, owner_seq"
_SURPLUS = f"SELECT {_NAMES} FROM facets EXCEPT SELECT {_NAMES} FROM ({_FACETS})"
_MISSING = f"SELECT {_NAMES} FROM ({_FACETS}) EXCEPT SELECT {_NAMES} FROM facets"

# Each R*Tree with the rows that it should have: `schema.regions` says why they look so.
_KEY = number_of("p.namespace")
_BEGINS = beginning(f"coalesce(p.starts_at, -{FOREVER})")
_ENDS = ending(f"coalesce(p.until_at, {FOREVER})")
_TREES = {
    "spatiotemporal_rtree": f"""SELECT p.seq AS seq, {_KEY} - 0.25 AS min_key, {_KEY} + 0.25 AS max_key,
    p.latitude AS min_latitude, p.latitude AS max_latitude, p.longitude AS min_longitude,
    p.longitude AS max_longitude, {_BEGINS} AS min_at, {_ENDS} AS max_at
FROM spatiotemporal_index AS p WHERE p.latitude IS NOT NULL""",
    "spatiotemporal_spans": f"""SELECT p.seq AS seq, {_KEY} - 0.25 AS min_key, {_KEY} + 0.25 AS max_key,
    {scaled("p.starts_at")} AS min_at, {scaled("p.until_at")} AS max_at
FROM spatiotemporal_index AS p WHERE p.until_at > p.starts_at + 1""",
}
_SIDES = {
    "spatiotemporal_rtree": ("key", "latitude", "longitude", "at"),
    "spatiotemporal_spans": ("key", "at"),
}


def _wrong_boxes(tree: str) -> str:
    """SQL for the rows whose box is missing, too many, or not around them: it is rounded outwards to 32 bits."""
    sides = [
        f"{way} * (r.{bound}_{side} - e.{bound}_{side}) NOT BETWEEN -1e-44 - abs(e.{bound}_{side}) * 1e-15 "
        f"AND abs(e.{bound}_{side}) * 1e-6 + 1e-30"
        for side in _SIDES[tree]
        for bound, way in (("min", -1), ("max", 1))
    ]
    return f"""WITH expected AS MATERIALIZED ({_TREES[tree]})
SELECT e.seq FROM expected AS e LEFT JOIN {tree} AS r ON r.seq = e.seq
WHERE r.seq IS NULL OR {" OR ".join(sides)}
UNION SELECT r.seq FROM {tree} AS r WHERE r.seq NOT IN (SELECT seq FROM expected) ORDER BY 1"""


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


def wrong_regions(connection: Connection) -> list[Finding]:
    """Positions and intervals that are missing in their R*Tree, or are others there."""
    return [finding for tree in _TREES for finding in _wrong_region(connection, tree)]


def _wrong_region(connection: Connection, tree: str) -> list[Finding]:
    repair = partial(_make_tree, tree=tree)
    if connection.exec_driver_sql(f"SELECT rtreecheck('{tree}')").scalar() != "ok":
        problem = "the R*Tree contradicts itself"
        return [Finding("indexes.regions", tree, 1, problem, "make it anew", repair=repair)]
    seqs, problem = seqs_of(connection, _wrong_boxes(tree)), "positions or intervals that are not those of the places"
    return about_rows("indexes.regions", tree, seqs, problem, "make the R*Tree anew", repair)


def _make_tree(connection: Connection, *, tree: str) -> None:
    connection.exec_driver_sql(f"DROP TABLE {tree}")
    connection.exec_driver_sql(schema_sql(tree))
    connection.exec_driver_sql(f"INSERT INTO {tree} {_TREES[tree]}")
