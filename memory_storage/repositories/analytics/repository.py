"""The repository of analytics: statistics over the episodes and patterns of a namespace. One statement per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, get_args
from uuid import UUID

from typing_extensions import Unpack

from memory_storage._deprecation import renamed_arguments
from memory_storage.errors import ValidationError
from memory_storage.models import EpisodeFilter, EpisodeFilters, PatternFilter, PatternFilters, TimeUnit
from memory_storage.models.analytics import (
    AttributionDimension,
    AttributionFigures,
    Change,
    Dimension,
    FailurePoint,
    GroupFigures,
    OutcomeFigures,
    PatternFigures,
    PeriodFigures,
    SequenceFigures,
    Span,
    StageFigures,
    Summary,
    Table,
    ToolFigures,
    ToolUse,
    Trend,
)
from memory_storage.models.proportion import quantile, wilson
from memory_storage.monitoring import operation
from memory_storage.sql.filters import conditions
from memory_storage.sql.session import Repository, Row
from memory_storage.sql.statement import SqlTemplate, from_micros, to_micros
from memory_storage.sql.time_buckets import DEFAULT_RANGES, Period, as_json, periods, time_zone
from memory_storage.sql.validation import checked_moment, choice, whole

from . import sql
from .arguments import check_dimension, check_lengths, check_period, finite_or_none
from .confidence import finite_part
from .error_signature import error_class
from .rows import (
    NO_EPISODES,
    AttributionCounts,
    AttributionGroup,
    GroupCounts,
    attribution_figures,
    change_between,
    counts_from_row,
    sequence_from_row,
)

_SUMMARY = SqlTemplate(f"""
SELECT 'rows', 'episodes', count(*), NULL FROM episodes WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'steps', count(*), NULL FROM steps WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'patterns', count(*), NULL FROM patterns WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'embeddings', count(*), NULL FROM embeddings WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'places', count(*), NULL FROM spatiotemporal_index WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'relationships', count(*), NULL FROM relationships WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'checkpoints', count(*), NULL FROM checkpoints WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'items', count(*), NULL FROM items WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'records', count(*), NULL FROM logs WHERE namespace = :namespace
UNION ALL SELECT 'outcome', coalesce(outcome, 'open'), count(*), {sql.finite("avg(reward)")} FROM episodes
    WHERE namespace = :namespace GROUP BY outcome
