"""Collects the metrics of a report in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from uuid import UUID

from typing_extensions import Unpack

from memory_storage import MemoryStorage, Transaction
from memory_storage.models import (
    Episode,
    EpisodeFilters,
    FailurePoint,
    Figures,
    GroupFigures,
    Mean,
    PatternFigures,
    PeriodFigures,
    Rate,
    SequenceFigures,
    Span,
    SpatiotemporalEntry,
    StageFigures,
    Summary,
    Table,
    TimeUnit,
    ToolUse,
    Trend,
)

from .formatting import counted
from .projection import project

_N_STAGES = 10
_MAX_PLACES = 2_000
_MAX_EPISODES = 2_000
_UNITS: list[tuple[timedelta, TimeUnit]] = [
    (timedelta(days=3), "hour"),
    (timedelta(days=60), "day"),
    (timedelta(days=400), "week"),
    (timedelta(days=365 * 800), "month"),
]
_LONGEST_RANGE = timedelta(days=365 * 800)
_END_OF_TIME = datetime.max.replace(tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MAX_EXAMPLES = 50


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an episode or step, and the outcome of the episode ("" if unknown)."""

    entry: SpatiotemporalEntry
    outcome: str


@dataclass(frozen=True, slots=True)
class Point:
    """An episode in the plane of the two principal components of the vectors."""

    x: float
    y: float
    task: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of one namespace at one time.

    `vectors` is the caption of the vector space, or the reason why there is no picture of it.
    """

    namespace: str
    made_at: datetime
    tz: str
    success_is: str
    summary: Summary
    span: Span
    all: Figures
    trend: Trend
    unit: TimeUnit
    periods: Table[PeriodFigures]
    stages: Table[StageFigures]
    task_types: Table[GroupFigures]
    tools: Table[ToolUse]
    by_tool: Table[GroupFigures]
    sequences: Table[SequenceFigures]
    failures: Table[FailurePoint]
    patterns: Table[PatternFigures]
    places: Sequence[Place]
    points: Sequence[Point]
    vectors: str
    episodes: Sequence[Episode]

    def tables(self) -> dict[str, object]:
        """Return the metrics for JSON: each table as a list of flat rows."""
        tables = ("periods", "stages", "task_types", "tools", "by_tool", "sequences", "failures", "patterns")
        return {
            "namespace": self.namespace,
            "made_at": self.made_at,
            "summary": self.summary,
            "all": self.all,
            "trend": self.trend,
            **{name: getattr(self, name).to_rows() for name in tables},
        }


def collect(
    storage: MemoryStorage,
    *,
    tz: str = "UTC",
    success_reward: float | None = None,
    episodes: int = 8,
    **filters: Unpack[EpisodeFilters],
) -> Report:
    """Read the metrics in one snapshot. Concurrent writers are not blocked.

    Args:
        storage: the memory to report on.
        tz: the IANA time zone of days, weeks and months.
        success_reward: a success is an episode with at least this reward; default: one with the outcome `success`.
        episodes: the number of episodes to show step by step, at most 50: half failures and half successes, the newest
            of each.
        filters: as in `storage.episodes.query`.

    Returns:
        The report.

    Raises:
        ValidationError: the zone does not exist, or a filter is not valid.
    """
    with storage.snapshot() as view:
        return _collect(view, tz, success_reward, episodes, filters)


def _collect(view: Transaction, tz: str, threshold: float | None, n_examples: int, filters: EpisodeFilters) -> Report:
    analytics = view.analytics
    summary, span = analytics.summary(), analytics.span(**filters)
    unit, bounds = _timeline_of(span)
    episodes_by_id = _episodes_without_steps(view, summary, filters)
    points, caption = _points(view, summary, episodes_by_id)
    timed: EpisodeFilters = {**filters, **bounds}
    return Report(
        namespace=view.namespace,
        made_at=view.now(),
        tz=tz,
        success_is="their outcome is success" if threshold is None else f"their reward is at least {threshold:g}",
        summary=summary,
        span=span,
        all=_totals(analytics.by_stage(1, success_reward=threshold, **filters)),
        trend=analytics.trend(**filters),
        unit=unit,
        periods=analytics.over_time(unit, tz=tz, success_reward=threshold, **timed),
        stages=analytics.by_stage(min(_N_STAGES, max(1, span.episodes // 5)), success_reward=threshold, **filters),
        task_types=analytics.by("task_type", success_reward=threshold, **filters),
        tools=analytics.tools(**filters),
        by_tool=analytics.by("tool", success_reward=threshold, **filters),
        sequences=analytics.sequences(
            (2, 4), min_episodes=max(2, span.episodes // 40), success_reward=threshold, **filters
        ),
        failures=analytics.failures(success_reward=threshold, **filters),
        patterns=analytics.effectiveness(),
        places=[
            Place(entry, _outcome_name(episodes_by_id.get(entry.owner_id))) for entry in _entries(view, episodes_by_id)
        ],
        points=points,
        vectors=caption,
        episodes=_example_episodes(view, n_examples, filters),
    )


def _timeline_of(span: Span) -> tuple[TimeUnit, EpisodeFilters]:
    if span.first is None or span.last is None:
        return "day", {}
    duration = span.last - span.first
    unit = next((unit for limit, unit in _UNITS if duration <= limit), None)
    until = span.last + _MICROSECOND if span.last < _END_OF_TIME else span.last
    # A range with more than 10,000 months is cut at its beginning.
    return unit or "month", {
        "since": span.first if unit else max(span.first, span.last - _LONGEST_RANGE),
        "until": until,
    }


def _totals(stages: Table[StageFigures]) -> Figures:
    if not stages:
        return Figures(0, Rate(None, None, None, 0, 0), Mean(None, None, None, 0), Mean(None, None, None, 0))
    (row,) = stages
    return Figures(row.episodes, row.success, row.reward, row.duration_s)


def _episodes_without_steps(view: Transaction, summary: Summary, filters: EpisodeFilters) -> dict[UUID, Episode]:
    """Return the newest episodes without their steps, or none if the storage has neither places nor vectors."""
    if not summary.rows["places"] and not summary.rows["embeddings"]:
        return {}
    return {one.id: one for one in islice(view.episodes.iterate(steps=False, **filters), _MAX_EPISODES)}


def _entries(view: Transaction, episodes_by_id: Mapping[UUID, Episode]) -> Iterator[SpatiotemporalEntry]:
    entries = islice(view.spatiotemporal.iterate() if episodes_by_id else (), 10 * _MAX_PLACES)
    located = (one for one in entries if one.latitude is not None and _belongs_to(one, episodes_by_id))
    yield from islice(located, _MAX_PLACES)


def _belongs_to(entry: SpatiotemporalEntry, episodes_by_id: Mapping[UUID, Episode]) -> bool:
    return entry.owner_type == "step" or entry.owner_id in episodes_by_id


def _points(view: Transaction, summary: Summary, episodes_by_id: Mapping[UUID, Episode]) -> tuple[list[Point], str]:
    if not summary.rows["embeddings"]:
        return [], "There are no embeddings yet."
    models = view.embeddings.models()
    model = max(models, key=lambda name: (models[name], name))
    vectors = view.embeddings.get_many("episode", episodes_by_id, model=model)
    projection = project([vectors[one].vector for one in vectors])
    if isinstance(projection, str):
        return [], projection
    owners = [episodes_by_id[one] for one in vectors]
    pairs = zip(projection.coordinates, owners, strict=True)
    points = [Point(x, y, owner.task_description, _outcome_name(owner)) for (x, y), owner in pairs]
    share = f"{projection.variance_ratio:.0%}"
    caption = f"{counted(len(points), 'episode')} by the model {model}: the plane has {share} of the variance."
    return points, caption


def _example_episodes(view: Transaction, number: int, filters: EpisodeFilters) -> list[Episode]:
    size = min(number, _MAX_EXAMPLES)
    if size < 1:
        return []
    if filters.get("outcome") is not None:
        return view.episodes.query(limit=size, **filters).items
    by_outcome: list[EpisodeFilters] = [{**filters, "outcome": "failure"}, {**filters, "outcome": "success"}]
    failures, successes = (view.episodes.query(limit=size, **outcome_filters).items for outcome_filters in by_outcome)
    examples = [*failures[: max(size - size // 2, size - len(successes))], *successes][:size]
    return examples or view.episodes.query(limit=size, **filters).items


def _outcome_name(episode: Episode | None) -> str:
    return "" if episode is None else episode.outcome.kind if episode.outcome else "open"
