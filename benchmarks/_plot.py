"""Curves with their intervals as SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 300, 260
_LEFT, _TOP, _BOTTOM, _GAP = 46, 44, 40, 14
_STYLE = """
text { fill: #1d2733 } .s { font-size: 11px; fill: #44525f }
.axis { stroke: #5b6875; fill: none } .grid { stroke: #d9dfe6; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #edf1f5 } .s { fill: #b9c4d0 } .axis { stroke: #a9b5c1 } .grid { stroke: #37424e }
}
"""


@dataclass(frozen=True)
class Curve:
    """A curve: for each place on the horizontal axis the value, and the bounds of its interval."""

    name: str
    color: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Panel:
    """Curves in one pair of axes."""

    title: str
    curves: Sequence[Curve]


def drawn(title: str, description: str, panels: Sequence[Panel], axes: tuple[str, str]) -> str:
    """Return an SVG with panels side by side, which share the scale of their vertical axes.

    Args:
        title: What is shown, for a reader who does not see it.
        description: What the curves say.
        panels: The panels.
        axes: The names of the horizontal and the vertical axis.
    """
    greatest = max(high for panel in panels for curve in panel.curves for *_, high in curve.points)
    step = _step(greatest)
    top = step * -(-greatest // step)
    right = max(curve.points[-1][0] for panel in panels for curve in panel.curves)
    width, height = _LEFT + len(panels) * (WIDTH + _GAP), _TOP + HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="t d" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<title id="t">{escape(title)}</title>',
        f'<desc id="d">{escape(description)}</desc>',
        f"<style>{_STYLE}</style>",
    ]
    names = {curve.name: curve.color for panel in panels for curve in panel.curves}
    for number, (name, color) in enumerate(names.items()):
        x = _LEFT + number * (width - _LEFT) // len(names)
        parts += [
            f'<path d="M{x} 12h18" stroke="{color}" stroke-width="3"/>',
            f'<text x="{x + 23}" y="16" class="s">{escape(name)}</text>',
        ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _LEFT + number * (WIDTH + _GAP), (right, top), step, has_scale=number == 0)
    parts.append(
        f'<text x="{width / 2:g}" y="{height - 6}" class="s" text-anchor="middle">{escape(axes[0])}</text>'
        f'<text class="s" text-anchor="middle" transform="translate(12 {_TOP + HEIGHT / 2:g}) rotate(-90)">'
        f"{escape(axes[1])}</text>"
    )
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, left: float, greatest: tuple[float, float], step: float, *, has_scale: bool) -> list[str]:
    """Return the parts of a panel."""

    def at(x: float, y: float) -> str:
        return f"{left + x / greatest[0] * WIDTH:.1f} {_TOP + HEIGHT - y / greatest[1] * HEIGHT:.1f}"

    parts = [f'<text x="{left + WIDTH / 2:g}" y="{_TOP - 8}" text-anchor="middle">{escape(panel.title)}</text>']
    for number in range(round(greatest[1] / step) + 1):
        value = number * step
        parts.append(f'<path class="grid" d="M{at(0, value)}h{WIDTH}"/>')
        if has_scale:
            place = _TOP + HEIGHT - value / greatest[1] * HEIGHT + 4
            parts.append(f'<text x="{left - 6}" y="{place:.1f}" class="s" text-anchor="end">{value:g}</text>')
    across = _step(greatest[0])
    for number in range(1, round(greatest[0] / across) + 1):
        place = left + number * across / greatest[0] * WIDTH
        label = f"{number * across:g}"
        parts.append(f'<text x="{place:.1f}" y="{_TOP + HEIGHT + 16}" class="s" text-anchor="middle">{label}</text>')
    for curve in panel.curves:
        upper = [at(x, high) for x, _, _, high in curve.points]
        lower = [at(x, low) for x, _, low, _ in reversed(curve.points)]
        line = [at(x, value) for x, value, _, _ in curve.points]
        parts += [
            f'<path d="M{"L".join([*upper, *lower])}z" fill="{curve.color}" fill-opacity="0.2"/>',
            f'<path d="M{"L".join(line)}" fill="none" stroke="{curve.color}" stroke-width="2"/>',
        ]
    parts.append(f'<path class="axis" d="M{at(0, greatest[1])}V{_TOP + HEIGHT}h{WIDTH}"/>')
    return parts


def _step(greatest: float) -> float:
    """Return the distance of about five marks."""
    size = 1.0
    while greatest / size > 8:
        size *= 2 if f"{size:g}"[0] == "1" else 2.5 if f"{size:g}"[0] == "2" else 2
    return size
