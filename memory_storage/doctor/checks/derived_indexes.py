"""Checks of what triggers derive from rows: facets, full text, the R*Tree of positions. Repairs rebuild it."""

from __future__ import annotations

import re
from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.dbapi import Batch
from memory_storage.doctor.findings import Finding, about_rows, seqs_of
from memory_storage.sql.facets import COLUMNS, facets_of
from memory_storage.sql.indexing import FIRST, INDEX_STEPS, LOGGED, NAMESPACE_BITS, PARTS, SEQ

from .schema import schema_sql

_FTS = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%' ORDER BY name"
_TREES = re.compile(r"INSERT INTO (\w+)\s+SELECT (.+?)\s+WHERE (.+?);", re.DOTALL)
_READS_JSON = re.compile(r"FROM (json_(?:each|tree)\()")
_PLACES = "spatiotemporal_index AS p"
_OWNER = f"""SELECT 1 FROM {{0}}s AS o JOIN namespaces AS n ON n.name = o.namespace
    WHERE o.seq = {{1}} AND n.number = doc >> {NAMESPACE_BITS}"""
_NUMBER = FIRST.format("{0}.namespace", "{0}.seq")
_NOT_LOGGED = f"{{0}}.seq NOT IN ({LOGGED})"
_WRONG_TEXTS = (
    *(
        f"SELECT {SEQ.format('doc')} FROM {name}_texts WHERE NOT EXISTS ({_OWNER.format(name, SEQ.format('doc'))})"
        for name in ("episode", "pattern")
    ),
    f"""SELECT p.seq FROM patterns AS p
    WHERE NOT EXISTS (SELECT 1 FROM pattern_texts WHERE doc = {_NUMBER.format("p")})""",
    f"""SELECT e.seq FROM episodes AS e WHERE {_NOT_LOGGED.format("e")}
        AND NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = {_NUMBER.format("e")})""",
    f"""SELECT DISTINCT e.seq FROM steps AS s JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id
    WHERE {_NOT_LOGGED.format("e")} AND NOT EXISTS (
        SELECT 1 FROM episode_texts WHERE doc > {_NUMBER.format("e")} AND doc <= ({_NUMBER.format("e")} | {PARTS})
            AND s.seq BETWEEN first_step AND last_step)""",
    *(
        f"""SELECT number FROM namespaces AS n WHERE {name}_texts <> (
        SELECT count(*) FROM {name}_texts WHERE doc BETWEEN n.number << {NAMESPACE_BITS}
            AND ((n.number + 1) << {NAMESPACE_BITS}) - 1)"""
        for name in ("episode", "pattern")
    ),
)
_INDEX_ALL = (
    "UPDATE namespaces SET episode_texts = 0, pattern_texts = 0",
    """INSERT INTO namespaces (name)
    SELECT namespace FROM (SELECT namespace FROM patterns UNION SELECT namespace FROM episodes)
    WHERE namespace NOT IN (SELECT name FROM namespaces)""",
    f"INSERT INTO pattern_texts (doc) SELECT {_NUMBER.format('p')} FROM patterns AS p ORDER BY 1",
    "DELETE FROM episode_changes",
    "INSERT INTO episode_changes (episode_seq) SELECT seq FROM episodes",
)


def wrong_facets(connection: Connection) -> list[Finding]:
    """Find facets that are missing, or that no document has."""
    surplus, missing = _facets(f"(owner_type <> 'episode' OR owner_seq NOT IN ({LOGGED}))")
    seqs = [row[5] for sql in (surplus, missing) for row in connection.exec_driver_sql(sql)]
    problem = "tags and metadata that differ from the documents"
    return about_rows("indexes.facets", "facets", seqs, problem, "rebuild them", _make_facets)


def _make_facets(connection: Connection) -> None:
    surplus, missing = _facets()
    connection.exec_driver_sql(f"DELETE FROM facets WHERE ({COLUMNS}) IN ({surplus})")
    connection.exec_driver_sql(f"INSERT OR IGNORE INTO facets ({COLUMNS}) {missing}")


def _facets(is_wanted: str = "true") -> tuple[str, str]:
    """Return the SQL for surplus facets, and for missing ones that are wanted."""
    # Those of patterns are derived from the trigger's SQL for one row, so that both always agree.
    body = schema_sql("patterns_facets_insert")
    select = body[body.index("SELECT") : body.rindex(";")].replace("NEW.", "t.")
    of_patterns = _READS_JSON.sub(r"FROM patterns AS t, \1", select)
    wanted = f"SELECT * FROM ({of_patterns}) UNION ALL SELECT * FROM ({facets_of('episodes AS e')})"
    surplus = f"SELECT {COLUMNS} FROM facets EXCEPT SELECT * FROM ({wanted})"
    return surplus, (
        f"SELECT * FROM (SELECT {COLUMNS} FROM facets WHERE false UNION ALL {wanted})"
        f" WHERE {is_wanted} EXCEPT SELECT {COLUMNS} FROM facets"
    )


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


def wrong_texts(connection: Connection) -> list[Finding]:
    """Find texts in the full-text indexes whose row is gone, and rows whose text is neither there nor in the log."""
    seqs = [seq for sql in _WRONG_TEXTS for seq in seqs_of(connection, sql)]
    problem = "texts in the full-text indexes that are not those of the rows"
    return about_rows("indexes.texts", "episode_texts", seqs, problem, "index all texts again", _make_texts)


def _make_texts(connection: Connection) -> None:
    for name in ("episode", "pattern"):
        # The trigger would remove the texts from the index one by one, as they are now, not as they were indexed.
        trigger = f"{name}_texts_delete"
        connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        connection.exec_driver_sql(f"DELETE FROM {name}_texts")
        connection.exec_driver_sql(f"INSERT INTO {name}_words ({name}_words) VALUES ('delete-all')")
        connection.exec_driver_sql(schema_sql(trigger))
    for sql in _INDEX_ALL:
        connection.exec_driver_sql(sql)
    connection.exec_driver_sql(Batch(INDEX_STEPS))


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
