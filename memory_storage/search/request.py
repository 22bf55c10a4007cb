"""The request of a search: its arguments, the weights of a score, and the cursor that continues it.

A score is not a stable key: a word counts for more the fewer rows have it, so each write changes the scores of others;
recency decays with time; reciprocal ranks depend on the depth of both lists. The cursor therefore holds the row numbers
of the returned hits, and a page contains the best of the remaining rows. Rows written after the first page are excluded
by number.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, get_args

from memory_storage.embedders import Embedder
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.models import EpisodeFilter, PatternFilter, SearchMode
from memory_storage.sql.fulltext import any_word
from memory_storage.sql.validation import check_k, choice, flag, instance
from memory_storage.sql.validation import embedder as as_embedder

from .session import SearchSession
from .vectors import as_model_name, packed

_VERSION = 2
_MOST_BYTES = 32_000_000  # of its JSON: some ten million hits
_MAX_WEIGHT = 1_000_000_000  # a larger weight leaves no floating-point digits for the others


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of a hybrid score.

    Args:
        text: Added by rank 1 in full text.
        vector: Added by rank 1 in similarity.
        recency: Added by an item of age 0; half of it by one that is `half_life` days old.
        reward: Added by a reward of 1.
        half_life: Days. Default 30.

    Raises:
        ValidationError: a weight is negative, not a number, or above 1,000,000,000.
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
            if not number or not 0 <= value <= _MAX_WEIGHT or (name == "half_life" and value <= 0):
                above = "above 0" if name == "half_life" else "from 0"
                raise ValidationError(f"weights.{name}", f"a number {above} to {_MAX_WEIGHT:,}", value)


@dataclass(frozen=True)
class SearchRequest:
    """A search as the caller requested it, validated but for its filters, which are when they are compiled.

    Raises:
        ValidationError: a field is invalid; names the field, the limit and the value.
    """

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
    position: SearchCursor | None = field(init=False)
    """The cursor, parsed."""
    packed: bytes | None = field(init=False)
    """The vector as the database has it; None for a search by words only."""
    words: str | None = field(init=False)
    """The words as a JSON array of FTS5 expressions; None for a search by vector only."""

    def __post_init__(self) -> None:
        check_k(self.k)
        choice("mode", self.mode, get_args(SearchMode))
        flag("explain", self.explain)
        if self.weights is not None:
            instance("weights", self.weights, Weights, "Weights(text=1.0, vector=1.0, recency=0.5)")
        derived: dict[str, Any] = {"position": parse_search_cursor(self.cursor), "packed": None, "words": None}
        if self.vector is not None or self.text is None:
            derived["packed"] = packed(self.vector)
            derived["min_similarity"] = _similarity(self.min_similarity)
            if self.model is not None:
                as_model_name(self.model)
        if self.text is not None:
            derived["words"] = any_word(self.text)  # a text without words is not an error, and matches nothing
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen for callers


def embed_query(
    session: SearchSession,
    text: Any,
    vector: Any = None,
    model: str | None = None,
    embedder: Embedder | None = None,
    weights: Weights | None = None,
) -> tuple[str, Sequence[float] | None, str | None]:
    """Return the text, vector and model of a search by words; the vector is the embedder's where none is passed.

    If the storage's own embedder fails, which is logged and seen in the health, words alone decide.
    """
    if not isinstance(text, str):
        raise ValidationError("text", "a string", text)
    if vector is not None:
        return text, vector, model
    if embedder is not None:
        known = as_embedder("embedder", embedder)
        return text, known.embed_query(text), model or known.model
    queue = session.embedding_queue
    if queue is None or (weights is not None and not weights.vector) or model not in (None, queue.embedder.model):
        return text, None, model
    try:
        return text, queue.embedder.embed_query(text), queue.embedder.model
    except Exception as error:  # noqa: BLE001 - an embedder may raise anything; it is noted
        queue.query_failed(error)
        return text, None, None


def embed_text(session: SearchSession, vector: Any, model: str | None) -> tuple[Any, str | None]:
    """Return the vector and model of a search by vector, for which a text may be passed.

    Raises:
        ConfigurationError: A text is passed, and the storage has no embedder.
        ValidationError: A text is passed with the name of another model than the embedder's.
    """
    if not isinstance(vector, str):
        return vector, model
    queue = session.embedding_queue
    if queue is None:
        raise ConfigurationError(
            "vector: a text needs an embedder: open the storage with embedder=..., or pass a vector"
        )
    if model not in (None, queue.embedder.model):
        raise ValidationError("model", f"must be that of the embedder, {queue.embedder.model!r}, or omitted", model)
    return queue.embedder.embed_query(vector), queue.embedder.model


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """Continue after the hits `shown`, among the rows up to `last_seq`, as they were ranked at `now` (microseconds)."""

    now: int
    last_seq: int
    shown: tuple[int, ...]

    def after(self, seqs: Iterable[int]) -> SearchCursor:
        """Return the cursor for the page after these hits."""
        return SearchCursor(self.now, self.last_seq, tuple(sorted({*self.shown, *seqs})))

    def __str__(self) -> str:
        # Differences are small numbers that repeat, so they compress to a fraction of the row numbers.
        steps = [after - before for before, after in pairwise((0, *self.shown))]
        text = json.dumps([_VERSION, self.now, self.last_seq, steps], separators=(",", ":"))
        return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def parse_search_cursor(text: Any) -> SearchCursor | None:
    """Read what `str(cursor)` gave; None stays None.

    Raises:
        ValidationError: it is not the cursor of a search, or one of an older version of this package.
    """
    if text is None:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return _cursor(json.loads(_unpacked(packed)))
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ValidationError(
            "cursor", "must be the next_cursor of a search by this version; without one, the search starts again", text
        ) from error


def _similarity(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise ValidationError("min_similarity", "a number from -1 to 1", value)
    return float(value)


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    # A cursor comes from outside, and zlib may unpack to a thousand times its size.
    found = stream.decompress(packed, _MOST_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError("too long, or cut")
    return found


def _cursor(parts: Any) -> SearchCursor:
    version, now, last_seq, steps = parts
    numbers = [version, now, last_seq, *steps]
    # `type` rather than isinstance: JSON's true is an int to Python.
    if version != _VERSION or any(type(number) is not int or abs(number) >= 2**63 for number in numbers):
        raise ValueError("not a cursor of this version")
    shown = tuple(accumulate(steps))
    if not shown or min(steps) < 1 or shown[-1] >= 2**63:
        raise ValueError("not the numbers of rows")
    return SearchCursor(now, last_seq, shown)
