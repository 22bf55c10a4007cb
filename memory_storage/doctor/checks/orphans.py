"""Checks of rows that belong to others: steps, embeddings, places and so on without an owner or with a wrong one."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from memory_storage.doctor.findings import Finding, about_rows, has_table, seqs_of
from memory_storage.doctor.quarantine import quarantine_rows
from memory_storage.schema.vector_tables import VectorSpace

_OWNERS = {"episode": "episodes", "step": "steps", "pattern": "patterns"}
_ITEMS = """CASE m.owner_type
    WHEN 'episode' THEN (SELECT seq FROM episodes WHERE namespace = m.namespace AND id = m.owner_id)
    WHEN 'step' THEN (SELECT e.seq FROM steps AS s CROSS JOIN episodes AS e
        ON e.namespace = s.namespace AND e.id = s.episode_id WHERE s.namespace = m.namespace AND s.id = m.owner_id)
    ELSE (SELECT seq FROM patterns WHERE namespace = m.namespace AND id = m.owner_id) END"""
_STEPS = """SELECT seq FROM steps AS s WHERE NOT EXISTS (
    SELECT 1 FROM episodes AS e WHERE e.namespace = s.namespace AND e.id = s.episode_id) ORDER BY seq"""

_CHECKPOINTS = _STEPS.replace("steps AS s", "checkpoints AS s")
_RELATIONSHIPS = """SELECT seq FROM relationships AS r WHERE NOT EXISTS (
    SELECT 1 FROM episodes AS e WHERE e.namespace = r.namespace AND e.id = r.from_id)
    OR NOT EXISTS (SELECT 1 FROM episodes AS e WHERE e.namespace = r.namespace AND e.id = r.to_id) ORDER BY seq"""

_ITEM_VECTORS = """SELECT seq FROM item_vectors AS v WHERE NOT EXISTS (
    SELECT 1 FROM items AS i WHERE i.seq = v.item_seq AND i.namespace = v.namespace)
    OR typeof(vector) <> 'blob' OR length(vector) <> (SELECT length(o.vector) FROM item_vectors AS o
        WHERE o.namespace = v.namespace AND o.model = v.model LIMIT 1) ORDER BY seq"""


def orphans(connection: Connection) -> list[Finding]:
    """Find rows whose owner does not exist."""
    owned = " OR ".join(
        f"(owner_type = '{kind}' AND EXISTS (SELECT 1 FROM {table} AS o WHERE o.namespace = t.namespace"
        " AND o.id = t.owner_id))"
        for kind, table in _OWNERS.items()
    )
    orphaned = "SELECT seq FROM {table} AS t WHERE NOT ({owned}) ORDER BY seq"
    lost = {"steps": seqs_of(connection, _STEPS)}
    for table in ("embeddings", "spatiotemporal_index"):
        lost[table] = seqs_of(connection, orphaned.format(table=table, owned=owned))
    lost["checkpoints"] = seqs_of(connection, _CHECKPOINTS)
    lost["relationships"] = seqs_of(connection, _RELATIONSHIPS)
    lost["item_vectors"] = seqs_of(connection, _ITEM_VECTORS)
    lost["embeddings"] = sorted({*lost["embeddings"], *_without_a_vector(connection)})
    return [finding for table, seqs in lost.items() for finding in _orphaned(table, seqs)]


def _orphaned(table: str, seqs: list[int]) -> list[Finding]:
    repair = partial(quarantine_rows, table=table, seqs=seqs, reason="its owner does not exist")
    remedy = f"move them to quarantined_{table}"
    return about_rows(f"orphans.{table}", table, seqs, "rows whose owner does not exist", remedy, repair)


def _without_a_vector(connection: Connection) -> list[int]:
    spaces = connection.exec_driver_sql("SELECT token, name, dimension FROM vector_models").all()
    tables = {token: VectorSpace.of(token, name, dimension).table for token, name, dimension in spaces}
    found: list[int] = []
    for token in seqs_of(connection, "SELECT DISTINCT space FROM embeddings"):
        sql, table = "SELECT seq FROM embeddings AS m WHERE space = ?", tables.get(str(token))
        if table is not None and has_table(connection, table):
            sql += f" AND NOT EXISTS (SELECT 1 FROM {table} AS v WHERE v.seq = m.vector_seq)"
        found += seqs_of(connection, sql, token)
    return found


def misattributed_rows(connection: Connection) -> list[Finding]:
    """Find embeddings and places that refer to another episode or pattern than their owner."""
    found: list[Finding] = []
    for table, column in (("embeddings", "item_seq"), ("spatiotemporal_index", "episode_seq")):
        condition = f"{column} IS NOT ({_ITEMS})"
        seqs = seqs_of(connection, f"SELECT seq FROM {table} AS m WHERE {condition} ORDER BY seq")
        repair = partial(_update, sql=f"UPDATE {table} AS m SET {column} = ({_ITEMS}) WHERE {condition}")
        problem, remedy = "rows that refer to another item than their owner", "set the reference to their owner"
        found += about_rows(f"{table}.item", table, seqs, problem, remedy, repair)
    return found


def _update(connection: Connection, *, sql: str) -> None:
    connection.exec_driver_sql(sql)
