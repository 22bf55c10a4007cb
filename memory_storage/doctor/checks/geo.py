"""Checks of points on the sphere, which SQL cannot compute."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.doctor.findings import Finding, about_rows
from memory_storage.repositories.spatiotemporal.geo import on_sphere

_TABLE = "spatiotemporal_index"
_PAGE = 2_000
_POSITIONS = f"""SELECT seq, latitude, longitude, x, y, z FROM {_TABLE}
WHERE seq > ? AND (latitude IS NOT NULL OR x IS NOT NULL) ORDER BY seq LIMIT {_PAGE}"""
_MOVE = f"UPDATE {_TABLE} SET x = ?, y = ?, z = ? WHERE seq = ?"

_Point = tuple[float | None, float | None, float | None]


def misplaced(connection: Connection) -> list[Finding]:
    """Find entries whose point on the sphere differs from their position."""
    wrong = _wrong_points(connection)
    problem = "points on the sphere that differ from latitude and longitude"
    return about_rows("places.point", _TABLE, list(wrong), problem, "recompute them", partial(_move, points=wrong))


def _wrong_points(connection: Connection) -> dict[int, _Point]:
    wrong: dict[int, _Point] = {}
    last = -(2**63)
    while rows := connection.exec_driver_sql(_POSITIONS, (last,)).all():
        last = rows[-1][0]
        for seq, latitude, longitude, *point in rows:
            right = _point(latitude, longitude)
            if not _is_near(point, right):
                wrong[seq] = right
    return wrong


def _point(latitude: object, longitude: object) -> _Point:
    if not isinstance(latitude, float) or not isinstance(longitude, float):
        return None, None, None
    return on_sphere(latitude, longitude)


def _is_near(point: list[object], right: _Point) -> bool:
    return all(
        one == other if other is None else isinstance(one, float) and abs(one - other) < 1e-12
        for one, other in zip(point, right, strict=True)
    )


def _move(connection: Connection, *, points: dict[int, _Point]) -> None:
    connection.exec_driver_sql(Batch([BatchStep(_MOVE, (*point, seq)) for seq, point in points.items()]))
