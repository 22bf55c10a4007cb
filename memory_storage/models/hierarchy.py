"""Episodes by domain, task type and time, as a tree with counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from .episode import TaskType

TimeUnit = Literal["hour", "day", "week", "month"]
"""The size of the buckets of `hierarchy` and the periods of `over_time`, in a time zone."""


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """The number of episodes that started within one hour, day, week or month of a time zone.

    `label` is the local time: "2025-10-26T02+01:00", "2025-10-26", "2025-W43" (ISO 8601: weeks start on Monday) or
    "2025-10". The bucket is from `starts_at` (UTC) until before `ends_at`, which shows days of 23 or 25 hours.
    """

    label: str
    starts_at: datetime
    ends_at: datetime
    episodes: int


@dataclass(frozen=True, slots=True)
class TaskTypeNode:
    """The episodes of one task type within a domain.

    Attributes:
        task_type: the task type.
        episodes: the number of episodes.
        buckets: the periods that have episodes, ascending.
    """

    task_type: TaskType
    episodes: int
    buckets: list[TimeBucket]


@dataclass(frozen=True, slots=True)
class DomainNode:
    """The episodes of one domain.

    Attributes:
        domain: the domain.
        episodes: the number of episodes.
        task_types: its task types.
    """

    domain: str
    episodes: int
    task_types: list[TaskTypeNode]
