"""Which Python values can be bound, and as what. Whatever could not be read back equal is refused here."""

from __future__ import annotations

from collections.abc import Sequence

from ._errors import DataError, ProgrammingError
from ._sql import Statement

Value = None | int | float | str | bytes

_INT64 = range(-(2**63), 2**63)
_INT32 = range(-(2**31), 2**31)


def bindable(value: object, index: int) -> Value:
    """The value as one of the engine's five types. DataError or ProgrammingError names the parameter (from 1)."""
    match value:
        case None | bytes():
            return value
        case str():
            return _text(value, index)
        case int():
            if value not in _INT64:
                raise DataError(f"parameter {index}: {value} does not fit in 64 bits")
            return int(value)
        case float():
            if value != value:
                raise DataError(f"parameter {index}: NaN cannot be stored (it would become NULL)")
            return float(value)
        case bytearray() | memoryview():
            return bytes(value)
    raise ProgrammingError(f"parameter {index}: type {type(value).__name__!r} is not supported")


def _text(value: str, index: int) -> str:
    if "\0" in value:
        raise DataError(f"parameter {index}: text with a NUL character would be read back cut")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"parameter {index}: text with a lone surrogate cannot be stored") from error
    return str.__str__(value)


def bind(statement: Statement, parameters: Sequence[object]) -> tuple[Value, ...]:
    """Check all parameters of one execution; ProgrammingError if there are too few or too many."""
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence):
        raise ProgrammingError(f"parameters must be a sequence, not {type(parameters).__name__}")
    if len(parameters) != statement.parameter_count:
        raise ProgrammingError(f"the statement takes {statement.parameter_count} parameters, {len(parameters)} were given")
    return tuple(bindable(value, index) for index, value in enumerate(parameters, 1))


def inline_wide_integers(statement: Statement, values: tuple[Value, ...]) -> tuple[str, tuple[Value, ...]]:
    """SQL and values in which integers beyond 32 bits stand as literals: the native driver would bind them as floats."""
    if not any(type(value) is int and value not in _INT32 for value in values):
        return statement.sql, values
    text = [statement.pieces[0]]
    kept: list[Value] = []
    for index, piece in zip(statement.order, statement.pieces[1:], strict=True):
        value = values[index]
        if type(value) is int and value not in _INT32:
            text += (_literal(value), piece)
        else:
            kept.append(value)
            text += ("?", piece)
    return "".join(text), tuple(kept)


def _literal(value: int) -> str:
    # -9223372036854775808 is read as minus a float: it has to be written as a difference.
    return "(-9223372036854775807-1)" if value == -(2**63) else f"({value})"
