"""Keep-alive: connections are refreshed before they expire, and released when they are garbage collected."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest

from memory_storage.dbapi._keep_alive import KeepAlive
from tests.durability.processes import PROCESSES


class Connection:
    def __init__(self) -> None:
        self.is_due = True
        self.refreshed = threading.Event()
        self.waits_for: threading.Event | None = None

    def expires_soon(self) -> bool:
        return self.is_due

    def refresh(self) -> None:
        self.refreshed.set()
        if self.waits_for is not None:
            self.waits_for.wait(30)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_only_what_expires_soon_is_refreshed():
    keep_alive, due, fresh = KeepAlive(tick=0.01), Connection(), Connection()
    fresh.is_due = False
    keep_alive.add(fresh)
    keep_alive.add(due)
    assert due.refreshed.wait(30)
    assert not fresh.refreshed.is_set()


def test_one_slow_server_holds_up_no_other():
    keep_alive, slow, other = KeepAlive(tick=0.01), Connection(), Connection()
    slow.waits_for = threading.Event()
    keep_alive.add(slow)
    assert slow.refreshed.wait(30)
    keep_alive.add(other)
    assert other.refreshed.wait(30)
    slow.waits_for.set()


def test_the_thread_ends_with_the_last_connection_and_restarts():
    keep_alive = KeepAlive(tick=0.01)
    for _ in range(2):
        forgotten, abandoned = Connection(), Connection()
        keep_alive.add(forgotten)
        keep_alive.add(abandoned)
        assert keep_alive._thread is not None
        keep_alive.remove(forgotten)
        del abandoned
        gc.collect()
        eventually(lambda: keep_alive._thread is None)
    forgotten.refreshed.clear()
    keep_alive.add(forgotten)
    assert forgotten.refreshed.wait(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows has not")
def test_a_child_process_starts_a_thread_of_its_own():
    child = PROCESSES.Process(target=_fork_and_watch)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _fork_and_watch() -> None:
    keep_alive, parents = KeepAlive(tick=0.01), Connection()
    keep_alive.add(parents)
    assert parents.refreshed.wait(30)
    pid = os.fork()
    if pid == 0:
        own = Connection()
        keep_alive.add(own)
        os._exit(0 if own.refreshed.wait(30) else 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
