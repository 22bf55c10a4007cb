"""Search results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from memory_storage._formatting import counted

from .display import html_table, table_of, text_table
from .episode import Episode
from .markdown import episode_markdown, pattern_markdown, within

T = TypeVar("T")

Method = Literal["exact", "index", "text", "hybrid"]
SearchMode = Literal["auto", "exact", "index"]


@dataclass(frozen=True, slots=True, repr=False)
class Hit(Generic[T]):
    """A search result.

    Attributes:
        item: the episode or pattern.
        score: what the hits are sorted by: the similarity, or, when words are searched, the sum of `parts`.
        similarity: the cosine of the query's vector and the item's nearest vector, from -1 to 1; None without a vector,
            or if the item was not among the nearest.
        method: how vectors were compared ("exact" or "index"), "text" without a vector, "hybrid" for both.
        snippet: the text around the matched words.
        parts: the parts of the score, if `explain=True`.
    """

    item: T
    score: float
    similarity: float | None = None
    method: Method = "exact"
    snippet: str | None = None
    parts: Mapping[str, float] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Hit(score={self.score:.4g}, {self.item!r})"

    def __str__(self) -> str:
        return text_table(*_table([self]))

    def _repr_html_(self) -> str:
        return html_table(*_table([self]))

    def to_markdown(self, *, max_chars: int | None = None) -> str:
        """Return the Markdown of the item, with its similarity.

        Args:
            max_chars: The greatest length in characters; None for everything.

        Returns:
            As `Episode.to_markdown` or a pattern's.

        Raises:
            ValidationError: `max_chars` is not a whole number from 1.
        """
        item: Any = self.item
        facts = [] if self.similarity is None else [f"similarity: {self.similarity:.2f}"]
        if isinstance(item, Episode):
            return within(lambda detail: episode_markdown(item, detail, facts=facts), max_chars)
        return within(lambda detail: pattern_markdown(item, detail, facts=facts), max_chars)


class Hits(list[Hit[T]], Generic[T]):
    """Search results, best first.

    Attributes:
        next_cursor: the cursor of the next page; None on the last one.
        plan: how vectors were compared: "exact", "index", "hnsw" (the index in this process) or "index, then exact" if
            the index had too few matches; "" without a vector. The reason for not using
            "hnsw" follows in parentheses.
    """

    def __init__(self, hits: Iterable[Hit[T]] = (), *, next_cursor: str | None = None, plan: str = "") -> None:
        super().__init__(hits)
        self.next_cursor = next_cursor
        self.plan = plan

    def __repr__(self) -> str:
        plan = f", plan={self.plan!r}" if self.plan else ""
        more = ", next_cursor=..." if self.next_cursor else ""
        return f"Hits({counted(len(self), 'hit')}{plan}{more})"

    def __str__(self) -> str:
        return f"{self!r}\n{text_table(*_table(self))}" if self else repr(self)

    def _repr_html_(self) -> str:
        return html_table(*_table(self))


def _table(hits: Sequence[Hit[T]]) -> tuple[list[str], list[list[object]]]:
    """Return the columns and rows of some hits: the score of each, and the fields that identify its item."""
    columns, rows = table_of([hit.item for hit in hits])
    return ["score", *columns], [[hit.score, *row] for hit, row in zip(hits, rows, strict=True)]
