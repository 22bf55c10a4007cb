"""The slow-query log: SQL with its query plan, never a value."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.errors import MemoryStorageError

_log = logging.getLogger("memory_storage.slow")

_LITERAL = re.compile(
    r"""(?P<kept>--[^\n]*|/\*.*?(?:\*/|\Z)|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])"""
    r"""|[xX]?'(?:[^']|'')*'?|(?<![\w?])\d[\w.]*""",
    re.DOTALL,
)
_EXPLAINED = re.compile(r"\s*(SELECT|VALUES|INSERT|REPLACE|UPDATE|DELETE|WITH)\b", re.IGNORECASE)


def without_literals(sql: str) -> str:
    """Return the SQL on one line, with `?` for each literal: a caller's own SQL may contain values."""

    def replacement(found: re.Match[str]) -> str:
        is_comment = (found["kept"] or "").startswith(("--", "/*"))
        return " " if is_comment else found["kept"] or "?"

    without = _LITERAL.sub(replacement, sql)
    return " ".join(without.split())


def log_slow_query(
    batch: Batch, run: Callable[[Batch], Sequence[tuple[Any, ...]]], *, seconds: float, rows: int
) -> None:
    """Log a slow batch with the query plan of each statement.

    Args:
        batch: The statements.
        run: Runs another batch: EXPLAIN QUERY PLAN.
        seconds: How long the batch took.
        rows: How many rows it returned.
    """
    text = "; ".join(without_literals(step.sql) for step in batch.steps)
    plan = " / ".join(_plans(batch, run))
    _log.warning(
        "a query took %.3f s for %d rows: %s | plan: %s",
        seconds,
        rows,
        text,
        plan,
        extra={"seconds": seconds, "rows": rows, "sql": text, "plan": plan},
    )


def _plans(batch: Batch, run: Callable[[Batch], Sequence[tuple[Any, ...]]]) -> Iterator[str]:
    for step in batch.steps:
        # Only these: EXPLAIN of a DROP INDEX deletes the shadow tables of a vector index.
        if not _EXPLAINED.match(step.sql):
            continue
        try:
            rows = run(Batch([BatchStep(f"EXPLAIN QUERY PLAN {step.sql}", step.parameters)], reads_only=True))
        except MemoryStorageError as error:
            yield f"none ({type(error).__name__})"
        else:
            yield "; ".join(str(row[-1]) for row in rows) or "no table is read"
