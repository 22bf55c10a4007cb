"""Everything that a report shows, read once, of one moment. Draws nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from uuid import UUID

from typing_extensions import Unpack

from memory_storage import MemoryStorage, Transaction
from memory_storage.models import (
    Bucket,
    Episode,
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
    ToolUse,
    Trend,
)
from memory_storage.models.query import EpisodeFilters

from .formatting import counted
from .projection import projected

_STAGES = 10
_MOST_PLACES = 2_000
_MOST_HEADS = 2_000
_BUCKETS: list[tuple[timedelta, Bucket]] = [
    (timedelta(days=3), "hour"),
    (timedelta(days=60), "day"),
    (timedelta(days=400), "week"),
    (timedelta(days=365 * 800), "month"),
]
_LONG = timedelta(days=365 * 800)
_LAST = datetime.max.replace(tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where an episode, or a step of one, happened, and how the episode ended ("" if that is not known)."""

    entry: SpatiotemporalEntry
    outcome: str


@dataclass(frozen=True, slots=True)
class Point:
    """An episode in the plane of the vectors."""

    x: float
    y: float
    task: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one namespace at one moment; `vectors` is a sentence where there is no picture of them."""

    namespace: str
    made_at: datetime
    zone: str
    success_is: str
    summary: Summary
    span: Span
    all: Figures
    trend: Trend
    bucket: Bucket
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
        """The figures as they go into JSON: every table as a list of flat rows."""
        tables = ("periods", "stages", "task_types", "tools", "by_tool", "sequences", "failures", "patterns")
        return {
            "namespace": self.namespace,
            "made_at": self.made_at,
            "summary": self.summary,
            "all": self.all,
            "trend": self.trend,
            **{name: getattr(self, name).to_rows() for name in tables},
        }


def gather(
    storage: MemoryStorage,
    *,
    zone: str = "UTC",
    reward_at_least: float | None = None,
    episodes: int = 8,
    **filters: Unpack[EpisodeFilters],
) -> Report:
    """Read all of it in one snapshot: others may go on writing.

    `reward_at_least` says what success is, as in `AnalyticsRepository`. So many `episodes` are shown step by step: of
    those that failed and of those that went well the newest half each.
    """
    with storage.snapshot() as view:
        return _gather(view, zone, reward_at_least, episodes, filters)


def _gather(view: Transaction, zone: str, least: float | None, shown: int, filters: EpisodeFilters) -> Report:
    ask = view.analytics
    summary, span = ask.summary(), ask.span(**filters)
    bucket, bounds = _course_of(span)
    heads = _heads(view, summary, filters)
    points, told = _points(view, summary, heads)
    timed: EpisodeFilters = {**filters, **bounds}
    return Report(
        namespace=view.namespace,
        made_at=view.now(),
        zone=zone,
        success_is="their outcome is success" if least is None else f"their reward is at least {least:g}",
        summary=summary,
        span=span,
        all=_all(ask.by_stage(1, reward_at_least=least, **filters)),
        trend=ask.trend(**filters),
        bucket=bucket,
        periods=ask.over_time(bucket, zone=zone, reward_at_least=least, **timed),
        stages=ask.by_stage(min(_STAGES, max(1, span.episodes // 5)), reward_at_least=least, **filters),
        task_types=ask.by("task_type", reward_at_least=least, **filters),
        tools=ask.tools(**filters),
        by_tool=ask.by("tool", reward_at_least=least, **filters),
        sequences=ask.sequences((2, 4), least_episodes=max(2, span.episodes // 40), reward_at_least=least, **filters),
        failures=ask.failures(reward_at_least=least, **filters),
        patterns=ask.effectiveness(),
        places=[Place(entry, _ending(heads.get(entry.owner_id))) for entry in _entries(view, heads)],
        points=points,
        vectors=told,
        episodes=_shown(view, shown, filters),
    )


def _course_of(span: Span) -> tuple[Bucket, EpisodeFilters]:
    if span.first is None or span.last is None:
        return "day", {}
    lasted = span.last - span.first
    bucket = next((bucket for limit, bucket in _BUCKETS if lasted <= limit), None)
    until = span.last + _MICROSECOND if span.last < _LAST else span.last
    # What lasts longer than months can be counted in is shown from its end.
    return bucket or "month", {"since": span.first if bucket else max(span.first, span.last - _LONG), "until": until}


def _all(whole: Table[StageFigures]) -> Figures:
    if not whole:
        return Figures(0, Rate(None, None, None, 0, 0), Mean(None, None, None, 0), Mean(None, None, None, 0))
    (row,) = whole
    return Figures(row.episodes, row.success, row.reward, row.duration_s)


def _heads(view: Transaction, summary: Summary, filters: EpisodeFilters) -> dict[UUID, Episode]:
    """The newest episodes without their steps, if there is something that belongs to them."""
    if not summary.rows["places"] and not summary.rows["embeddings"]:
        return {}
    return {one.id: one for one in islice(view.episodes.iterate(steps=False, **filters), _MOST_HEADS)}


def _entries(view: Transaction, heads: Mapping[UUID, Episode]) -> Iterator[SpatiotemporalEntry]:
    looked_at = islice(view.spatiotemporal.iterate() if heads else (), 10 * _MOST_PLACES)
    here = (one for one in looked_at if one.latitude is not None and _belongs(one, heads))
    yield from islice(here, _MOST_PLACES)


def _belongs(entry: SpatiotemporalEntry, heads: Mapping[UUID, Episode]) -> bool:
    return entry.owner_type == "step" or entry.owner_id in heads


def _points(view: Transaction, summary: Summary, heads: Mapping[UUID, Episode]) -> tuple[list[Point], str]:
    if not summary.rows["embeddings"]:
        return [], "There are no embeddings yet."
    models = view.embeddings.models()
    model = max(models, key=lambda name: (models[name], name))
    vectors = view.embeddings.get_many("episode", heads, model=model)
    found = projected([vectors[one].vector for one in vectors])
    if isinstance(found, str):
        return [], found
    owners = [heads[one] for one in vectors]
    pairs = zip(found.places, owners, strict=True)
    points = [Point(x, y, owner.task_description, _ending(owner)) for (x, y), owner in pairs]
    told = f"{counted(len(points), 'episode')} by the model {model}: the plane has {found.kept:.0%} of the variance."
    return points, told


def _shown(view: Transaction, number: int, filters: EpisodeFilters) -> list[Episode]:
    size = min(number, _MOST_SHOWN)
    if size < 1:
        return []
    if filters.get("outcome") is not None:
        return view.episodes.query(limit=size, **filters).items
    endings: list[EpisodeFilters] = [{**filters, "outcome": "failure"}, {**filters, "outcome": "success"}]
    failed, well = (view.episodes.query(limit=size, **those).items for those in endings)
    both = [*failed[: max(size - size // 2, size - len(well))], *well][:size]
    return both or view.episodes.query(limit=size, **filters).items


def _ending(episode: Episode | None) -> str:
    return "" if episode is None else episode.outcome.kind if episode.outcome else "open"
