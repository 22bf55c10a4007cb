"""Embeds what was saved: in a thread of its own, or in the thread that has saved it.

What is pending is only a hint, and is kept in memory. The truth is in the database: an owner whose text has no vector
is found there, so that nothing is lost with the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from ._formatting import counted
from .dbapi import Unpicklable, register_after_fork
from .embedders import Embedder
from .errors import UnavailableError
from .models import EmbeddingMode, EmbeddingStatus, OwnerType
from .repositories import EmbeddingRepository

_log = logging.getLogger(__name__)

_OWNERS: tuple[OwnerType, ...] = ("episode", "pattern")
_BATCH = 256  # owners that are looked up at a time; the embedder gets those of them whose texts have changed
_MOST_PENDING = 10_000  # ids of a kind; above that the table is searched for them
_ATTEMPTS = 3  # of a batch, before its owners are embedded one by one
_LONGEST_WAIT = 60.0  # seconds between two attempts
_CLOSING_SECONDS = 10.0

_Kind = tuple[str, OwnerType]
"""A namespace and a type of owner."""


class EmbeddingQueue(Unpicklable):
    """Which owners have to be embedded, and the thread that does it.

    The thread begins with the first owner, `delay` seconds later, and ends when none is pending. If the embedder fails,
    it is called again after a pause that doubles, up to a minute. Owners that it keeps refusing, while it takes others,
    are set aside until `flush`.

    Args:
        embedder: Computes the vectors.
        mode: "in_background"; "on_save": in the thread that saves, with what fails in the background; or "manually": by
            `flush` alone.
        repository_of: Returns the embeddings of a namespace.
        delay: Seconds for which owners are collected.
        now: The clock of the storage.
    """

    def __init__(
        self,
        embedder: Embedder,
        mode: EmbeddingMode,
        repository_of: Callable[[str], EmbeddingRepository],
        *,
        delay: float,
        now: Callable[[], datetime],
    ) -> None:
        self.embedder, self.mode = embedder, mode
        self._repository_of, self._delay, self._now = repository_of, delay, now
        self._pending: dict[_Kind, dict[str, None]] = {}
        self._whole: dict[_Kind, None] = {}  # kinds of which the whole namespace is searched for missing vectors
        self._refused: dict[_Kind, dict[str, None]] = {}
        self._searched: set[str] = set()
        self._in_work = 0  # of the owners that are being embedded now
        self._embedded, self._failures = 0, 0
        self._last_embedded_at: datetime | None = None
        self._error: tuple[str, datetime] | None = None
        self.after_fork_in_child()
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Make the locks, and know that there is no thread."""
        self._lock = threading.Lock()  # of the state
        self._working = threading.RLock()  # held while a batch is embedded, so that none is embedded twice
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def add(self, namespace: str, owner_type: OwnerType, ids: Iterable[str]) -> None:
        """Note owners that were saved. Never raises: they are saved."""
        kind, new = (namespace, owner_type), list(ids)
        with self._lock:
            self._add(kind, new)
            self._search_once(namespace)
        if self.mode == "on_save":
            try:
                with self._working:
                    self._embed(kind, self._take(kind, new))
            except Exception as error:  # noqa: BLE001 - it is logged, seen in the health, and tried again
                self._failed(error, kind, new)
        self._start()

    def search(self, namespace: str) -> None:
        """Look for owners without vectors in a whole namespace: those of other processes, and of earlier ones."""
        with self._lock:
            self._searched.discard(namespace)
            self._search_once(namespace)
        self._start()

    def flush(self, namespace: str) -> int:
        """Embed all that is missing in a namespace now, and return the number of vectors.

        Raises:
            Exception: What the embedder raises; what is not embedded stays pending.
        """
        stored = 0
        with self._working:
            for owner_type in _OWNERS:
                kind: _Kind = (namespace, owner_type)
                with self._lock:  # before the search: what is saved during it stays pending
                    pending, refused = self._pending.pop(kind, {}), self._refused.pop(kind, {})
                try:
                    stored += self._search(kind)
                except BaseException:
                    with self._lock:
                        self._pending.setdefault(kind, {}).update(pending)
                        self._refused.setdefault(kind, {}).update(refused)
                    raise
        with self._lock:
            self._searched.add(namespace)
        return stored

    def query_failed(self, error: Exception) -> None:
        """Note that the embedder has failed for a query."""
        self._note(error)

    def status(self) -> EmbeddingStatus:
        """Return what is pending, and how the embedder does."""
        with self._lock:
            message, failed_at = self._error or (None, None)
            return EmbeddingStatus(
                model=self.embedder.model,
                mode=self.mode,
                pending=sum(map(len, self._pending.values())) + self._in_work,
                refused=sum(map(len, self._refused.values())),
                is_searching=bool(self._whole) and self.mode != "manually",
                embedded=self._embedded,
                last_embedded_at=self._last_embedded_at,
                last_error=message,
                last_error_at=failed_at,
            )

    def close(self, *, embeds: bool) -> None:
        """End the thread. With `embeds`, embed what is pending first, for at most 10 seconds."""
        with self._lock:
            self._is_closed = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSING_SECONDS)
        if embeds and self.mode != "manually":
            self._embed_last()

    def _embed_last(self) -> None:
        end = time.monotonic() + _CLOSING_SECONDS
        if self._working.acquire(timeout=0.1):  # else the thread is still waiting for the embedder
            try:
                while time.monotonic() < end and (batch := self._next_batch()):
                    self._embed(*batch)
                    self._in_work = 0
            except Exception as error:  # noqa: BLE001 - it is logged; closing must not fail
                self._note(error)
            finally:
                self._working.release()
        if pending := self.status().pending:
            _log.warning("not embedded yet: %s; the rest is when the storage is opened again", counted(pending, "text"))

    def _add(self, kind: _Kind, ids: Sequence[str]) -> None:
        pending = self._pending.setdefault(kind, {})
        pending.update(dict.fromkeys(ids))
        if len(pending) > _MOST_PENDING:
            pending.clear()
            self._whole[kind] = None

    def _search_once(self, namespace: str) -> None:
        if namespace not in self._searched and self.mode != "manually":
            self._searched.add(namespace)
            self._whole.update(((namespace, owner_type), None) for owner_type in _OWNERS)

    def _take(self, kind: _Kind, ids: Iterable[str]) -> list[str]:
        """Remove ids from what is pending, and return those that were."""
        with self._lock:
            pending = self._pending.get(kind, {})
            return [one for one in ids if pending.pop(one, 0) is None]

    def _next_batch(self) -> tuple[_Kind, list[str]] | None:
        with self._lock:
            for kind, pending in self._pending.items():
                if pending:
                    ids = list(pending)[:_BATCH]
                    for one in ids:
                        del pending[one]
                    self._in_work = len(ids)
                    return kind, ids
        return None

    def _has_work(self) -> bool:
        return bool(self._whole) or any(self._pending.values())

    def _start(self) -> None:
        if self.mode == "manually":
            return
        with self._lock:
            if not self._has_work() or self._is_closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="memory-storage-embedding", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        seconds = self._delay
        while not self._wake.wait(seconds):
            try:
                with self._working:
                    found_work = self._work()
            except Exception as error:  # noqa: BLE001 - logged and seen in the health; it is tried again
                self._note(error)
                found_work = True
            if not found_work and self._ends():
                return
            seconds = self._pause()

    def _pause(self) -> float:
        """Return the seconds before the next batch: none if it is full already, and longer after failures."""
        if self._failures:
            return min(_LONGEST_WAIT, max(self._delay, 0.1) * 2.0 ** min(self._failures, 20))
        with self._lock:
            is_full = self._whole or any(len(pending) >= _BATCH for pending in self._pending.values())
        return 0.0 if is_full else self._delay

    def _ends(self) -> bool:
        """Give the thread up, unless an owner was added."""
        with self._lock:
            if self._has_work():
                return False
            self._thread = None
            return True

    def _work(self) -> bool:
        """Embed a batch, or search a namespace if there is none. Returns whether there was something to do."""
        if batch := self._next_batch():
            try:
                self._embed(*batch)
            except Exception as error:  # noqa: BLE001 - as in `_run`
                self._failed(error, *batch)
            finally:
                self._in_work = 0
            return True
        with self._lock:
            kind = next(iter(self._whole), None)
        if kind is None:
            return False
        self._search(kind)
        return True

    def _search(self, kind: _Kind) -> int:
        """Embed all owners of a namespace that have no vector, or have changed."""
        namespace, owner_type = kind
        with self._lock:
            self._whole.pop(kind, None)
        try:
            stored = self._repository_of(namespace).embed(self.embedder, owner_type=owner_type, batch_size=_BATCH)
        except BaseException:
            with self._lock:
                self._whole[kind] = None
            raise
        self._succeeded(stored)
        return stored

    def _embed(self, kind: _Kind, ids: Sequence[str]) -> None:
        namespace, owner_type = kind
        if ids:
            repository = self._repository_of(namespace)
            self._succeeded(repository.embed(self.embedder, owner_type=owner_type, owner_ids=ids))

    def _failed(self, error: Exception, kind: _Kind, ids: Sequence[str]) -> None:
        """Keep the owners of a failed batch; after some attempts find out which of them the embedder refuses."""
        self._note(error)
        if self._failures < _ATTEMPTS or len(ids) == 1:
            with self._lock:
                self._add(kind, ids)
            return
        refused = deque[str]()
        for one in ids:
            try:
                self._embed(kind, [one])
            except UnavailableError as unavailable:
                self._note(unavailable)
                with self._lock:
                    self._add(kind, ids)
                return
            except Exception as again:  # noqa: BLE001 - as in `_run`
                self._note(again)
                refused.append(one)
        with self._lock:
            if len(refused) == len(ids):  # it takes nothing at all
                self._add(kind, ids)
            else:
                self._refused.setdefault(kind, {}).update(dict.fromkeys(refused))

    def _succeeded(self, stored: int) -> None:
        with self._lock:
            if self._failures and stored:
                _log.info("the embedder %r works again", self.embedder.model)
            if stored:
                self._failures, self._error = 0, None
                self._embedded += stored
                self._last_embedded_at = self._now()

    def _note(self, error: Exception) -> None:
        with self._lock:
            self._failures += 1
            message = f"{type(error).__name__}: {error}"
            is_new = self._error is None or self._error[0] != message
            self._error = message, self._now()
        if is_new:
            _log.warning(
                "embedding by %r failed, nothing is lost, and it is tried again: %s", self.embedder.model, message
            )
