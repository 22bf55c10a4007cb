"""The statements of learning. Counts are kept for all episodes that have an outcome, whether they are archived or not.

`learned` says what each episode was counted for, so that a trigger takes it back when the episode is deleted, or
learned again after a change. `unlearned` has the episodes that have changed since; what indexes changed episodes adds
to it.
"""

from __future__ import annotations

from functools import lru_cache

from memory_storage.repositories.analytics.error_signature import MESSAGE_LENGTH
from memory_storage.repositories.analytics.sql import SUCCESS_BY_OUTCOME
from memory_storage.sql.filters import Conditions
from memory_storage.sql.statement import SqlTemplate

_CONTEXT = ("domain", "language", "framework", "task_type")
_KEY = ("kind", "content", *_CONTEXT)

TASK_LENGTH = 2_000  # characters of a task whose words are read
_TOOL = "substr(s.tool, 1, 200)"  # a longer name is none, and sequences of four of them are many

# In three lines: the tools as JSON, a letter for the status of each step, and the messages of failed ones as JSON.
# A list for each step would make Python's garbage collector take longer than the counting.
_STEPS = f"""(SELECT json_group_array(tool) || char(10) || coalesce(group_concat(letter, ''), '') || char(10)
        || CASE WHEN count(message) THEN json_group_array(message) FILTER (WHERE message IS NOT NULL) ELSE '' END
    FROM (
        SELECT {_TOOL} AS tool,
            CASE s.status WHEN 'ok' THEN 'o' WHEN 'error' THEN 'e' WHEN 'timeout' THEN 't' ELSE '-' END AS letter,
            CASE WHEN s.status IN ('error', 'timeout') THEN substr(coalesce(s.output, ''), 1, {MESSAGE_LENGTH}) END
                AS message
        FROM steps AS s WHERE s.namespace = :namespace AND s.episode_id = e.id ORDER BY s.step_number))"""
# An episode that has a reward but no end is weighed by its start.
_TRACE = f"""e.seq, e.started_at, {{success}}, coalesce(e.completed_at, e.started_at),
    e.domain, coalesce(e.language, ''), coalesce(e.framework, ''), e.task_type, {_STEPS}"""


@lru_cache(maxsize=256)
def traces(where: Conditions, success: str) -> SqlTemplate:
    """Return the statement of a portion of the episodes that are judged, from a place in their order on."""
    conditions = ("namespace = :namespace", "(started_at, seq) > (:at, :seq)", f"({success}) IS NOT NULL", *where)
    return SqlTemplate(f"""
WITH portion AS MATERIALIZED (
    SELECT seq, ({success}) AS success FROM episodes
    WHERE {" AND ".join(conditions)} ORDER BY started_at, seq LIMIT :limit)
SELECT {_TRACE.format(success="portion.success")}
FROM portion CROSS JOIN episodes AS e ON e.seq = portion.seq ORDER BY e.started_at, e.seq
""")


# With their marks: one that changes again gets a new one, and stays. By context: episodes of one have much in common,
# and what they have in common is one row.
CHANGED = SqlTemplate(f"""
SELECT u.mark, {_TRACE.format(success=SUCCESS_BY_OUTCOME)}
FROM (SELECT episode_seq, mark FROM unlearned WHERE namespace = :namespace ORDER BY episode_seq LIMIT :limit) AS u
CROSS JOIN episodes AS e ON e.seq = u.episode_seq
ORDER BY e.domain, e.language, e.framework, e.task_type, e.seq
""")

STATE = SqlTemplate("SELECT revision, next_number, is_built FROM learning WHERE namespace = :namespace")
START = SqlTemplate("""
INSERT INTO learning (namespace, revision, next_number, is_built)
SELECT :namespace, 0, 1, 0 WHERE NOT EXISTS (SELECT 1 FROM learning WHERE namespace = :namespace)
""")
# One learner at a time: what another one has written makes this one begin again.
ADVANCE = SqlTemplate("""
UPDATE learning SET revision = revision + 1, next_number = :next_number, is_built = :is_built
WHERE namespace = :namespace AND revision = :revision
""")
CLEAR_COUNTS = SqlTemplate("""
DELETE FROM sequences WHERE namespace = :namespace AND number IN (
    SELECT number FROM sequences WHERE namespace = :namespace LIMIT :limit) RETURNING 1
""")
CLEAR_LEARNED = SqlTemplate("""
DELETE FROM learned WHERE episode_seq IN (
    SELECT episode_seq FROM learned WHERE namespace = :namespace LIMIT :limit) RETURNING 1
""")
NUMBERS = SqlTemplate(f"""
SELECT g."key", s.number FROM json_each(:keys) AS g CROSS JOIN sequences AS s ON s.namespace = :namespace
    AND {" AND ".join(f"s.{name} = g.value ->> {place}" for place, name in enumerate(_KEY))}
""")
_WITH_MORE = """CASE WHEN length({0}) - length(replace({0}, ',', '')) > :{0} THEN {0}
        ELSE {0} || substr(excluded.{0}, 2) END"""
