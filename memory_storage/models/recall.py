"""What a recall returns: records with their Markdown, and the receipt that links them to the completed episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from memory_storage._formatting import counted
from memory_storage.errors import ValidationError

from .display import html_table, table_of
from .episode import Episode, RecallKind, RecallReceipt
from .pattern import AnyPattern

_MAX_WEIGHT = 1_000_000


@dataclass(frozen=True)
class RecallWeights:
    """Weights of the parts of a recalled record's value.

    Args:
        similarity: Added by the record that is most similar to the task, by words and by vector.
        reward: Added by a reward of 1; for a pattern, by a success rate of 1.
        recency: Added by a record of age 0; half of it by one that is `half_life` days old.
        half_life: Days. Default 30.
        effectiveness: Added by a record whose use is expected to succeed always; half of it by one of which nothing is
            known. Default 0: it does not count. A pattern's is the mean of a Beta distribution: of its application
            counters, and of its mined success rate as up to 20 observations. An episode's is that of the outcomes of
            the episodes that used it.

    Raises:
        ValidationError: A weight is negative, not a number, or above 1,000,000; or all are 0.
    """

    similarity: float = 1.0
    reward: float = 0.2
    recency: float = 0.1
    half_life: float = 30.0
    effectiveness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("similarity", "reward", "recency", "half_life", "effectiveness"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= _MAX_WEIGHT or (name == "half_life" and value <= 0):
                above = "above 0" if name == "half_life" else "from 0"
                raise ValidationError(f"weights.{name}", f"a number {above} to {_MAX_WEIGHT:,}", value)
        if not self.similarity + self.reward + self.recency + self.effectiveness:
            raise ValidationError("weights", "at least one of them above 0", self)


@dataclass(frozen=True, slots=True)
class RecalledItem:
    """A recalled record.

    Attributes:
        kind: "success" or "failure", an episode; or "pattern".
        item: the episode with its steps, or the pattern.
        score: its value: the weighted mean of similarity, reward, recency and effectiveness, from 0 to 1.
        similarity: the cosine of the task's vector and the record's, from -1 to 1; None without vectors.
        text: its part of the recall's Markdown, shortened to the budget.
        similar: IDs of other records that are nearly the same, and are represented by this one.
        effectiveness: the success rate that was expected of its use, or drawn, from 0 to 1; None if it has no weight.
    """

    kind: RecallKind
    item: Episode | AnyPattern
    score: float
    similarity: float | None = None
    text: str = ""
    similar: tuple[UUID, ...] = ()
    effectiveness: float | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of recalled records."""
        yield "kind", self.kind
        yield "score", self.score
        yield "id", self.item.id
        yield "text", self.item.task_description if isinstance(self.item, Episode) else self.item.description


@dataclass(frozen=True, slots=True, repr=False)
class Recall:
    """What the memory has about a task: `str(recall)` is Markdown for a prompt, "" if there is nothing.

    Attributes:
        id: identifies the recall: pass it, or the recall, to `episodes.complete(..., recalled=...)`.
        task: the task that was asked about.
        items: the records in the text, by section: successes, failures, patterns; the most valuable first.
        tokens: the tokens of the text, by the counter of the call; 0 if it is empty.
        left_out: how many records were relevant, but did not fit into the budget.
        namespace: the namespace of the records.
    """

    id: UUID
    task: str
    items: tuple[RecalledItem, ...] = ()
    tokens: int = 0
    left_out: int = 0
    namespace: str = "default"
    _text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        more = f", left_out={self.left_out}" if self.left_out else ""
        return f"Recall({counted(len(self.items), 'item')}, tokens={self.tokens}{more})"

    def _repr_html_(self) -> str:
        return html_table(*table_of(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[RecalledItem]:
        return iter(self.items)

    @property
    def receipt(self) -> RecallReceipt:
        """What `episodes.complete` stores on the episode."""
        return RecallReceipt(id=self.id, items=[(one.kind, one.item.id) for one in self.items])

    def to_dict(self) -> dict[str, Any]:
        """Return its JSON: the text, and for each record the kind, ID, score and text; not the records themselves."""
        items = [
            {
                "kind": one.kind,
                "id": str(one.item.id),
                "score": one.score,
                "similarity": one.similarity,
                "similar": [str(other) for other in one.similar],
                "text": one.text,
            }
            for one in self.items
        ]
        facts = {"id": str(self.id), "namespace": self.namespace, "task": self.task, "tokens": self.tokens}
        return {**facts, "left_out": self.left_out, "items": items, "text": str(self)}
