"""The statements that find places, or their episodes, by region and by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from memory_storage.repositories.episodes.sql import HEAD_ROW, STEP_ROW
from memory_storage.schema.rtree import FOREVER, beginning, ending, scaled
from memory_storage.sql.filters import Conditions
from memory_storage.sql.statement import SqlTemplate

from .sql import ROW

# Sorts before every stored time.
TIMELESS = -FOREVER - 1
"""The sort key of entries without a time: they come first."""

# Bisection steps of the search for a circle: they distinguish 2 ** 11 circles.
_HALVINGS = 11
# CROSS JOIN fixes the order of the loops: the R*Tree first, then the rows that it returns.
_EPISODE = "CROSS JOIN episodes AS e ON e.seq = p.episode_seq"
# The R*Tree stores 32-bit floats, rounded outwards, but not next to zero: boxes are widened by this.
_ROUNDING_DEGREES = "1e-9"
_IN_NAMESPACE = "r.min_key < :number AND r.max_key > :number"
_IN_TIME = "p.starts_at < :span_to AND p.until_at > :span_from"
_TREE_IN_TIME = f"r.min_at <= {beginning(':span_to')} AND r.max_at >= {ending(':span_from')}"
_SORT_TIME = f"coalesce(p.starts_at, {TIMELESS})"
# The same FROM clause is used with two circles: that of the search step, and the final one.
_CIRCLE_PLACEHOLDER = "(SELECT * FROM circle)"
# The square of the chord orders like the distance, and needs no square root or trigonometry.
_CHORD = "((p.x - :x) * (p.x - :x) + (p.y - :y) * (p.y - :y) + (p.z - :z) * (p.z - :z))"


@dataclass(frozen=True)
class Branch:
    """A FROM clause: `tables` joins `p`, an entry, and `e`, its episode; `before` has the CTEs that it reads."""

    tables: str
    conditions: Conditions
    key: str
    before: str = ""


@dataclass(frozen=True)
class PageRequest:
    """The columns to return, and the order of the keys."""

    filters: Conditions
    descending: bool  # the order of the result
    backwards: bool  # whether rows are read in the opposite order
    continued: bool  # whether it continues after a cursor
    finds_episodes: bool = False

    @property
    def reads_descending(self) -> bool:
        """Whether the greatest keys are read first."""
        return self.descending != self.backwards

    def after(self, key: str, seq: str) -> tuple[str, ...]:
        """The condition that continues after the cursor, if there is one."""
        return (
            (f"({key}, {seq}) {'<' if self.reads_descending else '>'} (:cursor_key, :cursor_seq)",)
            if self.continued
            else ()
        )

    def order(self) -> str:
        """The order of reading."""
        return "key DESC, seq DESC" if self.reads_descending else "key, seq"


# Corners are bound one by one: in JSON, the engine would misread some decimals.
_CORNERS = ("south", "north", "west", "east")


def corner_values(corners: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the values of the boxes, bound as numbers: in JSON, the engine would misread some decimals."""
    return {
        f"{name}_{number}": value
        for number, box in enumerate(corners)
        for name, value in zip(_CORNERS, box, strict=True)
    }


def _boxes(count: int) -> str:
    rows = (f"({', '.join(f':{name}_{number}' for name in _CORNERS)})" for number in range(count))
    return f"boxes ({', '.join(_CORNERS)}) AS MATERIALIZED (VALUES {', '.join(rows)}),"


# The R*Tree has rounded positions: it preselects, and the columns decide.
def in_boxes(count: int, *, in_time: bool) -> tuple[Branch, ...]:
    """Return the source of entries in one of `count` boxes. The R*Tree rounds positions, so the columns decide."""
    tables = f"""boxes AS b CROSS JOIN spatiotemporal_rtree AS r
        ON r.min_latitude <= b.north + {_ROUNDING_DEGREES} AND r.max_latitude >= b.south - {_ROUNDING_DEGREES}
        AND r.min_longitude <= b.east + {_ROUNDING_DEGREES} AND r.max_longitude >= b.west - {_ROUNDING_DEGREES}
        AND {_IN_NAMESPACE}{_and_if(_TREE_IN_TIME, in_time)}
    CROSS JOIN spatiotemporal_index AS p ON p.seq = r.seq {_EPISODE}"""
    exact = ("p.latitude BETWEEN b.south AND b.north", "p.longitude BETWEEN b.west AND b.east")
    return (Branch(tables, (*exact, *((_IN_TIME,) if in_time else ())), _SORT_TIME, _boxes(count)),)


