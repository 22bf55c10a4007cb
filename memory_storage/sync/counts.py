"""Counters of patterns, which travel as totals of what each session has counted.

A session is one opening of a file, in one generation of the file. The server keeps the total of each session that it
has added, and adds only what is beyond it. So a total may arrive twice, late, or from a copy of the file, and is added
once. Totals that the server has are removed when there are many: then the next generation begins, since an opening that
is still in use would count from nothing again, under a name whose total the server has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from memory_storage.dbapi import BatchStep
from memory_storage.repositories.patterns.sql import SESSION
from memory_storage.sql.statement import SqlTemplate

_TOTALS = ("retrieved", "applied", "succeeded", "failed", "reward_sum")
_MOST_ROWS = 200
_MOST_ACKNOWLEDGED, _MOST_OF_A_PATTERN = 500, 10
_COLUMNS = {
    "retrieved": "times_retrieved",
    "applied": "times_applied",
    "succeeded": "success_when_applied",
    "failed": "failure_when_applied",
}


class Count(NamedTuple):
    """What a session has counted of a pattern."""

    namespace: str
    pattern_id: str
    session: bytes
    created_at: int
    """That of the pattern: another one may have its id later."""
    retrieved: int
    applied: int
    succeeded: int
    failed: int
    reward_sum: float
    last_used_at: int | None


IS_WAITING = """c.acknowledged = 0 AND NOT EXISTS (
    SELECT 1 FROM sync_counts AS a WHERE a.namespace = c.namespace AND a.pattern_id = c.pattern_id
        AND a.session = c.session AND a.acknowledged = 1 AND a.retrieved >= c.retrieved AND a.applied >= c.applied)"""
"""SQL for whether the server has not acknowledged a total, the row `c`."""

WAITING = SqlTemplate(f"""
SELECT c.namespace, c.pattern_id, c.session, p.created_at, {", ".join(f"c.{name}" for name in _TOTALS)}, c.last_used_at
FROM sync_counts AS c CROSS JOIN patterns AS p ON p.namespace = c.namespace AND p.id = c.pattern_id
WHERE {IS_WAITING}
LIMIT :limit
""")
"""Reads what the server has not acknowledged."""

COUNTED = SqlTemplate("""
SELECT DISTINCT namespace, pattern_id FROM sync_counts WHERE acknowledged = 0
    AND (namespace, pattern_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:patterns))
""")
"""Reads which of these patterns were counted here: the counters of the server may lack it, or have it already."""

ASK_AGAIN = SqlTemplate("""
DELETE FROM sync_counts WHERE acknowledged = 1
    AND (namespace, pattern_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:patterns))
""")
"""Forgets what was acknowledged of these patterns, so that it is sent again, and the server's counters come back."""

# What is added is at least 0: a total that is lower than the one before comes late.
_NEW = "g.{0} - coalesce(s.{0}, 0)"


def push_counts(counts: Sequence[Count]) -> Iterator[BatchStep]:
    """Yield the statements that add counts at the server, each once."""
    for first in range(0, len(counts), _MOST_ROWS):
        part = counts[first : first + _MOST_ROWS]
        values = tuple(chain.from_iterable(part))
        yield BatchStep(_add(len(part)), values)
        yield BatchStep(_remember(len(part)), values)


def stored_counts(keys: Sequence[tuple[str, str, bytes]]) -> BatchStep:
    """Return the statement that reads which totals the server has added, with the counters of the patterns now."""
    rows = ", ".join(["(?, ?, ?)"] * len(keys))
    return BatchStep(
        f"""WITH g (namespace, pattern_id, session) AS (VALUES {rows})
SELECT g.namespace, g.pattern_id, g.session, {", ".join(f"coalesce(s.{name}, 0)" for name in _TOTALS)},
    p.times_retrieved, p.times_applied, p.success_when_applied, p.failure_when_applied, p.avg_reward_delta,
    p.last_used_at
FROM g CROSS JOIN patterns AS p ON p.namespace = g.namespace AND p.id = g.pattern_id
LEFT JOIN sync_counts AS s ON s.namespace = g.namespace AND s.pattern_id = g.pattern_id AND s.session = g.session
    AND s.acknowledged = 1""",
        tuple(chain.from_iterable(keys)),
    )


