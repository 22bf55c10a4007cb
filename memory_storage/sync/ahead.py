"""Requests the next page of a server in another thread, while the page before it is applied."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead:
    """At most one request at a time, whose answer the one thread takes that uses this."""

    def __init__(self) -> None:
        self._next: tuple[Hashable, Future[Any]] | None = None

    def start(self, key: Hashable, request: Callable[[], object]) -> None:
        """Send a request, whose answer `take` returns for this key."""
        answer: Future[Any] = Future()
        context = copy_context()

        def run() -> None:
            try:
                answer.set_result(context.run(request))
            except BaseException as error:  # noqa: BLE001 - `take` raises it
                answer.set_exception(error)

        # A daemon, since an interrupted program does not wait for an answer that it does not take.
        threading.Thread(target=run, name="memory-storage-sync-ahead", daemon=True).start()
        self._next = key, answer

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
