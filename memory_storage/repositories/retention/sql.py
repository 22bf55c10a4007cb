"""The statements that select the episodes to delete or erase, and delete them with what belongs to them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from memory_storage.dbapi import BatchStep
from memory_storage.models import RetentionPolicy, composition
from memory_storage.sql.facets import tags_of
from memory_storage.sql.statement import SqlTemplate, bytes_of_episode

# octet_length of a column does not read the text.
_BYTES = bytes_of_episode("e")
_STEPS = "(SELECT count(*) FROM steps AS s WHERE s.namespace = e.namespace AND s.episode_id = e.id)"
# The facets of evidence are an index from an episode to the patterns that name it.
IS_PATTERN_SOURCE = """EXISTS (SELECT 1 FROM facets AS f WHERE f.namespace = e.namespace AND f.owner_type = 'pattern'
    AND f.name = 'evidence' AND f.value = e.id)"""
_HAS_PROTECTED_TAG = f"EXISTS (SELECT 1 FROM {tags_of('e.')} AND atom IN (SELECT value FROM json_each(:tags)))"
# The database's clock; see `_EARLIER_CLOCK`.
_DATABASE_NOW = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
# Protected and already expired episodes are partitioned away: the surplus is counted among the others.
_OLDEST_FIRST = "OVER (PARTITION BY reason IS NULL AND NOT protected ORDER BY started_at, id"
_ROWS_BEFORE = "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"

# Erasure applies no policy: it selects every episode of the namespace, or one.
_ERASABLE = f"SELECT e.id, 'forgotten', {_BYTES}, {_STEPS}, e.started_at, e.seq FROM episodes AS e"
EPISODE_PAGE = SqlTemplate(f"""
{_ERASABLE} WHERE e.seq IN (
    SELECT seq FROM episodes
    WHERE namespace = :namespace AND seq <= :newest_seq AND (started_at, seq) > (:started_at, :seq)
    ORDER BY started_at, seq LIMIT :limit)
ORDER BY e.started_at, e.seq
""")
NEWEST_EPISODE = SqlTemplate("SELECT max(seq) FROM episodes WHERE namespace = :namespace")
ONE_EPISODE = SqlTemplate(f"{_ERASABLE} WHERE e.namespace = :namespace AND e.id = :id")


def protected_sql(policy: RetentionPolicy) -> str:
    """Return the condition that protects an episode `e`."""
    conditions = [
        "e.outcome IS NOT 'failure'" if policy.only_failed else "",
        IS_PATTERN_SOURCE if policy.keep_pattern_sources else "",
        _HAS_PROTECTED_TAG if policy.keep_tagged else "",
    ]
    return " OR ".join(filter(None, conditions)) or "false"


# A client's clock that is a day ahead would delete a day too much: the earlier of both clocks decides.
_EARLIER_CLOCK = f"CASE WHEN :age IS NULL THEN :before ELSE min(:before, {_DATABASE_NOW} - :age) END"


def expiry_rules_sql(policy: RetentionPolicy, before: str = ":before") -> str:
    """Return the rules about single episodes: branches of a CASE that returns their names."""
    rules = [
        f"WHEN started_at < {before} THEN 'max_age'" if policy.max_age is not None else "",
        "WHEN reward < :min_reward THEN 'min_reward'" if policy.min_reward is not None else "",
    ]
    return " ".join(filter(None, rules))


@lru_cache(maxsize=64)
def _plan(protected_sql: str, rules: str, *, archive: bool, weigh: bool) -> SqlTemplate:
    return SqlTemplate(f"""
WITH selected AS MATERIALIZED (
    SELECT e.seq, e.id, e.started_at, e.reward, {_BYTES if weigh else "NULL"} AS bytes, {protected_sql} AS protected
    FROM episodes AS e WHERE e.namespace = :namespace {"AND e.archived_at IS NULL" if archive else ""}),
judged AS MATERIALIZED (
    SELECT *, CASE WHEN seq IN (SELECT episode_seq FROM forgotten WHERE episode_seq IS NOT NULL) THEN 'unfinished'
        WHEN protected THEN NULL {rules} END AS reason FROM selected),