def starting_in() -> tuple[Branch, ...]:
    """Return the source of entries that begin and end in the interval."""
    tables = f"spatiotemporal_index AS p {_EPISODE}"
    conditions = ("p.starts_at >= :span_from", "p.starts_at < :span_to", "p.until_at <= :span_to")
    return (Branch(tables, conditions, "p.starts_at"),)


# Two branches, each a range of an index: what starts in the interval, and what started before it and ends later.
def overlapping() -> tuple[Branch, ...]:
    """Return the source of entries that overlap the interval: they start in it, or earlier and end later."""
    begun = ("p.starts_at >= :span_from", "p.starts_at < :span_to")
    tables = f"""spatiotemporal_spans AS r CROSS JOIN spatiotemporal_index AS p ON p.seq = r.seq {_EPISODE}"""
    tree = f"{_IN_NAMESPACE} AND r.min_at <= {scaled(':span_from')} AND r.max_at >= {scaled(':span_from')}"
    return (
        Branch(f"spatiotemporal_index AS p {_EPISODE}", begun, "p.starts_at"),
        Branch(tables, (tree, "p.starts_at < :span_from", "p.until_at > :span_from"), "p.starts_at"),
    )


def owned_by(*, in_time: bool) -> tuple[Branch, ...]:
    """Return the source of the entries of one owner."""
    conditions = ("p.owner_type = :kind", "p.owner_id = :owner_id", *((_IN_TIME,) if in_time else ()))
    return (Branch("spatiotemporal_index AS p", conditions, _SORT_TIME),)


def of_trajectory() -> tuple[Branch, ...]:
    """Return the source of the entries of an episode and of its steps."""
    tables = """episodes AS e CROSS JOIN spatiotemporal_index AS p
        ON p.episode_seq = e.seq"""
    return (Branch(tables, ("e.namespace = :namespace", "e.id = :episode_id"), _SORT_TIME),)


# The page is cut before rows are read: documents of other candidates are never loaded.
@lru_cache(maxsize=256)
def ordered(branches: tuple[Branch, ...], request: PageRequest) -> SqlTemplate:
    """Return the statement of a page by time: rows of key, `seq` and columns, in any order."""
    if request.finds_episodes:
        matches = " UNION ALL ".join(
            f"SELECT p.episode_seq AS seq, {branch.key} AS at FROM {branch.tables} WHERE {_where(branch, request)}"
            for branch in branches
        )
        best = f"{'max' if request.descending else 'min'}(at)"
        page = f"SELECT seq, {best} AS key FROM ({matches}) GROUP BY seq{_having(request, best)}"
    else:
        page = " UNION ALL ".join(
            f"SELECT p.seq AS seq, {branch.key} AS key FROM {branch.tables}"
            f" WHERE {_where(branch, request, *request.after(branch.key, 'p.seq'))}"
            for branch in branches
        )
    before = "".join(branch.before for branch in branches)
    ctes = f"{before} page AS MATERIALIZED ({page} ORDER BY {request.order()} LIMIT :limit)"
    return SqlTemplate(f"WITH {ctes} {_select_rows(request)}")


@lru_cache(maxsize=256)
def around(request: PageRequest, *, in_time: bool) -> SqlTemplate:
    """Return the statement of a page by distance from a point: as `ordered`, with the nearest position of each.

    It bisects for the smallest circle with enough entries, and reads no entry outside of it. `levels` are circles;
    numbers between two levels are circles between them. Between two levels the box of a circle grows less than
    linearly, so the interpolated box is never too small.
    """
    inside = _candidates(request, in_time=in_time)
    select = "SELECT p.episode_seq AS seq, min" if request.finds_episodes else "SELECT p.seq AS seq, "
    grouped = (
        f" GROUP BY p.episode_seq{_having(request, f'min({_CHORD})', 'p.episode_seq')}"
        if request.finds_episodes
        else ""
    )
    reached = "(SELECT s FROM reach)"
    return SqlTemplate(f"""
WITH RECURSIVE levels (n, chord, height, width) AS MATERIALIZED (
    SELECT key, value ->> 0, value ->> 1, value ->> 2 FROM json_each(:levels)),
{_search(request, inside)},
page AS MATERIALIZED (
    {select}{_CHORD} AS key, p.latitude AS latitude, p.longitude AS longitude
    FROM {inside.replace(_CIRCLE_PLACEHOLDER, _circle(reached))}{grouped} ORDER BY {request.order()} LIMIT :limit)
{_select_rows(request, ", page.latitude, page.longitude")}""")


