"""Points, boxes and circles on the earth as numbers that SQL can compare. Knows no SQL."""

from __future__ import annotations

import math

from memory_storage.models import Box, Point

RADIUS_M = 6_371_009.0
"""The mean radius of the earth (IUGG), in metres."""

FARTHEST_M = math.pi * RADIUS_M

_TINY_DEGREES = 1e-9  # a tenth of a millimetre: more than rounding moves an edge
_TINY_CHORD = 1e-14

Corners = tuple[float, float, float, float]
"""South, north, west, east, in degrees; it does not cross the antimeridian."""

Circle = tuple[float, float, float]
"""A circle: its chord (from its centre, on the sphere of radius 1), half its height, half its width, in degrees."""


def on_sphere(latitude: float, longitude: float) -> tuple[float, float, float]:
    """The point on a sphere of radius 1."""
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
    """The straight way, on a sphere of radius 1, to what is so far along its surface."""
    return 2 * math.sin(min(metres / RADIUS_M, math.pi) / 2)


def distance_of_chord(chord: float) -> float:
    """How far along the surface the end of a chord is."""
    return 2 * math.asin(min(chord / 2, 1.0)) * RADIUS_M


def corners_of(box: Box) -> list[Corners]:
    """The boxes that a box is made of. No point is in two of them."""
    south = math.nextafter(-90, 0) if box.south == -90 else box.south
    north = math.nextafter(90, 0) if box.north == 90 else box.north
    boxes = [(south, north, west, east) for west, east in _longitudes(box.west, box.east)] if south <= north else []
    poles = {latitude for latitude in (box.south, box.north) if abs(latitude) == 90}
    return boxes + [(pole, pole, -180.0, 180.0) for pole in sorted(poles)]  # a pole has all longitudes


def _longitudes(west: float, east: float) -> list[tuple[float, float]]:
    ranges = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    starts, ends = {start for start, _ in ranges}, {end for _, end in ranges}
    if -180.0 in starts and 180.0 not in ends:
        ranges.append((180.0, 180.0))  # the same meridian
    if 180.0 in ends and -180.0 not in starts:
        ranges.append((-180.0, -180.0))
    return ranges


def circles_around(latitude: float, radius_m: float) -> list[Circle]:
    """Circles round a point: a dot, one of about a metre, then each of twice the radius, up to `radius_m`."""
    doublings = max(0, math.ceil(math.log2(radius_m))) if radius_m > 1 else 0
    radii = [0.0, *(radius_m / 2**number for number in range(doublings, -1, -1))]
    return [_circle(latitude, radius) for radius in radii]


def largest_circle_within(circles: list[Circle], chord: float) -> int:
    """The greatest of the circles that is not greater than the one of a chord."""
    return max(number for number, circle in enumerate(circles) if number == 0 or circle[0] <= chord)


def _circle(latitude: float, radius_m: float) -> Circle:
    angle = min(radius_m / RADIUS_M, math.pi)
    height = math.degrees(angle) + _TINY_DEGREES
    chord = chord_of(radius_m) + _TINY_CHORD
    if abs(latitude) + height >= 90:  # a pole is in it
        return chord, height, 180.0
    width = math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(latitude)))))
    # Near a pole the width grows without bound: as much too wide as too high.
    return chord, height, min(180.0, width + _TINY_DEGREES * (1 + 1 / math.cos(math.radians(abs(latitude) + height))))
