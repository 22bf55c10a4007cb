"""The statements that write entries, read those of one owner, and group episodes by time.

`entries` is JSON: [document, x, y, z]. The queries by region and time are in `spatial_sql`.
"""

from __future__ import annotations

from functools import lru_cache

from memory_storage.repositories.episodes.sql import HEAD_ROW, STEP_ROW
from memory_storage.schema.rtree import FOREVER
from memory_storage.sql.filters import Conditions
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, columns, micros, upsert_assignments, values
from memory_storage.sql.time_buckets import END, FIRST, KNOWN_UNTIL, UNIT_SIZES

TABLES = {"episode": "episodes", "step": "steps"}
# The episode of a step is stored with its place, so that queries for episodes need no join with steps.
_EPISODE_SEQ = {
    "episode": "owner.seq",
    "step": "(SELECT seq FROM episodes WHERE namespace = owner.namespace AND id = owner.episode_id)",
}
DOCUMENT = "(given.value -> '$[0]')"
_STARTS_AT = micros(f"({DOCUMENT} ->> '$.starts_at')")
_ENDS_AT = micros(f"({DOCUMENT} ->> '$.ends_at')")


def columns_of(owner_type: str) -> dict[str, str]:
    """Return the expressions of the columns that both a save and an import write, by the kind of the owner."""
    return {
        "namespace": "owner.namespace",
        "id": f"{DOCUMENT} ->> '$.id'",
        "owner_type": f"'{owner_type}'",
        "owner_id": "owner.id",
        "episode_seq": _EPISODE_SEQ[owner_type],
        "latitude": f"{DOCUMENT} ->> '$.latitude'",
        "longitude": f"{DOCUMENT} ->> '$.longitude'",
        "x": "given.value ->> '$[1]'",
        "y": "given.value ->> '$[2]'",
        "z": "given.value ->> '$[3]'",
        "place_name": f"{DOCUMENT} ->> '$.place_name'",
        "starts_at": _STARTS_AT,
        "ends_at": _ENDS_AT,
        "until_at": f"iif({DOCUMENT} ->> '$.ongoing', {FOREVER}, coalesce({_ENDS_AT}, {_STARTS_AT} + 1))",
        "created_at": ":now",
        "document": f"json_remove({DOCUMENT}, '$.created_at')",
    }


# The join with the owner's table makes a missing owner visible: the row count is too small.
def _insert(owner_type: str, expressions: dict[str, str], conflict: str) -> SqlTemplate:
    return SqlTemplate(f"""
INSERT INTO spatiotemporal_index ({columns(expressions)})
SELECT {values(expressions)}
FROM json_each(:entries) AS given CROSS JOIN {TABLES[owner_type]} AS owner
    ON owner.namespace = :namespace AND owner.id = {DOCUMENT} ->> '$.owner_id'
WHERE true
ON CONFLICT (namespace, id) DO {conflict}
""")


def _put(owner_type: str) -> SqlTemplate:
    expressions = columns_of(owner_type)
    unchanged = ("namespace", "id", "owner_type", "owner_id", "episode_seq", "created_at")
    return _insert(
        owner_type,
        expressions,
        f"UPDATE SET {upsert_assignments(expressions, *unchanged)}"
        " WHERE spatiotemporal_index.owner_type = excluded.owner_type"
        " AND spatiotemporal_index.owner_id = excluded.owner_id",
    )


def _import(owner_type: str) -> SqlTemplate:
    created_at = "coalesce(" + micros(f"({DOCUMENT} ->> '$.created_at')") + ", :now)"
    return _insert(owner_type, {**columns_of(owner_type), "created_at": created_at}, "NOTHING")


