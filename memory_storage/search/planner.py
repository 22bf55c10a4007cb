"""What a caller asks a search for, checked, and the values of its statement. Finds nothing itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_args

from memory_storage.errors import CorruptDataError, SchemaError, UnavailableError, ValidationError
from memory_storage.models import EpisodeFilter, Hit, Hits, PatternFilter, SearchMode
from memory_storage.schema.spelling import readable
from memory_storage.schema.vector_tables import Space
from memory_storage.sql.arguments import choice, flag, instance
from memory_storage.sql.documents import to_micros
from memory_storage.sql.filters import Shape, conditions, in_use
from memory_storage.sql.fulltext import any_word
from memory_storage.sql.session import Row
from memory_storage.sql.statement import SqlTemplate

from .candidates import DISKANN, EXACT, MEMORY, Source
from .cursor import SearchCursor, parse_search_cursor
from .hnsw.index import MemoryIndex, Near
from .session import SearchSession
from .statement import NO_SPACE, Attempt, Filters, Items, Search
from .vector_spaces import Stored, as_model_name, own_space, wrong_dimension
from .vector_sql import USED
from .vectors import packed

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_K = 1_000
DAY = 86_400.0
# Where a row of a search has the plan, the state of the table, and the last row's number. The row without a score has
# the space of the namespace in the last place.
_PLAN, _STATE, _LAST = 7, 9, 10
_REPEATS = 3  # of a search, while other writers change the dimension of the namespace's vectors
_HEAVIEST = 1_000_000_000  # a weight above that leaves no digits for the others
_HALF_FUSED = 4  # so many times k go into the fusion from each side
_ALWAYS = {"archived"}  # filters that nearly all rows pass


@dataclass(frozen=True)
class Weights:
    """What a first place by words or by vector, a fresh item, and a reward of 1 add to a score.

    An item that is `half_life` days old has half of the weight of recency.
    """

    text: float = 1.0
    vector: float = 1.0
    recency: float = 0.0
    reward: float = 0.0
    half_life: float = 30.0

    def __post_init__(self) -> None:
        for name in ("text", "vector", "recency", "reward", "half_life"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= _HEAVIEST or (name == "half_life" and value <= 0):
                above = "above 0" if name == "half_life" else "from 0"
                raise ValidationError(f"weights.{name}", f"a number {above} to {_HEAVIEST:,}", value)


@dataclass(frozen=True)
class Asked:
    """A search as a caller asked for it."""

    filter: EpisodeFilter | PatternFilter
    k: int
    text: str | None = None
    vector: Any = None
    model: str | None = None
    mode: SearchMode = "auto"
    min_similarity: float | None = None
    cursor: str | None = None
    weights: Weights | None = None
    explain: bool = False


@dataclass(frozen=True)
class Planned:
    """A search that is ready: its SQL, and the values of its names."""

    asked: Asked
    search: Search
    values: dict[str, Any]
    k: int
    cursor: SearchCursor | None
    explain: bool
    memory: MemoryIndex | None = None
    near: Near | None = None

    def wider(self, session: SearchSession) -> Planned:
        """What to try when nothing was found: the index's other candidates, then all vectors."""
        attempt = self.search.attempt
        if attempt == "scout" and self.memory:
            return self._asked(self.memory, session)
        if attempt == "few" and self.memory and self.near:
            if not (self.search.has_floor or self.search.is_continued):
                self.memory.had_too_few(session.namespace)
            return self._trying("index", **_values_of(self.near))
        return self._trying("all")

    def _asked(self, memory: MemoryIndex, session: SearchSession) -> Planned:
        """With the candidates of an index that was found to be the better way."""
        near = memory.candidates(
            self.values["vector"], self.values["reach"], are_broad=False, began=session.started_at_monotonic
        )
        if near is None:  # it was there a moment ago
            return replace(self, search=replace(self.search, attempt="all", source=DISKANN))
        return replace(self._trying("index", **_values_of(near), mode="index"), near=near)

    def _trying(self, attempt: Attempt, **values: Any) -> Planned:
        return replace(self, search=replace(self.search, attempt=attempt), values={**self.values, **values})

    def hits(self, rows: Sequence[tuple[Any, T | None]]) -> Hits[T]:
        """Hits from (row, item), the best first; a row is score, seq and the facts. None as an item is left out."""
        has_vector = self.search.space is not None
        readable = [(row, item) for row, item in rows[: self.k] if item is not None]
        hits = [_hit(row, item, has_vector=has_vector, explain=self.explain) for row, item in readable]
        plan = rows[0][0][_PLAN] if rows else ""
        if self.memory and self.values["mode"] == "auto" and self.search.source is not MEMORY and self.memory.note:
            plan += f" ({self.memory.note})"
        return Hits(hits, next_cursor=self._next([row for row, _ in rows]), plan=plan)

    def _next(self, rows: Sequence[Row]) -> str | None:
        if len(rows) <= self.k:
            return None
        cursor = self.cursor or SearchCursor(self.values["now"], rows[0][_LAST], ())
        return str(cursor.after(row[1] for row in rows[: self.k]))


