"""The statements of the episode repository. `documents` is a JSON array of complete episodes, including their steps."""

from __future__ import annotations

from functools import lru_cache

from memory_storage.repositories.retention.sql import IS_PATTERN_SOURCE
from memory_storage.repositories.retention.tombstones import EVICTED_KEY
from memory_storage.search.statement import Search
from memory_storage.sql.filters import Conditions
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import (
    SqlTemplate,
    bytes_of_episode,
    columns,
    micros,
    upsert_assignments,
    values,
    was_saved_before,
)

# One expression for each column that repeats a field of the document: the statement that writes the document fills the
# columns, so that they cannot differ.
HEAD_COLUMNS = {
    "id": "given.value ->> '$.id'",
    "task_type": "given.value ->> '$.task_type'",
    "domain": "given.value ->> '$.context.domain'",
    "language": "given.value ->> '$.context.language'",
    "framework": "given.value ->> '$.context.framework'",
    "complexity": "given.value ->> '$.context.complexity'",
    "outcome": "given.value ->> '$.outcome.kind'",
    "reward": "given.value ->> '$.reward.total'",
    "started_at": micros("(given.value ->> '$.started_at')"),
    "completed_at": micros("(given.value ->> '$.completed_at')"),
    "document": """json_remove(given.value, '$.version', '$.created_at', '$.updated_at', '$.archived_at', '$.steps',
        '$.words')""",
    "words": "given.value -> '$.words'",
}
# A save counts the version up and sets the times itself; a caller's clock must not decide what is newer.
_SAVED = {
    "namespace": ":namespace",
    "version": "(given.value ->> '$.version') + 1",
    "created_at": ":now",
    "updated_at": ":now",
    **HEAD_COLUMNS,
}
# An import keeps version and times; version 0 would mean that the row was never saved.
_IMPORTED = {
    "namespace": ":namespace",
    "version": "max(given.value ->> '$.version', 1)",
    "created_at": "coalesce(" + micros("(given.value ->> '$.created_at')") + ", :now)",
    "updated_at": "coalesce(" + micros("(given.value ->> '$.updated_at')") + ", :now)",
    "archived_at": micros("(given.value ->> '$.archived_at')"),
    **HEAD_COLUMNS,
}
# The output has a column of its own: it may be large, and full-text search reads it without parsing JSON.
STEP_COLUMNS = {
    "namespace": ":namespace",
    "episode_id": "given.id",
    "step_number": "step.value ->> '$.step_number'",
    "id": "step.value ->> '$.id'",
    "tool": "step.value ->> '$.tool'",
    "status": "step.value ->> '$.result.status'",
    "latency_ms": "step.value ->> '$.latency_ms'",
    "tokens_used": "step.value ->> '$.tokens_used'",
    "started_at": micros("(step.value ->> '$.started_at')"),
    "output": "coalesce(step.value ->> '$.result.output', step.value ->> '$.result.message')",
    "document": "json_remove(json_replace(step.value, '$.result.output', '', '$.result.message', ''), '$.words')",
    "words": "step.value -> '$.words'",
}

# Hexadecimal digits and hyphens are ASCII: all ids with a prefix are one range of the index.
IDS_WITH_PREFIX = SqlTemplate("""
SELECT id FROM episodes WHERE namespace = :namespace AND id >= :first AND id < :after ORDER BY id LIMIT :limit
""")

# The longest prefix that an id shares with any other is one that it shares with its neighbours in the index.
ADJACENT_IDS = SqlTemplate("""
SELECT ids.value,
    (SELECT max(e.id) FROM episodes AS e WHERE e.namespace = :namespace AND e.id < ids.value),
    (SELECT min(e.id) FROM episodes AS e WHERE e.namespace = :namespace AND e.id > ids.value)
FROM json_each(:ids) AS ids
""")

