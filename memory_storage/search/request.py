"""The request of a search: its arguments, the weights of a score, and the cursor that continues it.

A score is not a stable key: BM25 depends on all rows, so each write changes the scores of others; recency decays with
time; reciprocal ranks depend on the depth of both lists. The cursor therefore holds the row numbers of the returned
hits, and a page contains the best of the remaining rows. Rows written after the first page are excluded by number.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.models import EpisodeFilter, PatternFilter, SearchMode

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
    """A search as the caller requested it."""

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


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(packed, _MOST_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError("too long, or cut")
    return found


def _cursor(parts: Any) -> SearchCursor:
    version, now, last_seq, steps = parts
    numbers = [version, now, last_seq, *steps]
    if version != _VERSION or any(type(number) is not int or abs(number) >= 2**63 for number in numbers):
        raise ValueError("not a cursor of this version")
    shown = tuple(accumulate(steps))
    if not shown or min(steps) < 1 or shown[-1] >= 2**63:
        raise ValueError("not the numbers of rows")
    return SearchCursor(now, last_seq, shown)