def _search(request: PageRequest, inside: str) -> str:
    if request.backwards:  # backwards from a cursor: everything nearer, the farthest first
        return "reach (s) AS (SELECT CAST(:last AS REAL))"
    low, high = "iif(enough, low, middle)", "iif(enough, middle, high)"
    middle = f"(({low} + {high}) / 2)"
    farthest = "CAST(:last AS REAL)"
    return f"""search (low, high, middle, enough, steps) AS (
    SELECT CAST(:low AS REAL), {farthest}, {farthest}, {_has_enough(request, inside, farthest)}, 0
    UNION ALL
    SELECT {low}, {high}, {middle}, {_has_enough(request, inside, middle)}, steps + 1
    FROM search WHERE steps < {_HALVINGS} AND (enough OR steps > 0)),
reach (s) AS MATERIALIZED (
    SELECT iif(enough OR steps = 0, middle, high) FROM search ORDER BY steps DESC LIMIT 1)"""


def _has_enough(request: PageRequest, inside: str, at: str) -> str:
    one, grouped = "1", ""
    if request.finds_episodes:
        one = "p.episode_seq"
        grouped = f" GROUP BY p.episode_seq{_having(request, f'min({_CHORD})', 'p.episode_seq')}"
        if not request.continued:
            one, grouped = "DISTINCT p.episode_seq", ""
    counted = f"SELECT {one} FROM {inside.replace(_CIRCLE_PLACEHOLDER, _circle(at))}{grouped} LIMIT :limit"
    return f"(SELECT count(*) FROM ({counted})) >= :limit"


def _circle(at: str) -> str:
    return f"""(SELECT a.chord + (b.chord - a.chord) * (at.s - at.n) AS chord,
        a.height + (b.height - a.height) * (at.s - at.n) AS height,
        iif(b.width >= 180, 180.0, a.width + (b.width - a.width) * (at.s - at.n)) AS width
    FROM (SELECT {at} AS s, min(CAST({at} AS INTEGER), :last - 1) AS n) AS at
    CROSS JOIN levels AS a ON +a.n = at.n CROSS JOIN levels AS b ON +b.n = at.n + 1)"""


def _candidates(request: PageRequest, *, in_time: bool) -> str:
    # The box of a circle may cross the antimeridian, so it is also searched shifted by 360 degrees west and east.
    turned = "SELECT 0.0 AS turn UNION ALL SELECT -360.0 UNION ALL SELECT 360.0"
    here = "(:longitude + turned.turn)"
    after = () if request.finds_episodes else request.after(_CHORD, "p.seq")
    conditions = ("p.namespace = :namespace", f"{_CHORD} <= c.chord * c.chord", *after, *request.filters)
    return f"""{_CIRCLE_PLACEHOLDER} AS c CROSS JOIN ({turned}) AS turned
        ON iif(c.width >= 180, turned.turn = 0, {here} - c.width <= 180 AND {here} + c.width >= -180)
    CROSS JOIN spatiotemporal_rtree AS r
        ON r.min_latitude <= :latitude + c.height + {_ROUNDING_DEGREES}
        AND r.max_latitude >= :latitude - c.height - {_ROUNDING_DEGREES}
        AND r.min_longitude <= iif(c.width >= 180, 180, {here} + c.width) + {_ROUNDING_DEGREES}
        AND r.max_longitude >= iif(c.width >= 180, -180, {here} - c.width) - {_ROUNDING_DEGREES}
        AND {_IN_NAMESPACE}{_and_if(_TREE_IN_TIME, in_time)}
    CROSS JOIN spatiotemporal_index AS p ON p.seq = r.seq {_EPISODE}
    WHERE {" AND ".join(conditions)}{_and_if(_IN_TIME, in_time)}"""


def _where(branch: Branch, request: PageRequest, *more: str) -> str:
    return " AND ".join(("p.namespace = :namespace", *branch.conditions, *more, *request.filters))


def _having(request: PageRequest, best: str, seq: str = "seq") -> str:
    after = request.after(best, seq)
    return f" HAVING {after[0]}" if after else ""


def _and_if(condition: str, is_given: bool) -> str:
    return f" AND {condition}" if is_given else ""


def _select_rows(request: PageRequest, more: str = "") -> str:
    if not request.finds_episodes:
        return f"""SELECT page.key, page.seq, {ROW}{more}
FROM page CROSS JOIN spatiotemporal_index AS p ON p.seq = page.seq"""
    return f"""SELECT page.key, page.seq, {HEAD_ROW}{more} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
UNION ALL
SELECT page.key, page.seq, {STEP_ROW}{more} FROM page CROSS JOIN episodes AS e ON e.seq = page.seq
    CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id"""
