"""The write limiter: how many writes may be in flight to a server at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory_storage.dbapi import OperationalError
from memory_storage.dbapi._write_limiter import WriteLimiter
from tests.raising import raises


def test_no_more_writes_than_slots_are_in_flight():
    limiter, in_flight, highest, lock = WriteLimiter(3), 0, 0, threading.Lock()

    def write(_: int) -> None:
        nonlocal in_flight, highest
        with limiter.slot(10):
            with lock:
                in_flight += 1
                highest = max(highest, in_flight)
            time.sleep(0.005)
            with lock:
                in_flight -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(write, range(60)))
    assert highest == 3


def test_a_write_without_a_slot_in_time_is_busy_and_sent_nothing():
    limiter = WriteLimiter(1)
    with (
        limiter.slot(1),
        raises(OperationalError, code="SQLITE_BUSY", match="max_concurrent_writes"),
        limiter.slot(0.01),
    ):
        pytest.fail("there was a second slot")
    with limiter.slot(1):
        pass


def test_an_error_in_the_block_releases_the_slot():
    limiter = WriteLimiter(1)
    for _ in range(5):
        with pytest.raises(KeyError), limiter.slot(0.1):
            raise KeyError
    with limiter.slot(0.1):
        pass


def test_a_child_process_has_all_slots():
    limiter = WriteLimiter(1)
    with limiter.slot(1):
        limiter.after_fork_in_child()
        with limiter.slot(0.1):
            pass
    with limiter.slot(0.1):
        pass
