"""Connections that are kept alive: refreshed when they expire soon, and forgotten when nothing holds them."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from memory_storage.dbapi._keep_alive import Pulse
from tests.durability.processes import PROCESSES


class Kept:
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
    pulse, due, fresh = Pulse(tick=0.01), Kept(), Kept()
    fresh.is_due = False
    pulse.watch(fresh)
    pulse.watch(due)
    assert due.refreshed.wait(30)
    assert not fresh.refreshed.is_set()


def test_one_slow_server_holds_up_no_other():
    pulse, slow, other = Pulse(tick=0.01), Kept(), Kept()
    slow.waits_for = threading.Event()
    pulse.watch(slow)
    assert slow.refreshed.wait(30)
    pulse.watch(other)
    assert other.refreshed.wait(30)
    slow.waits_for.set()


def test_the_thread_ends_with_the_last_and_comes_back():
    pulse = Pulse(tick=0.01)
    for _ in range(2):
        forgotten, abandoned = Kept(), Kept()
        pulse.watch(forgotten)
        pulse.watch(abandoned)
        assert pulse._thread is not None
        pulse.forget(forgotten)
        del abandoned
        gc.collect()
        eventually(lambda: pulse._thread is None)
    forgotten.refreshed.clear()
    pulse.watch(forgotten)
    assert forgotten.refreshed.wait(30)


def test_a_child_process_starts_a_thread_of_its_own():
    child = PROCESSES.Process(target=_fork_and_watch)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _fork_and_watch() -> None:
    import os

    pulse, parents = Pulse(tick=0.01), Kept()
    pulse.watch(parents)
    assert parents.refreshed.wait(30)
    pid = os.fork()
    if pid == 0:
        own = Kept()
        pulse.watch(own)
        os._exit(0 if own.refreshed.wait(30) else 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
