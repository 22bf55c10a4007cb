"""A spy on the SQL that an engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.sql.indexing import INDEX_STEPS, RECENT_STEPS

_OF_FULL_TEXT = {step.sql for step in (*INDEX_STEPS, *RECENT_STEPS)}


@contextmanager
def spied(engine: Engine) -> Iterator[list[Batch]]:
    """What runs in the block: one batch for each round trip."""
    batches: list[Batch] = []

    def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        assert isinstance(statement, Batch), statement
        batches.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield batches
    finally:
        event.remove(engine, "before_cursor_execute", note)


def own_steps(batch: Batch) -> list[BatchStep]:
    """The statements of a batch, but for those that keep the full-text index up to date."""
    return [step for step in batch.steps if step.sql not in _OF_FULL_TEXT]
