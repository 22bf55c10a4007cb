"""The statements of the episode repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from memory_storage.dbapi import BatchStep, chunked
from memory_storage.repositories.retention.sql import IS_PATTERN_SOURCE
from memory_storage.repositories.retention.tombstones import EVICTED_KEY
from memory_storage.search.statement import Search
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.episode_rows import EPISODE_COLUMNS, EPISODE_ROW, STEP_COLUMNS
from memory_storage.sql.episode_rows import STEP_ROW as STEP_ROW_COLUMNS
from memory_storage.sql.filters import IS_CHILD, Conditions
from memory_storage.sql.indexing import CHANGED
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, bytes_of_episode

_MOST_ROWS = 64  # of one statement: a text is compiled for each number of rows

# Hexadecimal digits and hyphens are ASCII: all ids with a prefix are one range of the index.
# A row is an episode (number 0) or one of its steps: one statement returns both, and each document as it is stored. A
# join would repeat the episode's document with every step.
_ROW_COLUMNS = 1 + len(EPISODE_ROW)
HEAD_ROW = ", ".join(["0", *(f"e.{name}" for name in EPISODE_ROW)])
STEP_ROW = ", ".join([*(f"s.{name}" for name in STEP_ROW_COLUMNS), *["NULL"] * (_ROW_COLUMNS - len(STEP_ROW_COLUMNS))])

# A new episode that is stored already is not written, which the row count shows.
_INSERT_EPISODES = "INSERT INTO episodes ({columns}) VALUES {rows} ON CONFLICT (namespace, id) DO NOTHING"

# An episode that was saved before must still exist: without that, saving a stale copy would restore a deleted one. Ids
# are chosen by clients: after a delete, another client may have created a new row under the same id, whose version
# counts from 1 too, so `created_at` is compared. If the caller's copy has none, only the id is.
_SAVE_EPISODES = """WITH given ({columns}, known_since) AS (VALUES {rows})
INSERT INTO episodes ({columns}) SELECT {columns} FROM given
WHERE version = 1 OR EXISTS (
    SELECT 1 FROM episodes AS present WHERE present.namespace = given.namespace AND present.id = given.id
        AND coalesce(known_since, present.created_at) = present.created_at)
ON CONFLICT (namespace, id) DO UPDATE SET {changes} WHERE episodes.version = excluded.version - 1"""
_KEPT = {"namespace", "id", "created_at", "archived_at"}

# No upsert: a step of a new episode that exists already belongs to another episode, which is a conflict.
_INSERT_STEPS = "INSERT INTO steps ({columns}) VALUES {rows}"

# An unchanged step is not written again, so its text stays in the full-text index. A trigger refuses a step that moved
# to another episode. WHERE true: without it, ON would belong to a join.
_SAVE_STEPS = """WITH given ({columns}) AS (VALUES {rows})
INSERT INTO steps ({columns}) SELECT {columns} FROM given WHERE true
ON CONFLICT (namespace, id) DO UPDATE SET {changes}
WHERE ({compared}) IS NOT ({excluded})"""

# Steps that exchange numbers would violate the unique index one by one. Negative numbers are free, so they are parked
# there first.
PARK_STEPS = SqlTemplate("""
UPDATE steps SET step_number = -step_number
WHERE namespace = :namespace AND (episode_id, id) IN (
    SELECT value ->> 0, value ->> 1 FROM json_each(:steps))
""")


def insert_episodes(rows: Sequence[tuple[Any, ...]]) -> Iterator[BatchStep]:
    """Yield statements that insert new episodes: rows of `EPISODE_COLUMNS`."""
    return _statements(_INSERT_EPISODES, EPISODE_COLUMNS, rows, is_counted=True)


def save_episodes(rows: Sequence[tuple[Any, ...]]) -> Iterator[BatchStep]:
    """Yield statements that insert or update episodes: rows of `EPISODE_COLUMNS`, and the copy's `created_at`."""
    return _statements(_SAVE_EPISODES, EPISODE_COLUMNS, rows, is_counted=True)


