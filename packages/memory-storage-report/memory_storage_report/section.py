"""The sections of a report: a title, a summary and a table each, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_storage.models import FailurePoint, GroupFigures, Mean, PeriodFigures, StageFigures

from .collection import Report
from .formatting import MISSING, between, counted, milliseconds, number, percent, seconds

Cell = str | int
_MAX_PATTERNS, _MAX_ROWS = 20, 200  # rows of a table


@dataclass(frozen=True, slots=True)
class Section:
    """A title, a summary of one or two sentences, and a table. `key` identifies it in links."""

    key: str
    title: str
    summary: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def sections(report: Report) -> list[Section]:
    """Return all sections in reading order. The summary of an empty one says why it is empty."""
    return [make(report) for make in _SECTIONS]


def _timeline(report: Report) -> Section:
    timed = has_timeline(report)
    if timed:
        rows = [(_period_start(row, report), *_figures(row)) for row in report.periods if row.episodes]
        first, summary = str(report.unit), f"By {report.unit}, in {report.tz}."
    else:
        rows = [(row.stage, *_figures(row)) for row in report.stages]
        first, summary = (
            "stage",
            "All episodes start at about the same time: they are shown in the order of their first save.",
        )
    summary = _absence("episodes", rows) or f"{summary} {_trend(report)}".strip()
    return Section("timeline", "Success over time", summary, (first, *_COLUMNS), rows)


def has_timeline(report: Report) -> bool:
    """Return whether episodes started in more than one period."""
    return sum(row.episodes > 0 for row in report.periods) > 1


def _trend(report: Report) -> str:
    trend = report.trend
    if trend.slope_per_day is None or trend.low is None or trend.high is None:
        return ""
    direction = (
        "no clear trend" if trend.low <= 0 <= trend.high else "growing" if trend.slope_per_day > 0 else "falling"
    )
    return f"Rewards: {direction} ({trend.slope_per_day:+.3g} a day, {trend.low:+.3g} to {trend.high:+.3g})."


def _task_types(report: Report) -> Section:
    summary = _absence("episodes", report.task_types) or "How each kind of task goes."
    return Section("tasks", "Kinds of task", summary, ("task type", *_COLUMNS), _groups(report.task_types))


def _by_tool(report: Report) -> Section:
    rated = [row for row in report.by_tool if row.success.rate is not None]
    summary = _absence("tools", rated) or _best_and_worst(rated)
    return Section("tools", "Success by tool", summary, ("tool", *_COLUMNS), _groups(report.by_tool))


def _best_and_worst(rows: Sequence[GroupFigures]) -> str:
    best = max(rows, key=lambda row: row.success.low or 0.0)
    worst = min(rows, key=lambda row: row.success.high or 0.0)
    if len(rows) == 1:
        return f"Episodes that use {best.group} go well {percent(best.success.rate)} of the time."
    if (best.success.low or 0.0) <= (worst.success.high or 0.0):  # overlapping intervals: no significant difference
        rates = sorted(row.success.rate or 0.0 for row in rows)
        span = percent(rates[0]) if rates[0] == rates[-1] else f"{percent(rates[0])} to {percent(rates[-1])}"
        return f"No tool makes a clear difference: {counted(len(rows), 'tool')}, {span}, within the noise."
    return (
        f"Episodes that use {best.group} go well most surely ({percent(best.success.rate)} of {best.success.of}); "
        f"those that use {worst.group} least ({percent(worst.success.rate)} of {worst.success.of})."
    )


def _errors(report: Report) -> Section:
    rows = [
        (row.tool, row.steps, percent(row.error.rate), between(row.error), row.error.count, row.timeouts)
        for row in report.tools
    ]
    most = max((row.error.count for row in report.tools), default=0)
    failing = [row for row in report.tools if row.error.count == most]
    summary = _absence("steps", rows) or "No step failed."
    if most and len(failing) > 1:
        summary = f"{counted(len(failing), 'tool')} fail most often: {counted(most, 'time')} each."
    elif most:
        summary = f"{failing[0].tool} fails most often: {most:,} of {counted(failing[0].error.of, 'time')}."
    columns = ("tool", "steps", "failed", "95 % interval", "errors and timeouts", "timeouts")
    return Section("errors", "Errors by tool", summary, columns, rows)


def _latency(report: Report) -> Section:
    measured = [row for row in report.tools if row.measured]
    rows = [
        (row.tool, row.measured, milliseconds(row.p50_ms), milliseconds(row.p95_ms), milliseconds(row.p99_ms))
        for row in measured
    ]
    summary = "No step has a latency."
    if measured:
        longest = max(row.p95_ms or 0 for row in measured)
        slowest = [row.tool for row in measured if (row.p95_ms or 0) == longest]
        subject = (
            f"The slowest is {slowest[0]}" if len(slowest) == 1 else f"{counted(len(slowest), 'tool')} are the slowest"
        )
        summary = f"{subject}: one step in twenty takes {milliseconds(longest)} or more."
    return Section("latency", "Latency by tool", summary, ("tool", "measured", "p50", "p95", "p99"), rows)


def _sequences(report: Report) -> Section:
    rows = [
        (
            " → ".join(row.tools),
            row.episodes,
            percent(row.support),
            percent(row.success.rate),
            between(row.success),
            MISSING if row.lift is None else f"{row.lift:.2f}",
        )
        for row in report.sequences
    ]
    summary = _absence("sequences", rows) or (
        "Two to four tools in a row, by how much more often the episodes with them go well than all do (the lift)."
    )
    columns = ("sequence", "episodes", "support", "success", "95 % interval", "lift")
    return Section("sequences", "Sequences that lead to success", summary, columns, rows)


def _failures(report: Report) -> Section:
    rows = [(row.step_number, row.tool, row.error_class, row.episodes, row.failed_episodes) for row in report.failures]
    summary = "No step failed."
    if report.failures:
        counts = _by_class(report.failures)
        most = max(counts.values())
        worst = sorted(pair for pair, count in counts.items() if count == most)
        named = f"“{worst[0][1]}” in {worst[0][0]}" if len(worst) == 1 else f"{counted(len(worst), 'kind')} of error"
        summary = f"Most often: {named}, {counted(most, 'time')}{' each' * (len(worst) > 1)}."
    columns = ("step", "tool", "error", "episodes", "of them failed")
    return Section("failures", "Where steps fail", summary, columns, rows)


def _by_class(rows: Sequence[FailurePoint]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row.tool, row.error_class
        counts[key] = counts.get(key, 0) + row.episodes
    return counts


def _patterns(report: Report) -> Section:
    rows = [
        (
            row.description or str(row.id),
            row.kind.replace("_", " "),
            row.times_retrieved,
            row.times_applied,
            percent(row.success.rate),
            f"{row.score:.2f}",
            row.last_used_at.date().isoformat() if row.last_used_at else "never",
        )
        for row in report.patterns[:_MAX_PATTERNS]
    ]
    unused = sum(row.last_used_at is None for row in report.patterns)
    summary = _absence("patterns", rows) or (
        f"{counted(len(report.patterns), 'pattern')}, never used: {unused:,}."
        f"{_truncation(len(report.patterns), _MAX_PATTERNS)}"
    )
    columns = ("pattern", "kind", "retrieved", "applied", "success", "score", "last used")
    return Section("patterns", "Patterns", summary, columns, rows)


def _places(report: Report) -> Section:
    entries = [(place.entry, place.outcome) for place in report.places]
    rows = [
        (
            entry.place_name or "",
            f"{entry.latitude:.4f}",
            f"{entry.longitude:.4f}",
            entry.starts_at.isoformat(sep=" ", timespec="minutes") if entry.starts_at else MISSING,
            outcome or MISSING,
        )
        for entry, outcome in entries
    ]
    summary = (
        _absence("places with a position", rows) or f"{counted(len(rows), 'place')}.{_truncation(len(rows), _MAX_ROWS)}"
    )
    return Section("places", "Places", summary, ("name", "latitude", "longitude", "when", "outcome"), rows[:_MAX_ROWS])


def _vectors(report: Report) -> Section:
    rows = [(point.task[:120], point.outcome, f"{point.x:.3f}", f"{point.y:.3f}") for point in report.points]
    summary = f"{report.vectors}{_truncation(len(rows), _MAX_ROWS)}"
    return Section("vectors", "Vector space", summary, ("task", "outcome", "x", "y"), rows[:_MAX_ROWS])


_COLUMNS = ("episodes", "success", "95 % interval", "mean reward", "mean duration")


def _figures(row: GroupFigures | PeriodFigures | StageFigures) -> tuple[Cell, ...]:
    success = row.success
    return row.episodes, percent(success.rate), between(success), _mean(row.reward), seconds(row.duration_s.mean)


def _mean(mean: Mean) -> str:
    return number(mean.mean)


def _groups(rows: Sequence[GroupFigures]) -> list[tuple[Cell, ...]]:
    return [(MISSING if row.group is None else row.group, *_figures(row)) for row in rows]


def _period_start(row: PeriodFigures, report: Report) -> str:
    if report.unit == "hour":
        return row.starts_at.isoformat(sep=" ", timespec="minutes")
    return row.starts_at.date().isoformat()


def _truncation(rows: int, most: int) -> str:
    return f" The table shows the first {most}." if rows > most else ""


def _absence(what: str, rows: Sequence[object]) -> str:
    return "" if rows else f"There are no {what} yet."


_SECTIONS: list[Callable[[Report], Section]] = [
    _timeline,
    _by_tool,
    _errors,
    _latency,
    _sequences,
    _failures,
    _task_types,
    _patterns,
    _places,
    _vectors,
]
