"""Batches: statements that are sent together and take effect together."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ._errors import IntegrityError
from ._parameters import Value

T = TypeVar("T")


class BatchStep(NamedTuple):
    """One statement of a batch. `rows`: how many rows it must change; any other number rolls the batch back."""

    sql: str
    parameters: Sequence[object] = ()
    rows: int | None = None


class Batch(str):
    """Statements that run as one unit of work; as a string it is their SQL, without values.

    Pass it to `Cursor.execute` instead of SQL. Outside of a transaction a writing batch is a transaction of its own
    (BEGIN IMMEDIATE ... COMMIT); within one it is a savepoint. The cursor then has the rows of the last step that has
    any.
    """

    # A str, since SQLAlchemy passes a statement through `exec_driver_sql` unchanged, and its listeners log it.

    __slots__ = ("reads_only", "steps")
    steps: tuple[BatchStep, ...]
    reads_only: bool

    def __new__(cls, steps: Sequence[BatchStep], *, reads_only: bool = False) -> Batch:
        self = super().__new__(cls, ";\n".join(step.sql for step in steps))
        self.steps = tuple(steps)
        self.reads_only = reads_only
        return self


class Result(NamedTuple):
    """The result of one statement. `columns` is None if it returns no rows; `rowcount` is -1 if it changes none."""

    columns: tuple[str, ...] | None
    rows: list[tuple[Value, ...]]
    rowcount: int
    lastrowid: int | None

    def without_rows(self) -> Result:
        """Return a copy without the rows."""
        return self._replace(rows=[]) if self.rows else self


class RowCountError(IntegrityError):
    """A step of a batch changed another number of rows than `BatchStep.rows`; the batch was rolled back.

    `index` is the number of the step, from 1.
    """

    def __init__(self, index: int, expected: int, actual: int) -> None:
        # The caller knows the statement by its number; its SQL and values stay out of the message.
        super().__init__(f"step {index} of the batch changed {actual} rows, not {expected}", "ROW_COUNT")
        self.index, self.expected, self.actual = index, expected, actual

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.index, self.expected, self.actual)

    @property
    def step(self) -> int:
        """The old name of `index`."""
        warnings.warn("RowCountError.step is deprecated: use RowCountError.index", DeprecationWarning, stacklevel=2)
        return self.index


def chunked(
    things: Iterable[T], size: Callable[[T], int], *, most_bytes: int, most: int = sys.maxsize
) -> Iterator[list[T]]:
    """Yield the items in their order, in chunks.

    Args:
        things: The items.
        size: Returns the size of an item, in bytes.
        most_bytes: The largest sum of sizes in a chunk; a larger item is a chunk of its own.
        most: The largest number of items in a chunk.
    """
    # A chunk ends before the item that would exceed a limit, so an item above the limit is alone in its chunk.
    chunk: list[T] = []
    total = 0
    for thing in things:
        bytes_ = size(thing)
        if chunk and (len(chunk) == most or total + bytes_ > most_bytes):
            yield chunk
            chunk, total = [], 0
        chunk.append(thing)
        total += bytes_
    if chunk:
        yield chunk