def planned(session: SearchSession, items: Items, asked: Asked) -> Planned:
    """Check what was asked for, and plan it. ValidationError names what cannot be."""
    k = _checked_k(asked.k)
    choice("mode", asked.mode, get_args(SearchMode))
    flag("explain", asked.explain)
    if asked.weights is not None:
        instance("weights", asked.weights, Weights, "Weights(text=1.0, vector=1.0, recency=0.5)")
    cursor = parse_search_cursor(asked.cursor)
    shown = cursor.shown if cursor else ()
    text, has_words = asked.text, asked.text is not None
    filters, values = _filters(asked.filter, items)
    values |= {"namespace": session.namespace, "limit": k + 1, "shown": json.dumps(shown)}
    values |= {"now": cursor.now if cursor else to_micros(session.now()), "last_seq": cursor and cursor.last_seq}
    space, given = None, _Given()
    if asked.vector is not None or not has_words:
        depth = _HALF_FUSED * k + len(shown)
        values |= {"vector": packed(asked.vector), "mode": asked.mode, "depth": depth}
        values |= {"reach": depth if has_words else len(shown) + k + 1, "floor": _floor(asked.min_similarity)}
        model = _model(session, asked.model)
        space = NO_SPACE if model is None else session.spaces.guess(session.namespace, model)
        values |= {"model": model, "space": space.token}
        given = _given(session, space, values, are_broad=filters.are_broad, has_words=has_words)
    if text is not None:
        values |= {"words": any_word(text) or '""', **_weights(asked.weights or Weights())}
    search = Search(
        items,
        filters,
        space,
        given.source,
        given.attempt,
        has_words=has_words,
        has_floor=asked.min_similarity is not None,
        is_continued=cursor is not None,
        is_followed=given.memory is not None,
    )
    return Planned(asked, search, values, k, cursor, asked.explain, given.memory, given.near)


def run(session: SearchSession, statement: Callable[[Search], SqlTemplate], plan: Planned) -> Sequence[Row]:
    """The rows of a search; if the index has too few or is damaged, once more without it.

    A namespace that has no vectors by the model has none to find, whether another one has, and of which dimension.
    """
    for _ in range(_REPEATS):
        rows, own = _attempted(session, statement, plan)
        if own is None:
            return rows
        plan = own
    raise UnavailableError("other writers keep changing the dimension of this model: repeat it")


def _attempted(
    session: SearchSession, statement: Callable[[Search], SqlTemplate], plan: Planned
) -> tuple[Sequence[Row], Planned | None]:
    """The rows; or what to try instead, if the namespace has its vectors in another space."""
    space = plan.search.space
    try:
        rows, stored = _rows(session, statement, plan)
    except (SchemaError, ValidationError) as error:
        if space is None or not _is_about_space(error, space):
            raise
        own = own_space(session, space.model)
        if own is not None and own.space == space and isinstance(error, SchemaError):
            raise
        return [], _in_space(session, plan, own)
    dimension = len(plan.values["vector"]) // 4 if space else 0
    if space is None or stored in (None, f"{space.token}:{dimension}"):
        return rows, None
    own = own_space(session, space.model)
    if own is None or (own.space, own.dimension) == (space, dimension):
        return rows, None
    return [], _in_space(session, plan, own)


def _in_space(session: SearchSession, plan: Planned, own: Stored | None) -> Planned:
    """The same search among the vectors of another space, or among none."""
    dimension = len(plan.values["vector"]) // 4
    if own is not None and own.dimension != dimension:
        raise wrong_dimension(plan.values["model"], own.dimension, dimension)
    if own is not None:
        return planned(session, plan.search.items, plan.asked)
    _log.info("namespace %r has no vectors by %r: none is found", session.namespace, plan.values["model"])
    search = replace(plan.search, space=NO_SPACE, attempt="none", source=DISKANN, is_followed=False)
    return replace(plan, search=search, memory=None, near=None)


def _rows(
    session: SearchSession, statement: Callable[[Search], SqlTemplate], plan: Planned
) -> tuple[Sequence[Row], str | None]:
    """The rows of what is found, and the space and dimension of the namespace's own vectors, if it has some."""
    try:
        everything = session.read(statement(plan.search).bind(**plan.values))
    except CorruptDataError:
        if plan.values.get("mode", "exact") == "exact":
            raise
        return _rows(session, statement, replace(plan, values={**plan.values, "mode": "exact"}))
    rows = _followed([row for row in everything if row[0] is not None], session, plan)
    stored = next((row[_LAST] for row in everything if row[0] is None), None)
    is_last = rows or plan.search.attempt in ("all", "none")
    return (rows, stored) if is_last else _rows(session, statement, plan.wider(session))


def _is_about_space(error: Exception, space: Space) -> bool:
    """Whether the engine complains that there is no such space, or that its vectors have another dimension."""
    text = str(error)
    if isinstance(error, SchemaError):
        return space.table in text
    return "same length" in text or "dimensions are different" in text


