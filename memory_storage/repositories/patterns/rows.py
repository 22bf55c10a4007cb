"""Conversion of rows to patterns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from memory_storage.models import AnyPattern, Effectiveness
from memory_storage.models.pattern import PATTERN
from memory_storage.search.statement import N_FACT_COLUMNS
from memory_storage.sql.documents import OnCorrupt, corrupt_error, decode, report_corrupt, with_columns
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros

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


def pattern_or_none(row: Sequence[Any], on_corrupt: OnCorrupt) -> AnyPattern | None:
    """Return the pattern in its row; None after reporting to `on_corrupt` that it cannot be decoded."""
    return pattern_from_row(row) if on_corrupt is None else report_corrupt(partial(pattern_from_row, row), on_corrupt)


def hits_from_rows(rows: Sequence[Row], k: int, on_corrupt: OnCorrupt = None) -> list[tuple[Row, AnyPattern | None]]:
    """Return the hits in rows that begin with score, `seq` and the facts of a search, the best first.

    None stands for a pattern that cannot be decoded, and for those after the first `k`.
    """
    n = 2 + N_FACT_COLUMNS
    ranked = sorted(rows, key=lambda row: (-row[0], row[1]))
    patterns = [pattern_or_none(row[n:], on_corrupt) for row in ranked[:k]]
    return list(zip_longest((row[:n] for row in ranked), patterns))
