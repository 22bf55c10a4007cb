"""A thread that syncs from time to time."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from memory_storage.dbapi import register_after_fork
from memory_storage.errors import MemoryStorageError

_log = logging.getLogger(__name__)
_JITTER = 0.2  # so that replicas that were started together do not stay together
_LAST_SECONDS = 5.0


class Background:
    """Calls a sync every `interval` seconds, 20 % more or less, until it is stopped.

    An error is logged, once for each kind in a row, and the next call comes in its time: what waits is not lost. While
    the circuit breaker is open, a call ends at once. A forked child has no thread of its own.

    Args:
        sync: The call.
        interval: Seconds between the end of a call and the next one.
    """

    def __init__(self, sync: Callable[[], object], interval: float) -> None:
        self._sync, self._interval = sync, interval
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="memory-storage-sync", daemon=True
        )
        register_after_fork(self)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a sync that runs now ends first, within 5 seconds."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_LAST_SECONDS)

    def after_fork_in_child(self) -> None:
        """Know that there is no thread."""
        self._thread = None

    def _run(self) -> None:
        last = ""
        while not self._stopped.wait(self._interval * random.uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311
            try:
                self._sync()
            except MemoryStorageError as error:
                kind = type(error).__name__
                if kind != last:
                    _log.warning("sync failed, and is tried again every %g s: %s", self._interval, error)
                last = kind
            except Exception:  # noqa: BLE001 - logged, with its traceback; the thread continues
                _log.exception("sync failed, and is tried again every %g s", self._interval)
            else:
                if last:
                    _log.info("sync works again")
                last = ""