COUNT = SqlTemplate(f"""
INSERT INTO sequences (namespace, {", ".join(_KEY)}, number, episodes, successes, weight, success_weight, evidence,
    counterexamples)
SELECT :namespace, {", ".join(f"g.value ->> {place}" for place in range(len(_KEY) + 7))}
FROM json_each(:rows) AS g WHERE true
ON CONFLICT (namespace, {", ".join(_KEY)}) DO UPDATE SET
    episodes = episodes + excluded.episodes, successes = successes + excluded.successes,
    weight = weight + excluded.weight, success_weight = success_weight + excluded.success_weight,
    evidence = {_WITH_MORE.format("evidence")}, counterexamples = {_WITH_MORE.format("counterexamples")}
""")
# The trigger subtracts what they were counted for.
TAKE_BACK = SqlTemplate("""
DELETE FROM learned WHERE episode_seq IN (SELECT value FROM json_each(:seqs))
""")
NOTE = SqlTemplate("""
INSERT INTO learned (episode_seq, namespace, success, weight, numbers)
SELECT g.value ->> 0, :namespace, g.value ->> 1, g.value ->> 2, g.value -> 3 FROM json_each(:rows) AS g
""")
TAKE_BACK_DELETED = SqlTemplate("""
DELETE FROM learned WHERE episode_seq IN (
    SELECT g.value ->> 0 FROM json_each(:rows) AS g
    WHERE NOT EXISTS (SELECT 1 FROM episodes WHERE seq = g.value ->> 0 AND namespace = :namespace))
""")
DONE = SqlTemplate("""
DELETE FROM unlearned WHERE (episode_seq, mark) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:done))
""")


@lru_cache(maxsize=2)
def groups(*, by_domain: bool) -> SqlTemplate:
    """Return the statement of what enough episodes have in common, over all contexts or in each domain."""
    shared = ", ".join(f"CASE WHEN min({name}) = max({name}) THEN min({name}) END" for name in _CONTEXT)
    return SqlTemplate(f"""
SELECT kind, content, sum(episodes), sum(successes), sum(weight), sum(success_weight), {shared}
FROM sequences WHERE namespace = :namespace GROUP BY kind, content{", domain" if by_domain else ""}
HAVING sum(episodes) >= :least
""")


# All counts of some contents, to make their patterns and to bring those of before up to date.
CONTENTS = SqlTemplate(f"""
SELECT s.kind, s.content, {", ".join(f"s.{name}" for name in _CONTEXT)}, s.number,
    s.episodes, s.successes, s.weight, s.success_weight, s.evidence, s.counterexamples
FROM json_each(:contents) AS g CROSS JOIN sequences AS s
    ON s.namespace = :namespace AND s.kind = g.value ->> 0 AND s.content = g.value ->> 1
""")
# What a pattern tells of its evidence: the words of the tasks, and of a sequence how long the steps took.
TASKS = SqlTemplate(f"""
SELECT e.seq, e.id, substr(e.document ->> '$.task_description', 1, {TASK_LENGTH}), NULL
FROM json_each(:seqs) AS g CROSS JOIN episodes AS e ON e.seq = g.value
""")
TASKS_AND_STEPS = SqlTemplate(f"""
SELECT e.seq, e.id, substr(e.document ->> '$.task_description', 1, {TASK_LENGTH}), (
    SELECT json_group_array(json_array(tool, latency_ms)) FROM (
        SELECT {_TOOL} AS tool, s.latency_ms FROM steps AS s
        WHERE s.namespace = e.namespace AND s.episode_id = e.id ORDER BY s.step_number))
FROM json_each(:seqs) AS g CROSS JOIN episodes AS e ON e.seq = g.value
""")
# The moment to which weights relate: of the latest episode, so that nothing changes while none comes; but not of one in
# the future, whose clock is wrong.
LATEST = SqlTemplate("""
SELECT coalesce(
    (SELECT max(completed_at) FROM episodes WHERE namespace = :namespace AND completed_at <= :now),
    (SELECT max(started_at) FROM episodes WHERE namespace = :namespace AND started_at <= :now),
    :now)
""")
