"""The base class of all models, with the types of their fields."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime, timezone
from typing import Annotated, Any

import pydantic
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, TzInfo, core_schema

from memory_storage.errors import ValidationError
from memory_storage.suggestions import DEEP, explanation, first_problem

JsonObject = dict[str, pydantic.JsonValue]
_FIXED_OFFSETS = (timezone, TzInfo)  # Python's, and the one of what pydantic reads

# Strict: True is not 1, and "5" is not 5.
Int64 = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Version = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # it grows: room is left to
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class _FixedOffset:
    """Annotates an aware datetime: one with a named time zone is converted to UTC."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def with_fixed_offset(timestamp: datetime) -> datetime:
            # A time in a repeated or skipped hour of a named zone is unequal to the same time in any other (PEP 495).
            return timestamp if isinstance(timestamp.tzinfo, _FIXED_OFFSETS) else timestamp.astimezone(timezone.utc)

        aware = handler(source)
        # JSON has no named zones, so that a stored document is read without a call of Python for each of its times.
        return core_schema.json_or_python_schema(
            json_schema=aware, python_schema=core_schema.no_info_after_validator_function(with_fixed_offset, aware)
        )


Timestamp = Annotated[
    AwareDatetime,
    # Also in UTC, in which it is stored: datetime supports only the years 1 to 9999.
    Field(ge=datetime.min.replace(tzinfo=timezone.utc), le=datetime.max.replace(tzinfo=timezone.utc)),
    _FixedOffset(),
]
"""An aware time. One with a named time zone is converted to UTC."""


class Model(BaseModel):
    """A frozen value. An unknown or invalid field raises a `memory_storage.ValidationError` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, defer_build=True)

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise as_validation_error(error, type(self)) from error
        except RecursionError as error:
            raise ValidationError(_deepest_field(fields), "nested too deep", fields) from error

    # pydantic looks for this mark to keep its fast path for nested and JSON input; without it __init__ runs for each.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def _deepest_field(fields: dict[str, Any]) -> str:
    """Return the name of the field whose value cannot even be printed."""
    for name, value in fields.items():
        try:
            repr(value)
        except RecursionError:
            return name
    return ""


_MAX_PATH_PARTS = 12  # of the parts of a field's path: nested JSON may have hundreds


def as_validation_error(error: pydantic.ValidationError, model: type[BaseModel] | None = None) -> ValidationError:
    """Convert the first problem that pydantic reports.

    Args:
        error: pydantic's error.
        model: the model that was validated; if it is known, the message suggests what the caller may have meant.

    Returns:
        An error with the path of the field, the rule that it breaks, and its value.
    """
    first = first_problem(error.errors(include_url=False))
    if first["type"] in DEEP:
        first["loc"] = first["loc"][:1]  # the rest is the same name, hundreds of times
    field = ".".join(map(str, first["loc"][:_MAX_PATH_PARTS])) + ("..." if len(first["loc"]) > _MAX_PATH_PARTS else "")
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        return ValidationError(".".join(filter(None, [field, inner.field])), inner.limit, inner.value)
    return ValidationError(field, explanation(first, model), first["input"])


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(timezone.utc)


def new_id() -> uuid.UUID:
    """Return a UUID of version 7 (RFC 9562, 5.7); they sort by the millisecond of their creation."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (2**62 - 1)
    return uuid.UUID(int=value)
