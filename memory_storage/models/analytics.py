"""Results of analytics: metrics with confidence intervals, in tables that export to JSON, pandas and polars."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, overload
from uuid import UUID

from pydantic_core import to_json

from memory_storage._formatting import counted
from memory_storage.errors import ConfigurationError

from .display import html_table, text_table
from .episode import RecallKind
from .pattern import PatternKind
from .proportion import Rate

R = TypeVar("R")

Dimension = Literal["task_type", "domain", "language", "framework", "complexity", "tool", "tag"]
AttributionDimension = Literal["record", "kind", "pattern_kind"]


@dataclass(frozen=True, slots=True)
class OutcomeFigures:
    """The episodes of one outcome.

    Attributes:
        episodes: the number of episodes.
        mean_reward: the mean of their total rewards; None if none has a reward.
    """

    episodes: int
    mean_reward: float | None


@dataclass(frozen=True, slots=True)
class ToolFigures:
    """The steps of one tool.

    Attributes:
        steps: the number of steps.
        ok_rate: the share of "ok" among those with a result, from 0 to 1; None if none has a result.
    """

    steps: int
    ok_rate: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The contents of a namespace.

    Attributes:
        rows: the number of rows by table.
        outcomes: the episodes by outcome; "open" are those without one.
        tools: the steps by tool.
    """

    rows: dict[str, int]
    outcomes: dict[str, OutcomeFigures]
    tools: dict[str, ToolFigures]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its confidence interval (the standard error times the normal quantile).

    Attributes:
        mean: the mean; None if there are no values, or it is too large for a float.
        low: the lower bound; None for fewer than two values, or squares too large for a float (from about 1e154 on).
        high: the upper bound; None as `low`.
        of: how many values there are.
    """

    mean: float | None
    low: float | None
    high: float | None
    of: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The later value minus the earlier one, with its confidence interval.

    Attributes:
        difference: the difference; None if one of the two values is missing.
        low: the lower bound; None if either side has too few values.
        high: the upper bound; None as `low`.
    """

    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Metrics of a set of episodes.

    Attributes:
        episodes: the number of episodes.
        success: the share of successes among the judged ones.
        reward: the mean total reward.
        duration_s: the mean time from start to completion, in seconds.
    """

    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Metrics of the episodes of one group; the fields are those of `Figures`.

    Attributes:
        group: the value that the group shares; None for episodes without a value.
    """

    group: str | None
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class PeriodFigures:
    """Metrics of the episodes that started in one period; the other fields are those of `Figures`.

    Attributes:
        starts_at: the beginning of the period, inclusive.
        ends_at: its end, exclusive.
    """

    starts_at: datetime
    ends_at: datetime
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Metrics of the episodes of one stage; the other fields are those of `Figures`.

    Attributes:
        stage: the number of the stage, from 1, in the order in which the episodes started.
    """

    stage: int
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Metrics of one tool.

    Attributes:
        tool: its name.
        steps: how many steps used it.
        error: the share of errors and timeouts among the steps with a result.
        timeouts: how many steps timed out.
        measured: how many steps have a latency; one of 0 ms counts as not measured.
        mean_ms: the mean latency in milliseconds; None, like the percentiles, if no step has one.
        p50_ms: the median latency in milliseconds.
        p95_ms: the 95th percentile.
        p99_ms: the 99th percentile.
    """

    tool: str
    steps: int
    error: Rate
    timeouts: int
    measured: int
    mean_ms: float | None
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


@dataclass(frozen=True, slots=True)
class SequenceFigures:
    """Metrics of the episodes that used some tools consecutively.

    Attributes:
        tools: the tools, in order.
        episodes: how many judged episodes contain the sequence at least once.
        support: their share of all judged episodes, from 0 to 1.
        success: the share of successes among them; its rate is the confidence of the rule.
        lift: that rate divided by the success rate of all judged episodes; None if the latter is 0.
    """

    tools: tuple[str, ...]
    episodes: int
    support: float
    success: Rate
    lift: float | None


@dataclass(frozen=True, slots=True)
class FailurePoint:
    """A position at which steps failed.

    Attributes:
        step_number: the number of the step, from 1.
        tool: its tool.
        error_class: the kind of error.
        episodes: how many episodes have such a step.
        failed_episodes: how many of those failed.
    """

    step_number: int
    tool: str
    error_class: str
    episodes: int
    failed_episodes: int


@dataclass(frozen=True, slots=True)
class Change:
    """The change of the metrics between two periods. Intervals are Newcombe's for rates and Welch's for means.

    Attributes:
        group: the value that the group shares; None without grouping, or for episodes without a value.
        before: the metrics of the earlier period.
        after: the metrics of the later period.
        success: the change of the success rate.
        reward: the change of the mean reward.
        duration_s: the change of the mean duration, in seconds.
    """

    group: str | None
    before: Figures
    after: Figures
    success: Difference
    reward: Difference
    duration_s: Difference