PUT = {owner_type: _put(owner_type) for owner_type in TABLES}
IMPORT = {owner_type: _import(owner_type) for owner_type in TABLES}
# Read with the write, in the same round trip: the only value that the database has set.
CREATED = SqlTemplate("""
SELECT id, created_at FROM spatiotemporal_index
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
# After a wrong row count: which ids belong to another owner.
OWNERS_BY_ID = SqlTemplate("""
SELECT id, owner_type, owner_id FROM spatiotemporal_index
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
# After a wrong row count: which owners do not exist.
OWNERS = SqlTemplate("""
SELECT 'episode', id FROM episodes WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
UNION ALL SELECT 'step', id FROM steps WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
ROW = "p.id, p.document, p.created_at"
GET = SqlTemplate(f"SELECT {ROW} FROM spatiotemporal_index AS p WHERE namespace = :namespace AND id = :id")
# NULL sorts first: entries without a time come before all others.
OF_OWNER = SqlTemplate(f"""
SELECT {ROW} FROM spatiotemporal_index AS p
WHERE namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id ORDER BY starts_at, seq
""")
DELETE = SqlTemplate("DELETE FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id RETURNING id")
COUNT = SqlTemplate("SELECT count(*) FROM spatiotemporal_index WHERE namespace = :namespace")
# A page is also limited by bytes: an entry that does not fit has no document.
_PAGE_CANDIDATES = """SELECT seq, id FROM spatiotemporal_index
    WHERE namespace = :namespace AND id > :after ORDER BY id LIMIT :limit"""
PAGE = SqlTemplate(f"""
{cut_by_bytes(_PAGE_CANDIDATES, "spatiotemporal_index", "octet_length(t.document)", "id")}
SELECT page.id, p.document, p.created_at FROM page LEFT JOIN spatiotemporal_index AS p
    ON page.fits AND p.seq = page.seq ORDER BY page.id
""")

# What clocks show, in microseconds since year 1: local times of the years 0 and 10000 count as the first and last.
_LOCAL = f"(min(max(e.started_at + z.utc_offset, {FIRST}), {END - 1}) - {FIRST})"
_SECONDS = f"{_LOCAL} / 1000000 + {FIRST // 1_000_000}, 'unixepoch'"
# The number of the unit that contains a local time, as `time_buckets.bucket` reads it.
_LABELS = {
    **{unit: f"{_LOCAL} / {size}" for unit, size in UNIT_SIZES.items()},
    "month": f"strftime('%Y', {_SECONDS}) * 12 + strftime('%m', {_SECONDS}) - 1",
}
# SQLite has no time zones: it gets the ranges in which the zone has one offset from UTC, a few hundred for 200 years.
_PERIODS = """periods (since, until, utc_offset) AS MATERIALIZED (
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:periods))"""
# CROSS JOIN fixes the order of the join: for each range, its episodes by the index on (namespace, started_at).
_EPISODES = """periods AS z CROSS JOIN episodes AS e
        ON e.namespace = :namespace AND e.started_at >= z.since AND e.started_at < z.until"""
# Offsets are listed until 2037; a later episode makes the caller read again, with those of all time.
_IS_BEYOND = f"EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace AND started_at >= {KNOWN_UNTIL})"


@lru_cache(maxsize=256)
def counts(unit: str, where: Conditions) -> SqlTemplate:
    """The number of episodes of each domain, task type and unit of time."""
    # The two hours of one label differ in their offset; of other units the parts before and after a change are one.
    offset = "z.utc_offset" if unit == "hour" else "0"
    return SqlTemplate(f"""
WITH {_PERIODS}
SELECT e.domain, e.task_type, {_LABELS[unit]} AS label, {offset} AS utc_offset, count(*), {_IS_BEYOND}
FROM {_EPISODES} {_where(where)} GROUP BY 1, 2, 3, 4
""")


@lru_cache(maxsize=256)
def sample(unit: str, where: Conditions, *, with_steps: bool) -> SqlTemplate:
    """The episodes of a diverse sample, in order: the rows of `episodes.sql`."""
    # The two hours of one label differ in their offset; of other units the parts before and after a change are one.
    offset = "z.utc_offset" if unit == "hour" else "0"
    rows = f"SELECT page.key, page.seq, {HEAD_ROW}, {_IS_BEYOND} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq"
    if with_steps:
        rows += f"""
UNION ALL
SELECT page.key, page.seq, {STEP_ROW}, {_IS_BEYOND} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
    CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id"""
    # Ranks within each bucket, then each task type, then each domain: sorted by the last one, groups alternate.
    return SqlTemplate(f"""
WITH {_PERIODS},
found AS (
    SELECT e.seq, e.domain, e.task_type, e.reward, e.started_at, {_LABELS[unit]} AS label, {offset} AS utc_offset
    FROM {_EPISODES} {_where(where)}),
in_buckets AS (
    SELECT *, row_number() OVER (
        PARTITION BY domain, task_type, label, utc_offset ORDER BY reward DESC, started_at DESC, seq DESC) AS in_bucket
    FROM found),
in_types AS (
    SELECT *, row_number() OVER (
        PARTITION BY domain, task_type ORDER BY in_bucket, label DESC, utc_offset) AS in_type
    FROM in_buckets),
in_domains AS (
    SELECT seq, domain, row_number() OVER (PARTITION BY domain ORDER BY in_type, task_type) AS in_domain
    FROM in_types),
page AS MATERIALIZED (
    SELECT seq, row_number() OVER (ORDER BY in_domain, domain) AS key FROM in_domains
    ORDER BY in_domain, domain LIMIT :limit)
{rows}""")


def _where(where: Conditions) -> str:
    return f"WHERE {' AND '.join(where)}" if where else ""
