"""A table is read in pages: each row once, in the order of the key, each page from the last key on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from sqlalchemy import Connection

import memory_storage as ms
from memory_storage.backup._canonical_text import PIECE
from memory_storage.backup._copy import _insert, _Tally
from memory_storage.backup._tables import Page, Table, layout, quoted

ODD = [b"", b"'", b"a", b"a\0", b"a\0b", b"\xff\xfe", "\u00e9\U0001f469".encode(), b"z"]


@pytest.fixture
def connection() -> Iterator[Connection]:
    with ms.MemoryStorage.open(":memory:") as storage, storage.engine.connect() as connection:
        yield connection


def _keyed(connection: Connection, rows: int) -> Table:
    """Create a table with a key of three columns of two types, in which many rows have the same first two values."""
    connection.exec_driver_sql(
        "CREATE TABLE keyed (n INTEGER, b TEXT, a TEXT, c BLOB, PRIMARY KEY (a, b, n)) WITHOUT ROWID"
    )
    table = next(table for table in layout(connection).tables if table.name == "keyed")
    values = [(n * 2**40, ODD[n % 8], ODD[n // 8 % 8], b"x" * (n % 7)) for n in range(rows)]
    _insert(connection, table, values)
    return table


@pytest.mark.parametrize("rows", [0, 1, 125, 126, 500, 501, 1_700])
def test_pages_have_each_row_once_in_the_order_of_the_key(connection, rows):
    table = _keyed(connection, rows)
    pages = list(table.pages(connection))
    found = [row for page in pages for row in page.rows]
    assert [len(page.rows) for page in pages] == [min(500, rows - start) for start in range(0, rows, 500)]
    assert len(found) == len(set(found)) == rows
    assert all(one[2::-1] < other[2::-1] for one, other in pairwise(found))
    assert {row[0] for row in found} == {n * 2**40 for n in range(rows)}


def test_every_table_is_searched_by_its_complete_key(connection):
    # By a part of the key, the engine reads all earlier rows for each page: the time grows with the square of the rows.
    for table in layout(connection).tables:
        parameters = tuple("" for _ in table._key_parameters) * 2
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {table._page('1', continues=True, rows=500)}", parameters
        ).all()
        searches = [row[3] for row in plan if table.name in row[3].split()]
        names = ",".join(column.name for column in table._key)
        key = "rowid>?" if table.has_rowid else f"{names}>?" if "," not in names else f"({names})>("
        assert len(searches) == 2, quoted(table.name)
        assert all(one.startswith("SEARCH") and key in one for one in searches), searches


def test_large_and_small_rows_have_the_same_digest():
    rows = [(1, b"'" * PIECE, None, "a" * PIECE, 0.1), (2, b"'\"", "\u2028", "", -1e300)]
    digests = set()
    for largest in (0, 10 * PIECE):
        tally = _Tally()
        tally.add(Page(rows, largest))
        digests.add(tally.report())
    assert len(digests) == 1
