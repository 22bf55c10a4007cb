"""How the portions follow what they cost."""

from __future__ import annotations

import itertools

import pytest

from memory_storage.repositories.retention.pacing import Pace


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
def pace(clock) -> Pace:
    return Pace(sleep=clock.pauses.append, clock=clock)


def _done(pace: Pace, clock: Clock, weight: int, held: float, times: int = 1) -> None:
    for _ in range(times):
        pace.begin()
        clock.now += 10  # it waits for its turn: that is not its own doing
        locked_at = clock.now
        clock.now += held
        pace.ended(weight, locked_at)


def test_a_portion_that_held_the_lock_for_long_is_followed_by_a_smaller_one(pace, clock):
    _done(pace, clock, 800, held=0.2)
    assert pace.portion == pytest.approx(40, abs=1)
    _done(pace, clock, 400, held=0.2)
    assert pace.portion == pytest.approx(30, abs=1)


def test_a_fast_one_is_followed_by_at_most_twice_as_much(pace, clock):
    sizes = [pace.portion]
    for _ in range(12):
        _done(pace, clock, 40, held=0.0001)
        sizes.append(pace.portion)
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
    assert sizes[-1] > sizes[0]


def test_one_slow_portion_is_remembered_for_a_while(pace, clock):
    _done(pace, clock, 1000, held=0.005, times=12)
    assert pace.portion == pytest.approx(3_000, rel=0.01)
    _done(pace, clock, 1000, held=0.1)
    _done(pace, clock, 1000, held=0.005, times=3)
    assert pace.portion == pytest.approx(150, rel=0.01)
    _done(pace, clock, 1000, held=0.005, times=9)
    assert pace.portion == pytest.approx(3_000, rel=0.01)


def test_a_busy_machine_does_not_make_portions_so_small_that_there_is_no_end(pace, clock):
    _done(pace, clock, 1, held=5.0, times=9)
    assert pace.portion == 24


def test_after_each_others_get_in_for_as_long_as_they_look_for_the_lock(pace, clock):
    _done(pace, clock, 40, held=0.0)
    _done(pace, clock, 40, held=0.2)
    assert clock.pauses[0] >= 2 * 0.005
    assert clock.pauses[1] == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [3600, -3600])
def test_a_server_whose_clock_is_wrong_is_measured_by_the_whole_call(pace, clock, wrong):
    pace.begin()
    clock.now += 0.3
    pace.ended(600, clock.now + wrong)
    assert pace.portion == 30
