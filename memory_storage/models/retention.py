"""What may go and what stays: a policy, the plan that it gives, and what was done. Knows nothing of databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StrictBool, model_validator
from typing_extensions import Self

from memory_storage._deprecation import renamed_attributes
from memory_storage._formatting import counted

from .model import Finite, Int64, Model

RetentionReason = Literal["max_age", "min_reward", "max_episodes", "max_bytes", "unfinished"]


class RetentionPolicy(Model):
    """Which episodes of a namespace go. At least one of the first four rules has to be given; any of them suffices.

    In this order, and the first that applies is the reason:

    - `max_age`: it started longer ago than this.
    - `min_reward`: its reward is less. One without a reward is kept.
    - `max_episodes`: of those that are left, the oldest (by `started_at`, then by id), until so many are left.
    - `max_bytes`: of those that are left, the oldest, until their documents and steps have so many bytes together. The
      file is larger than that, by its indexes and vectors.

    What protects an episode from all of them, though it counts for the last two: `only_failed` and an outcome other
    than failure, or none yet; `keep_pattern_sources` (the default) and being in the `evidence` of a pattern;
    `keep_tagged` and having one of these tags.

    With `archive` they are archived in place of deleted, and those in the archive neither go nor count.
    """

    max_age: Annotated[timedelta, Field(ge=timedelta(0))] | None = None
    min_reward: Finite | None = None
    max_episodes: Int64 | None = None
    max_bytes: Int64 | None = None
    only_failed: StrictBool = False
    keep_pattern_sources: StrictBool = True
    keep_tagged: list[str] = Field(default_factory=list)
    archive: StrictBool = False

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        rules = ("max_age", "min_reward", "max_episodes", "max_bytes")
        if all(getattr(self, name) is None for name in rules):
            raise ValueError(f"a policy without a rule would do nothing: give at least one of {', '.join(rules)}")
        return self


@dataclass(frozen=True, slots=True)
class RetentionCandidate:
    """An episode that is to go, and why. `bytes` are those of its document and of its `steps`.

    "unfinished": to remove it was begun before, and was interrupted.
    """

    id: UUID
    reason: RetentionReason
    bytes: int
    steps: int


@dataclass(frozen=True, slots=True, repr=False)
class RetentionPlan:
    """What a policy does with a namespace as it was at `now`, in the order in which it is done."""

    policy: RetentionPolicy
    now: datetime
    items: list[RetentionCandidate]

    @property
    def bytes(self) -> int:
        """How many bytes go together."""
        return sum(item.bytes for item in self.items)

    def __repr__(self) -> str:
        return f"RetentionPlan({counted(len(self.items), 'episode')}, {counted(self.bytes, 'byte')})"

    def __iter__(self) -> Iterator[RetentionCandidate]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@renamed_attributes(spared="skipped")
@dataclass(frozen=True, slots=True)
class RetentionResult:
    """What was done: how many episodes went (or into the archive), and how many bytes those were.

    `skipped` are those of the plan that stayed: meanwhile they had gone, or been changed so that the policy keeps them.
    """

    removed: int
    bytes: int
    skipped: list[UUID]


@dataclass(frozen=True, slots=True)
class ScrubResult:
    """Whether nothing that was ever deleted is left in the file and its log; if not, `why`, and what to do."""

    complete: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What was erased: so many episodes and patterns, with all that belongs to them; and what is known of the bytes.

    `patterns_changed` named an erased episode in their evidence, and now do not. `scrubbed` is False where bytes may
    be left: `why` says where, and what to do.
    """

    episodes: int
    patterns: int
    patterns_changed: int
    scrubbed: bool
    why: str = ""
