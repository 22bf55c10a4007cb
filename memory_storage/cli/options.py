"""Options that several commands share, and their parsers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, cast

import pydantic
import typer

from memory_storage.errors import ValidationError

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="PATH|URL",
        help="The database. Default: LIBSQL_DATABASE_PATH or TURSO_DATABASE_URL.",
        show_default=False,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="The namespace. Default: MEMORY_STORAGE_NAMESPACE, or 'default'.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]

_OPERATORS = {"!=": "$ne", ">=": "$gte", "<=": "$lte", "~=": "$contains", ">": "$gt", "<": "$lt"}
_CONDITION = re.compile("(.*?)(!=|>=|<=|~=|=|>|<)(.*)", re.DOTALL)
_TIMESTAMP = pydantic.TypeAdapter(datetime)


def parse_time(option: str, text: str | None) -> datetime | None:
    """Parse a time in ISO 8601; without an offset it is in UTC."""
    if text is None:
        return None
    try:
        found = _TIMESTAMP.validate_python(text)
    except pydantic.ValidationError as error:
        raise ValidationError(option, "a time in ISO 8601, like 2025-01-31 or 2025-01-31T12:00:00Z", text) from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Parse strings `key=value`; a value that is not a JSON scalar is a string."""
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValidationError(option, "key=value", text)
        found[key] = _scalar(value)
    return found


def metadata_filter(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Parse conditions like `key=value`, `key>=3` and `labels~=flaky`, or filters in JSON, all of which must hold."""
    conditions = [_condition(option, text) for text in texts]
    merged = {key: value for one in conditions for key, value in one.items()}
    has_each = len(merged) == sum(map(len, conditions))
    return merged if has_each else {"$and": conditions}


def _condition(option: str, text: str) -> dict[str, Any]:
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValidationError(option, "a filter in JSON", text) from error
        return cast("dict[str, Any]", found)
    parts = _CONDITION.fullmatch(text)
    if parts is None:
        raise ValidationError(option, "key=value, or another operator than =: != > >= < <= ~=", text)
    key, sign, value = parts.groups()
    return {key: _scalar(value) if sign == "=" else {_OPERATORS[sign]: _scalar(value)}}


def _scalar(text: str) -> str | int | float | bool | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_scalar = not isinstance(value, dict | list | float) or (isinstance(value, float) and math.isfinite(value))
    return value if is_scalar else text
