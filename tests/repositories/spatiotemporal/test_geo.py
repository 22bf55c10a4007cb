"""Great-circle distances, compared with Vincenty's formula for a sphere."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.repositories.spatiotemporal.geo import FARTHEST_M, RADIUS_M, distance_m

latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
offsets = st.floats(-1, 1) | st.floats(-1e-9, 1e-9)


def vincenty_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Well conditioned for all pairs of points, by latitudes and longitudes instead of vectors."""
    up, other_up, across = math.radians(one[0]), math.radians(other[0]), math.radians(other[1] - one[1])
    towards_east = math.cos(other_up) * math.sin(across)
    towards_north = math.cos(up) * math.sin(other_up) - math.sin(up) * math.cos(other_up) * math.cos(across)
    along = math.sin(up) * math.sin(other_up) + math.cos(up) * math.cos(other_up) * math.cos(across)
    return RADIUS_M * math.atan2(math.hypot(towards_east, towards_north), along)


def _distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    return distance_m(ms.Point(latitude=one[0], longitude=one[1]), *other)


@example(one=(0.0, 180.0), other=(0.0, -180.0))
@example(one=(90.0, 0.0), other=(-90.0, 77.0))
@given(one=st.tuples(latitudes, longitudes), other=st.tuples(latitudes, longitudes))
def test_distances_are_those_of_vincenty(one, other):
    assert _distance_m(one, other) == pytest.approx(vincenty_m(one, other), abs=2e-8, rel=0)


@pytest.mark.parametrize("antipodal", [False, True])
@given(one=st.tuples(latitudes, longitudes), up=offsets, across=offsets)
def test_distances_of_neighbours_and_antipodes_are_exact_too(antipodal, one, up, across):
    other = max(-90.0, min(90.0, one[0] + up)), max(-180.0, min(180.0, one[1] + across))
    if antipodal:
        other = -other[0], other[1] - math.copysign(180.0, other[1])
    assert _distance_m(one, other) == pytest.approx(vincenty_m(one, other), abs=2e-8, rel=0)


def test_a_point_is_nearest_and_its_antipode_farthest():
    assert _distance_m((52.52, 13.4), (52.52, 13.4)) == 0
    assert _distance_m((52.52, 13.4), (-52.52, -166.6)) == pytest.approx(FARTHEST_M, abs=2e-8)
    assert _distance_m((52.52, 13.4), (48.8566, 2.3522)) == pytest.approx(877_153.766, abs=1e-3)
