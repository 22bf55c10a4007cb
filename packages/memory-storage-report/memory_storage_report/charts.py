"""The charts of a report as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memory_storage.models import Rate

from .collection import Report
from .formatting import between, counted, percent
from .section import has_timeline
from .svg import BY_OUTCOME, Spec, outcome_kind
from .world_map import map_chart

_MAX_BARS = 15
_MAX_STEP_NUMBER = 30
_ROW_HEIGHT = 26

_MIN_EPISODES = 5  # rated episodes that a point of a line needs
_MIN_CELL_WIDTH = 20  # pixels that a number in a cell needs
_CELL_NUMBERS: Spec = {
    "mark": {"type": "text", "fill": "var(--ink)", "fontSize": 11},
    "encoding": {"text": {"field": "n"}},
}
_RATE: Spec = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": "%", "tickCount": 5}}


def charts(report: Report) -> dict[str, Callable[[int], Spec]]:
    """Return a function from a width in pixels to a chart, for each section that has data to draw."""
    chart_by_section: dict[str, Callable[[int], Spec] | None] = {
        "timeline": _timeline(report),
        "tools": _success_by_tool(report),
        "errors": _errors_by_tool(report),
        "latency": _latency(report),
        "failures": _failures(report),
        "places": map_chart(report),
        "vectors": _vectors(report),
    }
    return {key: chart for key, chart in chart_by_section.items() if chart is not None}


def _timeline(report: Report) -> Callable[[int], Spec] | None:
    timed = has_timeline(report)
    rows = [
        _rate_row(row.success, x=row.starts_at.replace(tzinfo=None).isoformat(), n=row.episodes)
        for row in (report.periods if timed else ())
        if row.success.of
    ] or [_rate_row(row.success, x=row.stage, n=row.episodes) for row in report.stages if row.success.of]
    if len(rows) < 2:
        return None
    axis: Spec = {"title": None, "grid": False, "labelOverlap": True}
    format_ = {"hour": "%b %d, %H:%M", "month": "%b %Y"}.get(report.unit, "%b %d")
    x: Spec = {"field": "x", "type": "temporal", "axis": {**axis, "tickCount": 5, "format": format_}}
    if not timed:
        x = {"field": "x", "type": "ordinal", "axis": {**axis, "labelAngle": 0, "title": "stage"}}
    y: Spec = {"field": "rate", **_RATE, "title": None}
    low: Spec = {**y, "field": "low"}
    # A line through the rate of one or two episodes would jump from 0 to 100 %: those are points with their intervals.
    dense = [row for row in rows if row["of"] >= _MIN_EPISODES]
    dense = dense if len(dense) > 1 else []
    sparse = [row for row in rows if row not in dense]
    band: Spec = {"x": x, "y": low, "y2": {"field": "high"}}
    line: Spec = {"mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 2}, "encoding": {"x": x, "y": y}}
    area: Spec = {"mark": {"type": "area", "color": "var(--band)"}}
    whiskers: Spec = {"mark": {"type": "rule", "strokeWidth": 6, "color": "var(--band)", "strokeCap": "round"}}
    return lambda width: {
        "width": width,
        "height": 240,
        "data": {"values": rows},
        "layer": [
            *([{"data": {"values": dense}, **area, "encoding": band}] * bool(dense)),
            *([{"data": {"values": sparse}, **whiskers, "encoding": band}] * bool(sparse)),
            _overall_rate_line(report, "y"),
            *([{"data": {"values": dense}, **line}] * bool(dense)),
            {
                "mark": {"type": "point", "filled": True, "color": "var(--accent)", "size": 55, "opacity": 1},
                "encoding": {"x": x, "y": y, "description": {"field": "label"}},
            },
        ],
    }


def _success_by_tool(report: Report) -> Callable[[int], Spec] | None:
    tools = [row for row in report.by_tool if row.success.of][:_MAX_BARS]
    rows = [_rate_row(row.success, name=row.group) for row in tools]
    return _interval_chart(rows, "var(--accent)", "var(--band)", [_overall_rate_line(report, "x")])


def _errors_by_tool(report: Report) -> Callable[[int], Spec] | None:
    tools = [row for row in report.tools if row.error.count][:_MAX_BARS]
    rows = [_rate_row(row.error, name=row.tool, verb="failed") for row in tools]
    return _interval_chart(rows, "var(--bad)", "var(--bad-band)", [])


def _interval_chart(
    rows: Sequence[dict[str, Any]], color: str, band: str, others: list[Spec]
) -> Callable[[int], Spec] | None:
    """Return a chart with a dot for each rate, on a bar for its confidence interval."""
    if not rows:
        return None
    y: Spec = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "grid": False}}
    x: Spec = {**_RATE, "title": None}
    return lambda width: {
        "width": width,
        "height": {"step": _ROW_HEIGHT},
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 6, "color": band, "strokeCap": "round"},
                "encoding": {"y": _fit_labels(y, width), "x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            *others,
            {
                "mark": {"type": "point", "filled": True, "size": 90, "color": color, "opacity": 1},
                "encoding": {
                    "y": _fit_labels(y, width),
                    "x": {"field": "rate", **x},
                    "description": {"field": "label"},
                },
            },
        ],
    }


def _latency(report: Report) -> Callable[[int], Spec] | None:
    tools = [row for row in report.tools if row.measured][:_MAX_BARS]
    rows = [
        {
            "tool": row.tool,
            "percentile": name,
            "ms": value,
            "low": row.p50_ms,
            "high": row.p99_ms,
            "label": f"{row.tool}: {name} {value:,} ms",
        }
        for row in tools
        for name, value in (("p50", row.p50_ms), ("p95", row.p95_ms), ("p99", row.p99_ms))
    ]
    if not rows:
        return None
    y: Spec = {"field": "tool", "type": "nominal", "sort": None, "axis": {"title": None, "grid": False}}
    tens = [10**power for power in range(19)]
    x: Spec = {
        "type": "quantitative",
        "title": "milliseconds",
        "scale": {"type": "log"},
        "axis": {"format": "~s", "values": tens},
    }
    domain = ["p50", "p95", "p99"]
    return lambda width: {
        "width": width,
        "height": {"step": _ROW_HEIGHT},
        "data": {"values": rows},
        "encoding": {"y": _fit_labels(y, width)},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 6, "color": "var(--band)", "strokeCap": "round"},
                "encoding": {"y": _fit_labels(y, width), "x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {
                    "y": _fit_labels(y, width),
                    "x": {"field": "ms", **x},
                    "color": {
                        "field": "percentile",
                        "scale": {"domain": domain, "range": ["var(--accent)", "var(--other)", "var(--bad)"]},
                    },
                    "shape": {
                        "field": "percentile",
                        "scale": {"domain": domain, "range": ["circle", "diamond", "cross"]},
                    },
                    "description": {"field": "label"},
                },
            },
        ],
    }


def _failures(report: Report) -> Callable[[int], Spec] | None:
    counts_by_cell: dict[tuple[int, str], list[int]] = {}
    for row in report.failures:
        counts = counts_by_cell.setdefault((row.step_number, row.tool), [0, 0])
        counts[0] += row.episodes
        counts[1] += row.failed_episodes
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "tool": tool,
            "n": n,
            "label": f"step {step}, {tool}: an error {counted(n, 'time')}, in {counted(failed, 'episode')} that failed",
        }
        for (step, tool), (n, failed) in sorted(counts_by_cell.items())
        if step <= _MAX_STEP_NUMBER
    ]
    if not rows:
        return None
    y: Spec = {"field": "tool", "type": "nominal", "axis": {"title": None, "grid": False}}
    last = max(row["step"] for row in rows)
    x: Spec = {
        "field": "step",
        "type": "ordinal",
        "scale": {"domain": list(range(1, last + 1))},
        "axis": {"title": "step number", "labelAngle": 0, "grid": False, "labelOverlap": True},
    }
    max_count = max(row["n"] for row in rows)
    return lambda width: {
        "width": width,
        "height": {"step": _ROW_HEIGHT},
        "data": {"values": rows},
        "encoding": {"x": x, "y": _fit_labels(y, width)},
        "layer": [
            {
                "mark": {"type": "rect", "color": "var(--bad)", "cornerRadius": 3},
                "encoding": {
                    "opacity": {
                        "field": "n",
                        "type": "quantitative",
                        "scale": {"domain": [0, max_count], "range": [0.12, 0.65]},
                        "legend": None,
                    },
                    "description": {"field": "label"},
                },
            },
            *([] if width < _MIN_CELL_WIDTH * last else [_CELL_NUMBERS]),
        ],
    }


def _vectors(report: Report) -> Callable[[int], Spec] | None:
    if not report.points:
        return None
    rows = [
        {
            "x": point.x,
            "y": point.y,
            "outcome": outcome_kind(point.outcome),
            "label": f"{point.outcome}: {point.task[:200]}",
        }
        for point in report.points
    ]
    hidden: Spec = {"axis": {"labels": False, "title": None}, "scale": {"zero": False, "nice": True}}
    return lambda width: {
        "width": width,
        "height": min(width, 420),
        "data": {"values": rows},
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.75},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", **hidden},
            "y": {"field": "y", "type": "quantitative", **hidden},
            **BY_OUTCOME,
            "description": {"field": "label"},
        },
    }


def _overall_rate_line(report: Report, channel: str) -> Spec:
    rate = report.all.success.rate
    return {
        "data": {"values": [{"all": rate}] if rate is not None else []},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": "var(--muted)"},
        "encoding": {
            channel: {"field": "all", **_RATE},
            "description": {"value": f"all episodes: {percent(rate)}"},
        },
    }


def _rate_row(rate: Rate, *, verb: str = "succeeded", **others: Any) -> dict[str, Any]:
    name = others.get("name", others.get("x"))
    label = f"{name}: {percent(rate.rate)} of {rate.of:,} {verb} ({between(rate)})"
    return {"rate": rate.rate, "low": rate.low, "high": rate.high, "of": rate.of, "label": label, **others}


def _fit_labels(y: Spec, width: int) -> Spec:
    """Return the axis of names with labels that leave room for the chart on a narrow page."""
    return {**y, "axis": {**y["axis"], "labelLimit": 220 if width > 400 else 130}}
