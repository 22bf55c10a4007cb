"""Many statements of a revision in one round trip."""

from __future__ import annotations

from collections.abc import Iterable

from alembic import op

from memory_storage.dbapi import Batch, BatchStep


def execute(statements: Iterable[object]) -> None:
    """Run the statements as one batch: all of them, or none. Offline, print them.

    One by one they cost a round trip each, and a server ends a transaction that other writers wait for after 5 seconds.
    """
    texts = [str(statement) for statement in statements]
    if op.get_context().as_sql:
        for text in texts:
            op.execute(text)
    else:
        op.get_bind().exec_driver_sql(Batch([BatchStep(text) for text in texts]))
