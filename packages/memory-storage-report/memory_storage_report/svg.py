"""Renders chart specifications to static SVG, by Vega-Lite.

Colours are CSS variables of the page, so that one picture serves light and dark mode. The ARIA label of a mark becomes
its <title>, a tooltip; the picture has one label as a whole, because its numbers are in the table next to it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

Spec = dict[str, Any]

_SVG = "http://www.w3.org/2000/svg"
_REMOVED_ATTRIBUTES = ("role", "aria-roledescription", "aria-label", "aria-hidden", "font-family")
_CONFIG: Spec = {
    "background": "transparent",
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": 2,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": "var(--line)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": 220,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "orient": "top",
        "title": None,
        "symbolStrokeWidth": 2,
    },
    "text": {"fill": "var(--ink)", "fontSize": 12},
}


_OUTCOME_KINDS = ["success", "failure", "other"]
BY_OUTCOME: Spec = {
    "color": {
        "field": "outcome",
        "scale": {"domain": _OUTCOME_KINDS, "range": ["var(--good)", "var(--bad)", "var(--other)"]},
    },
    "shape": {"field": "outcome", "scale": {"domain": _OUTCOME_KINDS, "range": ["circle", "cross", "triangle-up"]}},
}
"""A colour and a shape for each kind of outcome, for readers who cannot distinguish the colours."""


def outcome_kind(outcome: str) -> str:
    """Return the outcome if it has a colour and a shape, else "other"."""
    return outcome if outcome in _OUTCOME_KINDS else "other"


# XML does not allow these. Vega's text measurement aborts the process when it meets one, so they are replaced.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MAX_TEXT = 300


def clean(text: str) -> str:
    """Return the text with U+FFFD for each character that XML does not allow."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _clean_values(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value[:_MAX_TEXT])
    if isinstance(value, dict):
        return {key: _clean_values(inner) for key, inner in value.items()}
    return [_clean_values(inner) for inner in value] if isinstance(value, list) else value


def render_svg(spec: Spec, description: str) -> str:
    """Return the chart as an <svg> element.

    Args:
        spec: the chart, in Vega-Lite.
        description: the text alternative, for screen readers.
    """
    import vl_convert  # 84 MB with its JavaScript engine: loaded by the first chart

    svg: str = vl_convert.vegalite_to_svg(_clean_values({"config": _CONFIG, **spec}))
    return _simplified(svg, description)


def _simplified(svg: str, description: str) -> str:
    ET.register_namespace("", _SVG)
    # The input is Vega's own output, and ElementTree expands only entities that a document defines.
    root = ET.fromstring(svg)  # noqa: S314
    for element in root.iter():
        label = element.get("aria-label", "")
        for name in _REMOVED_ATTRIBUTES:
            element.attrib.pop(name, None)
        if label and element.tag in {f"{{{_SVG}}}path", f"{{{_SVG}}}text"}:
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = label
            element.insert(0, title)
    root.set("role", "img")
    root.set("aria-label", clean(description))
    return ET.tostring(root, encoding="unicode")
