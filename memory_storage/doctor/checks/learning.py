"""Checks of the counts that `learn` keeps. They are derived: without them, the next `learn` reads all episodes."""

from __future__ import annotations

from sqlalchemy import Connection

from memory_storage.doctor.findings import Finding, about_rows, seqs_of

# A namespace whose first count was interrupted has partial counts, and begins again.
_BUILT = "namespace IN (SELECT namespace FROM learning WHERE is_built)"
_WRONG = f"""
WITH counted AS MATERIALIZED (
    SELECT l.namespace, n.value AS number, count(*) AS episodes, sum(l.success) AS successes
    FROM learned AS l CROSS JOIN json_each(CASE WHEN json_valid(l.numbers) THEN l.numbers ELSE '[]' END) AS n
    WHERE {_BUILT} GROUP BY l.namespace, n.value)
SELECT s.number FROM sequences AS s WHERE {_BUILT} AND NOT EXISTS (
    SELECT 1 FROM counted AS c WHERE c.namespace = s.namespace AND c.number = s.number
        AND c.episodes = s.episodes AND c.successes = s.successes)
UNION ALL SELECT number FROM counted AS c WHERE NOT EXISTS (
    SELECT 1 FROM sequences AS s WHERE s.namespace = c.namespace AND s.number = c.number)
UNION ALL SELECT episode_seq FROM learned AS l WHERE NOT EXISTS (
    SELECT 1 FROM episodes AS e WHERE e.seq = l.episode_seq AND e.namespace = l.namespace)
"""


def wrong_counts(connection: Connection) -> list[Finding]:
    """Find counts of sequences that differ from what the learned episodes were counted for."""
    problem = "counts of sequences that differ from those of the episodes"
    return about_rows("learning.counts", "sequences", seqs_of(connection, _WRONG), problem, "count again", _count_again)


def _count_again(connection: Connection) -> None:
    """Have the next `learn` count all episodes: its first step is to remove these counts."""
    for table in ("learned", "sequences", "unlearned", "learning"):
        connection.exec_driver_sql(f"DELETE FROM {table}")
