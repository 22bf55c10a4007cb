"""What several commands take, and how it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

import pydantic
import typer

from memory_storage.errors import ValidationError

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="PATH|URL",
        help="Where the memory is. Default: LIBSQL_DATABASE_PATH or TURSO_DATABASE_URL.",
        show_default=False,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Whose memory it is. Default: MEMORY_STORAGE_NAMESPACE, or 'default'.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Give JSON on stdout.")]

_MOMENT = pydantic.TypeAdapter(datetime)


def moment(option: str, text: str | None) -> datetime | None:
    """A moment in ISO 8601; UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        found = _MOMENT.validate_python(text)
    except pydantic.ValidationError as error:
        raise ValidationError(option, "a moment in ISO 8601, like 2025-01-31 or 2025-01-31T12:00:00Z", text) from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """`key=value` each; a value that is a JSON number, true, false, null or quoted text is that, else it is text."""
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValidationError(option, "key=value", text)
        found[key] = _scalar(value)
    return found


def _scalar(text: str) -> str | int | float | bool | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_scalar = not isinstance(value, dict | list | float) or (isinstance(value, float) and math.isfinite(value))
    return value if is_scalar else text