counted AS MATERIALIZED (
    SELECT seq, id, started_at, bytes, protected, CASE WHEN reason IS NOT NULL THEN reason
        WHEN NOT protected AND row_number() {_OLDEST_FIRST})
            <= count(*) FILTER (WHERE reason IS NULL) OVER () - :max_episodes THEN 'max_episodes' END AS reason
    FROM judged),
weighed AS (
    SELECT seq, started_at, CASE WHEN reason IS NOT NULL THEN reason
        WHEN NOT protected AND coalesce(sum(bytes) {_OLDEST_FIRST} {_ROWS_BEFORE}), 0)
            < sum(bytes) FILTER (WHERE reason IS NULL) OVER () - :max_bytes THEN 'max_bytes' END AS reason
    FROM counted)
SELECT e.id, w.reason, {_BYTES}, {_STEPS}, {_DATABASE_NOW}
FROM weighed AS w CROSS JOIN episodes AS e ON e.seq = w.seq
WHERE w.reason IS NOT NULL ORDER BY w.reason IS NOT 'unfinished', w.started_at, e.id
""")


def plan(policy: RetentionPolicy) -> SqlTemplate:
    """Return the SELECT of the episodes to delete: id, reason, bytes and steps, in the order of deletion."""
    weigh = policy.max_bytes is not None
    rules = expiry_rules_sql(policy, _EARLIER_CLOCK)
    return _plan(protected_sql(policy), rules, archive=policy.archive, weigh=weigh)


class DeletionStatements:
    """The statements that delete or archive the episodes for which a condition still holds.

    `items` is a JSON array of [id, digest]. Each statement returns the ids, and the time at which the lock was taken.
    """

    def __init__(self, condition: str) -> None:
        matches = f"e.namespace = :namespace AND e.id = given.value ->> 0 AND {condition}"
        remember = SqlTemplate(f"""
INSERT INTO forgotten (digest) SELECT unhex(given.value ->> 1) FROM json_each(:items) AS given
CROSS JOIN episodes AS e ON {matches} WHERE true ON CONFLICT DO NOTHING
""")
        which = f"e.namespace = :namespace AND e.id IN (SELECT value ->> 0 FROM json_each(:items)) AND {condition}"
        self.delete = SqlTemplate(f"DELETE FROM episodes AS e WHERE {which} RETURNING id, unixepoch('subsec')")
        self.deletion = (remember, self.delete)
        self.archive = SqlTemplate(f"""
UPDATE episodes AS e SET archived_at = :now WHERE {which} AND e.archived_at IS NULL RETURNING id, unixepoch('subsec')
""")
        # An episode that is too large for one batch is deleted in parts. The mark makes any later run finish it.
        self.mark_unfinished = SqlTemplate(f"""
INSERT INTO forgotten (digest, episode_seq) SELECT unhex(given.value ->> 1), e.seq FROM json_each(:items) AS given
CROSS JOIN episodes AS e ON {matches} WHERE true ON CONFLICT (digest) DO UPDATE SET episode_seq = excluded.episode_seq
""")


# For episodes whose deletion has started, and for erasure.
UNCONDITIONAL = DeletionStatements("true")
# An episode that is deleted in parts is archived first, so that no query returns half of it.
ARCHIVE_TOMBSTONED = SqlTemplate("""
UPDATE episodes SET archived_at = coalesce(archived_at, :now)
WHERE seq = (SELECT episode_seq FROM forgotten WHERE digest = unhex(:digest)) RETURNING id, unixepoch('subsec')
""")
BYTES_PER_ROW = 2048
"""Bytes of text that cost as much to delete as one row."""
_WEIGHT = f"1 + (octet_length(document) + coalesce(octet_length(output), 0)) / {BYTES_PER_ROW}"
# The last steps whose total weight is at most :batch_weight, and at least one. LIMIT bounds the window function.
DELETE_LAST_STEPS = SqlTemplate(f"""
DELETE FROM steps WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, row_number() OVER last AS place, sum(weight) OVER last AS total
        FROM (SELECT seq, step_number, {_WEIGHT} AS weight FROM steps
            WHERE namespace = :namespace AND episode_id = :id ORDER BY step_number DESC LIMIT 1000)
        WINDOW last AS (ORDER BY step_number DESC ROWS UNBOUNDED PRECEDING))
    WHERE total <= :batch_weight OR place = 1)
