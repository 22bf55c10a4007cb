"""Batch sizes adapt to the measured cost."""

from __future__ import annotations

import itertools

import pytest

from memory_storage.repositories.retention.deletion import BatchSizer


class Clock:
    """The time, and the pauses that were asked for."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batch_sizer(clock) -> BatchSizer:
    return BatchSizer(sleep=clock.pauses.append, clock=clock)


def _done(batch_sizer: BatchSizer, clock: Clock, weight: int, held: float, times: int = 1) -> None:
    for _ in range(times):
        batch_sizer.start()
        clock.now += 10  # it waits for its turn: that is not its own doing
        locked_at = clock.now
        clock.now += held
        batch_sizer.finish(weight, locked_at)


def test_a_batch_that_held_the_lock_long_shrinks_the_next(batch_sizer, clock):
    _done(batch_sizer, clock, 800, held=0.2)
    assert batch_sizer.batch_size == pytest.approx(40, abs=1)
    _done(batch_sizer, clock, 400, held=0.2)
    assert batch_sizer.batch_size == pytest.approx(30, abs=1)


def test_a_fast_one_is_followed_by_at_most_twice_as_much(batch_sizer, clock):
    sizes = [batch_sizer.batch_size]
    for _ in range(12):
        _done(batch_sizer, clock, 40, held=0.0001)
        sizes.append(batch_sizer.batch_size)
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
    assert sizes[-1] > sizes[0]


def test_one_slow_portion_is_remembered_for_a_while(batch_sizer, clock):
    _done(batch_sizer, clock, 1000, held=0.005, times=12)
    assert batch_sizer.batch_size == pytest.approx(3_000, rel=0.01)
    _done(batch_sizer, clock, 1000, held=0.1)
    _done(batch_sizer, clock, 1000, held=0.005, times=3)
    assert batch_sizer.batch_size == pytest.approx(150, rel=0.01)
    _done(batch_sizer, clock, 1000, held=0.005, times=9)
    assert batch_sizer.batch_size == pytest.approx(3_000, rel=0.01)


def test_a_busy_machine_keeps_batches_large_enough(batch_sizer, clock):
    _done(batch_sizer, clock, 1, held=5.0, times=9)
    assert batch_sizer.batch_size == 24


def test_other_writers_get_the_lock_after_each_batch(batch_sizer, clock):
    _done(batch_sizer, clock, 40, held=0.0)
    _done(batch_sizer, clock, 40, held=0.2)
    assert clock.pauses[0] >= 2 * 0.005
    assert clock.pauses[1] == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [3600, -3600])
def test_with_a_wrong_server_clock_the_call_is_measured(batch_sizer, clock, wrong):
    batch_sizer.start()
    clock.now += 0.3
    batch_sizer.finish(600, clock.now + wrong)
    assert batch_sizer.batch_size == 30
