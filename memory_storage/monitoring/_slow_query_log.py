"""The log of slow queries, with their plans. Shows SQL, and never a value."""

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
    """The SQL on one line, with a `?` for each literal: a program's own may hold anything."""
    without = _LITERAL.sub(lambda found: " " if _is_comment(found) else (found["kept"] or "?"), sql)
    return " ".join(without.split())


def log_slow_query(
    batch: Batch, run: Callable[[Batch], Sequence[tuple[Any, ...]]], *, seconds: float, rows: int
) -> None:
    """Log a batch that was slow. `run` runs another one, to ask for the plans."""
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
        # No other statement: to explain a DROP INDEX does away with the shadow of a vector index.
        if not _EXPLAINED.match(step.sql):
            continue
        try:
            rows = run(Batch([BatchStep(f"EXPLAIN QUERY PLAN {step.sql}", step.parameters)], reads_only=True))
        except MemoryStorageError as error:
            yield f"none ({type(error).__name__})"
        else:
            yield "; ".join(str(row[-1]) for row in rows) or "no table is read"


def _is_comment(found: re.Match[str]) -> bool:
    return (found["kept"] or "").startswith(("--", "/*"))
