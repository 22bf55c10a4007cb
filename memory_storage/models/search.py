"""What a search finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Method = Literal["exact", "index", "text", "hybrid"]
SearchMode = Literal["auto", "exact", "index"]


@dataclass(frozen=True, slots=True)
class Hit(Generic[T]):
    """One thing that was found.

    `similarity` is the cosine between the query's vector and the nearest vector of the item, from -1 to 1; None if it
    was not among the nearest, or no vector was given. `score` is what the hits are sorted by: the similarity, or, when
    words are searched, the sum of `parts`. `method` is how the vectors were compared, "text" if there were none, and
    "hybrid" for both. `snippet` shows where the words are. `parts` is there if the search was asked to explain.
    """

    item: T
    score: float
    similarity: float | None = None
    method: Method = "exact"
    snippet: str | None = None
    parts: Mapping[str, float] | None = field(default=None, compare=False)


class Hits(list[Hit[T]], Generic[T]):
    """Hits, the best first, and how they were found.

    `next_cursor` asks for those after them, None at the end. `plan` says how vectors were compared: "index", "exact",
    or "index, then exact" if the index had too few for which the filters hold; "" if there was no vector. With the
    index in this process it is "memory" in place of "index"; why that was not used stands after it, in parentheses.
    """

    def __init__(self, hits: Iterable[Hit[T]] = (), *, next_cursor: str | None = None, plan: str = "") -> None:
        super().__init__(hits)
        self.next_cursor = next_cursor
        self.plan = plan