RETURNING {_WEIGHT}, unixepoch('subsec')
""")


@lru_cache(maxsize=64)
def _statements_where(condition: str) -> DeletionStatements:
    return DeletionStatements(condition)


def deletion_statements(policy: RetentionPolicy) -> DeletionStatements:
    """Return the statements of a policy. Protected episodes stay, and a candidate must still be one."""
    rules = expiry_rules_sql(policy)
    surplus = "e.id IN (SELECT value FROM json_each(:surplus))"
    is_one = f"(CASE {rules} END IS NOT NULL OR {surplus})" if rules else surplus
    return _statements_where(f"NOT ({protected_sql(policy)}) AND {is_one}")


def values(policy: RetentionPolicy, before: int, tags: str) -> dict[str, Any]:
    """Return the values of a policy's statements."""
    return {
        "before": before,
        "min_reward": policy.min_reward,
        "max_episodes": 2**62 if policy.max_episodes is None else policy.max_episodes,
        "max_bytes": 2**62 if policy.max_bytes is None else policy.max_bytes,
        "tags": tags,
    }


MINED_TAG = "learned"
"""The tag of each pattern that is learned."""
TASK_QUOTE = composition.TASK_QUOTE
"""The separator before the words of tasks in the description of a mined pattern, by which erasure finds them."""
_MENTIONS_EPISODE = """SELECT owner_seq FROM facets WHERE namespace = :namespace AND owner_type = 'pattern'
    AND name = 'evidence' AND value = :id"""
_OTHER_EVIDENCE = "(SELECT value FROM json_each(p.document, '$.evidence') WHERE value <> :id)"
_QUOTES_TASKS = f"""instr(p.document ->> '$.description', '{TASK_QUOTE}')
    AND EXISTS (SELECT 1 FROM json_each(p.document, '$.tags') WHERE value = '{MINED_TAG}')"""
# Patterns without other evidence, and the playbooks that were composed from them or from such a playbook: their steps
# have the text of the patterns. The index by kind leads to the playbooks, whose JSON another program may have damaged.
_ERASED_PATTERNS = f"""
WITH RECURSIVE erased (seq, id) AS (
    SELECT p.seq, p.id FROM ({_MENTIONS_EPISODE}) AS mention CROSS JOIN patterns AS p ON p.seq = mention.owner_seq
    WHERE NOT EXISTS {_OTHER_EVIDENCE}
    UNION
    SELECT composed.seq, composed.id FROM erased CROSS JOIN patterns AS composed
    WHERE composed.namespace = :namespace AND composed.kind = 'playbook' AND EXISTS (
        SELECT 1 FROM json_each(iif(json_valid(composed.document), composed.document, '{{}}'), '$.sources')
        WHERE value = erased.id))"""
