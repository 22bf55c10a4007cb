"""The statements of the pattern repository. `documents` is a JSON array of complete patterns."""

from __future__ import annotations

from functools import lru_cache

from memory_storage.search.statement import Search
from memory_storage.sql.filters import Conditions
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, columns, micros, upsert_assignments, values, was_saved_before

# Only SQL increments these, so that concurrent clients lose no count.
_COUNTS = ("times_retrieved", "times_applied", "success_when_applied", "failure_when_applied")
COUNTERS = (*_COUNTS, "avg_reward_delta")
"""The columns of `Effectiveness` that are numbers, in the order in which they are read."""

CONTENT_COLUMNS = {
    "namespace": ":namespace",
    "id": "given.value ->> '$.id'",
    "kind": "given.value ->> '$.kind'",
    "domain": "given.value ->> '$.context.domain'",
    "language": "given.value ->> '$.context.language'",
    "success_rate": "given.value ->> '$.success_rate'",
    "occurrence_count": "given.value ->> '$.occurrence_count'",
    "document": "json_remove(given.value, '$.version', '$.created_at', '$.updated_at', '$.effectiveness', '$.words')",
    "words": "given.value -> '$.words'",
}
_COUNTER_COLUMNS = {
    **{name: f"given.value ->> '$.effectiveness.{name}'" for name in COUNTERS},
    "last_used_at": micros("(given.value ->> '$.effectiveness.last_used_at')"),
}
# A save writes the counters of a new pattern only: the upsert excludes them.
_SAVED = {
    "version": "(given.value ->> '$.version') + 1",
    "created_at": ":now",
    "updated_at": ":now",
    **CONTENT_COLUMNS,
    **_COUNTER_COLUMNS,
}
_IMPORTED = {
    "version": "max(given.value ->> '$.version', 1)",
    "created_at": "coalesce(" + micros("(given.value ->> '$.created_at')") + ", :now)",
    "updated_at": "coalesce(" + micros("(given.value ->> '$.updated_at')") + ", :now)",
    **CONTENT_COLUMNS,
    **_COUNTER_COLUMNS,
}
ROW = f"id, document, version, created_at, updated_at, {columns(_COUNTER_COLUMNS)}"

# A pattern that was saved before must still exist: without that, saving a stale copy would restore a deleted one.
SAVE = SqlTemplate(f"""
INSERT INTO patterns ({columns(_SAVED)})
SELECT {values(_SAVED)}
FROM json_each(:documents) AS given
WHERE given.value ->> '$.version' = 0
    OR {was_saved_before("patterns")}
ON CONFLICT (namespace, id) DO UPDATE SET
    {upsert_assignments(_SAVED, "namespace", "id", "created_at", *_COUNTER_COLUMNS)}
WHERE patterns.version = excluded.version - 1
""")

# Existing rows are not changed; the row count shows how many were skipped.
IMPORT = SqlTemplate(f"""
INSERT INTO patterns ({columns(_IMPORTED)})
SELECT {values(_IMPORTED)}
FROM json_each(:documents) AS given
WHERE true
ON CONFLICT (namespace, id) DO NOTHING
""")

# Learning again replaces the statistics; counters and edited fields stay. `->` instead of `->>`: the digits of a number
# stay as they are written.
_STATISTICS = ("occurrence_count", "success_rate", "evidence", "statistics")
_STATISTICS_OF_KIND = {
    "tool_sequence": ("avg_latency_ms",),
    "decision_point": ("success_count", "failure_count"),
    "heuristic": ("confidence",),
}


def _with_statistics(*more: str) -> str:
    values = (f"'$.{name}', json(excluded.document -> '$.{name}')" for name in (*_STATISTICS, *more))
    return f"json_set(patterns.document, {', '.join(values)})"


_OF_KINDS = " ".join(f"WHEN '{kind}' THEN {_with_statistics(*names)}" for kind, names in _STATISTICS_OF_KIND.items())
_NEW_DOCUMENT = f"CASE patterns.kind {_OF_KINDS} ELSE {_with_statistics()} END"

# A pattern whose statistics did not change is not written: its version stays, and so do copies of it. One that was
# learned before is updated only if it still exists.
UPSERT_MINED = SqlTemplate(f"""
INSERT INTO patterns ({columns(_SAVED)})
SELECT {values(_SAVED)}
FROM json_each(:documents) AS given
WHERE given.value ->> '$.version' = 0
    OR {was_saved_before("patterns")}
ON CONFLICT (namespace, id) DO UPDATE SET
    version = patterns.version + 1, updated_at = excluded.updated_at, success_rate = excluded.success_rate,
    occurrence_count = excluded.occurrence_count, document = {_NEW_DOCUMENT}
WHERE patterns.kind = excluded.kind AND patterns.document IS NOT {_NEW_DOCUMENT}
""")

