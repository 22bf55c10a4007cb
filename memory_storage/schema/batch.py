"""For revisions: many statements in one round trip. Knows no tables."""

from __future__ import annotations

from collections.abc import Iterable

from alembic import op

from memory_storage.dbapi import Batch, BatchStep


def execute(statements: Iterable[object]) -> None:
    """Run the statements, or print them: all of them, or none.

    One by one they would take long over a network; a server that others wait for ends a transaction after 5 seconds.
    """
    texts = [str(statement) for statement in statements]
    if op.get_context().as_sql:
        for text in texts:
            op.execute(text)
    else:
        op.get_bind().exec_driver_sql(Batch([BatchStep(text) for text in texts]))
