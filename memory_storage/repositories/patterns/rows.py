"""Conversion of rows to patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_storage.models import AnyPattern, Effectiveness
from memory_storage.models.pattern import PATTERN
from memory_storage.sql.documents import corrupt_error, decode, from_micros, with_columns

from . import sql


def pattern_from_row(row: Sequence[Any]) -> AnyPattern:
    """Return the pattern in its row."""
    key, document, version, created_at, updated_at, *counters, last_used_at = row
    pattern: AnyPattern = decode(PATTERN.validate_json, document, "patterns", key)
    try:
        effectiveness = Effectiveness.model_construct(
            **dict(zip(sql.COUNTERS, counters, strict=True)), last_used_at=from_micros(last_used_at)
        )
        return with_columns(pattern, version, created_at, updated_at, effectiveness=effectiveness)
    except (TypeError, OverflowError) as error:  # a column that another program has written
        raise corrupt_error("patterns", key) from error