# Patterns that name the episode as evidence, and those that are erased with it: whether they stay, and the document
# where it quotes tasks.
EVIDENCED_PATTERNS = SqlTemplate(f"""
{_ERASED_PATTERNS}
SELECT p.id, p.seq NOT IN (SELECT seq FROM erased), p.version, CASE WHEN {_QUOTES_TASKS} THEN p.document END
FROM patterns AS p WHERE p.seq IN ({_MENTIONS_EPISODE} UNION SELECT seq FROM erased)
""")
DELETE_PATTERNS_WITHOUT_OTHER_EVIDENCE = SqlTemplate(f"""
{_ERASED_PATTERNS}
DELETE FROM patterns WHERE namespace = :namespace AND seq IN (SELECT seq FROM erased)
""")
# The version grows: a copy that still names the episode is stale from here on.
REMOVE_FROM_EVIDENCE = SqlTemplate(f"""
UPDATE patterns AS p SET version = p.version + 1, updated_at = :now, document = json_set(p.document, '$.evidence',
    json((SELECT json_group_array(value) FROM {_OTHER_EVIDENCE})))
WHERE p.seq IN ({_MENTIONS_EPISODE})
""")
# Receipts of recalls that showed an erased record. No index leads to them; the text of a document is searched fast.
_NAMES_ERASED = "EXISTS (SELECT 1 FROM json_each(:ids) AS erased WHERE instr(e.document, erased.value))"
REMOVE_FROM_RECEIPTS = SqlTemplate(f"""
UPDATE episodes AS e SET version = e.version + 1, updated_at = :now, document = json_replace(e.document,
    '$.recalled.items', json((SELECT json_group_array(json(value)) FROM json_each(e.document, '$.recalled.items')
        WHERE value ->> 1 NOT IN (SELECT value FROM json_each(:ids)))),
    '$.recalled.used', json((SELECT json_group_array(value) FROM json_each(e.document, '$.recalled.used')
        WHERE value NOT IN (SELECT value FROM json_each(:ids)))))
WHERE e.namespace = :namespace AND {_NAMES_ERASED} AND EXISTS (
    SELECT 1 FROM json_each(e.document, '$.recalled.items') AS item
    WHERE item.value ->> 1 IN (SELECT value FROM json_each(:ids)))
""")
REMOVE_FROM_RECALLS = SqlTemplate("""
UPDATE recalls SET document = json_replace(document,
    '$.items', json((SELECT json_group_array(json(value)) FROM json_each(document, '$.items')
        WHERE value ->> 1 NOT IN (SELECT value FROM json_each(:ids)))))
WHERE namespace = :namespace
    AND EXISTS (SELECT 1 FROM json_each(:ids) AS erased WHERE instr(recalls.document, erased.value))
""")
DELETE_RECALLS = SqlTemplate("DELETE FROM recalls WHERE namespace = :namespace")
# Guarded by the version that was read: a concurrent edit makes the row count differ.
REPLACE_DESCRIPTION = SqlTemplate("""
UPDATE patterns SET document = json_set(document, '$.description', :description), words = :words
WHERE namespace = :namespace AND id = :id AND version = :version
""")
PATTERN_PAGE = SqlTemplate("SELECT id FROM patterns WHERE namespace = :namespace ORDER BY id LIMIT :limit")
DELETE_PATTERNS = SqlTemplate("""
DELETE FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
EXISTING_PATTERNS = SqlTemplate("""
SELECT id FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
ID_SOURCES = [
    "SELECT namespace, id FROM episodes",
    "SELECT namespace, id FROM patterns",
    "SELECT namespace, value FROM facets WHERE owner_type = 'pattern' AND name = 'evidence'",
]
QUARANTINE_TABLES = BatchStep(
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'quarantined!_%' ESCAPE '!'", ()
)
QUARANTINED_ID_SOURCES = {
    "quarantined_episodes": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_episodes",
    "quarantined_patterns": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_patterns",
    "quarantined_steps": "SELECT CAST(namespace AS TEXT), CAST(episode_id AS TEXT) FROM quarantined_steps",
    "quarantined_embeddings": "SELECT CAST(namespace AS TEXT), CAST(owner_id AS TEXT) FROM quarantined_embeddings",
    "quarantined_checkpoints": "SELECT CAST(namespace AS TEXT), CAST(episode_id AS TEXT) FROM quarantined_checkpoints",
    "quarantined_relationships": """SELECT CAST(namespace AS TEXT), CAST(from_id AS TEXT) FROM quarantined_relationships
        UNION SELECT CAST(namespace AS TEXT), CAST(to_id AS TEXT) FROM quarantined_relationships""",
}
# Triggers delete these rows with their owners. Rows that another program has written may have none.
DELETE_ORPHANS = [
    SqlTemplate(f"DELETE FROM {table} WHERE namespace = :namespace")
    for table in (
        *("embeddings", "spatiotemporal_index", "facets", "item_vectors", "relationships", "checkpoints"),
        *("learned", "sequences", "unlearned", "learning"),
    )
]
DELETE_ORPHANS.append(
    SqlTemplate("""
DELETE FROM namespaces WHERE name = :namespace AND NOT EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace)
    AND NOT EXISTS (SELECT 1 FROM patterns WHERE namespace = :namespace)
""")
)

DELETE_SOME_OF_NAMESPACE = {
    # Vectors of items go with them.
    table: SqlTemplate(f"""
DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE namespace = :namespace LIMIT :limit) RETURNING 1
""")
    for table in ("items", "logs")
}
"""By the table, the statement that deletes the next rows of a namespace."""

MERGE_WORDS = [
    SqlTemplate(f"INSERT INTO {table} ({table}) VALUES ('optimize')") for table in ("episode_words", "pattern_words")
]
"""Statements that remove the words of deleted rows from the full-text indexes, by merging all their segments."""