UNION ALL SELECT 'tool', tool, count(*), avg(status = 'ok') FROM steps WHERE namespace = :namespace GROUP BY tool
""")

_MAX_STAGES = 1_000
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


class AnalyticsRepository(Repository):
    """Statistics over the episodes and patterns of one namespace; most accept the filters of `episodes.query`.

    Success: an episode is judged if it has an outcome, and succeeded if that is a `Success`. With `success_reward`
    it is judged if it has a reward, and succeeded if that is at least `success_reward`. Rates are shares of the
    judged episodes.

    Intervals have a `confidence` of 0.95 by default: Wilson's for rates; for means, the standard error times the normal
    quantile, which is too narrow for a handful of values.
    """

    _operations = "analytics"

    @operation
    def summary(self) -> Summary:
        """Count the rows, outcomes and tools of the namespace."""
        rows = self._session.read(_SUMMARY.bind(namespace=self._session.namespace))
        return Summary(
            rows={name: count for kind, name, count, _ in rows if kind == "rows"},
            outcomes={name: OutcomeFigures(count, mean) for kind, name, count, mean in rows if kind == "outcome"},
            tools={name: ToolFigures(count, rate) for kind, name, count, rate in rows if kind == "tool"},
        )

    @operation
    def span(self, **filters: Unpack[EpisodeFilters]) -> Span:
        """Count the episodes, and return when the first and the last of them started."""
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        ((episodes, first, last),) = self._read(sql.span(where), values)
        return Span(episodes, from_micros(first), from_micros(last))

    @renamed_arguments(reward_at_least="success_reward")
    @operation
    def by(
        self,
        dimension: Dimension,
        *,
        success_reward: float | None = None,
        confidence: float = 0.95,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[GroupFigures]:
        """Compute success, reward and duration by task type, domain, language, framework, complexity, tool or tag.

        An episode is in the group of each tool that it used and of each of its tags.

        Args:
            dimension: What to group by.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each group, the one with the most episodes first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        check_dimension(dimension)
        groups = self._group_counts(dimension, success_reward, confidence, filters)
        rows = [GroupFigures(name, *group.as_columns(confidence)) for (_, name), group in groups.items()]
        return Table(GroupFigures, tuple(sorted(rows, key=lambda row: (-row.episodes, row.group or ""))))

    @renamed_arguments(bucket="unit", zone="tz", reward_at_least="success_reward")
    @operation
    def over_time(
        self,
        unit: TimeUnit = "day",
        *,
        tz: str = "UTC",
        success_reward: float | None = None,
        confidence: float = 0.95,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[PeriodFigures]:
        """Compute success, reward and duration by hour, day, week (from Monday) or month, without gaps.

        The range is from `since` to `until`. By default it ends now and has 48 hours, 30 days, 26 weeks, or the months
        of 730 days. A day has 23 or 25 hours where clocks change.

        Args:
            unit: "hour", "day", "week" or "month".
            tz: The IANA name of the time zone whose clocks count.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each period, the earliest first.

        Raises:
            ValidationError: The range has more than 10,000 periods, or an argument or a filter is invalid.
        """
        bounds, intervals = self._intervals(unit, tz, filters)
        groups = self._group_counts(None, success_reward, confidence, {**filters, **bounds}, intervals)
        figures = [groups.get((number, None), NO_EPISODES).as_columns(confidence) for number in range(len(intervals))]
        rows = [PeriodFigures(start, end, *parts) for (start, end), parts in zip(intervals, figures, strict=True)]
        return Table(PeriodFigures, tuple(rows))

    @renamed_arguments(reward_at_least="success_reward")
    @operation
    def by_stage(
        self,
        stages: int = 10,
        *,
        success_reward: float | None = None,
        confidence: float = 0.95,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[StageFigures]:
        """Compute success, reward and duration in the order in which the episodes started, in stages of equal size.

        Episodes that started at the same time are ordered by their first save. Shows learning where timestamps say
        little.

        Args:
            stages: The number of stages, from 1 to 1,000.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each stage, the earliest first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        if type(stages) is not int or not 1 <= stages <= _MAX_STAGES:
            raise ValidationError("stages", f"a whole number from 1 to {_MAX_STAGES:,}", stages)
        groups = self._group_counts("stage", success_reward, confidence, filters, stages=stages)
        rows = [StageFigures(stage, *groups[0, stage].as_columns(confidence)) for _, stage in sorted(groups)]
        return Table(StageFigures, tuple(rows))

    @operation
    def trend(self, *, confidence: float = 0.95, **filters: Unpack[EpisodeFilters]) -> Trend:
        """Fit a line through the rewards over time.

        Args:
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            The slope in reward per day, with its interval.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        z = quantile(confidence)
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        ((count, *sums),) = self._read(sql.trend(where), values)
        average, squares, products, others = sums
        if not squares or products is None:
            return Trend(count, average, None, None, None)
        slope = products / squares
        if count < 3 or others is None:
            return Trend(count, average, slope, None, None)
        reach = z * math.sqrt(max(0.0, others - slope * products) / (count - 2) / squares)
        return Trend(count, average, slope, finite_part(slope - reach), finite_part(slope + reach))

    @operation
    def tools(self, *, confidence: float = 0.95, **filters: Unpack[EpisodeFilters]) -> Table[ToolUse]:
        """Compute the error rate and latency percentiles of each tool.

        Args:
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each tool, the most used one first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        quantile(confidence)
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        rows = []
        for tool, steps, ended, errors, timeouts, *times in self._read(sql.tools(where), values):
            rows.append(ToolUse(tool, steps, wilson(errors + timeouts, ended, confidence), timeouts, *times))
        return Table(ToolUse, tuple(sorted(rows, key=lambda row: (-row.steps, row.tool))))

    @renamed_arguments(least_episodes="min_episodes", reward_at_least="success_reward")
    @operation
    def sequences(
        self,
        length: int | tuple[int, int] = 2,
        *,
        min_episodes: int = 5,
        limit: int = 10,
        success_reward: float | None = None,
        confidence: float = 0.95,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[SequenceFigures]:
        """Find the tool sequences with the highest lift towards success.

        Steps are ordered by their numbers. Episodes without an outcome (or without a reward, if `success_reward` is
        given) do not count.

        Args:
            length: The number of tools, or the smallest and the largest number.
            min_episodes: The minimum number of episodes that have the sequence.
            limit: The maximum number of rows.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each sequence, the highest lift first, then the one in more episodes.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        shortest, longest = check_lengths("length", length)
        most, _ = whole("limit", limit), quantile(confidence)
        where, values, success_sql = self._episode_conditions(success_reward, filters)
        values["least"] = whole("min_episodes", min_episodes)
        statement = sql.sequences(where, success_sql, shortest, longest)
        rows = [sequence_from_row(row, confidence) for row in self._read(statement, values)]
        rows.sort(key=lambda row: (-(row.lift or 0.0), -row.episodes, row.tools))
        return Table(SequenceFigures, tuple(rows[:most]))

    @renamed_arguments(reward_at_least="success_reward")
    @operation
    def failures(
        self, *, success_reward: float | None = None, limit: int = 100, **filters: Unpack[EpisodeFilters]
    ) -> Table[FailurePoint]:
        """Count where steps failed, by step number, tool and class of error.

        The class is the name of the exception if the message begins with one, else the first line without particulars.

        Args:
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            limit: The maximum number of rows.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each failure point, the one in the most failed episodes first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        most = whole("limit", limit)
        where, values, success_sql = self._episode_conditions(success_reward, filters)
        failures: dict[tuple[int, str, str], tuple[int, int]] = {}
        for number, tool, status, message, episodes, failed in self._read(sql.failures(where, success_sql), values):
            key = (number, tool, error_class(status, message))
            counts = failures.get(key, (0, 0))
            failures[key] = counts[0] + episodes, counts[1] + failed
        rows = [FailurePoint(*key, *counts) for key, counts in failures.items()]
        rows.sort(key=lambda row: (-row.failed_episodes, -row.episodes, row.step_number, row.tool, row.error_class))
        return Table(FailurePoint, tuple(rows[:most]))

    @renamed_arguments(reward_at_least="success_reward")
    @operation
    def compare(
        self,
        before: Period,
        after: Period,
        *,
        by: Dimension | None = None,
        success_reward: float | None = None,
        confidence: float = 0.95,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[Change]:
        """Compare two periods, in total or by a dimension.

        Args:
            before: The first period, `(since, until)`, half-open, by when the episodes started.
            after: The second period.
            by: What to group by; None compares the totals.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `episodes.query`.

        Returns:
            A row for each group, the largest change of the success rate first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        if by is not None:
            check_dimension(by, "by")
        spans = [check_period("before", before), check_period("after", after)]
        groups = self._group_counts(by, success_reward, confidence, filters, spans)
        names = dict.fromkeys(name for _, name in groups) if by else {None: None}
        rows = [
            change_between(n, groups.get((0, n), NO_EPISODES), groups.get((1, n), NO_EPISODES), confidence)
            for n in names
        ]
        rows.sort(key=lambda row: (-abs(row.success.difference or 0.0), row.group or ""))
        return Table(Change, tuple(rows))

    @operation
    def effectiveness(
        self, *, half_life: timedelta = timedelta(days=30), confidence: float = 0.95, **filters: Unpack[PatternFilters]
    ) -> Table[PatternFigures]:
        """Rank the patterns by how well they served and how recently they were used.

        The score is the lower bound of the success rate, halved with each half-life since the last use.

        Args:
            half_life: The time after which an unused pattern has half of its score; above 0.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `patterns.query`.

        Returns:
            A row for each pattern, the highest score first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        where, values = conditions(PatternFilter(**filters), "pattern")
        return self._pattern_table(where, values, half_life, confidence)

    @operation
    def unused(
        self, *, since: datetime, confidence: float = 0.95, **filters: Unpack[PatternFilters]
    ) -> Table[PatternFigures]:
        """List the patterns that existed at `since` and were not retrieved or applied after it.

        Args:
            since: An aware datetime.
            confidence: The level of the intervals, between 0 and 1.
            **filters: The filters of `patterns.query`.

        Returns:
            A row for each pattern, the highest score first.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        where, values = conditions(PatternFilter(**filters), "pattern")
        values["unused_since"] = to_micros(checked_moment("since", since))
        return self._pattern_table((*where, sql.UNUSED), values, timedelta(days=30), confidence)

    @operation
    def attribution(
        self,
        by: AttributionDimension | None = "record",
        *,
        unit: TimeUnit | None = None,
        tz: str = "UTC",
        success_reward: float | None = None,
        confidence: float = 0.95,
        limit: int = 100,
        **filters: Unpack[EpisodeFilters],
    ) -> Table[AttributionFigures]:
        """Compare the episodes that recalled records were shown to, and that used them, with those that did without.

        `episodes.complete(..., recalled=, used=, rating=)` says what an episode was shown and has used. These are
        observations, not effects: hard tasks may be those that recall something, and an agent uses what fits. Only an
        experiment tells what a record causes: tasks that get a recall or none at random.

        Args:
            by: "record", "kind" (successes, failures, patterns) or "pattern_kind", which leaves out deleted patterns;
                None for all that was shown.
            unit: "hour", "day", "week" or "month": a row for each group of each period, by when the episodes started;
                without gaps if `by` is None. The range is that of `over_time`. None: all time.
            tz: The IANA name of the time zone whose clocks count.
            success_reward: The smallest reward that counts as success; None judges by the outcome.
            confidence: The level of the intervals, between 0 and 1.
            limit: The maximum number of records: those that were shown most.
            **filters: The filters of `episodes.query`; they apply to the episodes that did without, too.

        Returns:
            A row for each group, by period, the one that was shown most first; of several, the one that was used most.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        if by is not None:
            choice("by", by, get_args(AttributionDimension))
        quantile(confidence)
        most = whole("limit", limit) if by == "record" else -1
        time_zone(tz)
        bounds, intervals = ({}, None) if unit is None else self._intervals(unit, tz, filters)
        where, values, success_sql = self._episode_conditions(success_reward, {**filters, **bounds})
        statement = sql.attribution(where, success_sql, by, in_periods=intervals is not None)
        found = self._read(statement, {**values, "periods": as_json(intervals or ()), "limit": most})
        without = {row[0]: AttributionCounts(*row[5:]) for row in found if row[4] is None}
        shown = [(*row[:5], AttributionCounts(*row[5:])) for row in found if row[4] is not None]
        if by is None:
            present = {row[0] for row in shown}
            missing = (number for number in range(len(intervals or [()])) if number not in present)
            shown += [(number, None, None, None, 0, AttributionCounts()) for number in missing]
        shown.sort(key=lambda row: (row[0], -row[4], -row[5].used, row[1] or ""))
        rows = []
        for number, name, kind, text, episodes, counts in shown:
            group = AttributionGroup(name, kind, text, None if intervals is None else intervals[number])
            others = without.get(number, AttributionCounts())
            rows.append(attribution_figures(group, episodes, counts, others, confidence))
        return Table(AttributionFigures, tuple(rows))

    def _intervals(self, unit: TimeUnit, tz: str, filters: Any) -> tuple[dict[str, Any], list[Period]]:
        """Return the bounds of the range that filters name, or of the usual one, and its periods."""
        choice("unit", unit, get_args(TimeUnit))
        episode_filter = EpisodeFilter(**filters)
        until = episode_filter.until or self._session.now()
        usual = DEFAULT_RANGES.get(unit, timedelta())
        since = episode_filter.since or max(until, _EARLIEST + usual) - usual
        return {"since": since, "until": until}, periods(unit, since, until, time_zone(tz))

    def _read(self, statement: SqlTemplate, values: dict[str, Any]) -> Sequence[Row]:
        return self._session.read(statement.bind(namespace=self._session.namespace, **values))

    def _episode_conditions(
        self, success_reward: float | None, filters: Any
    ) -> tuple[tuple[str, ...], dict[str, Any], str]:
        where, values = conditions(EpisodeFilter(**filters), "episode", has_recent=self._session.has_recent_words)
        return (
            where,
            {**values, "success_reward": finite_or_none("success_reward", success_reward)},
            sql.SUCCESS_BY_OUTCOME if success_reward is None else sql.SUCCESS_BY_REWARD,
        )

    def _group_counts(
        self,
        by: str | None,
        success_reward: float | None,
        confidence: float,
        filters: Any,
        within: Sequence[Period] | None = None,
        *,
        stages: int | None = None,
    ) -> dict[tuple[int, Any], GroupCounts]:
        quantile(confidence)  # so that a wrong one is refused before anything is read
        where, values, success_sql = self._episode_conditions(success_reward, filters)
        statement = sql.figures(where, success_sql, by, in_periods=within is not None)
        rows = self._read(statement, {**values, "periods": as_json(within or ()), "stages": stages})
        return {(row[0], row[1]): counts_from_row(row) for row in rows}

    def _pattern_table(
        self, where: tuple[str, ...], values: dict[str, Any], half_life: timedelta, confidence: float
    ) -> Table[PatternFigures]:
        if not isinstance(half_life, timedelta) or half_life <= timedelta():
            raise ValidationError("half_life", "a timedelta above 0", half_life)
        quantile(confidence)
        now = to_micros(self._session.now())
        rows = []
        for key, kind, text, retrieved, applied, well, delta, used, since in self._read(sql.patterns(where), values):
            success = wilson(well, applied, confidence)
            halved = max(0, now - since) / (half_life / timedelta(microseconds=1))  # a client's clock may be ahead
            score = (success.low or 0.0) * 0.5**halved
            used_at = from_micros(used)
            rows.append(PatternFigures(UUID(key), kind, text, retrieved, applied, success, delta, used_at, score))
        rows.sort(key=lambda row: (-row.score, -row.times_applied, -row.times_retrieved, row.id))
        return Table(PatternFigures, tuple(rows))
