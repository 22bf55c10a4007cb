"""Keyset paging: a cursor is the position of the last row of a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from memory_storage.errors import ValidationError
from memory_storage.models import Page
from memory_storage.settings import Limits

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R", bound=Sequence[Any])

ITERATE_PAGE = 100
"""Rows that an iterator reads in one round trip."""

PAGE_BYTES = 4_000_000
"""Bytes after which a page of an iterator ends, whatever the number of its rows; one row may have more."""

Position = tuple[Any, int]
"""The position of a row in the order: its sort key and its `seq`."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Continue after `position`, or, with `backwards`, before it."""

    position: Position
    backwards: bool = False

    def __str__(self) -> str:
        # Letters, digits, - and _ only: a cursor travels in URLs.
        text = json.dumps([*self.position, int(self.backwards)], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(text: str | None) -> Cursor | None:
    """Parse `str(cursor)`; None stays None; ValidationError for anything else."""
    if text is None:
        return None
    # validate=True: else foreign characters are skipped, and a mangled cursor continues somewhere.
    try:
        key, seq, backwards = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if not (_is_number(key) and type(seq) is int and _is_number(seq) and backwards in {0, 1}):
            raise ValueError("not a position")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValidationError("cursor", "must be the next_cursor or previous_cursor of a page", text) from error
    return Cursor((key, seq), bool(backwards))


def _is_number(value: object) -> bool:
    # SQLite's integers have 64 bits; NaN fails each comparison.
    return type(value) in {int, float} and -(2**63) <= value < 2**63  # type: ignore[operator]


def check_limit(limit: int | None, limits: Limits) -> int:
    """Return the number of rows of a page; ValidationError if `limit` is out of range."""
    if limit is None:
        return min(limits.query_default, limits.query_maximum)
    if type(limit) is not int or not 1 <= limit <= limits.query_maximum:
        allowed = f"a whole number from 1 to {limits.query_maximum:,}"
        raise ValidationError("limit", allowed, limit, setting="limits.query_maximum")
    return limit


def is_descending(direction: str) -> bool:
    """Return whether the newest rows come first; ValidationError for an unknown direction."""
    if direction not in ("newest_first", "oldest_first"):
        raise ValidationError("direction", "must be 'newest_first' or 'oldest_first'", direction)
    return direction == "newest_first"


def order_and_condition(
    key: str, cursor: Cursor | None, *, descending: bool, seq: str = "seq"
) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Return the ORDER BY terms, the conditions that continue after the cursor, and their values.

    Args:
        key: The column that rows are sorted by.
        cursor: The cursor after which the page begins.
        descending: Whether the greatest key is the first.
        seq: The column of the rows' `seq`, which breaks ties.
    """
    # A backwards page reads in the opposite order, from the cursor on, and is reversed afterwards. `seq` breaks ties,
    # so the order is total and no row is skipped or repeated between pages.
    down = descending != (cursor is not None and cursor.backwards)
    order = f"{key} DESC, {seq} DESC" if down else f"{key}, {seq}"
    if cursor is None:
        return order, (), {}
    # A row-value comparison: SQLite answers it with one range of the index on (key, seq).
    condition = f"({key}, {seq}) {'<' if down else '>'} (:cursor_key, :cursor_seq)"
    return order, (condition,), {"cursor_key": cursor.position[0], "cursor_seq": cursor.position[1]}


def narrowed(
    values: Mapping[str, Any], cursor: Cursor | None, bounds: tuple[str, str], *, descending: bool
) -> dict[str, Any]:
    """Return the bounds of a range of the sort key, as far as the cursor leaves it.

    For a range and a cursor on one side of the key, the engine looks up only one of them in the index. If that is the
    range, each page reads all pages before it.

    Args:
        values: The values of the statement.
        cursor: The cursor after which the page begins.
        bounds: The names of the smallest value of the range, and of the one that ends it.
        descending: As in `order_and_condition`.
    """
    if cursor is None:
        return {}
    since, until = bounds
    key = cursor.position[0]
    if descending != cursor.backwards:
        return {until: min(values[until], key + 1)} if until in values else {}
    return {since: max(values[since], key)} if since in values else {}


def cut_by_bytes(rows: str, table: str, size: str, order: str) -> str:
    """Return SQL for the table `page`: `rows`, and which of them a page of at most :page_bytes has (`fits`).

    The first row fits whatever its size, and the last of :limit rows never: it says only that there are more. A join
    on `fits` then reads only what fits, so that large rows come one by one, and small ones in one round trip a page.

    Args:
        rows: A SELECT of at most :limit rows: their `seq`, and what they are sorted by.
        table: Where the rows are.
        size: SQL for the bytes of a row `t` of the table. It is not computed for rows that the limit leaves out.
        order: The order of the page.
    """
    # Sizes in a table of their own: a window over `t` would copy its documents.
    return f"""WITH listed AS MATERIALIZED ({rows}),
sized AS MATERIALIZED (
    SELECT listed.*, {size} AS bytes FROM listed CROSS JOIN {table} AS t ON t.seq = listed.seq),
page AS MATERIALIZED (SELECT *, number = 1 OR (number < :limit AND total <= :page_bytes) AS fits FROM (
    SELECT *, row_number() OVER ordered AS number, sum(bytes) OVER ordered AS total FROM sized
    WINDOW ordered AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)))"""


def iterate_pages(read: Callable[[C], tuple[Iterable[T], C | None]], start: C) -> Iterator[T]:
    """Iterate over the items of all pages. A page is read when the items of the one before are used up.

    Args:
        read: Reads a page from a cursor of any kind; returns its items, and the cursor of the next page or None. Items
            that release each other (`draining`) let a page's memory go while it is used.
        start: The cursor of the first page.
    """
    # No transaction spans the pages: a server closes a stream that is idle for 10 s, and behind an open read the log of
    # a file grows.
    cursor: C | None = start
    while cursor is not None:
        items, cursor = read(cursor)
        yield from items


def iterate_by_id(read: Callable[[str], Sequence[R]], decode: Callable[[R], T]) -> Iterator[T]:
    """Iterate over rows by their IDs, in pages.

    Args:
        read: Reads a page after an ID: rows of the ID and of columns, of which the first is NULL where the row is on
            the next page.
        decode: Returns the item of a row.
    """

    def read_page(after: str) -> tuple[Iterator[T], str | None]:
        rows = read(after)
        fitting = [row for row in rows if row[1] is not None]
        last = None if len(fitting) == len(rows) else str(fitting[-1][0])
        return map(decode, draining(fitting)), last

    yield from iterate_pages(read_page, "")


def draining(items: Sequence[T]) -> Iterator[T]:
    """Iterate over the items, releasing each when it is yielded, so that its memory can be reused for the next."""
    # Reversed, since pop() from the end takes constant time.
    remaining = list(items)[::-1]
    del items
    while remaining:
        yield remaining.pop()


def page(items: Sequence[T | None], positions: Sequence[Position], limit: int, cursor: Cursor | None) -> Page[T]:
    """Return the page of up to `limit + 1` rows in the order of reading; the last row only shows that there are more.

    Args:
        items: The items; None for a row that is left out, but has a position.
        positions: The position of each row.
        limit: The most rows of the page.
        cursor: The cursor after which the page begins.
    """
    # One row more than the page was read: counting the rows would read all of them.
    shown, shown_positions, more = list(items[:limit]), list(positions[:limit]), len(positions) > limit
    backwards = cursor is not None and cursor.backwards
    if backwards:
        shown.reverse()
        shown_positions.reverse()
    if not shown:
        return Page([])
    has_next, has_previous = (True, more) if backwards else (more, cursor is not None)
    return Page(
        [item for item in shown if item is not None],
        next_cursor=str(Cursor(shown_positions[-1])) if has_next else None,
        previous_cursor=str(Cursor(shown_positions[0], backwards=True)) if has_previous else None,
    )


def fill_page(read: Callable[[int, Cursor | None], Page[T]], size: int, place: Cursor | None) -> Page[T]:
    """Return the page of `read`, and more until it has `size` items: a row that cannot be decoded does not count.

    Args:
        read: Reads a page: the most rows, and the cursor after which it begins.
        size: How many items the page has, if there are that many.
        place: Where the page begins.
    """
    found = read(size, place)
    backwards = place is not None and place.backwards
    while len(found) < size and (rest := found.previous_cursor if backwards else found.next_cursor):
        more = read(size - len(found), parse_cursor(rest))
        if backwards:
            found = Page([*more.items, *found.items], found.next_cursor, more.previous_cursor)
        else:
            found = Page([*found.items, *more.items], more.next_cursor, found.previous_cursor)
    return found
