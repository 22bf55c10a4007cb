"""From a search request to its plan, and from the plan to its rows.

A request (see `request`) becomes a statement (see `statement`) with bound values. Its filters are compiled once; the
plan is run, broadened if an in-process index turned out to have too few candidates, and continued for more hits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from memory_storage.errors import CorruptDataError, SchemaError, UnavailableError, ValidationError
from memory_storage.models import Hit, Hits
from memory_storage.schema.spelling import readable
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.sql.filters import active_filters, compile_filters
from memory_storage.sql.session import Row
from memory_storage.sql.statement import SqlTemplate, to_micros

from .candidates import DISKANN, EXACT, HNSW, Source
from .hnsw.index import HnswIndex, Neighbors
from .request import SearchCursor, SearchRequest, Weights, parse_search_cursor
from .session import SearchSession
from .statement import MIN_TEXT_DEPTH, NO_SPACE, TEXT_DEPTH, Attempt, Filters, Search, SearchTarget
from .vector_sql import USED
from .vectors import Stored, wrong_dimension

T = TypeVar("T")

_log = logging.getLogger(__name__)

DAY = 86_400.0
# Columns of a result row: the plan, the state of the vector table, and the last row number. In the row without a score,
# instead of a row's number, whether texts with a word were left out, and the last one is the vector space.
_CUT, _PLAN, _STATE, _LAST = 1, 7, 9, 10
_DEEPER = 8  # times the texts that are ranked, if too few of their rows pass the filters
_REPEATS = 3  # attempts, while other writers change the dimension of the namespace's vectors
_DEPTH_PER_RESULT = 4  # rows that enter the fusion from each list, for each requested row
_BROAD_FILTERS = {"archived"}  # filters that nearly all rows pass by default


@dataclass(frozen=True)
class SearchPlan:
    """A planned search: its SQL, and the values to bind."""

    request: SearchRequest
    search: Search
    values: dict[str, Any]
    k: int
    position: SearchCursor | None
    memory: HnswIndex | None = None
    neighbors: Neighbors | None = None

    def broaden(self, session: SearchSession) -> SearchPlan:
        """Return the next attempt after one without rows: more candidates of the index, then all vectors."""
        attempt = self.search.attempt
        if attempt == "probe_exact" and self.memory:
            return self._with_index(self.memory, session)
        if attempt == "shortlist" and self.memory and self.neighbors:
            # A floor, or the hits of earlier pages, may have left no row though enough passed the filters. That does
            # not show that the shortlist is too short for this namespace.
            if not (self.search.has_floor or self.search.is_continued):
                self.memory.record_shortlist_failure(session.namespace)
            return self._with_attempt("index_only", **_values_of(self.neighbors))
        return self._with_attempt("full")

    def deepened(self) -> SearchPlan:
        """Return the plan that ranks more texts for each word."""
        return replace(self, values={**self.values, "text_depth": self.values["text_depth"] * _DEEPER})

    def planned_again(self, session: SearchSession, k: int, position: SearchCursor | None) -> SearchPlan:
        """Return the plan of `k` results after a position, or in the space that was learned since, with its filters."""
        return _plan(session, self.search.target, self.request, self.search.filters, self.values, k, position)

    def _with_index(self, memory: HnswIndex, session: SearchSession) -> SearchPlan:
        """Return the plan with the candidates of the index, which the probe has shown to be cheaper."""
        neighbors = memory.candidates(
            self.values["vector"], self.values["reach"], are_broad=False, began=session.started_at_monotonic
        )
        if neighbors is None:  # dropped since the probe
            return replace(self, search=replace(self.search, attempt="full", source=EXACT))
        return replace(self._with_attempt("index_only", **_values_of(neighbors), mode="index"), neighbors=neighbors)

    def _with_attempt(self, attempt: Attempt, **values: Any) -> SearchPlan:
        return replace(self, search=replace(self.search, attempt=attempt), values={**self.values, **values})

    def hits(self, rows: Sequence[tuple[Any, T | None]]) -> Hits[T]:
        """Return the hits of (row, item) pairs, best first. Items that are None, which could not be read, are left out.

        Args:
            rows: Result rows (score, seq, facts), each with its item.
        """
        has_vector = self.search.space is not None
        readable = [(row, item) for row, item in rows[: self.k] if item is not None]
        hits = [_hit(row, item, has_vector=has_vector, explain=self.request.explain) for row, item in readable]
        plan = rows[0][0][_PLAN] if rows else ""
        if self.memory and self.values["mode"] == "auto" and self.search.source is not HNSW and self.memory.note:
            plan += f" ({self.memory.note})"
        return Hits(hits, next_cursor=self._next([row for row, _ in rows]), plan=plan)

    def _next(self, rows: Sequence[Row]) -> str | None:
        if len(rows) <= self.k:
            return None
        # The row after the last hit is read only to tell that there is another page; it is not shown yet.
        cursor = self.position or SearchCursor(self.values["now"], rows[0][_LAST], ())
        return str(cursor.after(row[1] for row in rows[: self.k]))


def plan_search(session: SearchSession, target: SearchTarget, request: SearchRequest) -> SearchPlan:
    """Compile the filters of a request, and plan it.

    Args:
        session: The session of the searched namespace.
        target: The searched table.
        request: The request.

    Raises:
        ValidationError: a filter is invalid, or the model is missing; names the field, the limit and the value.
    """
    compiled = compile_filters(
        request.filter, target.table.removesuffix("s"), "i.", has_recent=session.has_recent_words
    )
    filters = Filters(
        compiled.at_hand,
        compiled.finding,
        # Few rows are archived, so asking for those is as narrow as any other filter.
        are_broad=active_filters(request.filter).keys() <= _BROAD_FILTERS
        and getattr(request.filter, "archived", None) is not True,
        find_rows=any("seq IN" in condition for condition in compiled.finding),
    )
    return _plan(session, target, request, filters, compiled.values, request.k, request.position)


def _plan(
    session: SearchSession,
    target: SearchTarget,
    request: SearchRequest,
    filters: Filters,
    filter_values: dict[str, Any],
    k: int,
    position: SearchCursor | None,
) -> SearchPlan:
    """Plan the next `k` results of a request whose filters are compiled."""
    shown, has_words = position.shown if position else (), request.words is not None
    values = {**filter_values, "namespace": session.namespace, "limit": k + 1, "shown": json.dumps(shown)}
    values |= {"now": position.now if position else to_micros(session.now())}
    values |= {"last_seq": position and position.last_seq}
    space, initial = None, InitialCandidates()
    if request.packed is not None:
        depth = _DEPTH_PER_RESULT * k + len(shown)
        values |= {"vector": request.packed, "mode": request.mode, "depth": depth, "floor": request.min_similarity}
        # Hits of earlier pages are found again and then left out, so `reach`, the rows that must pass, counts them.
        values |= {"reach": depth if has_words else len(shown) + k + 1}
        model = request.model or _only_model(session)
        space = NO_SPACE if model is None else session.spaces.guess(session.namespace, model)
        values |= {"model": model, "space": space.token}
        initial = _initial_candidates(session, space, values, are_broad=filters.are_broad, has_words=has_words)
    if request.words is not None:
        weights = request.weights or Weights()
        values |= {f"{name}_weight": float(getattr(weights, name)) for name in ("text", "vector", "recency", "reward")}
        values |= {"words": request.words, "half_life": weights.half_life * DAY}
        values["text_depth"] = max(MIN_TEXT_DEPTH, TEXT_DEPTH // max(1, len(json.loads(request.words))))
    search = Search(
        target,
        filters,
        space,
        initial.source,
        initial.attempt,
        has_words=has_words,
        has_recent=has_words and target.has_recent and session.has_recent_words,
        has_floor=request.min_similarity is not None,
        is_continued=position is not None,
        reports_state=initial.memory is not None,
    )
    return SearchPlan(request, search, values, k, position, initial.memory, initial.neighbors)


def run_together(
    session: SearchSession, searches: Sequence[tuple[Callable[[Search], SqlTemplate], SearchPlan]]
) -> list[Sequence[Row]]:
    """Return the rows of each of several searches. On a server they are one round trip, if each needs one statement.

    Args:
        session: The session of the searched namespace.
        searches: The statement and the plan of each; those by vector are by the same model.

    Raises:
        UnavailableError: as for `run`.
        ValidationError: the vectors of the model have another dimension.
    """
    if session.has_recent_words:  # a file: each search makes its attempts by itself, and no round trip is saved
        return [run(session, statement, plan) for statement, plan in searches]
    responses: Sequence[Sequence[Row] | None]
    try:
        responses = session.read_all([statement(plan.search).bind(**plan.values) for statement, plan in searches])
    except CorruptDataError:
        responses = [None] * len(searches)  # each by itself finds out whether only an index is damaged
    except (SchemaError, ValidationError) as error:
        spaces = [plan.search.space for _, plan in searches if plan.search.space is not None]
        if not spaces or not _is_about_space(error, spaces[0]):
            raise
        own = session.spaces.look_up(session, spaces[0].model)
        searches = [(statement, _in_space(session, plan, own)) for statement, plan in searches]
        responses = session.read_all([statement(plan.search).bind(**plan.values) for statement, plan in searches])
    return [
        run(session, statement, plan, response=response)
        for (statement, plan), response in zip(searches, responses, strict=True)
    ]


def run(
    session: SearchSession,
    statement: Callable[[Search], SqlTemplate],
    plan: SearchPlan,
    *,
    response: Sequence[Row] | None = None,
) -> Sequence[Row]:
    """Return the rows of a search; without the index, if that has too few candidates or is damaged.

    A namespace without vectors of the model has no rows to find, whatever other namespaces have.

    Args:
        session: The session of the searched namespace.
        statement: Makes the statement that also reads the items, for each table.
        plan: The plan.
        response: The rows of the plan's statement, if it has been run.

    Raises:
        UnavailableError: other writers kept changing the dimension of the model's vectors.
    """
    known = None
    for _ in range(_REPEATS):
        rows, again = _attempted(session, statement, plan, response, known)
        if again is None:
            return rows
        plan, response, known = again, None, again.search.space
    raise UnavailableError("other writers keep changing the dimension of this model; nothing was read; search again")


def _attempted(
    session: SearchSession,
    statement: Callable[[Search], SqlTemplate],
    plan: SearchPlan,
    response: Sequence[Row] | None,
    known: VectorSpace | None,
) -> tuple[Sequence[Row], SearchPlan | None]:
    """Return the rows; or the plan to try instead, if the namespace's vectors are in another space than was guessed.

    `known` is the space that they were found to be in, if they were looked up before.
    """
    space = plan.search.space
    try:
        rows, stored = _rows(session, statement, plan, response)
    except (SchemaError, ValidationError) as error:
        # A space is guessed. No vector may ever have been stored by the model, so that its table is missing; or its
        # first space belongs to other namespaces, and has another dimension.
        if space is None or not _is_about_space(error, space):
            raise
        own = session.spaces.look_up(session, space.model)
        # The first vector may have been stored since. If the table is missing again, the database is damaged.
        if own is not None and own.space == space == known and isinstance(error, SchemaError):
            raise
        return [], _in_space(session, plan, own)
    dimension = len(plan.values["vector"]) // 4 if space else 0
    if space is None or stored in (None, f"{space.token}:{dimension}"):
        return rows, None
    own = session.spaces.look_up(session, space.model)
    # The statement saw vectors in another space, and they were deleted or replaced before this look: its rows, none or
    # those of this space, are right.
    if own is None or (own.space, own.dimension) == (space, dimension):
        return rows, None
    return [], _in_space(session, plan, own)


def _in_space(session: SearchSession, plan: SearchPlan, own: Stored | None) -> SearchPlan:
    """Return the same search in another vector space, or in none."""
    dimension = len(plan.values["vector"]) // 4
    if own is not None and own.dimension != dimension:
        raise wrong_dimension(plan.values["model"], own.dimension, dimension)
    if own is not None:
        return plan.planned_again(session, plan.k, plan.position)
    _log.info(
        "namespace %r has no vectors of model %r: the search by vector returns none",
        session.namespace,
        plan.values["model"],
    )
    search = replace(plan.search, space=NO_SPACE, attempt="none", source=EXACT, reports_state=False)
    return replace(plan, search=search, memory=None, neighbors=None)


def _rows(
    session: SearchSession,
    statement: Callable[[Search], SqlTemplate],
    plan: SearchPlan,
    response: Sequence[Row] | None = None,
) -> tuple[Sequence[Row], str | None]:
    """Return the rows found, and the space and dimension of the namespace's own vectors, if it has any."""
    try:
        with _scan_turn(session, plan):
            step = statement(plan.search).bind(**plan.values)
            everything = session.read(step) if response is None else response
    except CorruptDataError:
        if plan.values.get("mode", "exact") == "exact":
            raise
        # The damage may be in the DiskANN index alone. An exact scan reads only the table, and reports damage there.
        return _rows(session, statement, replace(plan, values={**plan.values, "mode": "exact"}))
    rows = _notify_index([row for row in everything if row[0] is not None], session, plan)
    is_cut, stored = next(((row[_CUT], row[_LAST]) for row in everything if row[0] is None), (None, None))
    if is_cut and len({row[1] for row in rows}) <= plan.k:  # the filters may have left out the newest texts
        return _rows(session, statement, plan.deepened())
    is_last = rows or plan.search.attempt in ("full", "none")
    return (rows, stored) if is_last else _rows(session, statement, plan.broaden(session))


