"""Requests the next page of a server in another thread, while the page before it is applied."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead:
    """At most one request at a time, whose answer one thread takes. Used by one thread; close it in the end."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[Hashable, Future[Any]] | None = None

    def start(self, key: Hashable, request: Callable[[], object]) -> None:
        """Send a request, whose answer `take` returns for this key."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory-storage-sync")
        self._next = key, self._thread.submit(copy_context().run, request)

    def take(self, key: Hashable, request: Callable[[], T]) -> T:
        """Return the answer to the request with this key; send it, unless it is on its way."""
        found, self._next = self._next, None
        if found is None:
            return request()
        if found[0] == key:
            answer: T = found[1].result()
            return answer
        found[1].exception()  # two requests at a time would count their bytes wrong
        return request()

    def close(self) -> None:
        """Do without the answer that was not taken."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
