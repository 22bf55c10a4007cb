"""Filters of queries, and a page of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeAlias, TypedDict, TypeVar
from uuid import UUID

from pydantic import Field, InstanceOf, StrictBool

from memory_storage._formatting import counted

from .display import html_table, table_of, text_table
from .episode import Complexity, ComplexityName, OutcomeKind, TaskType, TaskTypeName
from .model import Finite, Int64, Model, Ratio, Timestamp
from .pattern import PatternKind

T = TypeVar("T")

Tags = list[str]
MetadataValue = str | int | float | bool | None
MetadataCondition: TypeAlias = MetadataValue | Sequence["MetadataCondition"] | Mapping[str, "MetadataCondition"]
MetadataFilter: TypeAlias = Mapping[str, MetadataCondition]
"""Conditions on metadata by key: a value, operators like `{"$gte": 3}`, or filters under `$and`, `$or` and `$not`."""
# What is nested is checked where it becomes SQL: `sql/document_filters.py`.
_Nested = InstanceOf[Mapping[str, object]] | InstanceOf[list[object]] | InstanceOf[tuple[object, ...]]
Direction = Literal["newest_first", "oldest_first"]


class EpisodeFilter(Model):
    """Conditions on episodes; all given conditions must hold.

    Attributes:
        task_type: the task type.
        domain: the domain of the context.
        language: the language of the context.
        framework: the framework of the context.
        complexity: the complexity of the context.
        outcome: the kind of outcome.
        completed: True: has an outcome; False: has none.
        tags_any: has at least one of these tags.
        tags_all: has all of these tags.
        metadata: conditions on keys, which all must hold: a value, or operators like `{"$gte": 3}`. The operators are
            `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$nin`, `$exists`, `$contains` and `$not`. A key with
            dots is a path through nested objects, if no key has that name. `$and`, `$or` and `$not` combine filters.
        min_reward: the least total reward, inclusive.
        max_reward: the greatest total reward, inclusive.
        since: started at or after this time.
        until: started before this time.
        completed_since: completed at or after this time.
        completed_until: completed before this time.
        archived: False (default): not archived; True: archived; None: both.
        child_of: the ID of an episode from which a `parent_child` relationship leads to it.
        recalled: was completed with a recall that showed this record, by its ID.
        used: has used this recalled record, by its ID.
        text: has all of these words, in its own text or in any of its steps; "two words" is a phrase, and flak* a
            prefix.
    """

    task_type: TaskType | None = None
    domain: str | None = None
    language: str | None = None
    framework: str | None = None
    complexity: Complexity | None = None
    outcome: OutcomeKind | None = None
    completed: StrictBool | None = None
    tags_any: Tags = Field(default_factory=list)
    tags_all: Tags = Field(default_factory=list)
    metadata: dict[str, MetadataValue | _Nested] = Field(default_factory=dict)
    min_reward: Finite | None = None
    max_reward: Finite | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None
    completed_since: Timestamp | None = None
    completed_until: Timestamp | None = None
    archived: StrictBool | None = False
    child_of: UUID | None = None
    recalled: UUID | None = None
    used: UUID | None = None
    text: str | None = None


class PatternFilter(Model):
    """Conditions on patterns; all given conditions must hold.

    Attributes:
        kind: the kind of pattern.
        domain: the domain of the context.
        domain_or_general: the domain of the context, which may be "general" too.
        language: the language of the context.
        tags_any: has at least one of these tags.
        tags_all: has all of these tags.
        min_success_rate: the least success rate, from 0 to 1.
        min_occurrences: the least number of observations.
    """

    kind: PatternKind | None = None
    domain: str | None = None
    domain_or_general: str | None = None
    language: str | None = None
    tags_any: Tags = Field(default_factory=list)
    tags_all: Tags = Field(default_factory=list)
    min_success_rate: Ratio | None = None
    min_occurrences: Annotated[Int64, Field(ge=1)] | None = None


class RecallFilters(TypedDict, total=False):
    """The keywords of `recall`: the fields of `models.EpisodeFilter` but the text and the outcome."""

    task_type: TaskType | TaskTypeName | None
    domain: str | None
    language: str | None
    framework: str | None
    complexity: Complexity | ComplexityName | None
    tags_any: Sequence[str]
    tags_all: Sequence[str]
    metadata: MetadataFilter
    min_reward: float | None
    max_reward: float | None
    since: datetime | None
    until: datetime | None
    completed_since: datetime | None
    completed_until: datetime | None
    archived: bool | None
    child_of: UUID | str | None
    recalled: UUID | str | None
    used: UUID | str | None


class SearchFilters(RecallFilters, total=False):
    """The keywords of `search`: the fields of `models.EpisodeFilter` except `text`, which is the search itself."""

    outcome: OutcomeKind | None
    completed: bool | None


class EpisodeFilters(SearchFilters, total=False):
    """The keywords of `query`, `iterate`, `count` and `similar_to`: the fields of `models.EpisodeFilter`."""

    text: str | None


class PatternFilters(TypedDict, total=False):
    """The keywords of `query`, `iterate` and `count`: the fields of `models.PatternFilter`."""

    kind: PatternKind | None
    domain: str | None
    domain_or_general: str | None
    language: str | None
    tags_any: Sequence[str]
    tags_all: Sequence[str]
    min_success_rate: float | None
    min_occurrences: int | None


@dataclass(frozen=True, slots=True, repr=False)
class Page(Generic[T]):
    """One page of a query's result.

    Attributes:
        items: the items.
        next_cursor: the cursor of the next page; None on the last one.
        previous_cursor: the cursor of the previous page; None on the first one.
    """

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