def _scan_turn(session: SearchSession, plan: SearchPlan) -> AbstractContextManager[None]:
    """Return the turn of an attempt that may scan all vectors, for which it waits while the index is being built."""
    gate = session.memory.scan_gate if plan.memory and session.memory else None
    if gate is None or not gate.is_closed:
        return nullcontext()
    # A transaction does not wait: it may keep other writers waiting.
    if plan.search.attempt != "full" or session.is_transaction:
        return nullcontext()
    return gate.admit((session.namespace, plan.search))


def _is_about_space(error: Exception, space: VectorSpace) -> bool:
    """Return whether the engine reports a missing vector table, or vectors of another dimension."""
    text = str(error)
    if isinstance(error, SchemaError):
        return space.table in text
    return "same length" in text or "dimensions are different" in text


def _notify_index(rows: Sequence[Row], session: SearchSession, plan: SearchPlan) -> Sequence[Row]:
    """Return the rows, after notifying the in-process index of the state of its table that they report."""
    # In a transaction the state may count rows that are rolled back later.
    if plan.memory and rows and not session.is_transaction:
        plan.memory.notify(*json.loads(rows[0][_STATE]))
    return rows


def find_hits(
    session: SearchSession,
    target: SearchTarget,
    request: SearchRequest,
    statement: Callable[[Search], SqlTemplate],
    decode: Callable[[Sequence[Row], int], list[tuple[Row, T | None]]],
) -> Hits[T]:
    """Run a search, and continue until there are `k` hits: an item that cannot be decoded does not count.

    Args:
        session: Runs the statements.
        target: What is searched.
        request: The search, as the caller asked for it.
        statement: Composes the statement of a planned search.
        decode: Returns the hits in rows, the best first, as (row, item); None for an item that was not decoded.
    """
    plan = plan_search(session, target, request)
    hits = plan.hits(decode(run(session, statement, plan), plan.k))
    while len(hits) < request.k and hits.next_cursor:
        plan = plan.planned_again(session, request.k - len(hits), parse_search_cursor(hits.next_cursor))
        more = plan.hits(decode(run(session, statement, plan), plan.k))
        hits = Hits([*hits, *more], next_cursor=more.next_cursor, plan=hits.plan)
    return hits


