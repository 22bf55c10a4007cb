"""Requests the next page of a server in another thread, while the page before it is applied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Ahead:
    """At most one request at a time, whose answer the one thread takes that uses this."""

    def __init__(self) -> None:
        self._next: tuple[tuple[object, object], Future[Any]] | None = None

    def start(self, request: Callable[[K], object], after: K) -> None:
        """Request what comes after something; `take` returns the answer."""
        answer: Future[Any] = Future()
        context = copy_context()

        def run() -> None:
            try:
                answer.set_result(context.run(request, after))
            except BaseException as error:  # noqa: BLE001 - `take` raises it
                answer.set_exception(error)

        # A daemon, since an interrupted program does not wait for an answer that it does not take.
        threading.Thread(target=run, name="memory-storage-sync-ahead", daemon=True).start()
        self._next = (request, after), answer

    def take(self, request: Callable[[K], T], after: K) -> T:
        """Return the answer to a request; send it, unless it is on its way."""
        found, self._next = self._next, None
        if found is None:
            return request(after)
        if found[0] == (request, after):
            answer: T = found[1].result()
            return answer
        found[1].exception()  # two requests at a time would count their bytes wrong
        return request(after)
