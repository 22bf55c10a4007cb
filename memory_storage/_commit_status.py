"""Whether a write was committed, when its answer was lost: it leaves a receipt, in its own transaction.

A receipt is also a fence. Who looks for one that is not there puts it there himself; should the write still arrive,
which a server may have put in a queue, it finds the place taken, and fails as a whole. So either the write is done, or
it never will be, and may be repeated.

Receipts are dated and swept by one clock, the server's: `changed` is the second in its upper bits, and the number of
rows in its lower 28; a fence is negative. What an older version left has no second in it, and is left to that version.
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

_SETTLING_SECONDS = 7.0  # a server takes five until it takes a lock from a stream that was left alone
_FIRST_PAUSE = 0.05  # seconds until it is asked again what became of a write

_KEPT_SECONDS = 24 * 3600
_CLEANUP_ONE_IN = 1_000  # it reads them all
_ID_BYTES = 16

_INSERT_RECEIPT = "INSERT INTO receipts (id, changed) VALUES (?, (unixepoch() << 28) | changes())"
_INSERT_FENCE = "INSERT INTO receipts (id, changed) VALUES (?, -(unixepoch() << 28) - 1) ON CONFLICT (id) DO NOTHING"
_SELECT_CHANGED = "SELECT CASE WHEN changed < 0 THEN -1 ELSE changed & 268435455 END FROM receipts WHERE id = ?"
_DELETE_OLD = "DELETE FROM receipts WHERE abs(changed) >> 28 BETWEEN 1 AND unixepoch() - ?"

NEVER_COMMITTED = -1


class Receipt:
    """One write's. The first byte of its id is high: older versions sweep by it, and must not sweep this."""

    def __init__(self) -> None:
        self._id = b"\xff" + secrets.token_bytes(_ID_BYTES - 1)

    def steps(self) -> list[BatchStep]:
        """What a write runs after its own statements: `changed` keeps how many rows the last one changed."""
        insert = BatchStep(_INSERT_RECEIPT, (self._id,))
        if random.randrange(_CLEANUP_ONE_IN):  # noqa: S311 - it only spreads the work
            return [insert]
        return [insert, BatchStep(_DELETE_OLD, (_KEPT_SECONDS,))]

    def fence(self) -> list[BatchStep]:
        """What finds it, or takes its place. The last one gives `changed`, which is `NEVER_COMMITTED` for a fence."""
        return [BatchStep(_INSERT_FENCE, (self._id,)), BatchStep(_SELECT_CHANGED, (self._id,))]


def changed_rows(rows: Sequence[tuple[object, ...]]) -> int:
    """What `fence` has found."""
    return int(str(rows[0][0]))


class RunEarly(Protocol):
    """Runs a batch, once; admitted now and then while the circuit is open."""

    def __call__(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]: ...


class CommitResolver:
    """Asks, for some seconds, what became of a write whose answer was lost. If that is in vain, its error is raised."""

    def __init__(self, unknown: CommitUnknownError, run: RunEarly) -> None:
        self._unknown, self._run = unknown, run
        self._deadline = time.monotonic() + _SETTLING_SECONDS

    def resolve(self, receipt: Receipt) -> int:
        """How many rows the write has changed; NEVER_COMMITTED if it was not done, and now never will be."""
        return changed_rows(self.reread(dbapi.Batch(receipt.fence())))

    def reread(self, batch: dbapi.Batch) -> Sequence[Row]:
        """The rows of a batch that does no harm when it is run twice."""
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
