"""Numbers that a column must hold exactly. Runs nothing.

SQLite converts about 2 of 100,000 decimals in a text, and so in JSON, to the float next to the nearest one; a bound
number is not converted. A row is written with the numbers of its document, in one statement for many rows; then those
that may have been misread are compared with bound ones, in the same transaction, and corrected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from memory_storage.dbapi import BatchStep

EXACT_IN_JSON = 1_000
"""A number of at most three decimals and of this magnitude is read exactly: the tests try each of them."""

_MOST_ROWS = 50  # of a statement: on a server it costs a tenth of one statement for each row

Row = tuple[tuple[str, ...], tuple[float | None, ...]]
"""What identifies a row beside its namespace, and its numbers."""


@dataclass(frozen=True)
class ExactColumns:
    """Some columns of a table, all of them numbers, and the columns that identify a row of a namespace."""

    table: str
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ("id",)

    def steps(self, namespace: str, rows: Iterable[Row]) -> list[BatchStep]:
        """Return the statements that correct what was misread. They change no row whose columns are right."""
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
    """Return whether the engine is known to read the number exactly from its shortest decimal."""
    return number is None or (abs(number) <= EXACT_IN_JSON and round(number, 3) == number)


@lru_cache(maxsize=4 * _MOST_ROWS)
def _correction(exact: ExactColumns, rows: int) -> str:
    table, columns, keys = exact.table, exact.columns, exact.keys
    row = f"({', '.join('?' * (len(keys) + len(columns)))})"
    change = ", ".join(f"{column} = given.{column}" for column in columns)
    same_key = " AND ".join(f"{table}.{key} = given.{key}" for key in keys)
    stored, bound = (", ".join(f"{name}.{column}" for column in columns) for name in (table, "given"))
    return f"""WITH given ({", ".join(keys + columns)}) AS (VALUES {", ".join([row] * rows)})
UPDATE {table} SET {change} FROM given
WHERE {table}.namespace = ? AND {same_key} AND ({stored}) IS NOT ({bound})"""