def acknowledge(rows: Sequence[Sequence[Any]]) -> Iterator[BatchStep]:
    """Yield the statements that note what the server has added, and show its counters with what waits here.

    Args:
        rows: Those of `stored_counts`.
    """
    for namespace, pattern_id, session, *totals in rows:
        yield BatchStep(
            f"""INSERT INTO sync_counts (namespace, pattern_id, session, acknowledged, {", ".join(_TOTALS)},
    counted_at) SELECT ?, ?, ?, 1, ?, ?, ?, ?, ?, unixepoch() WHERE EXISTS (
        SELECT 1 FROM sync_counts WHERE namespace = ? AND pattern_id = ? AND session = ? AND acknowledged = 0)
ON CONFLICT (namespace, pattern_id, session, acknowledged) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _TOTALS)}""",
            (namespace, pattern_id, session, *totals[:5], namespace, pattern_id, session),
        )
    for (namespace, pattern_id), counters in {(row[0], row[1]): row[8:] for row in rows}.items():
        yield _show_counters(namespace, pattern_id, counters)
    yield BatchStep(f"""UPDATE sync_state SET generation = generation + 1,
    session = {SESSION.format("randomblob(16)", "generation + 1")}
WHERE (SELECT count(*) FROM sync_counts WHERE acknowledged = 1)
    > {_MOST_ACKNOWLEDGED} + {_MOST_OF_A_PATTERN} * (SELECT count(*) FROM patterns)""")
    yield BatchStep(f"""DELETE FROM sync_counts
WHERE substr(hex(session), 33) < (SELECT printf('%08X', generation) FROM sync_state) AND NOT EXISTS (
    SELECT 1 FROM sync_counts AS c WHERE c.namespace = sync_counts.namespace
        AND c.pattern_id = sync_counts.pattern_id AND c.session = sync_counts.session AND {IS_WAITING})""")


def _show_counters(namespace: str, pattern_id: str, counters: Sequence[Any]) -> BatchStep:
    """Return the statement that sets a pattern's counters to the server's, and adds what it has not added yet.

    Args:
        namespace: The namespace.
        pattern_id: The pattern.
        counters: Four counts, the mean change of the reward, and the latest use, as the server has them.
    """
    names = ("retrieved", "applied", "succeeded", "failed", "average", "last_used_at")
    return _SHOW.bind(namespace=namespace, id=pattern_id, **dict(zip(names, counters, strict=True)))


_OF_PATTERN = "FROM sync_counts WHERE namespace = :namespace AND pattern_id = :id"
_WAITING = {name: f"(SELECT coalesce(sum(iif(acknowledged, -{name}, {name})), 0) {_OF_PATTERN})" for name in _TOTALS}
_SHOW = SqlTemplate(f"""
UPDATE patterns SET {", ".join(f"{column} = :{name} + {_WAITING[name]}" for name, column in _COLUMNS.items())},
    avg_reward_delta = CASE WHEN {_WAITING["applied"]} = 0 THEN :average
        ELSE (:average * :applied + {_WAITING["reward_sum"]}) / (:applied + {_WAITING["applied"]}) END,
    last_used_at = (SELECT max(at) FROM (
        SELECT :last_used_at AS at UNION ALL SELECT last_used_at {_OF_PATTERN} AND acknowledged = 0))
WHERE namespace = :namespace AND id = :id
""")


def _given(n: int) -> str:
    row = f"({', '.join('?' * len(Count._fields))})"
    # Only of the pattern that the session has counted, not of a later one with its id.
    return f"""WITH given ({", ".join(Count._fields)}) AS (VALUES {", ".join([row] * n)}),
g AS MATERIALIZED (
    SELECT given.* FROM given CROSS JOIN patterns AS p ON p.namespace = given.namespace AND p.id = given.pattern_id
        AND p.created_at = given.created_at),
added AS MATERIALIZED (
    SELECT g.namespace, g.pattern_id, g.session, g.last_used_at,
        {", ".join(f"{_NEW.format(name)} AS {name}" for name in _TOTALS)}
    FROM g LEFT JOIN sync_counts AS s ON s.namespace = g.namespace AND s.pattern_id = g.pattern_id
        AND s.session = g.session AND s.acknowledged = 1
    WHERE g.retrieved > coalesce(s.retrieved, 0) OR g.applied > coalesce(s.applied, 0))"""


def _add(n: int) -> str:
    sums = ", ".join(f"sum({name}) AS {name}" for name in _TOTALS)
    return f"""{_given(n)}
UPDATE patterns SET {", ".join(f"{column} = {column} + d.{name}" for name, column in _COLUMNS.items())},
    avg_reward_delta = CASE WHEN d.applied = 0 THEN avg_reward_delta
        ELSE (avg_reward_delta * times_applied + d.reward_sum) / (times_applied + d.applied) END,
    last_used_at = max(coalesce(patterns.last_used_at, d.last_used_at), coalesce(d.last_used_at, patterns.last_used_at))
FROM (SELECT namespace, pattern_id, max(last_used_at) AS last_used_at, {sums} FROM added GROUP BY 1, 2) AS d
WHERE patterns.namespace = d.namespace AND patterns.id = d.pattern_id"""


def _remember(n: int) -> str:
    columns = ("namespace", "pattern_id", "session", *_TOTALS, "last_used_at")
    return f"""{_given(n)}
INSERT INTO sync_counts ({", ".join(columns)}, acknowledged, counted_at)
SELECT {", ".join(f"g.{name}" for name in columns)}, 1, unixepoch() FROM g
WHERE EXISTS (SELECT 1 FROM added AS a
    WHERE a.namespace = g.namespace AND a.pattern_id = g.pattern_id AND a.session = g.session)
ON CONFLICT (namespace, pattern_id, session, acknowledged) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in (*_TOTALS, "last_used_at", "counted_at"))}"""
