"""What analytics answer: frozen rows of figures with their intervals, in tables that go elsewhere. Computes nothing."""

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
from .pattern import PatternKind

R = TypeVar("R")

Dimension = Literal["task_type", "domain", "language", "framework", "complexity", "tool", "tag"]


@dataclass(frozen=True, slots=True)
class OutcomeFigures:
    """How many episodes ended so ("open": not yet), and their mean reward."""

    episodes: int
    mean_reward: float | None


@dataclass(frozen=True, slots=True)
class ToolFigures:
    """How many steps used a tool, and which part of those with a result were ok."""

    steps: int
    ok_rate: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a namespace holds: rows by table, episodes by outcome, steps by tool."""

    rows: dict[str, int]
    outcomes: dict[str, OutcomeFigures]
    tools: dict[str, ToolFigures]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many `of` all: the share, and its interval (Wilson's). All three are None if there were none to count."""

    rate: float | None
    low: float | None
    high: float | None
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `of` values; `low` and `high` are None if there were fewer than two.

    None also stands for a figure that is too large for a float, as the squares of values from 1e154 on are.
    """

    mean: float | None
    low: float | None
    high: float | None
    of: int


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before; `low` and `high` are None where one of the two has too few values."""

    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """How some episodes did."""

    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """How the episodes of a group did. `group` is None for those that have no value there."""

    group: str | None
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class PeriodFigures:
    """How the episodes did that started in `starts_at <= started_at < ends_at`."""

    starts_at: datetime
    ends_at: datetime
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class StageFigures:
    """How the episodes of one stage did: `stage` counts from 1, in the order in which they started."""

    stage: int
    episodes: int
    success: Rate
    reward: Mean
    duration_s: Mean


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How a tool answered. `error` is over the steps with a result, and counts timeouts too.

    Latencies in milliseconds are those of the `measured` steps: 0 says that nobody measured.
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
    """Tools that were used in this order, one right after the other.

    `episodes` have it at least once, which is the part `support` of all that were judged. `success` is how those went
    (its rate is the confidence of "who does this succeeds"), and `lift` is that rate by the rate of all.
    """

    tools: tuple[str, ...]
    episodes: int
    support: float
    success: Rate
    lift: float | None


@dataclass(frozen=True, slots=True)
class FailurePoint:
    """Where steps failed: at which number, in which tool, how; in so many episodes, of which so many failed."""

    step_number: int
    tool: str
    error_class: str
    episodes: int
    failed_episodes: int


@dataclass(frozen=True, slots=True)
class Change:
    """What changed from one period to another. Intervals are Newcombe's for rates, and Welch's for means."""

    group: str | None
    before: Figures
    after: Figures
    success: Difference
    reward: Difference
    duration_s: Difference


@dataclass(frozen=True, slots=True)
class PatternFigures:
    """How a pattern has served. `score` is the lower end of `success`, halved with every half-life since last used."""

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
class Trend:
    """The line through the rewards by least squares: its slope in reward a day, with an interval.

    None where there are too few: a slope needs two different times, an interval three episodes.
    """

    episodes: int
    mean_reward: float | None
    slope_per_day: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Span:
    """How many episodes there are, and when the first and the last of them started."""

    episodes: int
    first: datetime | None
    last: datetime | None


_NESTED: dict[Any, type[Any]] = {kind.__name__: kind for kind in (Rate, Mean, Difference, Figures)}


@dataclass(frozen=True, slots=True, repr=False)
class Table(Sequence[R], Generic[R]):
    """Rows of one type. A rate or a mean in a row is several columns elsewhere, like `success_rate, success_low`."""

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
        """The names of the columns."""
        return _columns(self.row_type)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a row, flat."""
        return [dict(zip(self.columns, _cells(row), strict=True)) for row in self.rows]

    def __repr__(self) -> str:
        return f"Table({counted(len(self.rows), 'row')} of {self.row_type.__name__})"

    def __str__(self) -> str:
        return text_table(self.columns, [_cells(row) for row in self.rows])

    def _repr_html_(self) -> str:
        return html_table(self.columns, [_cells(row) for row in self.rows])

    def to_json(self) -> str:
        """A JSON array of objects; moments in ISO 8601."""
        return to_json(self.to_rows()).decode()

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`. ConfigurationError if pandas is not installed."""
        try:
            import pandas  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ConfigurationError("to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_rows(), columns=self.columns)

    def to_polars(self) -> Any:
        """A `polars.DataFrame`; ids are texts. ConfigurationError if polars is not installed."""
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
