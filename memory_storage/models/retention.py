"""A retention policy, its plan, and the results of retention and erasure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args, overload
from uuid import UUID

from pydantic import Field, StrictBool, model_validator
from typing_extensions import Self

from memory_storage._deprecation import renamed_attributes
from memory_storage._formatting import counted

from .model import Finite, Int64, Model

RetentionReason = Literal["max_age", "min_reward", "max_episodes", "max_bytes", "unfinished"]


class RetentionPolicy(Model):
    """The rules by which episodes of a namespace are removed. At least one of the first four is required.

    The rules are evaluated in the order of the fields; the first that applies is the reason. Protected episodes (by
    `only_failed`, `keep_pattern_sources` or `keep_tagged`) are never removed, but count for the last two rules.

    Attributes:
        max_age: remove episodes that started longer ago.
        min_reward: remove episodes with a lower total reward; one without a reward stays.
        max_episodes: remove the oldest (by `started_at`, then id) until this number remains.
        max_bytes: remove the oldest until documents and steps together have this size. The file is larger, by its
            indexes and vectors.
        only_failed: protect episodes whose outcome is not a failure, or that have none; default False.
        keep_pattern_sources: protect episodes in the `evidence` of a pattern; default True.
        keep_tagged: protect episodes with one of these tags.
        archive: archive instead of delete; archived episodes are then neither removed nor counted. Default False.
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
    def _require_rule(self) -> Self:
        rules = ("max_age", "min_reward", "max_episodes", "max_bytes")
        if all(getattr(self, name) is None for name in rules):
            raise ValueError(
                f"no rule is set, so that the policy would remove nothing; give at least one of {', '.join(rules)}"
            )
        return self


@dataclass(frozen=True, slots=True)
class RetentionCandidate:
    """An episode to be removed.

    Attributes:
        id: the episode.
        reason: the first rule that applies; "unfinished": an earlier removal was interrupted.
        bytes: the size of its document and steps.
        steps: how many steps it has.
    """

    id: UUID
    reason: RetentionReason
    bytes: int
    steps: int


_REASONS: tuple[RetentionReason, ...] = get_args(RetentionReason)
_ID_BYTES = 16


class CompactCandidates(Sequence[RetentionCandidate]):
    """Candidates as a few arrays. A candidate is created when it is read, and equal to any other of the same values."""

    # As objects, 200,000 candidates and their ids stop all threads for 40 ms whenever Python's collector visits them.
    __slots__ = ("_bytes", "_ids", "_reasons", "_steps")

    def __init__(self, rows: Iterable[tuple[str, RetentionReason, int, int]]) -> None:
        self._ids, self._reasons, self._bytes, self._steps = bytearray(), bytearray(), array("q"), array("q")
        for episode_id, reason, size, steps in rows:
            self._ids += UUID(episode_id).bytes
            self._reasons.append(_REASONS.index(reason))
            self._bytes.append(size)
            self._steps.append(steps)

    def __len__(self) -> int:
        return len(self._reasons)

    @overload
    def __getitem__(self, index: int) -> RetentionCandidate: ...
    @overload
    def __getitem__(self, index: slice) -> list[RetentionCandidate]: ...
    def __getitem__(self, index: int | slice) -> RetentionCandidate | list[RetentionCandidate]:
        if isinstance(index, slice):
            return [self._at(number) for number in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[RetentionCandidate]:
        return map(self._at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CompactCandidates):
            return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # as a list

    def __repr__(self) -> str:
        return repr(list(self))

    def _at(self, number: int) -> RetentionCandidate:
        key = UUID(bytes=bytes(self._ids[number * _ID_BYTES : (number + 1) * _ID_BYTES]))
        return RetentionCandidate(key, _REASONS[self._reasons[number]], self._bytes[number], self._steps[number])

    @property
    def bytes(self) -> int:
        """The total size of the episodes in bytes."""
        return sum(self._bytes)


@dataclass(frozen=True, slots=True, repr=False)
class RetentionPlan:
    """The episodes that a policy removes, in the order of removal.

    Attributes:
        policy: the policy.
        now: the time that it was evaluated at.
        items: the episodes.
    """

    policy: RetentionPolicy
    now: datetime
    items: Sequence[RetentionCandidate]

    @property
    def bytes(self) -> int:
        """The total size of the episodes in bytes."""
        return self.items.bytes if isinstance(self.items, CompactCandidates) else sum(item.bytes for item in self.items)

    def __repr__(self) -> str:
        return f"RetentionPlan({counted(len(self.items), 'episode')}, {counted(self.bytes, 'byte')})"

    def __iter__(self) -> Iterator[RetentionCandidate]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@renamed_attributes(spared="skipped")
@dataclass(frozen=True, slots=True)
class RetentionResult:
    """The result of applying a policy.

    Attributes:
        removed: episodes that were deleted or archived.
        bytes: the size of their documents and steps.
        skipped: planned episodes that remain: they were deleted or came under protection after the plan was made.
    """

    removed: int
    bytes: int
    skipped: list[UUID]


@dataclass(frozen=True, slots=True)
class ScrubResult:
    """The result of a scrub.

    Attributes:
        complete: True if no deleted byte remains in the file and its log.
        why: where bytes remain, and what to do; "" if complete.
    """

    complete: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """The result of an erasure.

    Attributes:
        episodes: erased episodes, with everything they own.
        patterns: erased patterns.
        patterns_changed: patterns whose evidence no longer names an erased episode.
        scrubbed: False if erased bytes may remain in the file.
        why: where bytes remain, and what to do; "" if scrubbed.
        items: erased items.
        records: erased records of logs.
    """

    episodes: int
    patterns: int
    patterns_changed: int
    scrubbed: bool
    why: str = ""
    items: int = 0
    records: int = 0
