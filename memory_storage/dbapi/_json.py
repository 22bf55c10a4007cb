"""Strict readers for the protocol's JSON: integers, numbers, strings.

A value that violates the protocol raises one of the errors in `MALFORMED_RESPONSE`.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

MALFORMED_RESPONSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""The errors of reading a response that violates the protocol."""

_INTEGER_LENGTH = 20  # characters of -2**63, and of 2**64 - 1


# Python accepts NaN and Infinity, which are not JSON.
def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON document. Of a duplicate key the last value counts. ValueError if it is not JSON."""
    try:
        return _decoder.decode(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    raise ValueError("the response is not JSON")  # json's own error contains the whole document, which may be secret


def integer(value: object) -> int:
    """Return a signed 64-bit integer, which the protocol encodes as a string."""
    if type(value) is not str or len(value) > _INTEGER_LENGTH:
        raise ValueError("no integer")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return number


def unsigned(value: object) -> int:
    """Return an unsigned 64-bit integer, from a string or a number."""
    if isinstance(value, str) and len(value) <= _INTEGER_LENGTH:
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError("no unsigned integer of 64 bits")
    return value


def number(value: object) -> float:
    """Return a finite number."""
    if type(value) not in {float, int} or not math.isfinite(result := float(value)):  # type: ignore[arg-type]
        raise ValueError("no finite number")
    return result


def expect(value: object, kind: type[T]) -> T:
    """Return the value if it is an instance of `kind`; else raise TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"no {kind.__name__}")
    return value
