"""Episodes by domain, task type and time, as a tree with counts. Knows no calendar."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from .episode import TaskType

TimeUnit = Literal["hour", "day", "week", "month"]
"""The size of the buckets of `hierarchy` and the periods of `over_time`, in a time zone."""


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """How many episodes began within one hour, day, week or month of a time zone.

    `label` is what a calendar and a clock there show: "2025-10-26T02+01:00", "2025-10-26", "2025-W43" (weeks begin on
    Monday, ISO 8601), "2025-10". The bucket goes from `starts_at` until before `ends_at` (UTC), so days of 23 or 25
    hours are told by them.
    """

    label: str
    starts_at: datetime
    ends_at: datetime
    episodes: int


@dataclass(frozen=True, slots=True)
class TaskTypeNode:
    """The episodes of one task type within a domain; the buckets by time, without the empty ones."""

    task_type: TaskType
    episodes: int
    buckets: list[TimeBucket]


@dataclass(frozen=True, slots=True)
class DomainNode:
    """The episodes of one domain, by task type."""

    domain: str
    episodes: int
    task_types: list[TaskTypeNode]
