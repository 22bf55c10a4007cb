"""How often a server that is not there is asked what has become of a write."""

from __future__ import annotations

from memory_storage.resilience import Pace

from .work import Clock, at_once


def test_while_there_are_answers_everybody_may_ask_at_any_time():
    pace = Pace(Clock())
    assert at_once(8, pace.may_ask) == [True] * 8
    pace.heard(answer=True)
    assert pace.may_ask()


def test_after_silence_one_asks_for_all_and_each_time_later():
    clock = Clock()
    pace = Pace(clock)
    pace.heard(answer=False)
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2):
        clock.advance(0.99 * pause)
        assert at_once(8, pace.may_ask) == [False] * 8
        clock.advance(0.02 * pause)
        assert sorted(at_once(8, pace.may_ask)) == [False] * 7 + [True]
        pace.heard(answer=False)


def test_with_the_first_answer_all_may_ask_again():
    clock = Clock()
    pace = Pace(clock)
    pace.heard(answer=False)
    assert not pace.may_ask()
    pace.heard(answer=True)
    assert at_once(8, pace.may_ask) == [True] * 8
    pace.heard(answer=False)
    clock.advance(0.06)
    assert pace.may_ask()


def test_the_pause_is_over_at_its_last_moment():
    clock = Clock()
    pace = Pace(clock)
    pace.heard(answer=False)
    clock.at = pace._next
    assert pace.may_ask()
    assert not pace.may_ask()
