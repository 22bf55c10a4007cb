"""`json_quote` for SQLite's engine, with numbers of 15 digits, as libSQL and its servers write them.

SQLite writes 17 digits since 3.52. The text is stored as a facet of metadata, which the other engine has to find.

A function in Python cannot tell JSON from text, so that statements which pass on JSON are translated: see `translate`.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

from ._errors import OperationalError
from ._sql import Kind, call_spans, parse

_JSON_FUNCTION = re.compile(r"\s*json\w*\s*\(", re.IGNORECASE)
_LIMIT = 10**15  # of numbers of 15 digits


def json_quote(*arguments: Any) -> str:
    """Return a value of SQL as JSON. Text is quoted, also if a JSON function has returned it.

    Args:
        *arguments: The only argument of the SQL function.

    Raises:
        OperationalError: it is a blob.
    """
    (value,) = arguments
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, bytes):
        raise OperationalError("JSON cannot hold BLOB values", "SQLITE_ERROR")
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1024)
def translate(sql: str) -> str:
    """Return a statement in which `json_quote` keeps the JSON that a function returns: `json_quote(json_extract(...))`.

    The operator `->` returns the element of an array as the engine's own `json_quote` would.
    """
    if "json_quote" not in sql.lower() or parse(sql).kind not in {Kind.READ, Kind.WRITE}:
        return sql
    pieces, end = [], 0
    for start, opened, closed in call_spans(sql, "json_quote"):
        if start >= end and _JSON_FUNCTION.match(sql, opened + 1):
            pieces += [sql[end:start], "(json_array", sql[opened : closed + 1], " -> '$[0]')"]
            end = closed + 1
    return "".join([*pieces, sql[end:]])


def _real(value: float) -> str:
    """Return a number as C's `%.15g`, but with halves rounded up, and always with a decimal point."""
    # libSQL computes with 19 digits: of 300,000 floats, four that are within 1e-18 of a half were rounded otherwise.
    if not math.isfinite(value):
        return "Inf" if value > 0 else "-Inf"
    mantissa, power = f"{abs(value):.25e}".split("e")
    number, exponent = (int(mantissa.replace(".", "")) + 5 * 10**10) // 10**11, int(power)
    if number == _LIMIT:
        number, exponent = number // 10, exponent + 1
    sign, digits = "-" if value < 0 else "", f"{number:015}"
    if not -5 < exponent < 15:
        return f"{sign}{digits[0]}.{digits[1:].rstrip('0') or '0'}e{exponent:+03}"
    digits, point = "0" * -min(exponent, 0) + digits, max(exponent, 0) + 1
    return f"{sign}{digits[:point]}.{digits[point:].rstrip('0') or '0'}"