def insert_steps(rows: Sequence[tuple[Any, ...]]) -> Iterator[BatchStep]:
    """Yield statements that insert new steps: rows of `STEP_COLUMNS`."""
    return _statements(_INSERT_STEPS, STEP_COLUMNS, rows)


def save_steps(rows: Sequence[tuple[Any, ...]]) -> Iterator[BatchStep]:
    """Yield statements that insert or update steps: rows of `STEP_COLUMNS`."""
    return _statements(_SAVE_STEPS, STEP_COLUMNS, rows)


def _statements(
    sql: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], *, is_counted: bool = False
) -> Iterator[BatchStep]:
    # A character has at most four bytes: to count them exactly would encode each text.
    for group in chunked(
        rows,
        lambda row: 4 * sum(len(value) for value in row if type(value) is str),
        most_bytes=CHUNK_BYTES,
        most=_MOST_ROWS,
    ):
        text = _sql_of(sql, columns, len(group), len(group[0]))
        yield BatchStep(text, tuple(chain.from_iterable(group)), len(group) if is_counted else None)


@lru_cache(maxsize=8 * _MOST_ROWS)
def _sql_of(sql: str, columns: tuple[str, ...], rows: int, width: int) -> str:
    others = [name for name in columns if name not in _KEPT]
    return sql.format(
        columns=", ".join(columns),
        rows=", ".join([f"({', '.join('?' * width)})"] * rows),
        changes=", ".join(f"{name} = excluded.{name}" for name in others),
        compared=", ".join(f"steps.{name}" for name in _COMPARED),
        excluded=", ".join(f"excluded.{name}" for name in _COMPARED),
    )


_COMPARED = [name for name in STEP_COLUMNS if name not in {"namespace", "id", "words"}]

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
# Only an episode with a receipt has its key: without one, the first pair sets the outcome, as the next one does. What a
# stored receipt has stays, unless the new one has it too.
_COMPLETE = """
UPDATE episodes SET
    version = version + 1, updated_at = :now, outcome = :kind, reward = coalesce(:total, reward),
    completed_at = CASE WHEN :is_now THEN max(:completed_at, started_at) ELSE :completed_at END,
    document = json_set(CASE WHEN :completed_json IS NULL THEN json_remove(document, '$.completed_at')
            ELSE json_set(document, '$.completed_at', json(:completed_json)) END,
        iif(:recalled IS NULL, '$.outcome', '$.recalled'),
            json(iif(:recalled IS NULL, :outcome,
                json_patch(coalesce(document -> '$.recalled', {receipt}), :recalled))),
        '$.outcome', json(:outcome), '$.reward', json(coalesce(:reward, document -> '$.reward')),
        '$.reflection', json(coalesce(:reflection, document -> '$.reflection'))),
    words = nullif(json_patch(coalesce(words, '{{}}'), :words), '{{}}')
WHERE namespace = :namespace AND id = :id
    AND (:is_now OR :completed_at >= started_at OR :completed_at = completed_at)
"""
COMPLETE = SqlTemplate(_COMPLETE.format(receipt="'{}'"))

# Changes one row, and the changed row count rolls the completion back, if another recall is stored.
CHECK_RECALLED = SqlTemplate("""
UPDATE episodes SET version = version
WHERE namespace = :namespace AND id = :id AND document ->> '$.recalled.id' <> :recall_id
""")

