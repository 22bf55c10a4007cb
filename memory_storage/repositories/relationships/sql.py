"""The statements of relationships. `rows` is a JSON array of relationships.

A walk is one recursive statement. It visits an episode once for each depth at which it is found, so that the depth is
known; a bound of the depth ends it where relationships form a cycle.
"""

from __future__ import annotations

from functools import lru_cache

from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, columns, micros, values

ROW = "r.id, r.from_id, r.to_id, r.kind, r.weight, r.created_at, r.document"

_COLUMNS = {
    "namespace": ":namespace",
    "id": "given.value ->> '$.id'",
    "from_id": "source.id",
    "to_id": "target.id",
    "kind": "given.value ->> '$.kind'",
    "weight": "given.value ->> '$.weight'",
    "created_at": ":now",
    "document": "json_object('metadata', given.value -> '$.metadata')",
}
_CREATED_AT = "coalesce(" + micros("(given.value ->> '$.created_at')") + ", :now)"
# The joins leave out a relationship of a missing episode: the row count shows it.
_GIVEN = """json_each(:rows) AS given
CROSS JOIN episodes AS source ON source.namespace = :namespace AND source.id = given.value ->> '$.from_id'
CROSS JOIN episodes AS target ON target.namespace = :namespace AND target.id = given.value ->> '$.to_id'"""
# Within the statement that inserts: under the lock of a writer, so that two of them cannot close a cycle together.
_CLOSES_CYCLE = """EXISTS (
    WITH RECURSIVE reached (id) AS (
        SELECT given.value ->> '$.to_id'
        UNION SELECT r.to_id FROM reached CROSS JOIN relationships AS r
            ON r.namespace = :namespace AND r.from_id = reached.id AND r.kind = given.value ->> '$.kind')
    SELECT 1 FROM reached WHERE id = given.value ->> '$.from_id')"""


def _insert(created_at: str, conflict: str, *, acyclic: bool) -> SqlTemplate:
    expressions = {**_COLUMNS, "created_at": created_at}
    return SqlTemplate(f"""
INSERT INTO relationships ({columns(expressions)})
SELECT {values(expressions)}
FROM {_GIVEN}
WHERE {f"NOT {_CLOSES_CYCLE}" if acyclic else "true"}
ON CONFLICT (namespace, from_id, kind, to_id) DO {conflict}
""")


_UPDATE = "UPDATE SET weight = excluded.weight, document = excluded.document"
ADD = {acyclic: _insert(":now", _UPDATE, acyclic=acyclic) for acyclic in (False, True)}
"""By whether a cycle is refused. Then each relationship is a statement: it has to see those before it."""

IMPORT = {acyclic: _insert(_CREATED_AT, "NOTHING", acyclic=acyclic) for acyclic in (False, True)}

STORED = SqlTemplate(f"""
SELECT {ROW} FROM json_each(:rows) AS given CROSS JOIN relationships AS r ON r.namespace = :namespace
    AND r.from_id = given.value ->> '$.from_id' AND r.kind = given.value ->> '$.kind'
    AND r.to_id = given.value ->> '$.to_id'
""")
# After a wrong row count: which episodes are missing, and what is stored already. A cycle is what else refuses a row.
PROBLEMS = SqlTemplate("""
SELECT given."key",
    NOT EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace AND id = given.value ->> '$.from_id'),
    NOT EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace AND id = given.value ->> '$.to_id'),
    EXISTS (SELECT 1 FROM relationships AS r WHERE r.namespace = :namespace
        AND r.from_id = given.value ->> '$.from_id' AND r.kind = given.value ->> '$.kind'
        AND r.to_id = given.value ->> '$.to_id')
FROM json_each(:rows) AS given
""")

GET = SqlTemplate(f"SELECT {ROW} FROM relationships AS r WHERE namespace = :namespace AND id = :id")
DELETE = SqlTemplate("DELETE FROM relationships WHERE namespace = :namespace AND id = :id RETURNING id")
COUNT = SqlTemplate("SELECT count(*) FROM relationships WHERE namespace = :namespace")

_CANDIDATES = """SELECT seq, id FROM relationships
    WHERE namespace = :namespace AND id > :after ORDER BY id LIMIT :limit"""
