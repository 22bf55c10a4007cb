"""Queries by region and by time, for spatiotemporal entries or for their episodes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Generic, TypeVar

from typing_extensions import Unpack

from memory_storage._formatting import with_article
from memory_storage.errors import ValidationError
from memory_storage.models import Box, Direction, EpisodeFilter, EpisodeFilters, Interval, Nearby, Page, Point
from memory_storage.monitoring import operation
from memory_storage.schema.rtree import FOREVER, number
from memory_storage.sql.filters import Conditions, Shape, conditions
from memory_storage.sql.paging import Cursor, check_limit, is_descending, page, parse_cursor
from memory_storage.sql.session import Repository, Row
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import check_k, checked_moment

from . import spatial_sql as sql
from .geo import FARTHEST_M, circles_around, corners_of, distance_m, distance_of_chord, largest_circle_within, on_sphere

T = TypeVar("T")
M = TypeVar("M", Box, Interval, Point)

_ROUNDING_M = 1.0  # more than two ways to compute a distance differ, at the far end of the earth too
_OF_EPISODE = Shape("e.", by_row=True)


class SpatialQueries(Repository, Generic[T]):
    """The queries that entries and episodes have in common."""

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
        """Return a page of the entries in a box, by time; entries without a time are ordered before all others.

        The box may cross the antimeridian and touch the poles; see `Box`. The cost grows with the number of entries in
        the box, not with the number of all.

        Args:
            box: The box.
            between: Only entries that overlap this interval.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "newest_first" or "oldest_first".
            **filters: The filters of `episodes.query`; they apply to the episode that owns the entry, or whose step
                owns it.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        corners = corners_of(_revalidated(Box, box, "box"))
        values = {**sql.corner_values(corners), **interval_values(between)}
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
        """Return a page of the entries within a radius of a point, the nearest first.

        Distances are metres along great circles. Distances that differ by less than rounding (a nanometre; a decimetre
        at the antipode) may be in any order.

        Args:
            point: The centre.
            radius_m: The radius in metres.
            between: Only entries that overlap this interval.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            **filters: The filters of `episodes.query`.

        Returns:
            The page; each item has its distance in metres.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        centre, farthest = _revalidated(Point, point, "point"), _check_radius(radius_m)
        size, place = check_limit(limit, self._session.limits), parse_cursor(cursor)
        rows = self._around(centre, farthest, size + 1, place, between, filters)
        read = self._in_order(rows, descending=place is not None and place.backwards)
        nearby = self._nearby(centre, read, rows)
        # SQL searches slightly beyond the radius: rounding must not lose an entry on the edge.
        inside = [(near, _position(row)) for near, row in zip(nearby, read, strict=True) if near.distance_m <= radius_m]
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
        """Return the `k` entries nearest to a point, the nearest first, or all if there are fewer. See `near`.

        Args:
            point: The centre.
            k: The number of entries, from 1 to 1,000.
            between: Only entries that overlap this interval.
            **filters: The filters of `episodes.query`.

        Returns:
            The entries, with their distances in metres.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        centre = _revalidated(Point, point, "point")
        rows = self._around(centre, FARTHEST_M, check_k(k), None, between, filters)
        nearby = self._nearby(centre, self._in_order(rows, descending=False), rows)
        return sorted(nearby, key=lambda near: near.distance_m)

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
        """Return a page of the entries that begin and end within an interval.

        Args:
            interval: The interval, half-open.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "newest_first" or "oldest_first".
            **filters: The filters of `episodes.query`.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        values = interval_values(interval, "interval")
        return self._by_time(sql.starting_in(), values, limit, cursor, direction, filters)

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
        """Return a page of the entries that overlap an interval.

        Args:
            interval: The interval, half-open.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "newest_first" or "oldest_first".
            **filters: The filters of `episodes.query`.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        values = interval_values(interval, "interval")
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
        """Return a page of the entries that are valid at a time: they have begun and have not ended.

        Args:
            moment: An aware datetime.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "newest_first" or "oldest_first".
            **filters: The filters of `episodes.query`.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        at = to_micros(checked_moment("moment", moment))
        values = {"span_from": at, "span_to": at + 1}
        return self._by_time(sql.overlapping(), values, limit, cursor, direction, filters)

    _finds_episodes: bool

    @abstractmethod
    def _by_seq(self, rows: Sequence[Row]) -> dict[int, T]:
        """Decode rows that begin with a key and `seq`."""

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
        request, more = self._page_request(filters, place, descending=is_descending(direction))
        statement = sql.ordered(branches, request)
        rows = self._session.read(statement.bind(limit=size + 1, **values, **more))
        items, read = self._by_seq(rows), self._in_order(rows, descending=request.reads_descending)
        return page([items[row[1]] for row in read[:size]], [_position(row) for row in read], size, place)

    def _around(
        self,
        centre: Point,
        radius_m: float,
        limit: int,
        place: Cursor | None,
        between: Interval | None,
        filters: EpisodeFilters,
    ) -> Sequence[Row]:
        request, more = self._page_request(filters, place, descending=False)
        chord = math.sqrt(max(place.position[0], 0)) if place else 0.0
        if request.backwards:
            radius_m = min(radius_m, distance_of_chord(chord) + _ROUNDING_M)
        # They are sent as JSON, of which the engine reads some numbers as their neighbours: circles have a margin.
        circles = circles_around(centre.latitude, radius_m)
        x, y, z = on_sphere(centre.latitude, centre.longitude)
        # What is nearer was on earlier pages: the search for a circle with enough begins at the cursor.
        low = min(largest_circle_within(circles, chord), len(circles) - 1) if place else 0
        statement = sql.around(request, in_time=between is not None)
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
                **{"limit": limit, **interval_values(between), **more},
            )
        )

    def _page_request(
        self, filters: EpisodeFilters | None, place: Cursor | None, *, descending: bool
    ) -> tuple[sql.PageRequest, dict[str, Any]]:
        where: Conditions = ()
        values: dict[str, Any] = {"namespace": self._session.namespace, "number": number(self._session.namespace)}
        if filters is not None:
            where, more = conditions(
                EpisodeFilter(**filters), "episode", _OF_EPISODE, has_recent=self._session.has_recent_words
            )
            values |= more
        if place is not None:
            values |= {"cursor_key": place.position[0], "cursor_seq": place.position[1]}
        backwards = place is not None and place.backwards
        return sql.PageRequest(where, descending, backwards, place is not None, self._finds_episodes), values

    def _in_order(self, rows: Sequence[Row], *, descending: bool) -> list[Row]:
        """Return one row of each result, in the order in which they were read."""
        # An episode has a row more for each of its steps; all have the same key.
        return sorted({row[1]: row for row in rows}.values(), key=itemgetter(0, 1), reverse=descending)

    def _nearby(self, centre: Point, read: Sequence[Row], rows: Sequence[Row]) -> list[Nearby[T]]:
        items = self._by_seq(rows)
        return [Nearby(items[row[1]], distance_m(centre, row[-2], row[-1])) for row in read]


def _position(row: Row) -> tuple[Any, int]:
    return row[0], row[1]


def interval_values(interval: Interval | None, field: str = "between") -> dict[str, int]:
    """Return the SQL values of an interval; none if there is no interval."""
    if interval is None and field == "between":
        return {}
    checked = _revalidated(Interval, interval, field)
    since, until = checked.starts_at, checked.ends_at
    return {
        "span_from": -FOREVER if since is None else to_micros(since),
        "span_to": FOREVER if until is None else to_micros(until),
    }


def _revalidated(kind: type[M], model: object, field: str) -> M:
    """Return the model, validated again: pydantic allows changes without validation."""
    if type(model) is not kind:
        raise ValidationError(field, f"must be {with_article(kind.__name__)}", model)
    try:
        return kind(**{name: getattr(model, name) for name in kind.model_fields})
    except (ValidationError, AttributeError) as error:
        inner = error if isinstance(error, ValidationError) else ValidationError("", "is incomplete", model)
        raise ValidationError(".".join(filter(None, [field, inner.field])), inner.limit, inner.value) from error


def _check_radius(metres: float) -> float:
    is_number = isinstance(metres, int | float) and not isinstance(metres, bool)
    if not is_number or not 0 <= metres < math.inf:
        raise ValidationError("radius_m", "a finite number of metres, 0 or more", metres)
    return float(metres) if metres < FARTHEST_M else FARTHEST_M
