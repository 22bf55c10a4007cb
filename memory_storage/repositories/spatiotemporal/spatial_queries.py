"""Finding by region and by time, for whatever is found: places, or their episodes. Writes nothing."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Generic, TypeVar

from typing_extensions import Unpack

from memory_storage.errors import ValidationError
from memory_storage.models import Box, Direction, EpisodeFilter, EpisodeFilters, Interval, Nearby, Page, Point
from memory_storage.monitoring import operation
from memory_storage.schema.rtree import FOREVER, number
from memory_storage.sql.arguments import checked_moment
from memory_storage.sql.documents import to_micros
from memory_storage.sql.filters import Conditions, Shape, conditions
from memory_storage.sql.paging import Cursor, check_limit, is_descending, page, parse_cursor
from memory_storage.sql.session import Repository, Row

from . import spatial_sql as sql
from .geo import FARTHEST_M, corners_of, distance_m, level_within, levels, metres_of, on_sphere

T = TypeVar("T")
M = TypeVar("M", Box, Interval, Point)

MAX_K = 1_000
_ROUNDING_M = 1.0  # more than two ways to compute a distance differ, at the far end of the earth too
_OF_EPISODE = Shape("e.", by_row=True)


class FindsByRegion(Repository, Generic[T]):
    """What both kinds of answers have in common."""

    @operation
    def within(
        self,
        box: Box,
        *,
        between: Interval | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        **filters: Unpack[EpisodeFilters],
    ) -> Page[T]:
        """A page of what is in a box, by time; what has no moment comes as if before all others.

        `between`: only what overlaps this interval. `limit` and `cursor` are those of `episodes.query`, and so are the
        filters: they must hold for the episode that the place is of, or whose step. The box may cross the antimeridian
        and touch the poles (see `Box`). The work grows with what is in the box, not with what is stored.

        Raises:
            ValidationError: the box, the interval, a filter, the limit, the cursor or the direction cannot be.
        """
        corners = corners_of(_checked(Box, box, "box"))
        values = {**sql.corner_values(corners), **times_of(between)}
        branches = sql.in_boxes(len(corners), in_time=between is not None)
        return self._by_time(branches, values, limit, cursor, direction, filters)

    @operation
    def near(
        self,
        point: Point,
        radius_m: float,
        *,
        between: Interval | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        **filters: Unpack[EpisodeFilters],
    ) -> Page[Nearby[T]]:
        """A page of what is at most `radius_m` metres from a point, the nearest first, with the distances in metres.

        Distances are along great circles. Where two of them differ by less than rounding (a nanometre; at the far
        side of the earth a decimetre), their order may be any. The rest is as in `within`.

        Raises:
            ValidationError: the point, the radius, or what `within` refuses.
        """
        centre, farthest = _checked(Point, point, "point"), _checked_radius(radius_m)
        size, place = check_limit(limit, self._session.limits), parse_cursor(cursor)
        rows = self._around(centre, farthest, size + 1, place, between, filters)
        read = self._in_order(rows, down=place is not None and place.backwards)
        found = self._nearby(centre, read, rows)
        # SQL looks a hair further than it must.
        inside = [(near, _place(row)) for near, row in zip(found, read, strict=True) if near.distance_m <= radius_m]
        return page([near for near, _ in inside[:size]], [where for _, where in inside], size, place)

    @operation
    def nearest(
        self,
        point: Point,
        k: int = 10,
        *,
        between: Interval | None = None,
        **filters: Unpack[EpisodeFilters],
    ) -> list[Nearby[T]]:
        """The `k` nearest to a point (1 to 1,000), the nearest first, or as many as there are. See `near`.

        Raises:
            ValidationError: the point, `k`, the interval or a filter cannot be.
        """
        centre = _checked(Point, point, "point")
        rows = self._around(centre, FARTHEST_M, checked_k(k), None, between, filters)
        found = self._nearby(centre, self._in_order(rows, down=False), rows)
        return sorted(found, key=lambda near: near.distance_m)

    @operation
    def during(
        self,
        interval: Interval,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        **filters: Unpack[EpisodeFilters],
    ) -> Page[T]:
        """A page of what began and ended within an interval, or was a moment in it. See `within` for the rest."""
        values = times_of(interval, "interval")
        return self._by_time(sql.beginning_in(), values, limit, cursor, direction, filters)

    @operation
    def overlapping(
        self,
        interval: Interval,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        **filters: Unpack[EpisodeFilters],
    ) -> Page[T]:
        """A page of what has any moment in common with an interval. See `within` for the rest."""
        values = times_of(interval, "interval")
        return self._by_time(sql.overlapping(), values, limit, cursor, direction, filters)

    @operation
    def as_of(
        self,
        moment: datetime,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "newest_first",
        **filters: Unpack[EpisodeFilters],
    ) -> Page[T]:
        """A page of what was going on at a moment: it had begun, and had not ended. See `within` for the rest."""
        at = to_micros(checked_moment("moment", moment))
        values = {"span_from": at, "span_to": at + 1}
        return self._by_time(sql.overlapping(), values, limit, cursor, direction, filters)

    _of_episodes: bool

    @abstractmethod
    def _by_seq(self, rows: Sequence[Row]) -> dict[int, T]:
        """What is in rows that begin with a key and `seq`."""

    def _by_time(
        self,
        branches: tuple[sql.Branch, ...],
        values: dict[str, Any],
        limit: int | None,
        cursor: str | None,
        direction: Direction,
        filters: EpisodeFilters | None,
    ) -> Page[T]:
        size, place = check_limit(limit, self._session.limits), parse_cursor(cursor)
        asked, more = self._asked(filters, place, descending=is_descending(direction))
        statement = sql.ordered(branches, asked)
        rows = self._session.read(statement.bind(limit=size + 1, **values, **more))
        items, read = self._by_seq(rows), self._in_order(rows, down=asked.down)
        return page([items[row[1]] for row in read[:size]], [_place(row) for row in read], size, place)

    def _around(
        self,
        centre: Point,
        radius_m: float,
        limit: int,
        place: Cursor | None,
        between: Interval | None,
        filters: EpisodeFilters,
    ) -> Sequence[Row]:
        asked, more = self._asked(filters, place, descending=False)
        chord = math.sqrt(max(place.place[0], 0)) if place else 0.0
        if asked.backwards:
            radius_m = min(radius_m, metres_of(chord) + _ROUNDING_M)
        circles = levels(centre.latitude, radius_m)
        x, y, z = on_sphere(centre.latitude, centre.longitude)
        low = min(level_within(circles, chord), len(circles) - 1) if place else 0
        statement = sql.around(asked, in_time=between is not None)
        return self._session.read(
            statement.bind(
                levels=str([list(level) for level in circles]),
                low=low,
                last=len(circles) - 1,
                latitude=centre.latitude,
                longitude=centre.longitude,
                x=x,
                y=y,
                z=z,
                **{"limit": limit, **times_of(between), **more},
            )
        )

    def _asked(
        self, filters: EpisodeFilters | None, place: Cursor | None, *, descending: bool
    ) -> tuple[sql.Asked, dict[str, Any]]:
        where: Conditions = ()
        values: dict[str, Any] = {"namespace": self._session.namespace, "number": number(self._session.namespace)}
        if filters is not None:
            where, more = conditions(EpisodeFilter(**filters), "episode", _OF_EPISODE)
            values |= more
        if place is not None:
            values |= {"place_key": place.place[0], "place_seq": place.place[1]}
        backwards = place is not None and place.backwards
        return sql.Asked(where, descending, backwards, place is not None, self._of_episodes), values

    def _in_order(self, rows: Sequence[Row], *, down: bool) -> list[Row]:
        """One row of each that was found, in the order in which they were read."""
        return sorted({row[1]: row for row in rows}.values(), key=itemgetter(0, 1), reverse=down)

    def _nearby(self, centre: Point, read: Sequence[Row], rows: Sequence[Row]) -> list[Nearby[T]]:
        items = self._by_seq(rows)
        return [Nearby(items[row[1]], _metres(centre, row)) for row in read]


def checked_k(k: int) -> int:
    """How many are wanted; ValidationError if that cannot be."""
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise ValidationError("k", f"a whole number from 1 to {MAX_K:,}", k)
    return k


def _place(row: Row) -> tuple[Any, int]:
    return row[0], row[1]


def _metres(centre: Point, row: Row) -> float:
    return distance_m(centre, row[-2], row[-1])


def times_of(interval: Interval | None, field: str = "between") -> dict[str, int]:
    """The values that an interval is in SQL; none if it is not asked for."""
    if interval is None and field == "between":
        return {}
    checked = _checked(Interval, interval, field)
    since, until = checked.starts_at, checked.ends_at
    return {
        "span_from": -FOREVER if since is None else to_micros(since),
        "span_to": FOREVER if until is None else to_micros(until),
    }


def _checked(kind: type[M], given: object, field: str) -> M:
    """What was given, validated once more: a model can be made or changed past its validation."""
    if type(given) is not kind:
        raise ValidationError(field, f"must be a {kind.__name__}", given)
    try:
        return kind(**{name: getattr(given, name) for name in kind.model_fields})
    except (ValidationError, AttributeError) as error:
        inner = error if isinstance(error, ValidationError) else ValidationError("", "is not whole", given)
        raise ValidationError(".".join(filter(None, [field, inner.field])), inner.limit, inner.value) from error


def _checked_radius(metres: float) -> float:
    is_number = isinstance(metres, int | float) and not isinstance(metres, bool)
    if not is_number or not 0 <= metres < math.inf:
        raise ValidationError("radius_m", "a finite number of metres, not below 0", metres)
    return float(metres) if metres < FARTHEST_M else FARTHEST_M
