"""Iterates over the rows of a table by pages that are limited in rows and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from memory_storage.dbapi import Batch
from memory_storage.sql.paging import PAGE_BYTES, cut_by_bytes
from memory_storage.sql.statement import SqlTemplate

_ROWS = 500


def pages(
    connection: Connection, table: str, columns: Sequence[str], where: str = "true"
) -> Iterator[tuple[int, list[Any]]]:
    """Iterate over rows in the order of `seq`. Yields `seq` and the columns as bytes.

    Bytes, because the driver fails on TEXT that is not UTF-8, and cuts TEXT at a NUL.

    Args:
        connection: A connection to the database.
        table: The name of the table.
        columns: The names of the TEXT columns to read.
        where: An SQL condition for the rows to read.
    """
    listed = f"SELECT seq FROM {table} WHERE seq > :after AND ({where}) ORDER BY seq LIMIT :limit"
    size = " + ".join(f"coalesce(octet_length(t.{name}), 0)" for name in columns)
    read = ", ".join(f"CAST(t.{name} AS BLOB)" for name in columns)
    page = SqlTemplate(f"""{cut_by_bytes(listed, table, size, "seq")}
SELECT page.seq, {read} FROM page CROSS JOIN {table} AS t ON t.seq = page.seq WHERE page.fits ORDER BY page.seq""")
    after = -(2**63)
    while True:
        step = page.bind(after=after, limit=_ROWS + 1, page_bytes=PAGE_BYTES)
        rows = [tuple(row) for row in connection.exec_driver_sql(Batch([step], reads_only=True))][::-1]
        if not rows:
            return
        after = rows[0][0]
        while rows:
            seq, *texts = rows.pop()
            yield seq, texts
