"""The window of writes: how many may be on their way to a server at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory_storage.dbapi import OperationalError
from memory_storage.dbapi._write_limiter import WriteWindow
from tests.raising import raises


def _run(window: WriteWindow, threads: int, rounds: int, work) -> int:
    """Have threads do `work` in places of the window; the most that were there at once."""
    inside, most, lock = 0, 0, threading.Lock()

    def one(_: int) -> None:
        nonlocal inside, most
        with window.place(10):
            with lock:
                inside += 1
                most = max(most, inside)
            work()
            with lock:
                inside -= 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(rounds)))
    return most


def test_the_window_opens_while_answers_come_as_quickly_as_ever():
    window = WriteWindow()
    assert _run(window, 12, 400, lambda: time.sleep(0.02)) == 12


def test_the_window_closes_where_writes_wait_for_each_other():
    window = WriteWindow()
    turn = threading.Lock()

    def work() -> None:
        with turn:
            time.sleep(0.002)

    _run(window, 12, 300, work)
    assert _run(window, 12, 100, work) <= 4


def test_a_write_that_was_held_up_halves_the_window_but_never_to_nothing():
    window = WriteWindow()
    for _ in range(10):
        with raises(OperationalError, code="SQLITE_BUSY"), window.place(1):
            raise OperationalError("database is locked", "SQLITE_BUSY")
    assert _run(window, 2, 2, lambda: time.sleep(0.01)) == 1


def test_who_gets_no_place_in_time_is_told_so_and_takes_none():
    window = WriteWindow()
    for _ in range(10):
        with pytest.raises(OperationalError), window.place(1):
            raise OperationalError("database is locked", "SQLITE_BUSY")
    with window.place(1), pytest.raises(OperationalError, match="too many writes") as caught, window.place(0.01):
        pass
    assert caught.value.code == "SQLITE_BUSY"
    with window.place(1):
        pass


def test_an_error_in_the_block_gives_the_place_back():
    window = WriteWindow()
    for _ in range(20):
        with pytest.raises(KeyError), window.place(0.1):
            raise KeyError
    with window.place(0.1):
        pass


def test_writes_that_fail_at_once_do_not_make_the_others_look_slow():
    window = WriteWindow()
    for _ in range(20):
        with raises(OperationalError, code="CONNECTION_FAILED"), window.place(1):
            raise OperationalError("connection refused", "CONNECTION_FAILED")
    assert _run(window, 12, 400, lambda: time.sleep(0.02)) == 12