def _followed(rows: Sequence[Row], session: SearchSession, plan: Planned) -> Sequence[Row]:
    """The same rows, when the index in this process has caught up with what they say of the table."""
    if plan.memory and rows and not session.is_transaction:
        plan.memory.follow(*json.loads(rows[0][_STATE]))
    return rows


def filled(search: Callable[[Asked], Hits[T]], asked: Asked) -> Hits[T]:
    """Return the hits of a search, and more until there are `k`: one that cannot be read does not count."""
    hits = search(asked)
    while len(hits) < asked.k and hits.next_cursor:
        more = search(replace(asked, k=asked.k - len(hits), cursor=hits.next_cursor))
        hits = Hits([*hits, *more], next_cursor=more.next_cursor, plan=hits.plan)
    return hits


def as_text(text: Any) -> str:
    """What is looked for; ValidationError if that is no text."""
    if not isinstance(text, str):
        raise ValidationError("text", "a text", text)
    return text


def _hit(row: Sequence[Any], item: T, *, has_vector: bool, explain: bool) -> Hit[T]:
    score, _, similarity, vector, text, recency, reward, plan, snippet, *_ = row
    named = {"text": text, "vector": vector, "recency": recency, "reward": reward}
    parts = {"similarity": score} if text is None else {name: part for name, part in named.items() if part}
    compared = "index" if plan in (DISKANN.plan, MEMORY.plan) else "exact"
    method: Any = compared if text is None else ("hybrid" if has_vector else "text")
    return Hit(item, score, similarity, method, snippet and readable(snippet), parts if explain else None)


def _checked_k(k: Any) -> int:
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise ValidationError("k", f"a whole number from 1 to {MAX_K:,}", k)
    return k


def _floor(similarity: Any) -> float | None:
    if similarity is None:
        return None
    if isinstance(similarity, bool) or not isinstance(similarity, int | float) or not -1 <= similarity <= 1:
        raise ValidationError("min_similarity", "a number from -1 to 1", similarity)
    return float(similarity)


def _filters(asked: EpisodeFilter | PatternFilter, items: Items) -> tuple[Filters, dict[str, Any]]:
    owner_type = items.table.removesuffix("s")
    at_hand, values = conditions(asked, owner_type, Shape("i.", by_row=True))
    finding, _ = conditions(asked, owner_type, Shape("i."))
    find_rows = any("seq IN" in condition for condition in finding)
    are_broad = in_use(asked).keys() <= _ALWAYS and getattr(asked, "archived", None) is not True
    return Filters(at_hand, finding, are_broad=are_broad, find_rows=find_rows), values


class _Given(NamedTuple):
    """What a search begins with: the index in this process, what that has found, and what is tried first."""

    memory: MemoryIndex | None = None
    near: Near | None = None
    source: Source = DISKANN
    attempt: Attempt = "all"


def _given(session: SearchSession, space: Space, values: dict[str, Any], *, are_broad: bool, has_words: bool) -> _Given:
    if space == NO_SPACE:
        return _Given(attempt="none")
    if session.vector_index == "exact":
        values["mode"] = "exact"
        return _Given(source=EXACT)
    if session.memory is None or session.vector_index != "hnsw":
        return _Given()
    memory = session.memory.of(space)
    if values["mode"] == "exact":
        return _Given(memory)
    attempt: Attempt = "all" if has_words else _attempt(values, are_broad, memory.is_crowded(session.namespace))
    near = memory.candidates(
        values["vector"],
        values["reach"],
        are_broad=are_broad,
        began=session.started_at_monotonic,
        look=attempt != "scout",
    )
    if near is None:
        return _Given(memory)
    values |= _values_of(near, near.few if attempt == "few" else None)
    return _Given(memory, near, MEMORY, attempt)


def _attempt(values: dict[str, Any], are_broad: bool, is_crowded: bool) -> Attempt:
    """What to try first with an index in this process: the less that is likely to do, the sooner it is planned."""
    is_deep, is_auto = values["reach"] > MEMORY.deepest, values["mode"] == "auto"
    if is_auto and is_deep:
        return "all"
    if are_broad:
        return "index" if is_deep or is_crowded else "few"
    return "scout" if is_auto else "index"


def _values_of(near: Near, few: int | None = None) -> dict[str, Any]:
    return {"mark": near.mark, "asked": near.asked, "near": json.dumps(near.seqs[:few])}


def _weights(weights: Weights) -> dict[str, Any]:
    return {
        "text_weight": float(weights.text),
        "vector_weight": float(weights.vector),
        "recency_weight": float(weights.recency),
        "reward_weight": float(weights.reward),
        "half_life": weights.half_life * DAY,
    }


def _model(session: SearchSession, model: str | None) -> str | None:
    """The model's name; if none is given, that of the only one there is, or None if there is none."""
    if model is not None:
        return as_model_name(model)
    names = [row[0] for row in session.read(USED.bind(namespace=session.namespace))]
    if len(names) > 1:
        raise ValidationError("model", f"one of {', '.join(map(repr, names))}", None)
    return names[0] if names else None
