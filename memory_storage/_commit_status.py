"""Resolves the outcome of a write whose commit acknowledgement was lost.

Each write inserts a receipt in its own transaction. A client that finds no receipt inserts a fencing row with the same
id; a delayed write, which the server may have queued, then violates the primary key and fails atomically. So the write
is either committed, or never will be and can be retried safely.

Receipts are dated and removed by one clock, the server's: `changed` has the second in its upper bits and the number of
changed rows in its lower 28; that of a fence is negative. Receipts of older versions have no second, and stay.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence
from typing import Protocol

from . import dbapi
from .dbapi import BatchStep
from .errors import CircuitOpenError, CommitUnknownError, MemoryStorageError, UnavailableError
from .sql.session import Row

_SETTLING_SECONDS = 7.0  # a server takes 5 s to release the lock of an abandoned stream
_FIRST_PAUSE = 0.05  # seconds before the first retry of the question

_KEPT_SECONDS = 24 * 3600
_CLEANUP_ONE_IN = 1_000  # a cleanup scans the table
_ID_BYTES = 16

_INSERT_RECEIPT = "INSERT INTO receipts (id, changed) VALUES (?, (unixepoch() << 28) | changes())"
_INSERT_FENCE = "INSERT INTO receipts (id, changed) VALUES (?, -(unixepoch() << 28) - 1) ON CONFLICT (id) DO NOTHING"
_SELECT_CHANGED = "SELECT CASE WHEN changed < 0 THEN -1 ELSE changed & 268435455 END FROM receipts WHERE id = ?"
_DELETE_OLD = "DELETE FROM receipts WHERE abs(changed) >> 28 BETWEEN 1 AND unixepoch() - ?"

NEVER_COMMITTED = -1


class Receipt:
    """The receipt of one write. Its id begins with 0xFF: older versions clean up by lower ids, and must skip it."""

    def __init__(self) -> None:
        self._id = b"\xff" + secrets.token_bytes(_ID_BYTES - 1)

    def steps(self) -> list[BatchStep]:
        """Return the statements that follow those of the write: `changed` stores how many rows the last one changed."""
        insert = BatchStep(_INSERT_RECEIPT, (self._id,))
        if random.randrange(_CLEANUP_ONE_IN):  # noqa: S311 - it only spreads the work
            return [insert]
        return [insert, BatchStep(_DELETE_OLD, (_KEPT_SECONDS,))]

    def fence(self) -> list[BatchStep]:
        """Return the statements that insert the fence, unless the receipt exists, and read `changed`."""
        return [BatchStep(_INSERT_FENCE, (self._id,)), BatchStep(_SELECT_CHANGED, (self._id,))]


def changed_rows(rows: Sequence[tuple[object, ...]]) -> int:
    """Return the number that the statements of `Receipt.fence` have read."""
    return int(str(rows[0][0]))


class RunEarly(Protocol):
    """Runs a batch once; while the circuit is open, some of these calls are admitted."""

    def __call__(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]: ...


class CommitResolver:
    """Resolves the outcome of a write whose acknowledgement was lost; raises the original error if it cannot."""

    def __init__(self, unknown: CommitUnknownError, run: RunEarly) -> None:
        self._unknown, self._run = unknown, run
        self._deadline = time.monotonic() + _SETTLING_SECONDS

    def resolve(self, receipt: Receipt) -> int:
        """Return how many rows the write has changed; NEVER_COMMITTED if it is fenced off."""
        return changed_rows(self.reread(dbapi.Batch(receipt.fence())))

    def reread(self, batch: dbapi.Batch) -> Sequence[Row]:
        """Return the rows of an idempotent batch, retrying it for seven seconds."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._run(batch, deadline=self._deadline)
            except MemoryStorageError as error:
                if not isinstance(error, CircuitOpenError):
                    pause *= 2
                passes = isinstance(error, UnavailableError | CommitUnknownError)
                if not passes or time.monotonic() + pause > self._deadline:
                    raise self._unknown from error
            time.sleep(pause)
