"""Reads the candidates of a recall: successes, failures and patterns, each with its own vector."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any, NamedTuple
from uuid import UUID

from memory_storage.models import AnyPattern, Episode, LazyList, RecallKind
from memory_storage.repositories.episodes import rows as episode_rows
from memory_storage.repositories.patterns import rows as pattern_rows
from memory_storage.search.planner import SearchPlan, plan_search, run_together
from memory_storage.search.request import SearchRequest, embed_query
from memory_storage.search.session import SearchSession
from memory_storage.search.statement import EPISODES, PATTERNS, Search
from memory_storage.search.vectors import packed
from memory_storage.sql.episode_rows import decode_steps
from memory_storage.sql.fulltext import MAX_CHARACTERS
from memory_storage.sql.session import Row, ids_as_json
from memory_storage.sql.statement import SqlTemplate
from memory_storage.sql.validation import MAX_K

from . import sql
from .request import RecallRequest

_PER_RESULT = 4  # candidates for each record: near-duplicates are folded, and the rest is weighed
_MIN_CANDIDATES = 20
_LEAST_RELEVANCE = 1 / 3  # of a record with half of the greatest cosine; or the first by words, if it has none


@dataclass(frozen=True)
class Candidate:
    """A record that a search has found.

    Attributes:
        kind: its section.
        item: the record; an episode without its steps.
        relevance: how similar it is to the task, relative to the others, from 0 to 1.
        similarity: the cosine of the task's vector and the nearest of the record's; None if it has none.
        direction: its own vector, of length 1; None if it has none by the storage's embedder.
        successes: how many episodes that used it succeeded; counted for an episode only, and if it has weight.
        failures: how many ended otherwise.
    """

    kind: RecallKind
    item: Episode | AnyPattern
    relevance: float
    similarity: float | None = None
    direction: array[float] | None = None
    successes: int = 0
    failures: int = 0


class _Record(NamedTuple):
    """What a search has found: its reciprocal rank by words, its cosine and its own vector, if it has one.

    And how many episodes that used it succeeded and ended otherwise, if that was read.
    """

    item: Episode | AnyPattern
    by_words: float
    similarity: float | None
    direction: array[float] | None
    successes: int = 0
    failures: int = 0


@dataclass(frozen=True)
class _Read:
    """One of the searches of a recall, planned."""

    kind: RecallKind
    statement: Callable[[Search], SqlTemplate]
    plan: SearchPlan
    decode: Callable[[Sequence[Row], int], list[tuple[Row, Any]]]
    with_uses: bool = False


def read_candidates(session: SearchSession, request: RecallRequest) -> dict[RecallKind, list[Candidate]]:
    """Return the candidates of each kind. One round trip on a server, if the namespace has vectors of the embedder.

    Args:
        session: The session of the namespace.
        request: The request.
    """
    _, vector, model = embed_query(session, request.task)
    reads = []
    for kind, count in request.counts.items():
        if count:
            k = min(max(_MIN_CANDIDATES, _PER_RESULT * count), MAX_K)
            # The words of a long task are those of its beginning; the vector is that of all of it.
            text = request.task[:MAX_CHARACTERS]
            search = SearchRequest(request.filter(kind), k, text, vector, model, explain=True)
            reads.append(_planned(session, kind, search, with_uses=request.weights.effectiveness > 0))
    responses = run_together(session, [(read.statement, read.plan) for read in reads])
    task = None if vector is None else _direction(packed(vector))
    records = {read.kind: _records(read, rows, task) for read, rows in zip(reads, responses, strict=True)}
    # Successes and failures are compared with the same task: a failure is not relevant because it is the best of them.
    of_episodes = _greatest([*records.get("success", ()), *records.get("failure", ())])
    best = {"success": of_episodes, "failure": of_episodes, "pattern": _greatest(records.get("pattern", ()))}
    # A pattern of the requested domain is relevant, with whatever words it says so.
    of_domain = request.filters.get("domain") is not None
    least = {
        "success": _LEAST_RELEVANCE,
        "failure": _LEAST_RELEVANCE,
        "pattern": 0.0 if of_domain else _LEAST_RELEVANCE,
    }
    return {
        kind: [
            Candidate(kind, one.item, relevance, one.similarity, one.direction, one.successes, one.failures)
            for one in found
            if request.allows(one.item)
            and (relevance := _relevance(one.by_words, one.similarity, best[kind], least[kind])) is not None
        ]
        for kind, found in records.items()
    }


def _planned(session: SearchSession, kind: RecallKind, search: SearchRequest, *, with_uses: bool) -> _Read:
    if kind == "pattern":
        return _Read(kind, sql.search_patterns, plan_search(session, PATTERNS, search), pattern_rows.hits_from_rows)
    statement = sql.search_episodes_and_uses if with_uses else sql.search_episodes
    return _Read(kind, statement, plan_search(session, EPISODES, search), episode_rows.hits_from_rows, with_uses)


def _records(read: _Read, rows: Sequence[Row], task: array[float] | None) -> list[_Record]:
    """Return the records in the rows of a search that end with a vector."""
    directions = {row[1]: _direction(row[-1]) for row in rows if row[-1] is not None}
    uses = {row[1]: json.loads(row[-2]) for row in rows if read.with_uses and row[-2] is not None}
    decoded = read.decode([row[: -2 if read.with_uses else -1] for row in rows], read.plan.k)
    pairs = [
        (row, None if item is None else (item, directions.get(row[1]), uses.get(row[1], (0, 0))))
        for row, item in decoded
    ]
    records = []
    for hit in read.plan.hits(pairs):
        item, direction, (succeeded, ended) = hit.item
        # The search knows only those that are among the nearest.
        known = [hit.similarity] if hit.similarity is not None else []
        known += [cosine(task, direction)] if task is not None and direction is not None else []
        by_words = (hit.parts or {}).get("text", 0.0)
        records.append(_Record(item, by_words, max(known, default=None), direction, succeeded, ended - succeeded))
    return records


def _greatest(records: Iterable[_Record]) -> float | None:
    return max((one.similarity for one in records if one.similarity is not None), default=None)


def _relevance(by_words: float, similarity: float | None, best: float | None, least: float) -> float | None:
    """Return the relevance of a record; None if it is far less similar than the best one.

    Args:
        by_words: The reciprocal rank by words, from 0 to 1.
        similarity: Its cosine, if it has a vector.
        best: The greatest cosine of all; None if no record has a vector.
        least: The least relevance.
    """
    if best is None or best <= 0:
        return by_words or None
    # By vector it is the share of the greatest cosine. That says more than a rank, and counts twice: see the benchmark
    # `recall`. A record that is not embedded yet counts as one of half that similarity.
    by_vector = 0.5 if similarity is None else max(0.0, similarity / best)
    relevance = (by_words + 2 * by_vector) / 3
    return relevance if relevance >= least else None


def _direction(vector: bytes) -> array[float]:
    numbers = array("f", vector)
    length = math.hypot(*numbers)
    return array("d", (number / length for number in numbers))


def cosine(one: array[float], other: array[float]) -> float:
    """Return the cosine of two vectors of length 1; 0 if they have different dimensions."""
    return sum(map(mul, one, other)) if len(one) == len(other) else 0.0


def with_steps(session: SearchSession, episodes: Sequence[Episode]) -> dict[UUID, Episode]:
    """Return the episodes with their steps, by their IDs. One round trip."""
    if not episodes:
        return {}
    ids = ids_as_json([str(one.id) for one in episodes])
    steps: dict[str, list[Row]] = {}
    for episode_id, *row in session.read(sql.STEPS.bind(namespace=session.namespace, ids=ids)):
        steps.setdefault(episode_id, []).append(tuple(row))
    return {
        one.id: one.model_copy(update={"steps": LazyList(partial(decode_steps, steps[str(one.id)]))})
        if str(one.id) in steps
        else one
        for one in episodes
    }
