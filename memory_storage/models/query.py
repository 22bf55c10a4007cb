"""What can be asked for, and the page that answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, StrictBool

from memory_storage._wording import counted

from ._display import html_table, table_of, text_table
from ._model import Finite, Int64, Model, Moment, Ratio
from .episode import Complexity, OutcomeKind, TaskType
from .pattern import PatternKind

T = TypeVar("T")

Tags = list[str]
MetadataValue = str | int | float | bool | None
Direction = Literal["newest_first", "oldest_first"]


class EpisodeFilter(Model):
    """Which episodes: all conditions that are given must hold. Times are half open: `since <= started_at < until`."""

    task_type: TaskType | None = None
    domain: str | None = None
    language: str | None = None
    framework: str | None = None
    complexity: Complexity | None = None
    outcome: OutcomeKind | None = None
    completed: StrictBool | None = None
    tags_any: Tags = Field(default_factory=list)
    tags_all: Tags = Field(default_factory=list)
    metadata: dict[str, MetadataValue] = Field(default_factory=dict)
    min_reward: Finite | None = None
    max_reward: Finite | None = None
    since: Moment | None = None
    until: Moment | None = None
    completed_since: Moment | None = None
    completed_until: Moment | None = None
    archived: StrictBool | None = False
    text: str | None = None


class PatternFilter(Model):
    """Which patterns: all conditions that are given must hold."""

    kind: PatternKind | None = None
    domain: str | None = None
    language: str | None = None
    tags_any: Tags = Field(default_factory=list)
    tags_all: Tags = Field(default_factory=list)
    min_success_rate: Ratio | None = None
    min_occurrences: Annotated[Int64, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Page(Generic[T]):
    """Some of the answer. `next_cursor` asks for what follows it, None at the end; `previous_cursor` goes back."""

    items: list[T]
    next_cursor: str | None = None
    previous_cursor: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        more = ", next_cursor=..." if self.next_cursor else ""
        return f"Page({counted(len(self.items), 'item')}{more})"

    def __str__(self) -> str:
        return f"{self!r}\n{text_table(*table_of(self.items))}" if self.items else repr(self)

    def _repr_html_(self) -> str:
        return html_table(*table_of(self.items))