# A recall of another process: what it showed is in the episode if that was completed with it before, else in `recalls`.
COMPLETE_KEPT = SqlTemplate(
    _COMPLETE.format(
        receipt="""(
                SELECT json_object('items', document -> '$.items') FROM recalls
                WHERE namespace = :namespace AND id = :recall_id)"""
    )
)
_KEPT_ITEMS = "(SELECT document -> '$.items' FROM recalls WHERE namespace = :namespace AND id = :recall_id)"
_SHOWN = f"coalesce(document -> '$.recalled.items', {_KEPT_ITEMS})"
# These change one row if the recall is not known, and if something else was used than it showed.
CHECK_KEPT = SqlTemplate(f"""
UPDATE episodes SET version = version WHERE namespace = :namespace AND id = :id AND {_SHOWN} IS NULL
""")
CHECK_USED = SqlTemplate(f"""
UPDATE episodes SET version = version WHERE namespace = :namespace AND id = :id AND EXISTS (
    SELECT 1 FROM json_each(:used) WHERE value NOT IN (SELECT value ->> 1 FROM json_each({_SHOWN})))
""")

# The numbers of a namespace grow by one, so that the oldest receipts are a range.
KEEP_RECALL = SqlTemplate("""
INSERT INTO recalls (namespace, id, number, created_at, document)
SELECT :namespace, :id, coalesce((
    SELECT number FROM recalls WHERE namespace = :namespace ORDER BY number DESC LIMIT 1), 0) + 1, :now, :document
WHERE true ON CONFLICT (namespace, id) DO NOTHING
""")
DROP_OLD_RECALLS = SqlTemplate("""
DELETE FROM recalls WHERE namespace = :namespace AND number <= (
    SELECT number FROM recalls WHERE namespace = :namespace ORDER BY number DESC LIMIT 1) - :most
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
GET_HEAD_OF_CHECKPOINT = SqlTemplate(f"""
SELECT {HEAD_ROW} FROM checkpoints AS c CROSS JOIN episodes AS e ON e.namespace = :namespace AND e.id = c.episode_id
WHERE c.namespace = :namespace AND c.id = :id
""")
# From a new episode, so that no cycle is closed. No row is inserted if the checkpoint, or its episode, was deleted.
ADD_FOLLOWS = SqlTemplate("""
INSERT INTO relationships (namespace, id, from_id, to_id, kind, created_at, document)
SELECT :namespace, :id, :from_id, c.episode_id, 'follows', :now,
    json_object('metadata', json_object('checkpoint', c.id))
FROM checkpoints AS c WHERE c.namespace = :namespace AND c.id = :checkpoint_id AND c.episode_id = :to_id
""")
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


def _where(conditions: Conditions) -> str:
    # The engine expects about ten rows of a namespace, and would test each: the plus keeps it from their index, so that
    # the children of an episode are looked up by their `seq`.
    namespace = "+namespace = :namespace" if IS_CHILD in conditions else "namespace = :namespace"
    return " AND ".join((namespace, *conditions))


@lru_cache(maxsize=256)
def query(conditions: Conditions, order: str, *, with_steps: bool) -> SqlTemplate:
    """Return the statement of a page: rows of sort key, `seq`, and the columns of an episode or step, in any order."""
    return SqlTemplate(f"""
WITH page AS MATERIALIZED (
    SELECT seq, started_at AS sort_key FROM episodes WHERE {_where(conditions)}
    ORDER BY {order} LIMIT :limit)
SELECT page.sort_key, page.seq, {HEAD_ROW} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
{_STEPS_OF_PAGE if with_steps else ""}
""")


@lru_cache(maxsize=256)
def query_by_facets(facets: Conditions, conditions: Conditions, order: str, *, with_steps: bool) -> SqlTemplate:
    """As `query`, from the facets of which an episode has at least one; the conditions are on a row `e`."""
    # Each facet gives the first rows in its own order, and a page is the first ones of all of them. Those of changed
    # episodes may be in their documents only, which the conditions test.
    where = " AND ".join(conditions)
    indexed = [
        f"""SELECT * FROM (SELECT owner_seq AS seq, at FROM facets CROSS JOIN episodes AS e ON e.seq = owner_seq
        WHERE facets.namespace = :namespace AND facets.owner_type = 'episode' AND {facet} AND {where}
        ORDER BY {order} LIMIT :limit)"""
        for facet in facets
    ]
    changed = f"""SELECT * FROM (SELECT owner_seq AS seq, at FROM (
            SELECT DISTINCT e.seq AS owner_seq, e.started_at AS at
            FROM {CHANGED} WHERE e.namespace = :namespace)
        CROSS JOIN episodes AS e ON e.seq = owner_seq WHERE {where} ORDER BY {order} LIMIT :limit)"""
    led = "\n    UNION ALL ".join([*indexed, changed])
    return SqlTemplate(f"""
WITH led AS MATERIALIZED ({led}),
page AS MATERIALIZED (
    SELECT seq, at AS sort_key FROM led GROUP BY seq ORDER BY {order.replace("owner_seq", "seq")} LIMIT :limit)
SELECT page.sort_key, page.seq, {HEAD_ROW} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
{_STEPS_OF_PAGE if with_steps else ""}
""")


@lru_cache(maxsize=256)
def listed(conditions: Conditions, order: str) -> SqlTemplate:
    """Return the statement that lists all episodes of a query, in order: `seq` and id."""
    return SqlTemplate(f"SELECT seq, id FROM episodes WHERE {_where(conditions)} ORDER BY {order}")


@lru_cache(maxsize=256)
def page_of_listed(conditions: Conditions, *, with_steps: bool) -> SqlTemplate:
    """Return the statement for those of a list that pass: position in it, `seq`, then as `next_ones`."""
    # Found by the row's number, which a later episode may have got: hence the id.
    where = " AND ".join(("e.namespace = :namespace", "e.id = listed.value ->> 1", *conditions))
    candidates = f"""SELECT e.seq, listed.key AS sort_key
    FROM json_each(:listed) AS listed CROSS JOIN episodes AS e ON e.seq = listed.value ->> 0
    WHERE {where} ORDER BY listed.key LIMIT :limit"""
    return SqlTemplate(
        f"{_page_within_bytes(candidates, 'sort_key', with_steps=with_steps)}\n{_fitting_rows(with_steps=with_steps)}"
    )


@lru_cache(maxsize=256)
def page_by_bytes(conditions: Conditions, order: str, *, with_steps: bool) -> SqlTemplate:
    """As `query`, but a page ends by bytes too: an episode that does not fit has no id."""
    candidates = f"""SELECT seq, started_at, started_at AS sort_key
    FROM episodes WHERE {_where(conditions)} ORDER BY {order} LIMIT :limit"""
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


_ROW_OF_EITHER = ", ".join(
    f"iif(of_step, {one}, {other})" if one != "NULL" else other
    for one, other in zip(STEP_ROW.split(", "), HEAD_ROW.split(", "), strict=True)
)


@lru_cache(maxsize=256)
def search(query: Search, *, with_steps: bool) -> SqlTemplate:
    """Return the statement of a search: rows of score, `seq`, facts, and columns of an episode or step."""
    if not with_steps:
        return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts()}, {HEAD_ROW} FROM found CROSS JOIN episodes AS e ON e.seq = found.seq
{query.about_search(_ROW_COLUMNS)}
""")
    return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts("NOT of_step")}, {_ROW_OF_EITHER}
FROM found CROSS JOIN episodes AS e ON e.seq = found.seq
CROSS JOIN (SELECT false AS of_step UNION ALL SELECT true)
LEFT JOIN steps AS s ON of_step AND s.namespace = e.namespace AND s.episode_id = e.id
WHERE NOT of_step OR s.id IS NOT NULL
{query.about_search(_ROW_COLUMNS)}
""")


@lru_cache(maxsize=256)
def count(conditions: Conditions) -> SqlTemplate:
    """Return the statement that counts episodes."""
    return SqlTemplate(f"SELECT count(*) FROM episodes WHERE {_where(conditions)}")
