"""The statements of relationships. `rows` is a JSON array of relationships.

A walk is one recursive statement. It visits an episode once for each depth at which it is reached, so that the depth is
known; `max_depth` ends it where relationships form a cycle.
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
# Within the statement that inserts: under the lock of a writer, so that two writers cannot close a cycle together.
# An episode without an ancestor, like a new one that follows a long series, is in no cycle: then nothing is walked.
_CLOSES_CYCLE = """EXISTS (SELECT 1 FROM relationships AS r WHERE r.namespace = :namespace
        AND r.to_id = given.value ->> '$.from_id' AND r.kind = given.value ->> '$.kind')
    AND EXISTS (
    WITH RECURSIVE descendants (id) AS (
        SELECT given.value ->> '$.to_id'
        UNION SELECT r.to_id FROM descendants AS d CROSS JOIN relationships AS r
            ON r.namespace = :namespace AND r.from_id = d.id AND r.kind = given.value ->> '$.kind')
    SELECT 1 FROM descendants WHERE id = given.value ->> '$.from_id')"""


def _insert(created_at: str, conflict: str, *, acyclic: bool) -> SqlTemplate:
    expressions = {**_COLUMNS, "created_at": created_at}
    return SqlTemplate(f"""
INSERT INTO relationships ({columns(expressions)})
SELECT {values(expressions)}
FROM {_GIVEN}
WHERE {f"NOT ({_CLOSES_CYCLE})" if acyclic else "true"}
ON CONFLICT (namespace, from_id, kind, to_id) DO {conflict}
""")


_UPDATE = "UPDATE SET weight = excluded.weight, document = excluded.document"
ADD = {acyclic: _insert(":now", _UPDATE, acyclic=acyclic) for acyclic in (False, True)}
"""By whether cycles are refused. If so, each relationship is a statement of its own: it has to see those before it."""

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
    "outgoing": ("from_id",),
    "incoming": ("to_id",),
    "both": ("from_id", "to_id"),
}


def _of_kind(of_kind: bool) -> str:
    return " AND r.kind = :kind" if of_kind else ""


@lru_cache(maxsize=64)
def query(edges: str, order: str, conditions: tuple[str, ...], *, of_kind: bool) -> SqlTemplate:
    """Return the statement of a page of the relationships of an episode: rows of sort key, `seq` and columns."""
    # Each branch has an index. No relationship is in both: its ends differ.
    branches = "\n    UNION ALL ".join(
        f"SELECT r.created_at, r.seq FROM relationships AS r"
        f" WHERE r.namespace = :namespace AND r.{end} = :episode_id{_of_kind(of_kind)}"
        for end in _ENDS[edges]
    )
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return SqlTemplate(f"""
WITH page AS MATERIALIZED (
    SELECT created_at, seq FROM ({branches}) {where} ORDER BY {order} LIMIT :limit)
SELECT page.created_at, page.seq, {ROW} FROM page CROSS JOIN relationships AS r ON r.seq = page.seq
ORDER BY {order.replace("created_at", "page.created_at").replace("seq", "page.seq")}
""")


def _walk(*, forwards: bool, of_kind: bool, until: str) -> str:
    here, there = ("from_id", "to_id") if forwards else ("to_id", "from_id")
    return f"""walk (id, depth) AS (
    SELECT id, 0 FROM episodes WHERE namespace = :namespace AND id = :episode_id
    UNION SELECT r.{there}, walk.depth + 1 FROM walk CROSS JOIN relationships AS r
        ON r.namespace = :namespace AND r.{here} = walk.id{_of_kind(of_kind)}
    WHERE {until})"""


@lru_cache(maxsize=64)
def related(order: str, conditions: tuple[str, ...], *, forwards: bool, of_kind: bool) -> SqlTemplate:
    """Return the statement of a page of ancestors or descendants: depth, `seq` and ID."""
    walk = _walk(forwards=forwards, of_kind=of_kind, until="walk.depth < :max_depth")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return SqlTemplate(f"""
WITH RECURSIVE {walk},
nearest AS (SELECT id, min(depth) AS depth FROM walk WHERE id <> :episode_id GROUP BY id)
SELECT depth, seq, id FROM (
    SELECT n.depth, e.seq, e.id FROM nearest AS n CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = n.id)
{where} ORDER BY {order} LIMIT :limit
""")


# The client computes the order, in linear time: longest paths in SQL take a row for each depth of an episode.
DESCENDANTS = SqlTemplate("""
WITH RECURSIVE descendants (id) AS (
    SELECT id FROM episodes WHERE namespace = :namespace AND id = :episode_id
    UNION SELECT r.to_id FROM descendants AS d CROSS JOIN relationships AS r
        ON r.namespace = :namespace AND r.from_id = d.id AND r.kind = :kind)
SELECT e.seq, e.id, (
    SELECT json_group_array(t.seq) FROM relationships AS r CROSS JOIN episodes AS t
        ON t.namespace = :namespace AND t.id = r.to_id
    WHERE r.namespace = :namespace AND r.from_id = e.id AND r.kind = :kind)
FROM descendants AS d CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = d.id
""")
"""An episode and all its descendants: `seq`, ID, and a JSON array of the `seq` of each to which it leads."""


@lru_cache(maxsize=4)
def path(*, of_kind: bool) -> SqlTemplate:
    """Return the statement of a shortest path: the IDs, in its order."""
    # From the end: an episode mostly has fewer ancestors than another one has descendants.
    walk = _walk(forwards=False, of_kind=of_kind, until="walk.depth < :max_depth AND walk.id <> :from_id")
    # Then from the beginning, each time to an episode that is one nearer to the end, with the least ID. The plus
    # keeps the engine from an index in the order of `to_id`, which holds the relationships of all episodes.
    return SqlTemplate(f"""
WITH RECURSIVE {walk},
nearest AS MATERIALIZED (SELECT id, min(depth) AS depth FROM walk GROUP BY id),
path (id, remaining) AS (
    SELECT id, depth FROM nearest WHERE id = :from_id
    UNION ALL SELECT (
        SELECT r.to_id FROM relationships AS r CROSS JOIN nearest AS n ON n.id = r.to_id
        WHERE r.namespace = :namespace AND r.from_id = path.id{_of_kind(of_kind)} AND n.depth = path.remaining - 1
        ORDER BY +r.to_id LIMIT 1), path.remaining - 1
    FROM path WHERE path.remaining > 0)
SELECT id FROM path ORDER BY remaining DESC
""")
