"""How the indexes of words and facets follow the episodes.

Triggers log the episodes that have changed (`episode_changes`). They are indexed many at a time, since FTS5 takes most
of its time for each transaction, not for each word, and many facets fit on one page: in a file after every `BATCH`
changes, by the write that makes the last of them; on a server by each write. What is read must be found also while it
is not indexed yet. By its facets, since the documents in the log are read too. By its words, since a search in a file
first puts the texts of the changed episodes into a temporary index of its connection, `RECENT`.

A text in the index is the head of an episode, or steps that were indexed together. Its number, `doc`, consists of the
number of the namespace, the episode's `seq`, and the part: see `schema/tables.py`. Of a row that is in the log, all
facets are in their table, or none.
"""

from __future__ import annotations

from memory_storage.dbapi import BatchStep
from memory_storage.schema.spelling import FIELD_END, TOKENIZER

BATCH = 256
"""Changed episodes after which a write in a file indexes them."""

RECENT = "temp.recent_words"
"""The temporary index. A statement that names it is preceded by `RECENT_STEPS`."""

NAMESPACE_BITS, PART_BITS = 42, 10
"""Bits of a text's number that are below that of its namespace, and below that of its episode or pattern."""

PARTS = (1 << PART_BITS) - 1
"""Texts of an episode that can have steps."""

SEQ = f"(({{0}} >> {PART_BITS}) & {(1 << NAMESPACE_BITS - PART_BITS) - 1})"
"""SQL for the `seq` of the episode or pattern of a text, from its number."""

FIRST = f"(SELECT number FROM namespaces WHERE name = {{0}}) << {NAMESPACE_BITS} | ({{1}} << {PART_BITS})"
"""SQL for the number of the first text that a row can have, from SQL for its namespace and for its `seq`."""

OF_NAMESPACE = f"""BETWEEN (SELECT number FROM namespaces WHERE name = :namespace) << {NAMESPACE_BITS}
        AND ((SELECT number FROM namespaces WHERE name = :namespace) + 1 << {NAMESPACE_BITS}) - 1"""
"""SQL for whether a text is of the namespace, after its number."""

LOGGED = "SELECT episode_seq FROM episode_changes WHERE episode_seq IS NOT NULL"
"""SQL for the `seq` of the changed episodes."""

CHANGED = "episode_changes AS c CROSS JOIN episodes AS e ON e.seq = c.episode_seq"
"""SQL for the changed episodes, in a FROM clause, as `e`. One comes once for each of its changes."""

_COLUMNS = "description, outcome, reflection, tags, steps"

# Many numbers are used: texts that have fewer steps than those after them become one, so that few steps are indexed
# again.
_MAKE_ROOM = BatchStep(f"""
WITH room AS MATERIALIZED (
    SELECT base, (SELECT max(doc) FROM episode_texts WHERE doc > base AND doc <= base + {PARTS}) AS last
    FROM changed_episodes)
DELETE FROM episode_texts WHERE doc IN (
    SELECT t.doc FROM room CROSS JOIN episode_texts AS latest ON latest.doc = last
    CROSS JOIN episode_texts AS t ON t.doc > base AND t.doc <= last
    WHERE last >= base + {PARTS // 2} AND t.doc > coalesce((
        SELECT max(k.doc) FROM episode_texts AS k WHERE k.doc > base AND k.doc < last
            AND k.last_step - k.first_step >= latest.last_step - latest.first_step), base))""")

INDEX_STEP = BatchStep("INSERT INTO index_changes VALUES (1)")
"""A statement that indexes all changed episodes: a trigger does. Now and then `INDEX_STEPS` have to run."""

INDEX_STEPS = (_MAKE_ROOM, INDEX_STEP)
"""Statements that index all changed episodes."""

# Texts of erased episodes stay in it until the next search of the connection, in memory: no engine writes it to a file.
_SEEN = "temp.recent_changes"  # the episodes in the temporary index, each with the last mark that it was read at
_STATE = "temp.recent_state"  # of the log when it was read last: the number of its rows, and the last mark
_BASE = FIRST.format("e.namespace", "e.seq")
_LOG = "(SELECT count(*) FROM episode_changes), (SELECT max(mark) FROM episode_changes)"
_HAS_CHANGED = f"({_LOG}) IS NOT (SELECT changes, mark FROM {_STATE})"
_LATEST = f"""WITH latest AS MATERIALIZED (
    SELECT episode_seq AS seq, max(mark) AS mark FROM episode_changes
    WHERE {_HAS_CHANGED} AND episode_seq IS NOT NULL GROUP BY 1)"""
# The statements take microseconds where nothing has changed. They run in the transaction of the search, so that no text
# can move from the log to the index between the two. In this order: what changed again is removed before it is added,
# and is noted as seen after it was added.
RECENT_STEPS = (
    BatchStep(f"CREATE TABLE IF NOT EXISTS {_SEEN} (seq INTEGER PRIMARY KEY, mark INTEGER NOT NULL, base INTEGER)"),
    BatchStep(f"CREATE TABLE IF NOT EXISTS {_STATE} (id INTEGER PRIMARY KEY, changes INTEGER, mark INTEGER)"),
    BatchStep(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {RECENT} USING fts5({_COLUMNS}, tokenize='{TOKENIZER}')",
    ),
    BatchStep(f"""
{_LATEST}
DELETE FROM {RECENT} WHERE rowid IN (
    SELECT base | part FROM {_SEEN} AS seen CROSS JOIN (SELECT 0 AS part UNION ALL SELECT 1)
    WHERE {_HAS_CHANGED} AND mark IS NOT (SELECT mark FROM latest WHERE latest.seq = seen.seq))"""),
    BatchStep(f"""
{_LATEST}
DELETE FROM {_SEEN} WHERE {_HAS_CHANGED} AND (seq, mark) NOT IN (SELECT seq, mark FROM latest)"""),
    BatchStep(f"""
{_LATEST}, missing AS MATERIALIZED (
    SELECT e.seq, e.namespace, e.id, {_BASE} AS base FROM latest CROSS JOIN episodes AS e ON e.seq = latest.seq
    WHERE latest.seq NOT IN (SELECT seq FROM {_SEEN}))
INSERT INTO {RECENT} (rowid, {_COLUMNS})
SELECT m.base, h.description, h.outcome, h.reflection, h.tags, NULL
FROM missing AS m CROSS JOIN episode_head_text AS h ON h.seq = m.seq
WHERE NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = m.base)
UNION ALL
SELECT m.base | 1, NULL, NULL, NULL, NULL, group_concat(s.text, ' {FIELD_END} ')
FROM missing AS m CROSS JOIN step_text AS s ON s.namespace = m.namespace AND s.episode_id = m.id
WHERE NOT EXISTS (
    SELECT 1 FROM episode_texts AS t WHERE t.doc > m.base AND t.doc <= m.base + {PARTS}
        AND s.seq BETWEEN t.first_step AND t.last_step)
GROUP BY m.seq"""),
    BatchStep(f"""
{_LATEST}
INSERT INTO {_SEEN} SELECT seq, mark, (SELECT {_BASE} FROM episodes AS e WHERE e.seq = latest.seq)
FROM latest WHERE seq NOT IN (SELECT seq FROM {_SEEN})"""),
    BatchStep(f"INSERT OR REPLACE INTO {_STATE} SELECT 1, {_LOG} WHERE {_HAS_CHANGED}"),
)
"""Statements that bring the temporary index of a connection up to date."""