GET = SqlTemplate(f"SELECT {ROW} FROM patterns WHERE namespace = :namespace AND id = :id")

GET_MANY = SqlTemplate(f"""
SELECT {ROW} FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

# Triggers add what follows to the counts of this session: see `memory_storage/sync/counts.py`.
SESSION = "unhex(hex({0}) || printf('%08X', {1}))"
"""SQL for the name of a session, of a random identity of 16 bytes and a generation of the file."""

_THIS_SESSION = SESSION.format(":opening", "generation")
COUNT_AS = SqlTemplate(f"""
UPDATE sync_state SET session = {_THIS_SESSION} WHERE id = 1 AND mode = 2 AND session IS NOT {_THIS_SESSION}
""")

# CAST: beyond 64 bits the sum would become a float.
RECORD_RETRIEVAL = SqlTemplate("""
UPDATE patterns SET times_retrieved = CAST(times_retrieved + 1 AS INTEGER), last_used_at = :now
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

# The running mean of the deltas needs no stored applications. Its terms cannot overflow.
RECORD_APPLICATION = SqlTemplate("""
UPDATE patterns SET
    times_applied = CAST(times_applied + 1 AS INTEGER),
    success_when_applied = CAST(success_when_applied + :success AS INTEGER),
    failure_when_applied = CAST(failure_when_applied + 1 - :success AS INTEGER),
    avg_reward_delta = avg_reward_delta * (1.0 * times_applied / (times_applied + 1))
        + :reward_delta / (times_applied + 1),
    last_used_at = :now
WHERE namespace = :namespace AND id = :id
""")

# Each recalled pattern was retrieved once, and each used one applied once, if this episode has not counted it: the
# stored receipt says so, which the same batch stores. If it does not know what was used, all were counted as applied.
# Success is what analytics counts as one.
_RECORD_RECALL = """
WITH stored (receipt) AS (SELECT (
    SELECT document -> '$.recalled' FROM episodes WHERE namespace = :namespace AND id = :episode_id)),
patterns_shown AS (SELECT receipt, {shown}),
shown AS (
    SELECT shown_id, receipt IS NULL AS retrieved, CASE
        WHEN receipt IS NULL THEN :used IS NULL OR shown_id IN (SELECT value FROM json_each(:used))
        WHEN receipt ->> '$.used' IS NULL THEN false
        ELSE shown_id IN (SELECT value FROM json_each(:used))
            AND shown_id NOT IN (SELECT value FROM json_each(receipt, '$.used')) END AS applied
    FROM patterns_shown)
UPDATE patterns SET
    times_retrieved = CAST(times_retrieved + retrieved AS INTEGER),
    times_applied = CAST(times_applied + applied AS INTEGER),
    success_when_applied = CAST(success_when_applied + (applied AND :kind = 'success') AS INTEGER),
    failure_when_applied = CAST(failure_when_applied + (applied AND :kind <> 'success') AS INTEGER),
    avg_reward_delta = avg_reward_delta * iif(applied, 1.0 * times_applied / (times_applied + 1), 1.0),
    last_used_at = :now
FROM shown WHERE namespace = :namespace AND id = shown_id AND (retrieved OR applied)
"""
RECORD_RECALL = SqlTemplate(_RECORD_RECALL.format(shown="value AS shown_id FROM json_each(:ids) CROSS JOIN stored"))
# A recall of another process: what it showed is in the episode if that was completed with it before, else in `recalls`.
RECORD_KEPT_RECALL = SqlTemplate(
    _RECORD_RECALL.format(
        shown="""value ->> 1 AS shown_id FROM stored CROSS JOIN json_each(coalesce(receipt -> '$.items', (
        SELECT document -> '$.items' FROM recalls WHERE namespace = :namespace AND id = :recall_id)))
    WHERE value ->> 0 = 'pattern'"""
    )
)

# Beyond 64 bits a sum would become a float, and its row unreadable: it stays at the largest integer.
_SUM = "CAST(patterns.{name} + other.{name} AS INTEGER)"
_UNION = """(SELECT json_group_array(value) FROM (
        SELECT value FROM json_each(patterns.document, '$.{field}')
        UNION SELECT value FROM json_each(other.document, '$.{field}')))"""
# Words that the full-text index spells differently from the document; a side without any contributes its tags.
_UNION_OF_WORDS = """(SELECT json_group_array(value) FROM (
        SELECT value FROM json_each(coalesce(patterns.words -> '$.tags', patterns.document -> '$.tags'))
        UNION SELECT value FROM json_each(coalesce(other.words -> '$.tags', other.document -> '$.tags'))))"""
# At most 1, whatever the rounding of counts beyond 53 bits adds.
_MERGED_RATE = """min(1.0,
        (patterns.success_rate * patterns.occurrence_count + other.success_rate * other.occurrence_count)
        / (patterns.occurrence_count + other.occurrence_count))"""
_APPLICATIONS = "(1.0 * patterns.times_applied + other.times_applied)"

_MERGED_DOCUMENT = f"""json_set(patterns.document,
        '$.occurrence_count', {_SUM.format(name="occurrence_count")},
        '$.success_rate', json(printf('%!.17g', {_MERGED_RATE})),
        '$.evidence', json({_UNION.format(field="evidence")}),
        '$.tags', json({_UNION.format(field="tags")}))"""

# json(printf()): a float that is passed to json_set() keeps only 15 of its digits. The steps of a playbook stay.
MERGE = SqlTemplate(f"""
UPDATE patterns SET
    version = patterns.version + 1, updated_at = :now,
    occurrence_count = {_SUM.format(name="occurrence_count")},
    success_rate = {_MERGED_RATE},
    {", ".join(f"{name} = {_SUM.format(name=name)}" for name in _COUNTS)},
    avg_reward_delta = CASE {_APPLICATIONS} WHEN 0 THEN 0.0 ELSE
        patterns.avg_reward_delta * (patterns.times_applied / {_APPLICATIONS})
        + other.avg_reward_delta * (other.times_applied / {_APPLICATIONS}) END,
    last_used_at = max(coalesce(patterns.last_used_at, other.last_used_at),
        coalesce(other.last_used_at, patterns.last_used_at)),
    document = CASE patterns.kind
        WHEN 'playbook' THEN json_set({_MERGED_DOCUMENT}, '$.sources', json({_UNION.format(field="sources")}))
        ELSE {_MERGED_DOCUMENT} END,
    words = CASE WHEN coalesce(patterns.words -> '$.tags', other.words -> '$.tags') IS NULL THEN patterns.words
        ELSE json_set(coalesce(patterns.words, '{{}}'), '$.tags', json({_UNION_OF_WORDS})) END
FROM (SELECT * FROM patterns WHERE namespace = :namespace AND id = :other) AS other
WHERE patterns.namespace = :namespace AND patterns.id = :id AND patterns.kind = other.kind
""")

# Changes no row while the limits are kept. Else it changes one, and the changed row count rolls the batch back: only
# the database knows the size of what json_set has made.
_CHECK = "UPDATE patterns SET version = version WHERE namespace = :namespace AND {of} AND ({too_large})"
CHECK_MERGED = SqlTemplate(
    _CHECK.format(
        of="id = :id", too_large="octet_length(document) > :most OR json_array_length(document, '$.tags') > :tags"
    )
)
CHECK_MINED = SqlTemplate(
    _CHECK.format(
        of="updated_at = :now AND id IN (SELECT value FROM json_each(:ids))", too_large="octet_length(document) > :most"
    )
)

DELETE = SqlTemplate("DELETE FROM patterns WHERE namespace = :namespace AND id = :id RETURNING id")
DELETE_MERGED = SqlTemplate("DELETE FROM patterns WHERE namespace = :namespace AND id = :id")


@lru_cache(maxsize=256)
def query(conditions: Conditions, order: str) -> SqlTemplate:
    """Return the statement of a page: rows of sort key, `seq` and columns."""
    return SqlTemplate(f"""
SELECT success_rate, seq, {ROW} FROM patterns
WHERE {" AND ".join(("namespace = :namespace", *conditions))} ORDER BY {order} LIMIT :limit
""")


@lru_cache(maxsize=256)
def page_with_index(conditions: Conditions) -> SqlTemplate:
    """Return the statement that lists the id and size of each pattern, with the columns of those on the first page."""
    rows = f"""SELECT seq, id AS key, success_rate FROM patterns
    WHERE {" AND ".join(("namespace = :namespace", *conditions))}"""
    return SqlTemplate(f"""
{cut_by_bytes(rows, "patterns", "octet_length(t.document)", "success_rate DESC, seq DESC")}
SELECT page.key, page.bytes, {ROW} FROM page LEFT JOIN patterns ON page.fits AND patterns.seq = page.seq
ORDER BY page.number
""")


@lru_cache(maxsize=256)
def search(query: Search) -> SqlTemplate:
    """Return the statement of a search: rows of score, `seq`, facts and columns."""
    return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts()}, {ROW} FROM found CROSS JOIN patterns ON patterns.seq = found.seq
{query.about_search(ROW.count(",") + 1)}
""")


@lru_cache(maxsize=256)
def count(conditions: Conditions) -> SqlTemplate:
    """Return the statement that counts patterns."""
    return SqlTemplate(f"SELECT count(*) FROM patterns WHERE {' AND '.join(('namespace = :namespace', *conditions))}")
