"""The statements of a recall."""

from __future__ import annotations

from functools import lru_cache

from memory_storage.repositories.episodes import sql as episodes_sql
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.search.statement import NO_SPACE, Search
from memory_storage.sql.episode_rows import STEP_ROW
from memory_storage.sql.facets import used_by
from memory_storage.sql.indexing import CHANGED
from memory_storage.sql.statement import SqlTemplate

STEPS = SqlTemplate(f"""
SELECT s.episode_id, {", ".join(f"s.{name}" for name in STEP_ROW)}
FROM json_each(:ids) AS given CROSS JOIN steps AS s ON s.namespace = :namespace AND s.episode_id = given.value
ORDER BY s.episode_id, s.step_number
""")


# The outcomes of the episodes that used an episode `e`: JSON of the number of successes and of all outcomes. The uses
# of changed episodes may be in their documents only.
_USES_OF_CHANGED = f""",
recent_uses AS MATERIALIZED (
    SELECT DISTINCT used.atom AS id, used.seq FROM (
        SELECT atom, e.seq FROM {CHANGED} CROSS JOIN {used_by("e.")} AND e.namespace = :namespace) AS used)"""
_OUTCOMES_OF_USE = """(SELECT json_array(count(*) FILTER (WHERE u.outcome = 'success'), count(u.outcome)) FROM (
        SELECT owner_seq AS seq FROM facets WHERE namespace = :namespace AND owner_type = 'episode' AND name = 'used'
            AND value = e.id
        UNION SELECT seq FROM recent_uses WHERE id = e.id) AS uses CROSS JOIN episodes AS u ON u.seq = uses.seq)"""


@lru_cache(maxsize=256)
def search_episodes(query: Search) -> SqlTemplate:
    """Return the statement of a search for episodes without their steps; each row ends with the episode's vector."""
    return _statement(query, episodes_sql.HEAD_ROW, "episode")


@lru_cache(maxsize=256)
def search_episodes_and_uses(query: Search) -> SqlTemplate:
    """As `search_episodes`; before the vector come the outcomes of the episodes that used the episode."""
    return _statement(query, episodes_sql.HEAD_ROW, "episode", _USES_OF_CHANGED, f", {_OUTCOMES_OF_USE}")


@lru_cache(maxsize=256)
def search_patterns(query: Search) -> SqlTemplate:
    """Return the statement of a search for patterns; each row ends with the pattern's vector."""
    return _statement(query, patterns_sql.ROW, "pattern")


def _statement(query: Search, columns: str, owner: str, tables: str = "", more: str = "") -> SqlTemplate:
    """Return the statement of a search: rows of score, `seq`, facts, columns of the record, and its own vector.

    Args:
        query: The search.
        columns: Those of the record.
        owner: "episode" or "pattern".
        tables: Further common tables.
        more: One further column, before the vector; or "".
    """
    vector = "NULL"
    if query.space is not None and query.space != NO_SPACE:
        vector = f"""(SELECT v.vector FROM embeddings AS m CROSS JOIN {query.space.table} AS v ON v.seq = m.vector_seq
    WHERE m.namespace = :namespace AND m.owner_type = '{owner}' AND m.owner_id = e.id AND m.model = :model)"""
    return SqlTemplate(f"""
{query.common_tables()}{tables}
SELECT found.score, found.seq, {query.facts("false")}, {columns}{more}, {vector}
FROM found CROSS JOIN {query.target.table} AS e ON e.seq = found.seq
{query.about_search(columns.count(",") + 2 + bool(more))}
""")
