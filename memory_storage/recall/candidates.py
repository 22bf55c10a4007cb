"""Reads the candidates of a recall: successes, failures and patterns, each with its own vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar
from uuid import UUID

from memory_storage.embedders import Embedder
from memory_storage.models import AnyPattern, Episode, EpisodeFilter, Hit, LazyList, OutcomeKind, PatternFilter
from memory_storage.models.episode import RecallKind
from memory_storage.repositories.episodes import rows as episode_rows
from memory_storage.repositories.episodes import sql as episodes_sql
from memory_storage.repositories.patterns import rows as pattern_rows
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.search.planner import SearchPlan, plan_search, run_together
from memory_storage.search.request import SearchRequest
from memory_storage.search.session import SearchSession
from memory_storage.search.statement import EPISODES, NO_SPACE, PATTERNS, Search, SearchTarget
from memory_storage.sql.episode_rows import decode_steps
from memory_storage.sql.fulltext import MAX_CHARACTERS
from memory_storage.sql.session import Row, ids_as_json
from memory_storage.sql.statement import SqlTemplate

from .request import RecallRequest

T = TypeVar("T", Episode, AnyPattern)
Decode = Callable[[Sequence[Row], int], list[tuple[Row, Any]]]

_PER_RESULT = 4  # candidates for each record: near-duplicates are folded, and the rest is weighed
_MIN_CANDIDATES = 20
_MAX_CANDIDATES = 1_000


@dataclass(frozen=True)
class Candidate:
    """A record that a search has found.

    Attributes:
        kind: its section.
        item: the record; an episode without its steps.
        relevance: the share of the highest score that a record by words, and by vector, could have.
        vector: its own vector; None if it has none by the storage's embedder.
    """

    kind: RecallKind
    item: Episode | AnyPattern
    relevance: float
    similarity: float | None
    vector: bytes | None


def read_candidates(
    session: SearchSession, request: RecallRequest, embedder: Embedder | None
) -> dict[RecallKind, list[Candidate]]:
    """Return the candidates of each kind, the most relevant first. One round trip on a server, if no vector is missing.

    Args:
        session: The session of the namespace.
        request: The request.
        embedder: Makes the vector of the task; None to search by words only.
    """
    model = None if embedder is None else embedder.model
    vector = None if embedder is None else embedder.embed_query(request.task)
    searches: dict[RecallKind, tuple[Callable[[Search], SqlTemplate], SearchPlan, Decode]] = {}

    def add(kind: RecallKind, count: int, target: SearchTarget, filters: EpisodeFilter | PatternFilter) -> None:
        if not count:
            return
        k = min(max(_MIN_CANDIDATES, _PER_RESULT * count), _MAX_CANDIDATES)
        text = request.task[:MAX_CHARACTERS]  # the words; the vector is that of the whole task
        search = SearchRequest(filters, k, text, vector, model, explain=True)
        statement, decode = (
            (_episodes, episode_rows.hits_from_rows) if target is EPISODES else (_patterns, pattern_rows.hits_from_rows)
        )
        searches[kind] = statement, plan_search(session, target, search), partial(_decoded, decode)

    def episodes(outcome: OutcomeKind) -> EpisodeFilter:
        return EpisodeFilter(**request.filters, outcome=outcome)

    add("success", request.k, EPISODES, episodes("success"))
    add("failure", request.wanted_failures, EPISODES, episodes("failure"))
    add("pattern", request.wanted_patterns, PATTERNS, PatternFilter())
    responses = run_together(session, [(statement, plan) for statement, plan, _ in searches.values()])
    found: dict[RecallKind, list[Candidate]] = {}
    for (kind, (_, plan, decode)), rows in zip(searches.items(), responses, strict=True):
        hits = plan.hits(decode(rows, plan.k))
        has_vector = any(hit.similarity is not None for hit in hits)
        found[kind] = [_candidate(kind, hit, has_vector=has_vector) for hit in hits]
    return found


def _candidate(kind: RecallKind, hit: Hit[tuple[Any, bytes | None]], *, has_vector: bool) -> Candidate:
    item, vector = hit.item
    parts = hit.parts or {}
    relevance = parts.get("text", 0.0) + parts.get("vector", 0.0)
    return Candidate(kind, item, relevance / (1 + has_vector), hit.similarity, vector)


def _decoded(decode: Decode, rows: Sequence[Row], k: int) -> list[tuple[Row, Any]]:
    """Return the hits in rows that end with the vector: the item of each is a pair with it."""
    vectors = {row[1]: row[-1] for row in rows}
    return [
        (row, None if item is None else (item, vectors[row[1]])) for row, item in decode([row[:-1] for row in rows], k)
    ]


def with_steps(session: SearchSession, episodes: Sequence[Episode]) -> dict[UUID, Episode]:
    """Return the episodes with their steps, by their IDs. One round trip."""
    if not episodes:
        return {}
    ids = ids_as_json([str(one.id) for one in episodes])
    steps: dict[str, list[Row]] = {}
    for episode_id, *row in session.read(_STEPS.bind(namespace=session.namespace, ids=ids)):
        steps.setdefault(episode_id, []).append(tuple(row))
    return {
        one.id: one.model_copy(update={"steps": LazyList(partial(decode_steps, steps[str(one.id)]))})
        if str(one.id) in steps
        else one
        for one in episodes
    }


_STEPS = SqlTemplate(f"""
SELECT s.episode_id, {", ".join(f"s.{name}" for name in episodes_sql.STEP_ROW_COLUMNS)}
FROM json_each(:ids) AS given CROSS JOIN steps AS s ON s.namespace = :namespace AND s.episode_id = given.value
ORDER BY s.episode_id, s.step_number
""")


@lru_cache(maxsize=256)
def _episodes(query: Search) -> SqlTemplate:
    return _statement(query, episodes_sql.HEAD_ROW, "episode")


@lru_cache(maxsize=256)
def _patterns(query: Search) -> SqlTemplate:
    return _statement(query, patterns_sql.ROW, "pattern")


def _statement(query: Search, columns: str, owner: str) -> SqlTemplate:
    """Return the statement of a search: rows of score, `seq`, facts, columns of the record, and its own vector."""
    vector = "NULL"
    if query.space is not None and query.space != NO_SPACE:
        vector = f"""(SELECT v.vector FROM embeddings AS m CROSS JOIN {query.space.table} AS v ON v.seq = m.vector_seq
    WHERE m.namespace = :namespace AND m.owner_type = '{owner}' AND m.owner_id = e.id AND m.model = :model)"""
    return SqlTemplate(f"""
{query.common_tables()}
SELECT found.score, found.seq, {query.facts("false")}, {columns}, {vector}
FROM found CROSS JOIN {query.target.table} AS e ON e.seq = found.seq
{query.about_search(columns.count(",") + 2)}
""")
