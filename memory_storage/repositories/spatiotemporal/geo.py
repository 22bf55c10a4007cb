"""Spherical geometry: points, boxes and circles on the earth as numbers that SQL can compare."""

from __future__ import annotations

import math

from memory_storage.models import Box, Point

RADIUS_M = 6_371_009.0
"""The mean radius of the earth (IUGG), in metres."""

FARTHEST_M = math.pi * RADIUS_M
"""The distance of antipodes, in metres."""

_TINY_DEGREES = 1e-9  # 0.1 mm: more than rounding errors, so that no point on an edge is missed
_TINY_CHORD = 1e-14

Corners = tuple[float, float, float, float]
"""A box as south, north, west, east, in degrees. It does not cross the antimeridian."""

Circle = tuple[float, float, float]
"""A circle as the chord from its centre on the unit sphere, and half of its height and width in degrees."""


def on_sphere(latitude: float, longitude: float) -> tuple[float, float, float]:
    """Return the unit vector of a point: x, y, z."""
    up, around = math.radians(latitude), math.radians(longitude)
    return math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)


def distance_m(one: Point, latitude: float, longitude: float) -> float:
    """Return the great-circle distance in metres, accurate to 10 nanometres.

    The angle between unit vectors p and q is 2 atan2(|p - q|, |p + q|). It is as accurate for neighbours as for
    antipodes; the arcsine of the chord loses half of its digits near the antipode, the arccosine of p·q near 0.
    """
    p, q = on_sphere(one.latitude, one.longitude), on_sphere(latitude, longitude)
    antipode = (-q[0], -q[1], -q[2])
    return 2 * RADIUS_M * math.atan2(math.dist(p, q), math.dist(p, antipode))


def chord_of(metres: float) -> float:
    """Return the chord on the unit sphere of a great-circle distance in metres."""
    return 2 * math.sin(min(metres / RADIUS_M, math.pi) / 2)


def distance_of_chord(chord: float) -> float:
    """Return the great-circle distance in metres of a chord on the unit sphere. Inaccurate near the antipode: 0.2 m."""
    return 2 * math.asin(min(chord / 2, 1.0)) * RADIUS_M


def corners_of(box: Box) -> list[Corners]:
    """Split a box at the antimeridian and at the poles. Each point is in at most one of the parts."""
    south = math.nextafter(-90, 0) if box.south == -90 else box.south
    north = math.nextafter(90, 0) if box.north == 90 else box.north
    boxes = [(south, north, west, east) for west, east in _longitudes(box.west, box.east)] if south <= north else []
    poles = {latitude for latitude in (box.south, box.north) if abs(latitude) == 90}
    return boxes + [(pole, pole, -180.0, 180.0) for pole in sorted(poles)]  # every longitude is at a pole


def _longitudes(west: float, east: float) -> list[tuple[float, float]]:
    ranges = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    starts, ends = {start for start, _ in ranges}, {end for _, end in ranges}
    if -180.0 in starts and 180.0 not in ends:
        ranges.append((180.0, 180.0))  # the same meridian
    if 180.0 in ends and -180.0 not in starts:
        ranges.append((-180.0, -180.0))
    return ranges


def circles_around(latitude: float, radius_m: float) -> list[Circle]:
    """Return concentric circles: of radius 0, of about 1 m, then doubled until `radius_m`.

    Args:
        latitude: of the centre, in degrees.
        radius_m: the radius of the largest circle, in metres.
    """
    doublings = max(0, math.ceil(math.log2(radius_m))) if radius_m > 1 else 0
    radii = [0.0, *(radius_m / 2**number for number in range(doublings, -1, -1))]
    return [_circle(latitude, radius) for radius in radii]


def largest_circle_within(circles: list[Circle], chord: float) -> int:
    """Return the index of the largest circle whose radius is at most a chord."""
    return max(number for number, circle in enumerate(circles) if number == 0 or circle[0] <= chord)


def _circle(latitude: float, radius_m: float) -> Circle:
    angle = min(radius_m / RADIUS_M, math.pi)
    height = math.degrees(angle) + _TINY_DEGREES
    chord = chord_of(radius_m) + _TINY_CHORD
    if abs(latitude) + height >= 90:  # the circle contains a pole
        return chord, height, 180.0
    width = math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(latitude)))))
    # The width diverges towards the pole, so the margin for rounding is scaled with it.
    return chord, height, min(180.0, width + _TINY_DEGREES * (1 + 1 / math.cos(math.radians(abs(latitude) + height))))
