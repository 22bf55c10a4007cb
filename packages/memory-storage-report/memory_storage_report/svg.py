"""A chart's specification becomes a picture: SVG by Vega-Lite, without a script. Knows no figures.

Colours are CSS variables of the page, so that one picture is right in light and in dark. What Vega says of a mark to
screen readers becomes its title, which shows under the pointer: as a whole a picture has one sentence, and its numbers
are in the table beside it.
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
"""A colour and a shape for each kind of outcome: who cannot tell the colours can tell the shapes."""


def outcome_kind(outcome: str) -> str:
    """One of the kinds that have a colour and a shape."""
    return outcome if outcome in _OUTCOME_KINDS else "other"


# XML has no place for these. Vega's text measure aborts the whole process when it meets one, so none may reach it.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MAX_TEXT = 300


def clean(text: str) -> str:
    """The text with a replacement for every character that a page cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _clean_values(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value[:_MAX_TEXT])
    if isinstance(value, dict):
        return {key: _clean_values(inner) for key, inner in value.items()}
    return [_clean_values(inner) for inner in value] if isinstance(value, list) else value


def render_svg(spec: Spec, description: str) -> str:
    """The chart as an <svg> element; `description` replaces it for readers who do not see it."""
    import vl_convert  # 84 MB with its JavaScript engine: loaded with the first chart

    svg: str = vl_convert.vegalite_to_svg(_clean_values({"config": _CONFIG, **spec}))
    return _simplified(svg, description)


def _simplified(svg: str, description: str) -> str:
    ET.register_namespace("", _SVG)
    # It is Vega's own output, and ElementTree expands no entity that a document does not define.
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
