"""Agents are cycles: the threads of a test's storage end once they are collected."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _without_threads_of_other_tests() -> Iterator[None]:
    yield
    gc.collect()
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline and _call_threads():
        time.sleep(0.01)


def _call_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("memory-storage call")]
