"""Exact numbers in columns.

SQLite parses about 2 of 100,000 decimals in JSON as a float adjacent to the nearest one; a bound float is stored as it
is. Rows are written with the numbers of their documents, many in one statement; numbers that may have been misparsed
are then compared with bound ones, in the same transaction, and corrected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from memory_storage.dbapi import BatchStep

EXACT_IN_JSON = 1_000
"""Numbers up to this magnitude with at most three decimals are parsed exactly; the tests try each of them."""

_MOST_ROWS = 50  # rows of a statement; on a server, a tenth of the time of one statement for each row

Row = tuple[tuple[str, ...], tuple[float | None, ...]]
"""The key of a row within its namespace, and its numbers."""


@dataclass(frozen=True)
class ExactColumns:
    """Numeric columns of a table, and the columns that identify a row within a namespace."""

    table: str
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ("id",)

    def steps(self, namespace: str, rows: Iterable[Row]) -> list[BatchStep]:
        """Return the statements that correct misparsed numbers. They change no row whose columns are right."""
        inexact = [(*key, *numbers) for key, numbers in rows if not all(map(is_exact_in_json, numbers))]
        parts = [inexact[first : first + _MOST_ROWS] for first in range(0, len(inexact), _MOST_ROWS)]
        return [
            BatchStep(_correction(self, len(part)), (*(value for row in part for value in row), namespace))
            for part in parts
        ]


REWARDS = ExactColumns("episodes", ("reward",))
SUCCESS_RATES = ExactColumns("patterns", ("success_rate",), ("id", "kind"))
REWARD_DELTAS = ExactColumns("patterns", ("avg_reward_delta",), ("id", "kind"))
POSITIONS = ExactColumns("spatiotemporal_index", ("latitude", "longitude"))


def is_exact_in_json(number: float | None) -> bool:
    """Return whether the engine parses the number exactly from its shortest decimal."""
    return number is None or (abs(number) <= EXACT_IN_JSON and round(number, 3) == number)


@lru_cache(maxsize=4 * _MOST_ROWS)
def _correction(exact: ExactColumns, rows: int) -> str:
    table, columns, keys = exact.table, exact.columns, exact.keys
    row = f"({', '.join('?' * (len(keys) + len(columns)))})"
    change = ", ".join(f"{column} = given.{column}" for column in columns)
    # IS NOT compares NULL too; rows whose columns are right are not changed, so their triggers do not fire.
    same_key = " AND ".join(f"{table}.{key} = given.{key}" for key in keys)
    stored, bound = (", ".join(f"{name}.{column}" for column in columns) for name in (table, "given"))
    return f"""WITH given ({", ".join(keys + columns)}) AS (VALUES {", ".join([row] * rows)})
UPDATE {table} SET {change} FROM given
WHERE {table}.namespace = ? AND {same_key} AND ({stored}) IS NOT ({bound})"""