PAGE = SqlTemplate(f"""
{cut_by_bytes(_CANDIDATES, "relationships", "octet_length(t.document) + 200", "id")}
SELECT page.id, {ROW} FROM page LEFT JOIN relationships AS r ON page.fits AND r.seq = page.seq ORDER BY page.id
""")

_ENDS = {
    "from": ("r.from_id = :episode_id",),
    "to": ("r.to_id = :episode_id",),
    "either": ("r.from_id = :episode_id", "r.to_id = :episode_id"),
}


@lru_cache(maxsize=64)
def query(end: str, order: str, conditions: tuple[str, ...], *, of_kind: bool) -> SqlTemplate:
    """Return the statement of a page of the relationships of an episode: rows of sort key, `seq` and columns."""
    kind = " AND r.kind = :kind" if of_kind else ""
    branches = "\n    UNION ALL ".join(
        f"SELECT r.created_at, r.seq FROM relationships AS r WHERE r.namespace = :namespace AND {one}{kind}"
        for one in _ENDS[end]
    )
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return SqlTemplate(f"""
SELECT found.created_at, found.seq, {ROW}
FROM (SELECT created_at, seq FROM ({branches}) {where} ORDER BY {order} LIMIT :limit) AS found
CROSS JOIN relationships AS r ON r.seq = found.seq ORDER BY {order.replace("created_at", "found.created_at").replace("seq", "found.seq")}
""")


def _walk(*, forwards: bool, of_kind: bool, until: str) -> str:
    here, there = ("from_id", "to_id") if forwards else ("to_id", "from_id")
    kind = " AND r.kind = :kind" if of_kind else ""
    return f"""walk (id, depth) AS (
    SELECT :episode_id, 0
    UNION SELECT r.{there}, walk.depth + 1 FROM walk CROSS JOIN relationships AS r
        ON r.namespace = :namespace AND r.{here} = walk.id{kind}
    WHERE {until})"""


@lru_cache(maxsize=64)
def related(order: str, conditions: tuple[str, ...], *, forwards: bool, of_kind: bool) -> SqlTemplate:
    """Return the statement of a page of the episodes that relationships lead to: depth, `seq` and ID."""
    walk = _walk(forwards=forwards, of_kind=of_kind, until="walk.depth < :max_depth")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return SqlTemplate(f"""
WITH RECURSIVE {walk},
found AS (SELECT id, min(depth) AS depth FROM walk WHERE id <> :episode_id GROUP BY id)
SELECT depth, seq, id FROM (
    SELECT found.depth, e.seq, e.id FROM found CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = found.id)
{where} ORDER BY {order} LIMIT :limit
""")


@lru_cache(maxsize=64)
def topological_order(order: str, conditions: tuple[str, ...]) -> SqlTemplate:
    """Return the statement of a page of an episode and all that it leads to, each after all that lead to it."""
    walk = _walk(forwards=True, of_kind=True, until="true")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return SqlTemplate(f"""
WITH RECURSIVE {walk},
found AS (SELECT id, max(depth) AS depth FROM walk GROUP BY id)
SELECT depth, seq, id FROM (
    SELECT found.depth, e.seq, e.id FROM found CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = found.id)
{where} ORDER BY {order} LIMIT :limit
""")


@lru_cache(maxsize=4)
def path(*, of_kind: bool) -> SqlTemplate:
    """Return the statement of a shortest path: the IDs, in its order."""
    walk = _walk(forwards=True, of_kind=of_kind, until="walk.depth < :max_depth AND walk.id <> :to_id")
    kind = " AND r.kind = :kind" if of_kind else ""
    return SqlTemplate(f"""
WITH RECURSIVE {walk},
reached AS MATERIALIZED (SELECT id, min(depth) AS depth FROM walk GROUP BY id),
back (id, depth) AS (
    SELECT id, depth FROM reached WHERE id = :to_id
    UNION ALL SELECT (
        SELECT r.from_id FROM relationships AS r CROSS JOIN reached ON reached.id = r.from_id
        WHERE r.namespace = :namespace AND r.to_id = back.id{kind} AND reached.depth = back.depth - 1
        ORDER BY r.from_id LIMIT 1), back.depth - 1
    FROM back WHERE back.depth > 0)
SELECT id FROM back ORDER BY depth
""")