@dataclass(frozen=True, slots=True)
class PatternFigures:
    """Metrics of the use of one pattern.

    Attributes:
        id: the pattern.
        kind: its kind.
        description: its description; of a playbook, its name and its purpose.
        times_retrieved: how often it was retrieved.
        times_applied: how often it was applied.
        success: the share of successful applications.
        avg_reward_delta: the mean change of the reward when applied.
        last_used_at: its last retrieval or application; None if unused.
        score: the lower bound of `success`, halved for each half-life since `last_used_at`.
    """

    id: UUID
    kind: PatternKind
    description: str
    times_retrieved: int
    times_applied: int
    success: Rate
    avg_reward_delta: float
    last_used_at: datetime | None
    score: float


@dataclass(frozen=True, slots=True)
class AttributionFigures:
    """Outcomes of the episodes that recalled records were shown to. Observed, not caused: see `attribution`.

    Attributes:
        group: the ID of a record, the kind, or the kind of pattern; None for all of them.
        kind: "success", "failure" or "pattern"; None if the group has several.
        description: the beginning of the record's description; None of a group, or if the record no longer exists.
        starts_at: the beginning of the period, inclusive; None without a unit of time.
        ends_at: its end, exclusive; None as `starts_at`.
        shown: how many episodes it was shown to.
        adoption: the share of episodes that used it among those of which that is known.
        success_shown: the share of successes among the judged episodes that it was shown to.
        success_used: the same among those that used it.
        success_unused: the same among those that are known not to have used it.
        success_without: the same among the episodes that were shown nothing at all.
        rating: the mean rating of the recalls that showed it, from 1 to 5.
        over_without: `success_shown` minus `success_without`.
        over_unused: `success_used` minus `success_unused`.
        warning: which sides of these differences have under 20 judged episodes; "" if none.
    """

    group: str | None
    kind: RecallKind | None
    description: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    shown: int
    adoption: Rate
    success_shown: Rate
    success_used: Rate
    success_unused: Rate
    success_without: Rate
    rating: Mean
    over_without: Difference
    over_unused: Difference
    warning: str


@dataclass(frozen=True, slots=True)
class Trend:
    """A least-squares line through the rewards over time.

    Attributes:
        episodes: how many episodes have a reward.
        mean_reward: the mean reward; None if there are none.
        slope_per_day: the change of the reward per day; None for fewer than two different times.
        low: the lower bound of the slope; None for fewer than three episodes.
        high: its upper bound; None as `low`.
    """

    episodes: int
    mean_reward: float | None
    slope_per_day: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Span:
    """The time range of a set of episodes.

    Attributes:
        episodes: the number of episodes.
        first: the earliest start; None if there are none.
        last: the latest start; None if there are none.
    """

    episodes: int
    first: datetime | None
    last: datetime | None


_NESTED: dict[Any, type[Any]] = {kind.__name__: kind for kind in (Rate, Mean, Difference, Figures)}


@dataclass(frozen=True, slots=True, repr=False)
class Table(Sequence[R], Generic[R]):
    """Rows of one type. In exports a nested rate or mean becomes columns of its own, like `success_rate, success_low`.

    Attributes:
        row_type: the class of the rows.
        rows: the rows.
    """

    row_type: type[R]
    rows: tuple[R, ...]

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return _columns(self.row_type)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one flat dictionary for each row."""
        return [dict(zip(self.columns, _cells(row), strict=True)) for row in self.rows]

    def __repr__(self) -> str:
        return f"Table({counted(len(self.rows), 'row')} of {self.row_type.__name__})"

    def __str__(self) -> str:
        return text_table(self.columns, [_cells(row) for row in self.rows])

    def _repr_html_(self) -> str:
        return html_table(self.columns, [_cells(row) for row in self.rows])

    def to_json(self) -> str:
        """Return a JSON array of objects; times are ISO 8601."""
        return to_json(self.to_rows()).decode()

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ConfigurationError("to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_rows(), columns=self.columns)

    def to_polars(self) -> Any:
        """Return a `polars.DataFrame`; ids become strings.

        Raises:
            ConfigurationError: polars is not installed.
        """
        try:
            import polars
        except ImportError as error:
            raise ConfigurationError("to_polars() needs polars: pip install polars") from error
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.to_rows()]
        return polars.DataFrame(rows, schema=self.columns if not rows else None, infer_schema_length=None)


def _columns(row_type: Any) -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(row_type):
        inner = _NESTED.get(field.type)
        names += [f"{field.name}_{name}" for name in _columns(inner)] if inner else [field.name]
    return names


def _cells(row: Any) -> list[Any]:
    cells: list[Any] = []
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        cells += _cells(value) if field.type in _NESTED else [value]
    return cells


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else list(value) if isinstance(value, tuple) else value
