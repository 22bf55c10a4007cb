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
from collections.abc import Sequence

from .dbapi import Step

_KEPT_SECONDS = 24 * 3600
_SWEEP_ONE_IN = 1_000  # it reads them all
_ID_BYTES = 16

_LEAVE = "INSERT INTO receipts (id, changed) VALUES (?, (unixepoch() << 28) | changes())"
_FENCE = "INSERT INTO receipts (id, changed) VALUES (?, -(unixepoch() << 28) - 1) ON CONFLICT (id) DO NOTHING"
_LOOK = "SELECT CASE WHEN changed < 0 THEN -1 ELSE changed & 268435455 END FROM receipts WHERE id = ?"
_SWEEP = "DELETE FROM receipts WHERE abs(changed) >> 28 BETWEEN 1 AND unixepoch() - ?"

NEVER_DONE = -1


class Receipt:
    """One write's. The first byte of its id is high: older versions sweep by it, and must not sweep this."""

    def __init__(self) -> None:
        self._id = b"\xff" + secrets.token_bytes(_ID_BYTES - 1)

    def steps(self) -> list[Step]:
        """What a write runs after its own statements: `changed` keeps how many rows the last one changed."""
        leave = Step(_LEAVE, (self._id,))
        if random.randrange(_SWEEP_ONE_IN):  # noqa: S311 - it only spreads the work
            return [leave]
        return [leave, Step(_SWEEP, (_KEPT_SECONDS,))]

    def fence(self) -> list[Step]:
        """What finds it, or takes its place. The last one gives `changed`, which is `NEVER_DONE` for a fence."""
        return [Step(_FENCE, (self._id,)), Step(_LOOK, (self._id,))]


def changed(rows: Sequence[tuple[object, ...]]) -> int:
    """What `fence` has found."""
    return int(str(rows[0][0]))