# A row is an episode (number 0) or one of its steps: one statement returns both, and each document as it is stored. A
# join would repeat the episode's document with every step.
HEAD_ROW = "0, e.id, e.document, e.version, e.created_at, e.updated_at, e.archived_at"
_ROW_COLUMNS = 7  # columns
STEP_ROW = "s.step_number, s.id, s.document, s.output, NULL, NULL, NULL"

# A new episode that is stored already is not written, which the row count shows.
SAVE_NEW = SqlTemplate(f"""
INSERT INTO episodes ({columns(_SAVED)})
SELECT {values(_SAVED)}
FROM json_each(:documents) AS given
WHERE true
ON CONFLICT (namespace, id) DO NOTHING
""")

# An episode that was saved before must still exist: without that, saving a stale copy would restore a deleted one.
SAVE = SqlTemplate(f"""
INSERT INTO episodes ({columns(_SAVED)})
SELECT {values(_SAVED)}
FROM json_each(:documents) AS given
WHERE given.value ->> '$.version' = 0
    OR {was_saved_before("episodes")}
ON CONFLICT (namespace, id) DO UPDATE SET {upsert_assignments(_SAVED, "namespace", "id", "created_at")}
WHERE episodes.version = excluded.version - 1
""")

# Existing rows are not changed; the row count shows how many were skipped, and only then they are looked up.
IMPORT = SqlTemplate(f"""
INSERT INTO episodes ({columns(_IMPORTED)})
SELECT {values(_IMPORTED)}
FROM json_each(:documents) AS given
WHERE true
ON CONFLICT (namespace, id) DO NOTHING
""")

# Materialized: else every step would parse its whole episode again, for the id.
_DOCUMENTS = """WITH given (id, steps) AS MATERIALIZED (
    SELECT value ->> '$.id', value -> '$.steps' FROM json_each(:documents))"""


# No upsert: a step of a new episode that exists already belongs to another episode, which is a conflict.
SAVE_NEW_STEPS = SqlTemplate(f"""
{_DOCUMENTS}
INSERT INTO steps ({columns(STEP_COLUMNS)})
SELECT {values(STEP_COLUMNS)}
FROM given, json_each(given.steps) AS step
""")

# An unchanged step is not written again, so its full-text entry stays. A trigger refuses a step that moved to another
# episode.
SAVE_STEPS = SqlTemplate(f"""
{_DOCUMENTS}
INSERT INTO steps ({columns(STEP_COLUMNS)})
SELECT {values(STEP_COLUMNS)}
FROM given, json_each(given.steps) AS step
WHERE true
ON CONFLICT (namespace, id) DO UPDATE SET {upsert_assignments(STEP_COLUMNS, "namespace", "id")}
WHERE steps.document IS NOT excluded.document OR steps.output IS NOT excluded.output
    OR steps.episode_id IS NOT excluded.episode_id OR steps.step_number IS NOT excluded.step_number
""")

# Steps that exchange numbers would violate the unique index one by one. Negative numbers are free, so they are parked
# there first.
PARK_STEPS = SqlTemplate(f"""
{_DOCUMENTS}
UPDATE steps SET step_number = -step_number
WHERE namespace = :namespace AND (episode_id, id) IN (
    SELECT given.id, step.value ->> '$.id' FROM given, json_each(given.steps) AS step)
""")

