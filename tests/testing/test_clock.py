"""The fake clock: it stands still, advances on demand, and a storage takes its time from it."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage.testing import FakeClock


def test_it_stands_still_until_it_is_advanced():
    clock = FakeClock()
    first = clock.now()
    assert clock.now() == first
    assert first.tzinfo is timezone.utc
    clock.advance(90.5)
    assert clock.now() - first == timedelta(seconds=90.5)
    assert clock.monotonic() == 90.5


def test_to_sleep_takes_no_time_and_lets_it_pass():
    clock, began = FakeClock(), time.perf_counter()
    clock.sleep(3600)
    clock.sleep(0.5)
    assert time.perf_counter() - began < 60
    assert clock.sleeps == [3600, 0.5]
    assert clock.monotonic() == 3600.5


def test_it_never_goes_back_and_never_is_naive():
    with pytest.raises(ValueError, match="cannot be set back by 1 s"):
        FakeClock().advance(-1)
    with pytest.raises(ValueError, match="tzinfo"):
        FakeClock(datetime(2025, 1, 1))  # noqa: DTZ001 - that is the point


def test_threads_may_share_it():
    clock = FakeClock()
    threads = [threading.Thread(target=lambda: [clock.sleep(0.25) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 1000
    assert len(clock.sleeps) == 4000


def test_a_storage_takes_its_time_from_it():
    clock = FakeClock(datetime(2030, 5, 1, tzinfo=timezone.utc))
    with ms.MemoryStorage.open(":memory:", now=clock.now) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="t"))
        clock.advance(60)
        assert episode.created_at == datetime(2030, 5, 1, tzinfo=timezone.utc)
        assert storage.episodes.archive(episode.id).archived_at == clock.now()
