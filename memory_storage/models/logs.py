"""Records of logs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import pydantic
from pydantic import Field

from .display import short_repr, shortened
from .model import Model, Timestamp


class LogRecord(Model):
    """One record of a log.

    Attributes:
        log: the name of the log.
        number: its position, from 1.
        id: its id in the log, chosen by the client or, without one, by the store.
        value: any JSON value.
        created_at: when it was appended.
    """

    log: str
    number: Annotated[int, Field(strict=True, ge=1, lt=2**53)]
    id: str | None = None
    value: pydantic.JsonValue
    created_at: Timestamp | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"log={shortened(str(values.get('log')), 30)!r}"]
        return short_repr("LogRecord", values.get("number"), shortened(repr(values.get("value"))), facts)

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class LogInfo:
    """A log that has records.

    Attributes:
        log: its name.
        last: the number of its last record.
        updated_at: when that was appended.
    """

    log: str
    last: int
    updated_at: datetime
