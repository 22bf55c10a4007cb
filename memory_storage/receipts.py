"""Whether a write was committed, when its answer was lost: it leaves a receipt, in its own transaction.

A receipt is also a fence. Who looks for one that is not there puts it there himself; should the write still arrive,
which a server may have put in a queue, it finds the place taken, and fails as a whole. So either the write is done, or
it never will be, and may be repeated.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence

from .dbapi import Step

_KEPT_MS = 24 * 3600 * 1000
_SWEEP_ONE_IN = 100
_RANDOM_BYTES = 10

_LEAVE = "INSERT INTO receipts (id, changed) VALUES (?, changes())"
_FENCE = "INSERT INTO receipts (id, changed) VALUES (?, -1) ON CONFLICT (id) DO NOTHING"
_LOOK = "SELECT changed FROM receipts WHERE id = ?"
_SWEEP = "DELETE FROM receipts WHERE id < ?"

NEVER_DONE = -1


class Receipt:
    """One write's. Its id begins with the time, like a UUID of version 7, so that old ones are found by it."""

    def __init__(self) -> None:
        self._id = _moment(0) + secrets.token_bytes(_RANDOM_BYTES)

    def steps(self) -> list[Step]:
        """What a write runs after its own statements: `changed` keeps how many rows the last one changed."""
        leave = Step(_LEAVE, (self._id,))
        if random.randrange(_SWEEP_ONE_IN):  # noqa: S311 - it only spreads the work
            return [leave]
        return [leave, Step(_SWEEP, (_moment(_KEPT_MS),))]

    def fence(self) -> list[Step]:
        """What finds it, or takes its place. The last one gives `changed`, which is `NEVER_DONE` for a fence."""
        return [Step(_FENCE, (self._id,)), Step(_LOOK, (self._id,))]


def changed(rows: Sequence[tuple[object, ...]]) -> int:
    """What `fence` has found."""
    return int(str(rows[0][0]))


def _moment(ago_ms: int) -> bytes:
    return (time.time_ns() // 1_000_000 - ago_ms).to_bytes(6, "big")
