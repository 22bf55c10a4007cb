"""Episodes grouped by domain, task type and time: counts, and a diverse sample. One statement each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, get_args

from memory_storage.dbapi import BatchStep
from memory_storage.models import DomainNode, Episode, EpisodeFilter, TaskType, TaskTypeNode, TimeUnit
from memory_storage.repositories.episodes.rows import episodes_by_seq
from memory_storage.sql.filters import Shape, conditions
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import SqlTemplate
from memory_storage.sql.time_buckets import OffsetPeriod, bucket, offset_periods, time_zone
from memory_storage.sql.validation import choice

from . import sql

_OF_EPISODE = Shape("e.")


def hierarchy(session: SessionProtocol, unit: TimeUnit, tz: str, episode_filter: EpisodeFilter) -> list[DomainNode]:
    """Return the tree; see `SpatiotemporalRepository.hierarchy`."""
    where, values = conditions(episode_filter, "episode", _OF_EPISODE, has_recent=session.has_recent_words)
    choice("unit", unit, get_args(TimeUnit))
    zone = time_zone(tz)
    rows = _read(session, zone, sql.counts(unit, where), values)
    nodes = []
    for domain, rows_of_domain in _grouped(sorted(rows, key=itemgetter(0, 1, 2)), 0):
        types = [
            TaskTypeNode(TaskType(task_type), sum(row[4] for row in some), _buckets(some, unit, zone))
            for task_type, some in _grouped(rows_of_domain, 1)
        ]
        nodes.append(DomainNode(domain, sum(row[4] for row in rows_of_domain), types))
    return nodes


def diverse(
    session: SessionProtocol, k: int, unit: TimeUnit, tz: str, episode_filter: EpisodeFilter, *, steps: bool
) -> list[Episode]:
    """Return a sample of all groups; see `SpatiotemporalRepository.diverse`."""
    where, values = conditions(episode_filter, "episode", _OF_EPISODE, has_recent=session.has_recent_words)
    choice("unit", unit, get_args(TimeUnit))
    rows = _read(session, time_zone(tz), sql.sample(unit, where, with_steps=steps), {**values, "limit": k})
    episodes = episodes_by_seq(rows)
    return [episodes[seq] for _, seq in sorted({(row[0], row[1]) for row in rows})]


def _read(session: SessionProtocol, zone: tzinfo, statement: SqlTemplate, values: dict[str, Any]) -> Sequence[Row]:
    """Read the rows. Their last column says whether an episode is later than the offsets that are usually listed."""
    rows = session.read(_bind(session, offset_periods(zone), statement, values))
    if rows and rows[0][-1]:
        rows = session.read(_bind(session, offset_periods(zone, all_time=True), statement, values))
    return rows


def _bind(
    session: SessionProtocol, offsets: Sequence[OffsetPeriod], statement: SqlTemplate, values: dict[str, Any]
) -> BatchStep:
    as_json = str([list(period) for period in offsets])
    return statement.bind(namespace=session.namespace, periods=as_json, **values)


def _buckets(rows: Sequence[Row], unit: TimeUnit, zone: tzinfo) -> list[Any]:
    found = [bucket(label, unit, offset, zone, count) for _, _, label, offset, count, _ in rows]
    return sorted(found, key=attrgetter("starts_at"))


def _grouped(rows: Sequence[Row], column: int) -> list[tuple[Any, list[Row]]]:
    return [(value, list(some)) for value, some in groupby(rows, itemgetter(column))]
