"""Advisory locks on an open file: shared or exclusive, without waiting. A killed process releases its own."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

Unlock = Callable[[], None]

if sys.platform == "win32":
    import msvcrt

    _SLOTS = 256

    def try_lock(descriptor: int, *, exclusive: bool) -> Unlock | None:
        """Lock an open file; return what releases the lock, or None if another descriptor has a conflicting one."""
        # Windows locks ranges of bytes, and Python offers exclusive locks only. So a shared lock takes any one byte of
        # a range, and an exclusive one all of it. The bytes need not exist.
        ranges = [(0, _SLOTS)] if exclusive else [(start, 1) for start in random.sample(range(_SLOTS), _SLOTS)]
        for start, length in ranges:
            os.lseek(descriptor, start, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
            except OSError:
                continue
            return lambda: _unlock(descriptor, start, length)
        return None

    def _unlock(descriptor: int, start: int, length: int) -> None:
        os.lseek(descriptor, start, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, length)

else:
    import fcntl

    def try_lock(descriptor: int, *, exclusive: bool) -> Unlock | None:
        """Lock an open file; return what releases the lock, or None if another descriptor has a conflicting one."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
