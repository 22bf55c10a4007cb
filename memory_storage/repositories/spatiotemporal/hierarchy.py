"""Episodes grouped by domain, task type and time: counts, and a diverse sample. One statement each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from functools import lru_cache
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, get_args

from memory_storage.dbapi import BatchStep
from memory_storage.models import DomainNode, Episode, EpisodeFilter, TaskType, TaskTypeNode, TimeUnit
from memory_storage.repositories.episodes.rows import episodes_by_seq
from memory_storage.repositories.episodes.sql import HEAD_ROW, STEP_ROW
from memory_storage.sql.filters import Conditions, Shape, conditions
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import SqlTemplate
from memory_storage.sql.time_buckets import (
    END,
    FIRST,
    KNOWN_UNTIL,
    UNIT_SIZES,
    OffsetPeriod,
    bucket,
    offset_periods,
    time_zone,
)
from memory_storage.sql.validation import choice

_OF_EPISODE = Shape("e.")
# What clocks show, in microseconds since year 1: local times of the years 0 and 10000 count as the first and last.
_LOCAL = f"(min(max(e.started_at + z.utc_offset, {FIRST}), {END - 1}) - {FIRST})"
_SECONDS = f"{_LOCAL} / 1000000 + {FIRST // 1_000_000}, 'unixepoch'"
# The number of the unit that contains a local time, as `time_buckets.bucket` reads it.
_LABELS = {
    **{unit: f"{_LOCAL} / {size}" for unit, size in UNIT_SIZES.items()},
    "month": f"strftime('%Y', {_SECONDS}) * 12 + strftime('%m', {_SECONDS}) - 1",
}
# SQLite has no time zones: it gets the ranges in which the zone has one offset from UTC, a few hundred for 200 years.
_PERIODS = """periods (since, until, utc_offset) AS MATERIALIZED (
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:periods))"""
# CROSS JOIN fixes the order of the join: for each range, its episodes by the index on (namespace, started_at).
_EPISODES = """periods AS z CROSS JOIN episodes AS e
        ON e.namespace = :namespace AND e.started_at >= z.since AND e.started_at < z.until"""
# Offsets are listed until 2037; a later episode makes the caller read again, with those of all time.
_IS_BEYOND = f"EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace AND started_at >= {KNOWN_UNTIL})"


def hierarchy(session: SessionProtocol, unit: TimeUnit, tz: str, episode_filter: EpisodeFilter) -> list[DomainNode]:
    """Return the tree; see `SpatiotemporalRepository.hierarchy`."""
    where, values = conditions(episode_filter, "episode", _OF_EPISODE)
    choice("unit", unit, get_args(TimeUnit))
    zone = time_zone(tz)
    rows = _read(session, zone, _counts(unit, where), values)
    return [
        DomainNode(domain, sum(row[4] for row in some), _task_types(some, unit, zone))
        for domain, some in _grouped(sorted(rows, key=itemgetter(0, 1, 2)), 0)
    ]


def diverse(
    session: SessionProtocol, k: int, unit: TimeUnit, tz: str, episode_filter: EpisodeFilter, *, steps: bool
) -> list[Episode]:
    """Return a sample of all groups; see `SpatiotemporalRepository.diverse`."""
    where, values = conditions(episode_filter, "episode", _OF_EPISODE)
    choice("unit", unit, get_args(TimeUnit))
    rows = _read(session, time_zone(tz), _sample(unit, where, with_steps=steps), {**values, "limit": k})
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


@lru_cache(maxsize=256)
def _counts(unit: str, where: Conditions) -> SqlTemplate:
    # The two hours of one label differ in their offset; of other units the parts before and after a change are one.
    offset = "z.utc_offset" if unit == "hour" else "0"
    return SqlTemplate(f"""
WITH {_PERIODS}
SELECT e.domain, e.task_type, {_LABELS[unit]} AS label, {offset} AS utc_offset, count(*), {_IS_BEYOND}
FROM {_EPISODES} {_where(where)} GROUP BY 1, 2, 3, 4
""")


@lru_cache(maxsize=256)
def _sample(unit: str, where: Conditions, *, with_steps: bool) -> SqlTemplate:
    # The two hours of one label differ in their offset; of other units the parts before and after a change are one.
    offset = "z.utc_offset" if unit == "hour" else "0"
    rows = f"SELECT page.key, page.seq, {HEAD_ROW}, {_IS_BEYOND} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq"
    if with_steps:
        rows += f"""
UNION ALL
SELECT page.key, page.seq, {STEP_ROW}, {_IS_BEYOND} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
    CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id"""
    # Ranks within each bucket, then each task type, then each domain: sorted by the last one, groups alternate.
    return SqlTemplate(f"""
WITH {_PERIODS},
found AS (
    SELECT e.seq, e.domain, e.task_type, e.reward, e.started_at, {_LABELS[unit]} AS label, {offset} AS utc_offset
    FROM {_EPISODES} {_where(where)}),
in_buckets AS (
    SELECT *, row_number() OVER (
        PARTITION BY domain, task_type, label, utc_offset ORDER BY reward DESC, started_at DESC, seq DESC) AS in_bucket
    FROM found),
in_types AS (
    SELECT *, row_number() OVER (
        PARTITION BY domain, task_type ORDER BY in_bucket, label DESC, utc_offset) AS in_type
    FROM in_buckets),
in_domains AS (
    SELECT seq, domain, row_number() OVER (PARTITION BY domain ORDER BY in_type, task_type) AS in_domain
    FROM in_types),
page AS MATERIALIZED (
    SELECT seq, row_number() OVER (ORDER BY in_domain, domain) AS key FROM in_domains
    ORDER BY in_domain, domain LIMIT :limit)
{rows}""")


def _where(where: Conditions) -> str:
    return f"WHERE {' AND '.join(where)}" if where else ""


def _task_types(rows: Sequence[Row], unit: TimeUnit, zone: tzinfo) -> list[TaskTypeNode]:
    return [
        TaskTypeNode(TaskType(task_type), sum(row[4] for row in some), _buckets(some, unit, zone))
        for task_type, some in _grouped(rows, 1)
    ]


def _buckets(rows: Sequence[Row], unit: TimeUnit, zone: tzinfo) -> list[Any]:
    found = [bucket(label, unit, offset, zone, count) for _, _, label, offset, count, _ in rows]
    return sorted(found, key=attrgetter("starts_at"))


def _grouped(rows: Sequence[Row], column: int) -> list[tuple[Any, list[Row]]]:
    return [(value, list(some)) for value, some in groupby(rows, itemgetter(column))]
