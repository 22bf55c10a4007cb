"""The map of a report. The outlines of the land are a file of this package: no tiles, no network.

`land.json` is Natural Earth's (public domain), at 1:110 million, as TopoJSON by world-atlas 2.0.2; see `land.LICENSE`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

from .collection import Report
from .svg import BY_OUTCOME, Spec, outcome_kind

_MIN_DEGREES = 12.0
_WORLD_DEGREES = 120.0
_FAR_NORTH = 80.0
_ASPECT_RATIO = 0.56


def map_chart(report: Report) -> Callable[[int], Spec] | None:
    """Return a map with a dot for each place, of the world or of the region that contains all places."""
    if not report.places:
        return None
    rows = [
        {
            "latitude": place.entry.latitude,
            "longitude": place.entry.longitude,
            "outcome": outcome_kind(place.outcome),
            "label": f"{place.entry.place_name or 'a place'}: {place.outcome or 'of a step'}",
        }
        for place in report.places
    ]
    bounds = _bounds([(place.entry.longitude or 0.0, place.entry.latitude or 0.0) for place in report.places])
    return lambda width: _world_map(rows, bounds, width)


def _world_map(rows: list[dict[str, Any]], bounds: tuple[float, float, float] | None, width: int) -> Spec:
    height = round(width * _ASPECT_RATIO)
    step = 30 if bounds is None else 10 if bounds[2] > 50 else 5 if bounds[2] > 25 else 2
    return {
        "width": width,
        "height": height,
        "autosize": "pad",
        "projection": _projection(bounds, width, height),
        "layer": [
            {"data": {"sphere": True}, "mark": {"type": "geoshape", "fill": "var(--sea)"}},
            {
                "data": {"values": _land(), "format": {"type": "topojson", "feature": "land"}},
                "mark": {"type": "geoshape", "fill": "var(--land)", "stroke": "var(--coast)", "strokeWidth": 0.5},
            },
            {
                "data": {"graticule": {"step": [step, step]}},
                "mark": {"type": "geoshape", "stroke": "var(--line)", "strokeWidth": 0.5, "filled": False},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.85},
                "encoding": {
                    "longitude": {"field": "longitude", "type": "quantitative"},
                    "latitude": {"field": "latitude", "type": "quantitative"},
                    **BY_OUTCOME,
                    "description": {"field": "label"},
                },
            },
        ],
    }


def _bounds(places: list[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Return the centre of the places and the degrees of longitude to show, or None for the whole world."""
    longitudes, ups = [place[0] for place in places], [_mercator_degrees(place[1]) for place in places]
    across, up = max(longitudes) - min(longitudes), max(ups) - min(ups)
    degrees = max(across * 1.25, up * 1.25 / _ASPECT_RATIO, _MIN_DEGREES)
    if degrees > _WORLD_DEGREES or max(abs(place[1]) for place in places) > _FAR_NORTH:
        return None
    return (max(longitudes) + min(longitudes)) / 2, (max(ups) + min(ups)) / 2, degrees


def _mercator_degrees(latitude: float) -> float:
    """Return the height of a latitude on a Mercator map, in degrees of longitude; latitudes are clipped at 80."""
    bounded = math.radians(max(-_FAR_NORTH, min(_FAR_NORTH, latitude)))
    return math.degrees(math.asinh(math.tan(bounded)))


def _projection(bounds: tuple[float, float, float] | None, width: int, height: int) -> Spec:
    if bounds is None:
        return {"type": "equalEarth"}
    longitude, up, degrees = bounds
    return {
        "type": "mercator",
        "center": [longitude, math.degrees(math.atan(math.sinh(math.radians(up))))],
        "scale": width / math.radians(degrees),
        "translate": [width / 2, height / 2],
        "clipExtent": [[0, 0], [width, height]],
    }


@lru_cache(maxsize=1)
def _land() -> Any:
    return json.loads(files(__package__).joinpath("land.json").read_text(encoding="utf-8"))
