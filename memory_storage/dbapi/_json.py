"""JSON as the protocol has it, read strictly: what a number, an integer or a text may be. Does no I/O.

What is not of the protocol is a ValueError, or another of the errors that Python gives for a wrong type.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

MALFORMED_RESPONSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What it raises to read an answer that is not of the protocol."""

_INTEGER_LENGTH = 20  # characters of -2**63, and of 2**64 - 1


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def parse_json(body: bytes) -> Any:
    """Return what a JSON text says. Of a key that is there twice the last one counts. ValueError if it is no JSON."""
    try:
        return _decoder.decode(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    raise ValueError("the answer is no JSON")  # json's own error holds the whole text, which is not to be shown


def integer(value: object) -> int:
    """Return a signed integer of 64 bits, which the protocol spells as text."""
    if type(value) is not str or len(value) > _INTEGER_LENGTH:
        raise ValueError("no integer")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return number


def unsigned(value: object) -> int:
    """Return an unsigned integer of 64 bits, as text or as a number."""
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
    """Return the value if it is of that type. TypeError if it is not."""
    if not isinstance(value, kind):
        raise TypeError(f"no {kind.__name__}")
    return value
