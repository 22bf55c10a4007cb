"""Which Python values can be bound, and as what. Whatever could not be read back equal is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from ._errors import DataError, ProgrammingError
from ._sql import Statement

Value = None | int | float | str | bytes


def to_engine_value(value: object, index: int) -> Value:
    """The value as one of the engine's five types. DataError or ProgrammingError names the parameter (from 1)."""
    match value:
        case None | bytes():
            return value
        case str():
            return _check_text(value, index)
        case int():
            if not -(2**63) <= value < 2**63:  # a range() would search one by one for a subclass of int
                raise DataError(f"parameter {index}: {value} does not fit in 64 bits")
            return int(value)
        case float():
            if value != value:
                raise DataError(f"parameter {index}: NaN cannot be stored (it would become NULL)")
            return float(value)
        case bytearray() | memoryview():
            return bytes(value)
    raise ProgrammingError(f"parameter {index}: type {type(value).__name__!r} is not supported")


def _check_text(value: str, index: int) -> str:
    if "\0" in value:
        raise DataError(f"parameter {index}: text with a NUL character would be read back cut")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"parameter {index}: text with a lone surrogate cannot be stored") from error
    return str.__str__(value)


def check_parameters(statement: Statement, parameters: Sequence[object]) -> tuple[Value, ...]:
    """The values to send; DataError or ProgrammingError if the engine must not have them."""
    if type(parameters) is not tuple:
        parameters = _as_tuple(parameters)
    if len(parameters) != statement.parameter_count:
        raise ProgrammingError(
            f"the statement takes {statement.parameter_count} parameters, {len(parameters)} were given"
        )
    if _all_plain(parameters):
        return parameters
    return tuple(to_engine_value(value, index) for index, value in enumerate(parameters, 1))


def bind(statement: Statement, parameters: Sequence[object]) -> tuple[str, tuple[Value, ...]]:
    """The SQL and the values to hand to the native driver; errors as those of `checked`."""
    return _inline_wide_integers(statement, check_parameters(statement, parameters))


def _as_tuple(parameters: Sequence[object]) -> tuple[object, ...]:
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence):
        raise ProgrammingError(f"parameters must be a sequence, not {type(parameters).__name__}")
    return tuple(parameters)


def _all_plain(values: tuple[object, ...]) -> TypeGuard[tuple[Value, ...]]:
    # Every statement comes through here, so the common values are told by their exact type, without a call for each.
    for value in values:
        kind = type(value)
        if kind is int:
            if not -(2**63) <= value < 2**63:  # type: ignore[operator] # mypy does not narrow by `kind`
                return False
        elif kind is str:
            if not value.isascii() or "\0" in value:  # type: ignore[attr-defined, operator]
                return False
        elif value is not None and kind is not bytes:
            return False
    return True


def _inline_wide_integers(statement: Statement, values: tuple[Value, ...]) -> tuple[str, tuple[Value, ...]]:
    """With integers beyond 32 bits as literals in the SQL: the native driver would bind them as floats."""
    for value in values:  # every statement comes through here
        if type(value) is int and not -0x8000_0000 <= value <= 0x7FFF_FFFF:
            break
    else:
        return statement.sql, values
    text = [statement.pieces[0]]
    bound: list[Value] = []
    for index, piece in zip(statement.order, statement.pieces[1:], strict=True):
        value = values[index]
        if _is_wide(value):
            text += (_literal(value), piece)
        else:
            bound.append(value)
            text += ("?", piece)
    return "".join(text), tuple(bound)


def _is_wide(value: Value) -> TypeGuard[int]:
    return type(value) is int and not -(2**31) <= value < 2**31


def _literal(value: int) -> str:
    # -9223372036854775808 is read as minus a float: it has to be written as a difference.
    return "(-9223372036854775807-1)" if value == -(2**63) else f"({value})"
