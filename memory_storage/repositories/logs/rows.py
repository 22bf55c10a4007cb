"""Records and their rows."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from memory_storage.models import LogInfo, LogRecord
from memory_storage.sql.documents import decode_value
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros


def record_from_row(row: Row) -> LogRecord:
    """Return the record of a row."""
    log, number, record_id, document, created_at = row
    value = decode_value(document, "logs", f"{log!r}, {number}")
    return LogRecord.model_construct(
        log=log, number=number, id=record_id, value=value, created_at=from_micros(created_at)
    )


def info_from_row(row: Row) -> LogInfo:
    """Return the name, the last number and the time of a log."""
    log, last, updated_at = row
    return LogInfo(log, last, cast(datetime, from_micros(updated_at)))