def _hit(row: Sequence[Any], item: T, *, has_vector: bool, explain: bool) -> Hit[T]:
    score, _, similarity, vector, text, recency, reward, plan, snippet, *_ = row
    named = {"text": text, "vector": vector, "recency": recency, "reward": reward}
    parts = {"similarity": score} if text is None else {name: part for name, part in named.items() if part}
    compared = "index" if plan in (DISKANN.plan, HNSW.plan) else "exact"
    method: Any = compared if text is None else ("hybrid" if has_vector else "text")
    return Hit(item, score, similarity, method, snippet and readable(snippet), parts if explain else None)


class InitialCandidates(NamedTuple):
    """The first attempt of a search: the in-process index, its candidates, and the source and extent to try."""

    memory: HnswIndex | None = None
    neighbors: Neighbors | None = None
    source: Source = EXACT
    attempt: Attempt = "full"


def _initial_candidates(
    session: SearchSession, space: VectorSpace, values: dict[str, Any], *, are_broad: bool, has_words: bool
) -> InitialCandidates:
    if space == NO_SPACE:
        return InitialCandidates(attempt="none")
    if session.vector_index == "diskann":
        return InitialCandidates(source=DISKANN)
    if session.memory is None or session.vector_index != "hnsw":
        values["mode"] = "exact"  # there is no index to ask, also if the caller wants that
        return InitialCandidates()
    memory = session.memory.of(space)
    if values["mode"] == "exact":
        return InitialCandidates(memory)
    attempt: Attempt = "full" if has_words else _attempt(values, are_broad, memory.shortlist_failed(session.namespace))
    neighbors = memory.candidates(
        values["vector"],
        values["reach"],
        are_broad=are_broad,
        began=session.started_at_monotonic,
        search=attempt != "probe_exact",
    )
    if neighbors is None:
        values["mode"] = "exact" if values["mode"] == "index" else values["mode"]
        return InitialCandidates(memory)
    values |= _values_of(neighbors, neighbors.shortlist if attempt == "shortlist" else None)
    return InitialCandidates(memory, neighbors, HNSW, attempt)


def _attempt(values: dict[str, Any], are_broad: bool, shortlist_failed: bool) -> Attempt:
    """Return the first attempt with an in-process index: the least that is likely to suffice is planned fastest."""
    is_deep, is_auto = values["reach"] > HNSW.max_k, values["mode"] == "auto"
    # The statement itself compares all above `max_k` (see `_strategy`): there is nothing to probe.
    if is_auto and is_deep:
        return "full"
    if are_broad:
        return "index_only" if is_deep or shortlist_failed else "shortlist"
    return "probe_exact" if is_auto else "index_only"


def _values_of(neighbors: Neighbors, shortlist: int | None = None) -> dict[str, Any]:
    return {
        "mark": neighbors.mark,
        "candidate_count": neighbors.candidate_count,
        "neighbors": json.dumps(neighbors.seqs[:shortlist]),
    }


def _only_model(session: SearchSession) -> str | None:
    """Return the name of the only model in use; None if there is none."""
    names = [row[0] for row in session.read(USED.bind(namespace=session.namespace))]
    if len(names) > 1:
        raise ValidationError("model", f"one of {', '.join(map(repr, names))}", None)
    return names[0] if names else None