# Enough of a description to show what the task is about.
TASKS = SqlTemplate("""
SELECT id, substr(document ->> '$.task_description', 1, 1000) FROM episodes
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

# The last statement of a save: the columns that the database has set, in the same round trip.
STATE = SqlTemplate("""
SELECT id, version, created_at, updated_at, archived_at FROM episodes
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

# Only read for episodes that end before they start, which older versions accepted.
TIMES = SqlTemplate("""
SELECT id, started_at, completed_at FROM episodes
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

# Eviction, in the batch of a save that exceeds the quota. The tombstones come first, so that a stale copy of an evicted
# episode is not saved as a new one, which would evict another.
ADD_EVICTION_KEYS = SqlTemplate(f"""
INSERT INTO forgotten (digest, episode_seq)
SELECT {EVICTED_KEY.format(id="e.id")}, e.seq FROM episodes AS e
WHERE e.namespace = :namespace AND e.id NOT IN (SELECT value FROM json_each(:ids)) AND NOT {IS_PATTERN_SOURCE}
ORDER BY e.started_at, e.id
LIMIT max(0, (SELECT count(*) FROM episodes WHERE namespace = :namespace) - :max_episodes)
ON CONFLICT (digest) DO UPDATE SET episode_seq = excluded.episode_seq
""")

# A trigger then removes the row's number from the tombstone.
EVICT = SqlTemplate("""
DELETE FROM episodes WHERE namespace = :namespace AND seq IN (
    SELECT episode_seq FROM forgotten WHERE episode_seq IS NOT NULL AND length(digest) > 16)
""")

# Changes no row while the quota is kept. If there are too many episodes, it changes one, and the changed row count
# rolls the save back.
CHECK_QUOTA = SqlTemplate("""
UPDATE episodes SET version = version WHERE seq = (
    SELECT seq FROM episodes WHERE namespace = :namespace ORDER BY started_at LIMIT 1 OFFSET :max_episodes)
""")

# `completed_at` of the caller may not be before the start, unless it is stored already (an older version accepted it).
# If it is the current time, the clock may be behind the one that set the start: the end is then the start.
COMPLETE = SqlTemplate("""
UPDATE episodes SET
    version = version + 1, updated_at = :now, outcome = :kind, reward = coalesce(:total, reward),
    completed_at = CASE WHEN :is_now THEN max(:completed_at, started_at) ELSE :completed_at END,
    document = json_set(document, '$.outcome', json(:outcome), '$.completed_at',
        CASE WHEN :is_now AND :completed_at < started_at THEN document -> '$.started_at' ELSE json(:completed_json) END,
        '$.reward', json(coalesce(:reward, document -> '$.reward')),
        '$.reflection', json(coalesce(:reflection, document -> '$.reflection'))),
    words = nullif(json_patch(coalesce(words, '{}'), :words), '{}')
WHERE namespace = :namespace AND id = :id
    AND (:is_now OR :completed_at >= started_at OR :completed_at = completed_at)
""")

# Changes no row while the document is small enough. Else it changes one, and the changed row count rolls the completion
# back: only the database knows the size of what json_set has made.
CHECK_SIZE = SqlTemplate("""
UPDATE episodes SET version = version WHERE namespace = :namespace AND id = :id AND octet_length(document) > :most
""")

# Archiving again keeps the first time.
ARCHIVE = SqlTemplate("""
UPDATE episodes SET archived_at = coalesce(archived_at, :now) WHERE namespace = :namespace AND id = :id
""")

RESTORE = SqlTemplate("UPDATE episodes SET archived_at = NULL WHERE namespace = :namespace AND id = :id")

# Triggers delete what belongs to the episode.
DELETE = SqlTemplate("DELETE FROM episodes WHERE namespace = :namespace AND id = :id RETURNING id")

GET_HEAD = SqlTemplate(f"SELECT {HEAD_ROW} FROM episodes AS e WHERE e.namespace = :namespace AND e.id = :id")
HEADS = SqlTemplate(f"""
SELECT {HEAD_ROW} FROM episodes AS e WHERE e.namespace = :namespace
    AND e.id IN (SELECT value FROM json_each(:ids))
""")
GET = SqlTemplate(f"""
SELECT {HEAD_ROW} FROM episodes AS e WHERE e.namespace = :namespace AND e.id = :id
UNION ALL
SELECT {STEP_ROW} FROM steps AS s WHERE s.namespace = :namespace AND s.episode_id = :id
""")

# CROSS JOIN fixes the order of the loops: the page is small, the tables are not.
_STEPS_OF_PAGE = f"""
UNION ALL
SELECT page.sort_key, page.seq, {STEP_ROW} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
    CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id"""


@lru_cache(maxsize=256)
def query(conditions: Conditions, order: str, *, with_steps: bool) -> SqlTemplate:
    """Return the statement of a page: rows of sort key, `seq`, and the columns of an episode or step, in any order."""
    return SqlTemplate(f"""
WITH page AS MATERIALIZED (
    SELECT seq, started_at AS sort_key FROM episodes WHERE {" AND ".join(("namespace = :namespace", *conditions))}
    ORDER BY {order} LIMIT :limit)
SELECT page.sort_key, page.seq, {HEAD_ROW} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
{_STEPS_OF_PAGE if with_steps else ""}
""")


@lru_cache(maxsize=256)
def ids(conditions: Conditions, order: str) -> SqlTemplate:
    """Return the statement that lists the ids of all episodes of a query, in order."""
    where = " AND ".join(("namespace = :namespace", *conditions))
    return SqlTemplate(f"SELECT id FROM episodes WHERE {where} ORDER BY {order}")


@lru_cache(maxsize=256)
def page_of_ids(conditions: Conditions, *, with_steps: bool) -> SqlTemplate:
    """Return the statement for those of `ids` that pass: position in `ids`, `seq`, then as `next_ones`."""
    where = " AND ".join(("true", *conditions))
    candidates = f"""SELECT e.seq, ids.key AS sort_key
    FROM json_each(:ids) AS ids CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = ids.value
    WHERE {where} ORDER BY ids.key LIMIT :limit"""
    return SqlTemplate(
        f"{_page_within_bytes(candidates, 'sort_key', with_steps=with_steps)}\n{_fitting_rows(with_steps=with_steps)}"
    )


@lru_cache(maxsize=256)
def page_by_bytes(conditions: Conditions, order: str, *, with_steps: bool) -> SqlTemplate:
    """As `query`, but a page ends by bytes too: an episode that does not fit has no id."""
    candidates = f"""SELECT seq, started_at, started_at AS sort_key
    FROM episodes WHERE {" AND ".join(("namespace = :namespace", *conditions))} ORDER BY {order} LIMIT :limit"""
    return SqlTemplate(
        f"{_page_within_bytes(candidates, order, with_steps=with_steps)}\n{_fitting_rows(with_steps=with_steps)}"
    )


def _page_within_bytes(candidates: str, order: str, *, with_steps: bool) -> str:
    size = bytes_of_episode("t") if with_steps else "octet_length(t.document)"
    return cut_by_bytes(candidates, "episodes", size, order)


def _fitting_rows(*, with_steps: bool) -> str:
    return f"""SELECT page.sort_key, page.seq, {HEAD_ROW}
FROM page LEFT JOIN episodes AS e ON page.fits AND e.seq = page.seq
{f"{_STEPS_OF_PAGE} WHERE page.fits" if with_steps else ""}"""


@lru_cache(maxsize=256)
def search(query: Search, *, with_steps: bool) -> SqlTemplate:
    """Return the statement of a search: rows of score, `seq`, facts, and columns of an episode or step."""
    if not with_steps:
        return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts()}, {HEAD_ROW} FROM found CROSS JOIN episodes AS e ON e.seq = found.seq
{query.own_space(_ROW_COLUMNS)}
""")
    return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts("NOT of_step")}, iif(of_step, s.step_number, 0), iif(of_step, s.id, e.id),
    iif(of_step, s.document, e.document), iif(of_step, s.output, e.version), e.created_at, e.updated_at, e.archived_at
FROM found CROSS JOIN episodes AS e ON e.seq = found.seq
CROSS JOIN (SELECT false AS of_step UNION ALL SELECT true)
LEFT JOIN steps AS s ON of_step AND s.namespace = e.namespace AND s.episode_id = e.id
WHERE NOT of_step OR s.id IS NOT NULL
{query.own_space(_ROW_COLUMNS)}
""")


@lru_cache(maxsize=256)
def count(conditions: Conditions) -> SqlTemplate:
    """Return the statement that counts episodes."""
    return SqlTemplate(f"SELECT count(*) FROM episodes WHERE {' AND '.join(('namespace = :namespace', *conditions))}")
