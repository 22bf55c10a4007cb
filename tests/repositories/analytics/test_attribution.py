"""Attribution equals plain Python over the same receipts, takes one statement, and says where it knows little."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import AttributionFigures, Difference, Mean, Rate, RecallReceipt
from tests.backends import in_memory
from tests.checks import index_all
from tests.raising import raises
from tests.repositories.analytics import oracle
from tests.schema.spy import spied

NOON = datetime(2026, 3, 28, 12, tzinfo=timezone.utc)
RECORDS: dict[UUID, str] = {
    UUID(int=1): "success",
    UUID(int=2): "failure",
    UUID(int=3): "pattern",
    UUID(int=4): "pattern",
    UUID(int=5): "pattern",  # it does not exist any more
}
PATTERNS = {UUID(int=3): "heuristic", UUID(int=4): "tool_sequence"}
DONE, FAILED = ms.Success(verdict="v"), ms.Failure(reason="r")
_number = itertools.count()


@st.composite
def _episodes(draw: Any) -> ms.Episode:
    receipt = None
    if draw(st.booleans()):
        shown = draw(st.lists(st.sampled_from(list(RECORDS)), unique=True, max_size=4))
        used = (
            draw(st.none() | st.lists(st.sampled_from(shown), unique=True)) if shown else draw(st.none() | st.just([]))
        )
        items = [(RECORDS[one], one) for one in shown]
        receipt = RecallReceipt(id=UUID(int=9), items=items, used=used, rating=draw(st.none() | st.integers(1, 5)))
    reward = draw(st.none() | st.sampled_from([0.0, 1.0, 0.5]))
    return ms.Episode(
        task_description="t",
        context=ms.TaskContext(domain=draw(st.sampled_from(["web", "data"]))),
        started_at=NOON + draw(st.timedeltas(timedelta(), timedelta(3))),
        outcome=draw(st.sampled_from([None, DONE, FAILED, ms.Abstained(reason="r")])),
        reward=None if reward is None else ms.RewardScore(total=reward),
        recalled=receipt,
    )


def _filled(storage: ms.MemoryStorage, made: list[ms.Episode]) -> ms.MemoryStorage:
    memory = storage.in_namespace(f"example {next(_number)}")
    memory.patterns.save_many(
        [
            ms.Heuristic(id=UUID(int=3), description="a rule", condition="c", action="a"),
            ms.ToolSequence(id=UUID(int=4), description="tools", tools=["a"]),
        ]
    )
    memory.episodes.save_many(made)
    return memory


def _names(episode: ms.Episode, by: str | None) -> dict[Any, list[UUID]]:
    """The groups that an episode was shown records of, each with these."""
    found: dict[Any, list[UUID]] = {}
    for kind, identifier in episode.recalled.items if episode.recalled else ():
        name = {None: None, "record": str(identifier), "kind": kind, "pattern_kind": PATTERNS.get(identifier)}[by]
        if by != "pattern_kind" or name is not None:
            found.setdefault(name, []).append(identifier)
    return found


def _rate(judge: oracle.Judge, episodes: Iterable[ms.Episode]) -> tuple[Any, ...]:
    judged = [well for one in episodes if (well := judge(one)) is not None]
    return oracle.rate(sum(judged), len(judged))


def _difference(before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Any, ...]:
    if before[0] is None or after[0] is None:
        return None, None, None
    low = math.sqrt((after[0] - after[1]) ** 2 + (before[2] - before[0]) ** 2)
    high = math.sqrt((after[2] - after[0]) ** 2 + (before[0] - before[1]) ** 2)
    return after[0] - before[0], after[0] - before[0] - low, after[0] - before[0] + high


def _expected(episodes: list[ms.Episode], by: str | None, judge: oracle.Judge) -> dict[Any, dict[str, Any]]:
    shown: dict[Any, list[tuple[ms.Episode, list[UUID]]]] = {None: []} if by is None else {}
    without = [one for one in episodes if one.recalled is None or not one.recalled.items]
    for episode in episodes:
        for name, ids in _names(episode, by).items():
            shown.setdefault(name, []).append((episode, ids))
    result = {}
    for name, pairs in shown.items():
        known = [(one, bool(set(ids) & set(one.recalled.used))) for one, ids in pairs if one.recalled.used is not None]
        used, unused = ([one for one, is_used in known if is_used is use] for use in (True, False))
        rates = [_rate(judge, some) for some in ([one for one, _ in pairs], used, unused, without)]
        labels = ("shown", "used", "shown but not used", "without a recall")
        few = [f"{label} {rate[4]}" for label, rate in zip(labels, rates, strict=True) if rate[4] < 20]
        ratings = [float(one.recalled.rating) for one, _ in pairs if one.recalled.rating is not None]
        result[name] = {
            "shown": len(pairs),
            "adoption": oracle.rate(len(used), len(known)),
            **dict(zip(("success_shown", "success_used", "success_unused", "success_without"), rates, strict=True)),
            "rating": oracle.mean(ratings),
            "over_without": _difference(rates[3], rates[0]),
            "over_unused": _difference(rates[2], rates[1]),
            "warning": f"under 20 judged episodes: {', '.join(few)}" if few else "",
        }
    return result


def _cells(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Rate):
        return value.rate, value.low, value.high, value.count, value.of
    if isinstance(value, Mean):
        return value.mean, value.low, value.high, value.of
    return (value.difference, value.low, value.high) if isinstance(value, Difference) else (value,)


def _assert_equal(row: AttributionFigures, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        found, wanted = _cells(getattr(row, name)), value if isinstance(value, tuple) else (value,)
        assert len(found) == len(wanted)
        for cell, number in zip(found, wanted, strict=True):
            assert cell == (number if number is None or isinstance(number, str) else pytest.approx(number, abs=1e-6))


@given(
    made=st.lists(_episodes(), max_size=30),
    by=st.sampled_from([None, "record", "kind", "pattern_kind"]),
    least=st.sampled_from([None, 0.5]),
    asked=st.sampled_from([{}, {"domain": "web"}, {"outcome": "success"}]),
)
def test_every_grouping_equals_plain_python(storage, made, by, least, asked):
    memory = _filled(storage, made)
    judge = oracle.by_outcome if least is None else oracle.by_reward(least)
    expected = _expected(memory.episodes.query(**asked, limit=1000).items, by, judge)
    found = memory.analytics.attribution(by, success_reward=least, **asked)
    shown_and_used = {name: (row["shown"], row["adoption"][3]) for name, row in expected.items()}
    assert [row.group for row in found] == sorted(
        expected, key=lambda name: (*(-count for count in shown_and_used[name]), name or "")
    )
    for row in found:
        _assert_equal(row, expected[row.group])
        assert row.starts_at is row.ends_at is None


@given(made=st.lists(_episodes(), max_size=20), by=st.sampled_from([None, "kind", "record"]))
def test_periods_equal_plain_python(storage, made, by):
    memory = _filled(storage, made)
    until = NOON + timedelta(days=2)
    found = memory.analytics.attribution(by, unit="day", tz="Europe/Berlin", since=NOON, until=until)
    periods = list(dict.fromkeys((row.starts_at, row.ends_at) for row in found))
    assert periods == sorted(periods)
    if by is None:
        assert len(found) == len(periods) == 3
    of_range = [one for one in made if NOON <= one.started_at < until]
    for start, end in periods:
        expected = _expected(oracle.within(of_range, start, end), by, oracle.by_outcome)
        rows = [row for row in found if row.starts_at == start]
        assert {row.group for row in rows} == set(expected)
        for row in rows:
            _assert_equal(row, expected[row.group])


def _made(outcome: ms.Outcome | None, used: list[UUID] | None, shown: Iterable[UUID] = (UUID(int=3),)) -> ms.Episode:
    receipt = RecallReceipt(id=UUID(int=9), items=[(RECORDS[one], one) for one in shown], used=used)
    return ms.Episode(task_description="t", outcome=outcome, recalled=receipt)


def test_figures_of_a_pattern_are_those_of_its_episodes(storage):
    pattern = UUID(int=3)
    made = [
        *(_made(DONE, [pattern]) for _ in range(18)),
        *(_made(FAILED, [pattern]) for _ in range(6)),
        *(_made(DONE, []) for _ in range(5)),
        *(_made(FAILED, []) for _ in range(15)),
        *(ms.Episode(task_description="t", outcome=outcome) for outcome in [DONE] * 10 + [FAILED] * 10),
    ]
    memory = _filled(storage, made)
    for _ in range(2):
        (row,) = memory.analytics.attribution()
        assert (row.group, row.kind, row.description, row.shown) == (str(pattern), "pattern", "a rule", 44)
        assert (row.adoption.count, row.adoption.of) == (24, 44)
        assert (row.success_used.rate, row.success_unused.rate, row.success_without.rate) == (0.75, 0.25, 0.5)
        assert (row.over_unused.difference, row.warning) == (0.5, "")
        assert row.over_unused.low > 0
        assert row.over_without.difference == pytest.approx(23 / 44 - 0.5)
        index_all(storage.engine)


def test_few_episodes_are_warned_of(storage):
    memory = _filled(storage, [_made(DONE, [UUID(int=3)]) for _ in range(19)])
    (row,) = memory.analytics.attribution("kind")
    assert row.warning == "under 20 judged episodes: shown 19, used 19, shown but not used 0, without a recall 0"
    assert (row.over_unused.difference, row.over_without.low) == (None, None)


def test_records_that_do_not_exist_any_more_have_no_description(storage):
    memory = _filled(storage, [_made(DONE, None, [UUID(int=1), UUID(int=5)])])
    rows = memory.analytics.attribution()
    assert [(row.group, row.kind, row.description) for row in rows] == [
        (str(UUID(int=1)), "success", None),
        (str(UUID(int=5)), "pattern", None),
    ]
    assert not memory.analytics.attribution("pattern_kind")


def test_what_was_shown_most_is_within_the_limit(storage):
    memory = _filled(storage, [_made(DONE, None, [UUID(int=3), UUID(int=4)]), _made(DONE, None, [UUID(int=4)])])
    assert [row.group for row in memory.analytics.attribution(limit=1)] == [str(UUID(int=4))]


def test_of_those_shown_as_often_what_was_used_most_is_within_the_limit(storage):
    memory = _filled(storage, [_made(DONE, [UUID(int=4)], [UUID(int=3), UUID(int=4)])])
    assert [row.group for row in memory.analytics.attribution(limit=1)] == [str(UUID(int=4))]


def test_completing_counts_for_attribution(storage):
    pattern = storage.patterns.save(ms.Heuristic(condition="flaky login", action="wait"))
    for used, rating in (([pattern.id], 5), ([], 1)):
        episode = storage.episodes.save(ms.Episode(task_description="anything"))
        recall = storage.recall("a flaky login")
        storage.episodes.complete(episode.id, DONE, recalled=recall, used=used, rating=rating)
    (row,) = storage.analytics.attribution()
    assert (row.group, row.shown, row.adoption.count, row.rating.mean) == (str(pattern.id), 2, 1, 3.0)


def test_it_takes_one_statement(storage):
    memory = _filled(storage, [_made(DONE, [])])
    with spied(storage.engine) as batches:
        for by in (None, "record", "kind", "pattern_kind"):
            memory.analytics.attribution(by, unit="day")
    assert len(batches) == 4


@in_memory
@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("by", {"by": "tool"}),
        ("unit", {"unit": "year"}),
        ("tz", {"tz": "Mars"}),
        ("limit", {"limit": 0}),
        ("confidence", {"confidence": 1}),
        ("success_reward", {"success_reward": "1"}),
        ("used", {"used": "no id"}),
    ],
)
def test_an_invalid_argument_is_named(storage, field, arguments):
    with raises(ms.ValidationError, field=field):
        storage.analytics.attribution(**arguments)


@in_memory
def test_figures_are_a_table(storage):
    memory = _filled(storage, [_made(DONE, [])])
    table = memory.analytics.attribution()
    assert table.to_rows()[0]["adoption_of"] == 1
    assert "over_without_difference" in str(table)
