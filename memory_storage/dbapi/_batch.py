"""Statements to send: batches, the values bound to them, and their results."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeGuard, TypeVar

from ._errors import DataError, IntegrityError, ProgrammingError
from ._sql import Statement

Value = None | int | float | str | bytes

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


def to_engine_value(value: object, index: int, *, keeps_nul: bool = False) -> Value:
    """Return the value as one of the engine's five types; or raise DataError or ProgrammingError."""
    match value:
        case None | bytes():
            return value
        case str():
            return _check_text(value, index, keeps_nul=keeps_nul)
        case int():
            if not -(2**63) <= value < 2**63:  # `in range()` would search one by one for a subclass of int
                raise DataError(f"parameter {index}: {value} does not fit in 64 bits")
            return int(value)
        case float():
            if value != value:
                raise DataError(f"parameter {index}: NaN cannot be stored (it would become NULL)")
            return float(value)
        case bytearray() | memoryview():
            return bytes(value)
    raise ProgrammingError(f"parameter {index}: type {type(value).__name__!r} is not supported")


def _check_text(value: str, index: int, *, keeps_nul: bool) -> str:
    # libSQL's driver would read such a string back up to its first NUL.
    if "\0" in value and not keeps_nul:
        raise DataError(f"parameter {index}: text with a NUL character would be read back cut")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"parameter {index}: text with a lone surrogate cannot be stored") from error
    return str.__str__(value)


def check_parameters(
    statement: Statement, parameters: Sequence[object], *, keeps_nul: bool = False
) -> tuple[Value, ...]:
    """Return the values to send. DataError or ProgrammingError if one cannot be stored, or their number is wrong.

    Args:
        statement: The statement.
        parameters: A value for each of its placeholders.
        keeps_nul: Whether the engine keeps what follows a NUL in a text.
    """
    if type(parameters) is not tuple:
        parameters = _as_tuple(parameters)
    if len(parameters) != statement.parameter_count:
        raise ProgrammingError(
            f"the statement takes {statement.parameter_count} parameters, {len(parameters)} were given"
        )
    if _all_plain(parameters):
        return parameters
    return tuple(to_engine_value(value, index, keeps_nul=keeps_nul) for index, value in enumerate(parameters, 1))


def bind(statement: Statement, parameters: Sequence[object]) -> tuple[str, tuple[Value, ...]]:
    """Return the SQL and the values for libSQL's driver; errors as those of `check_parameters`."""
    return _inline_wide_integers(statement, check_parameters(statement, parameters))


def _as_tuple(parameters: Sequence[object]) -> tuple[object, ...]:
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence):
        raise ProgrammingError(f"parameters must be a sequence, not {type(parameters).__name__}")
    return tuple(parameters)


def _all_plain(values: tuple[object, ...]) -> TypeGuard[tuple[Value, ...]]:
    # On the path of every statement: so common values are recognized by their exact type, without a call for each.
    for value in values:
        kind = type(value)
        if kind is int:
            if not -(2**63) <= value < 2**63:  # type: ignore[operator] # mypy does not narrow by `kind`
                return False
        elif kind is str:
            if not value.isascii() or "\0" in value:  # type: ignore[attr-defined, operator]
                return False
        elif value is not None and kind is not bytes and (kind is not float or value != value):  # NaN is not equal
            return False
    return True


def _inline_wide_integers(statement: Statement, values: tuple[Value, ...]) -> tuple[str, tuple[Value, ...]]:
    """Write integers beyond 32 bits as literals into the SQL: libSQL's driver would bind them as floats."""
    for value in values:  # on the path of every statement
        if type(value) is int and not -0x8000_0000 <= value <= 0x7FFF_FFFF:
            break
    else:
        return statement.sql, values
    text = [statement.pieces[0]]
    bound: list[Value] = []
    for index, piece in zip(statement.order, statement.pieces[1:], strict=True):
        value = values[index]
        if type(value) is int and not -0x8000_0000 <= value <= 0x7FFF_FFFF:
            # The engine parses -9223372036854775808 as minus a float, so it is written as a difference.
            text += ("(-9223372036854775807-1)" if value == -(2**63) else f"({value})", piece)
        else:
            bound.append(value)
            text += ("?", piece)
    return "".join(text), tuple(bound)
