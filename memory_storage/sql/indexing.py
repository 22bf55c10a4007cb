"""How the full-text index of episodes follows the tables.

Triggers log the episodes whose texts have changed (`episode_changes`). The texts are indexed many at a time, since FTS5
takes most of its time for each transaction, not for each word: in a file after every `BATCH` changes, by the write that
makes the last of them; on a server by each write. A search in a file must find also what is not indexed yet: before it
runs, the texts of the changed episodes are put into a temporary index of its connection, `RECENT`.

A text in the index is the head of an episode, or steps that were indexed together. Its number, `doc`, consists of the
number of the namespace, the episode's `seq`, and the part: see `schema/tables.py`.
"""

from __future__ import annotations

from memory_storage.dbapi import BatchStep
from memory_storage.schema.spelling import FIELD_END, TOKENIZER

BATCH = 64
"""Changed episodes after which a write in a file indexes their texts."""

RECENT = "temp.recent_words"
"""The temporary index. A statement that names it is preceded by `RECENT_STEPS`."""

SEQ = "(({0} >> 6) & 68719476735)"
"""SQL for the `seq` of the episode or pattern of a text, from its number."""

OF_NAMESPACE = """BETWEEN (SELECT number FROM namespaces WHERE name = :namespace) << 42
        AND ((SELECT number FROM namespaces WHERE name = :namespace) + 1 << 42) - 1"""
"""SQL for whether a text is of the namespace, after its number."""

_PARTS = 63  # of the texts of an episode that have steps
_PART_BYTES = 3_000_000  # of steps in one text: a server takes values of 5 MB, and spelled text is a third longer
_BASE = "n.number << 42 | (e.seq << 6)"
_COLUMNS = "description, outcome, reflection, tags, steps"

# Materialized: the log has an episode once for each of its changes.
_CHANGED = f"""WITH changed AS MATERIALIZED (
    SELECT DISTINCT e.seq, e.namespace, e.id, {_BASE} AS base FROM episode_changes AS c
    CROSS JOIN episodes AS e ON e.seq = c.episode_seq CROSS JOIN namespaces AS n ON n.name = e.namespace)"""
# A new step has the highest `seq`, and with a text its trigger removes those after it: what is not indexed is the rest.
_LAST_INDEXED = f"(SELECT max(last_step) FROM episode_texts WHERE doc > base AND doc <= base + {_PARTS})"
# In the order of the numbers: FTS5 writes a segment each time that a number is lower than the one before it.
INDEX_STEPS = (
    # All numbers are used: texts that have fewer steps than those after them become one, so that few steps are indexed
    # again.
    BatchStep(f"""
{_CHANGED}
DELETE FROM episode_texts WHERE doc IN (
    SELECT t.doc FROM changed CROSS JOIN episode_texts AS last ON last.doc = base + {_PARTS}
    CROSS JOIN episode_texts AS t ON t.doc > base AND t.doc <= base + {_PARTS}
    WHERE t.doc > coalesce((SELECT max(k.doc) FROM episode_texts AS k WHERE k.doc > base AND k.doc < base + {_PARTS}
        AND k.last_step - k.first_step >= last.last_step - k.last_step), base))"""),
    BatchStep(f"""
{_CHANGED}
INSERT INTO episode_texts (doc, first_step, last_step) SELECT * FROM (
    SELECT base, NULL, NULL FROM changed WHERE NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = base)
    UNION ALL
    SELECT min(base + {_PARTS}, coalesce((
            SELECT max(doc) FROM episode_texts WHERE doc > base AND doc <= base + {_PARTS}), base) + 1 + part) AS doc,
        min(seq), max(seq)
    FROM (SELECT base, s.seq, sum(octet_length(s.document) + coalesce(octet_length(s.output), 0)) OVER (
            PARTITION BY base ORDER BY s.seq ROWS UNBOUNDED PRECEDING) / {_PART_BYTES} AS part
        FROM changed CROSS JOIN steps AS s ON s.namespace = changed.namespace AND s.episode_id = changed.id
        WHERE +s.seq > coalesce({_LAST_INDEXED}, -1))
    GROUP BY doc)
ORDER BY 1"""),
    # The last row stays, so that marks grow: by them a connection knows what it has in its temporary index. All of its
    # episode is indexed, which costs the next time little to find out.
    BatchStep("DELETE FROM episode_changes WHERE mark < (SELECT max(mark) FROM episode_changes)"),
)
"""Statements that index the texts of all changed episodes."""

# Texts of erased episodes stay in it until the next search of the connection, in memory: no engine writes it to a file.
_SEEN = "temp.recent_changes"  # the episodes in the temporary index, each with the last mark that it was read at
_LATEST = """WITH latest AS MATERIALIZED (
    SELECT episode_seq AS seq, max(mark) AS mark FROM episode_changes WHERE episode_seq IS NOT NULL GROUP BY 1)"""
_NUMBER = "(SELECT number FROM namespaces WHERE name = e.namespace) << 42 | (e.seq << 6)"
# The statements take microseconds where nothing has changed. They run in the transaction of the search, so that no text
# can move from the log to the index between the two.
RECENT_STEPS = (
    BatchStep(f"CREATE TABLE IF NOT EXISTS {_SEEN} (seq INTEGER PRIMARY KEY, mark INTEGER NOT NULL)"),
    BatchStep(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {RECENT} USING fts5({_COLUMNS}, tokenize='{TOKENIZER}')",
    ),
    BatchStep(f"""
{_LATEST}
DELETE FROM {RECENT} WHERE rowid IN (
    SELECT seq << 6 | part.value FROM {_SEEN} AS seen CROSS JOIN (SELECT 0 AS value UNION ALL SELECT 1) AS part
    WHERE mark IS NOT (SELECT mark FROM latest WHERE latest.seq = seen.seq))"""),
    BatchStep(f"{_LATEST} DELETE FROM {_SEEN} WHERE (seq, mark) NOT IN (SELECT seq, mark FROM latest)"),
    BatchStep(f"""
{_LATEST}, missing AS MATERIALIZED (
    SELECT e.seq, e.namespace, e.id, {_NUMBER} AS base FROM latest CROSS JOIN episodes AS e ON e.seq = latest.seq
    WHERE latest.seq NOT IN (SELECT seq FROM {_SEEN}))
INSERT INTO {RECENT} (rowid, {_COLUMNS})
SELECT m.seq << 6, h.description, h.outcome, h.reflection, h.tags, NULL
FROM missing AS m CROSS JOIN episode_head_text AS h ON h.seq = m.seq
WHERE NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = m.base)
UNION ALL
SELECT m.seq << 6 | 1, NULL, NULL, NULL, NULL, group_concat(s.text, ' {FIELD_END} ')
FROM missing AS m CROSS JOIN step_text AS s ON s.namespace = m.namespace AND s.episode_id = m.id
WHERE NOT EXISTS (
    SELECT 1 FROM episode_texts AS t WHERE t.doc > m.base AND t.doc <= m.base + {_PARTS}
        AND s.seq BETWEEN t.first_step AND t.last_step)
GROUP BY m.seq"""),
    BatchStep(f"{_LATEST} INSERT INTO {_SEEN} SELECT seq, mark FROM latest WHERE seq NOT IN (SELECT seq FROM {_SEEN})"),
)
"""Statements that bring the temporary index of a connection up to date."""
