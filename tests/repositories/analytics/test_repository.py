"""Every analytics result equals plain Python over the same episodes, and takes one statement."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.repositories.analytics.error_signature import error_class
from tests.backends import in_memory
from tests.repositories.analytics import oracle
from tests.schema.spy import spied

_number = itertools.count()
NOON = datetime(2026, 3, 28, 12, tzinfo=timezone.utc)  # a day before clocks change in Europe
TOOLS = ["look", "edit", "run", 'it\'s "odd"', ""]
MESSAGES = ["ValueError: 3", "ValueError: 4", "Error: user mia_1 not found", "Error: user bob_2 not found", ""]

_steps = st.builds(
    ms.Step,
    tool=st.sampled_from(TOOLS),
    latency_ms=st.sampled_from([0, 1, 2, 50, 10**6]) | st.integers(0, 5000),
    result=st.none()
    | st.builds(ms.StepOk)
    | st.builds(ms.StepError, message=st.sampled_from(MESSAGES))
    | st.builds(ms.StepTimeout),
)
_outcomes = st.sampled_from(
    [None, ms.Success(verdict="v"), ms.Success(verdict="w"), ms.PartialSuccess(verdict="v"), ms.Failure(reason="r")]
)


@st.composite
def _episodes(draw: Any) -> ms.Episode:
    started = NOON + draw(
        st.sampled_from([timedelta(), timedelta(hours=13)]) | st.timedeltas(timedelta(), timedelta(3))
    )
    reward = draw(st.none() | st.sampled_from([0.0, 1.0, 0.5]) | st.floats(-1000, 1000))
    lasted = draw(st.none() | st.timedeltas(timedelta(), timedelta(hours=5)))
    return ms.Episode(
        task_description="t",
        task_type=draw(st.sampled_from(["debugging", "testing"])),
        context=ms.TaskContext(
            language=draw(st.sampled_from([None, "python"])),
            framework=draw(st.sampled_from([None, "django", "flask"])),
            domain=draw(st.sampled_from(["web", "data"])),
        ),
        started_at=started,
        completed_at=None if lasted is None else started + lasted,
        outcome=draw(_outcomes),
        reward=None if reward is None else ms.RewardScore(total=reward),
        tags=draw(st.lists(st.sampled_from(["auth", "flaky", "ui"]), unique=True, max_size=3)),
        steps=draw(st.lists(_steps, max_size=7)),
    )


episodes = st.lists(_episodes(), max_size=14)
filters = st.sampled_from(
    [
        {},
        {"domain": "web"},
        {"tags_any": ["auth", "ui"], "archived": None},
        {"min_reward": 0.5},
        {"outcome": "success", "task_type": "testing"},
        {"since": NOON + timedelta(hours=13)},
    ]
)
leasts = st.sampled_from([None, 0.5, 1.0])


@dataclasses.dataclass
class Filled:
    """A namespace of its own with these episodes, and those of them for which the filters hold."""

    namespace: str
    analytics: ms.AnalyticsRepository
    kept: list[ms.Episode]


def _filled(storage: ms.MemoryStorage, made: list[ms.Episode], asked: dict[str, Any]) -> Filled:
    memory = storage.in_namespace(f"example {next(_number)}")
    memory.episodes.save_many(made)
    order = {episode.id: number for number, episode in enumerate(made)}
    kept = memory.episodes.query(**asked, limit=1000, direction="oldest_first").items
    return Filled(memory.namespace, memory.analytics, sorted(kept, key=lambda e: (e.started_at, order[e.id])))


def _judge(least: float | None) -> oracle.Judge:
    return oracle.by_outcome if least is None else oracle.by_reward(least)


def _flat(value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value):
        return [cell for field in dataclasses.fields(value) for cell in _flat(getattr(value, field.name))]
    return [cell for one in value for cell in _flat(one)] if isinstance(value, list | tuple) else [value]


def _assert_close(found: Any, expected: Any) -> None:
    found, expected = _flat(found), _flat(expected)
    assert [type(one) if one is None else None for one in found] == [
        type(one) if one is None else None for one in expected
    ], (found, expected)
    numbers = [[one for one in cells if isinstance(one, int | float)] for cells in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, abs=1e-6)
    others = [[one for one in cells if not isinstance(one, int | float)] for cells in (found, expected)]
    assert others[0] == others[1]


@given(made=episodes, asked=filters, least=leasts, dimension=st.sampled_from(get_args(ms.models.Dimension)))
@pytest.mark.slow
def test_groups_of_every_dimension_equal_plain_python(storage, made, asked, least, dimension):
    filled = _filled(storage, made, asked)
    found = filled.analytics.by(dimension, success_reward=least, **asked)
    expected = {
        name: oracle.figures(group, _judge(least)) for name, group in oracle.groups(filled.kept, dimension).items()
    }
    assert [row.group for row in found] == sorted(expected, key=lambda name: (-expected[name][0], name or ""))
    for row in found:
        _assert_close(row, [row.group, expected[row.group]])


@given(
    made=episodes,
    least=leasts,
    bucket=st.sampled_from(get_args(ms.models.TimeUnit)),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
)
@pytest.mark.slow
def test_periods_equal_plain_python_and_have_no_gaps(storage, made, least, bucket, zone):
    filled = _filled(storage, made, {})
    since, until = NOON, NOON + timedelta(days=2)
    found = filled.analytics.over_time(bucket, tz=zone, success_reward=least, since=since, until=until)
    assert [row.ends_at for row in found[:-1]] == [row.starts_at for row in found[1:]]
    assert found[0].starts_at <= since < found[0].ends_at
    assert found[-1].starts_at < until <= found[-1].ends_at
    kept = oracle.within(filled.kept, since, until)
    for row in found:
        inside = oracle.within(kept, row.starts_at, row.ends_at)
        _assert_close(row, [row.starts_at, row.ends_at, oracle.figures(inside, _judge(least))])


@given(made=episodes, asked=filters, stages=st.integers(1, 5))
def test_stages_are_of_equal_size_and_equal_plain_python(storage, made, asked, stages):
    filled = _filled(storage, made, asked)
    found = filled.analytics.by_stage(stages, **asked)
    sizes = [row.episodes for row in found]
    assert sum(sizes) == len(filled.kept)
    assert not sizes or max(sizes) - min(sizes) <= 1
    for row in found:
        first = sum(sizes[: row.stage - 1])
        group = filled.kept[first : first + row.episodes]
        _assert_close(row, [row.stage, oracle.figures(group, oracle.by_outcome)])


@given(made=episodes, asked=filters)
def test_tools_equal_plain_python(storage, made, asked):
    filled = _filled(storage, made, asked)
    expected = oracle.tools(filled.kept)
    found = filled.analytics.tools(**asked)
    assert [row.tool for row in found] == sorted(expected, key=lambda tool: (-expected[tool][0], tool))
    for row in found:
        _assert_close(row, [row.tool, expected[row.tool]])


@given(
    made=episodes,
    asked=filters,
    least=leasts,
    lengths=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    min_episodes=st.integers(1, 3),
)
def test_sequences_equal_plain_python(storage, made, asked, least, lengths, min_episodes):
    filled = _filled(storage, made, asked)
    shortest, longest = lengths[0], sum(lengths)
    found = filled.analytics.sequences(
        (shortest, longest), min_episodes=min_episodes, limit=10_000, success_reward=least, **asked
    )
    expected = oracle.sequences(filled.kept, _judge(least), shortest, longest, min_episodes)
    assert [row.tools for row in found] == [row[0] for row in expected]
    for row, (tools, number, support, well, lift) in zip(found, expected, strict=True):
        _assert_close(row, [tools, number, support, oracle.rate(well, number), lift])


@given(made=episodes, asked=filters, least=leasts)
@pytest.mark.slow
def test_failures_equal_plain_python(storage, made, asked, least):
    filled = _filled(storage, made, asked)
    expected: dict[tuple[Any, ...], list[int]] = {}
    for episode in filled.kept:
        for step in episode.steps:
            if step.result and step.result.status != "ok":
                kind = error_class(step.result.status, getattr(step.result, "message", ""))
                counts = expected.setdefault((step.step_number, step.tool, kind), [0, 0])
                counts[0] += 1
                counts[1] += _judge(least)(episode) is False
    found = filled.analytics.failures(success_reward=least, limit=10_000, **asked)
    assert {(row.step_number, row.tool, row.error_class): [row.episodes, row.failed_episodes] for row in found} == (
        expected
    )
    assert [row.failed_episodes for row in found] == sorted((row.failed_episodes for row in found), reverse=True)


@given(made=episodes, least=leasts, by=st.sampled_from([None, *get_args(ms.models.Dimension)]))
@pytest.mark.slow
def test_a_comparison_has_both_periods_and_their_difference(storage, made, least, by):
    filled = _filled(storage, made, {})
    before, after = (NOON, NOON + timedelta(hours=20)), (NOON + timedelta(hours=13), NOON + timedelta(days=4))
    sides = [oracle.within(filled.kept, *period) for period in (before, after)]
    split = [oracle.groups(side, by) if by else {None: side} for side in sides]
    found = filled.analytics.compare(before, after, by=by, success_reward=least)
    assert {row.group for row in found} == set(split[0]) | set(split[1])
    assert len(found) == len({row.group for row in found})
    for row in found:
        for side, expected in ((row.before, split[0]), (row.after, split[1])):
            _assert_close(side, oracle.figures(expected.get(row.group, []), _judge(least)))
        for name in ("success", "reward", "duration_s"):
            _assert_is_the_difference(getattr(row, name), getattr(row.before, name), getattr(row.after, name))


def _assert_is_the_difference(found: ms.models.Difference, before: Any, after: Any) -> None:
    old, new = (one.rate if isinstance(one, ms.models.Rate) else one.mean for one in (before, after))
    assert found.difference == (None if None in (old, new) else new - old)
    assert (found.low is None) == (None in (before.low, after.low))
    if found.low is not None:
        assert found.low <= found.difference <= found.high


@given(made=episodes, asked=filters)
@pytest.mark.slow
def test_the_trend_is_the_line_of_least_squares(storage, made, asked):
    filled = _filled(storage, made, asked)
    found = filled.analytics.trend(**asked)
    assert found.episodes == sum(episode.reward is not None for episode in filled.kept)
    expected = oracle.slope(filled.kept)
    if expected is not None and found.slope_per_day is not None:
        slope, error = expected
        assert found.slope_per_day == pytest.approx(slope, rel=1e-4, abs=1e-4)
        assert (found.high - found.low) / 2 == pytest.approx(oracle.Z * error, rel=1e-3, abs=1e-3)


def test_a_trend_of_one_moment_has_no_slope(storage, make_episode):
    storage.episodes.save_many([make_episode(started_at=NOON, reward=ms.RewardScore(total=1.0)) for _ in range(4)])
    assert storage.analytics.trend() == ms.models.Trend(4, 1.0, None, None, None)


@given(made=episodes, asked=filters)
def test_the_span_is_from_the_first_to_the_last(storage, made, asked):
    filled = _filled(storage, made, asked)
    starts = [episode.started_at for episode in filled.kept]
    assert filled.analytics.span(**asked) == ms.models.Span(
        len(starts), min(starts, default=None), max(starts, default=None)
    )


@given(made=episodes, archived=st.integers(0, 3))
def test_the_summary_counts_all_there_is(storage, made, archived):
    filled = _filled(storage, made, {"archived": None})
    memory = storage.in_namespace(filled.namespace)
    for episode in made[:archived]:
        memory.episodes.archive(episode.id)
    expected = oracle.summary(filled.kept)
    found = memory.analytics.summary()
    assert found.rows == {
        "patterns": 0,
        "embeddings": 0,
        "places": 0,
        "items": 0,
        "records": 0,
        "relationships": 0,
        "checkpoints": 0,
        **expected["rows"],
    }
    assert set(found.outcomes) == set(expected["outcomes"])
    assert set(found.tools) == set(expected["tools"])
    for name, figures in found.outcomes.items():
        _assert_close(figures, expected["outcomes"][name])
    for name, figures in found.tools.items():
        _assert_close(figures, expected["tools"][name])


@dataclasses.dataclass
class Clocked:
    """A storage whose clock stands where it is put."""

    storage: ms.MemoryStorage
    now: datetime = NOON


@pytest.fixture
def clocked(target):
    with ms.MemoryStorage.open(target, now=lambda: clock.now) as opened:
        clock = Clocked(opened)
        yield clock


_uses = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["retrieved", "well", "badly"]),
    st.floats(-2, 2) | st.just(0.0),
    st.timedeltas(timedelta(), timedelta(days=9)),
)


@given(
    tags=st.lists(st.sampled_from([[], ["kept"], ["kept", "old"]]), min_size=4, max_size=4),
    uses=st.lists(_uses, max_size=25),
    asked=st.sampled_from([{}, {"tags_any": ["kept"]}, {"tags_all": ["kept", "old"]}]),
    half_life=st.timedeltas(timedelta(hours=1), timedelta(days=90)),
    since=st.timedeltas(timedelta(), timedelta(days=60)),
)
def test_effective_and_unused_patterns_equal_plain_python(clocked, tags, uses, asked, half_life, since):
    clocked.now = NOON
    memory = clocked.storage.in_namespace(f"example {next(_number)}")
    made = memory.patterns.save_many(
        [ms.Heuristic(condition="c", action="a", description=str(n), tags=own) for n, own in enumerate(tags)]
    )
    lives = [oracle.Life(one.id, one.description, NOON) for one in made]
    for number, what, delta, later in uses:
        clocked.now += later
        lives[number].use(what, delta, clocked.now)
        if what == "retrieved":
            memory.patterns.record_retrieval(made[number].id)
        else:
            memory.patterns.record_application(made[number].id, success=what == "well", reward_delta=delta)
    kept = [life for life, own in zip(lives, tags, strict=True) if _has_tags(own, **asked)]
    for found, expected, half in (
        (memory.analytics.effectiveness(half_life=half_life, **asked), kept, half_life),
        (
            memory.analytics.unused(since=NOON + since, **asked),
            [life for life in kept if life.last < NOON + since],
            timedelta(days=30),
        ),
    ):
        rows = {life.id: life.figures(clocked.now, half) for life in expected}
        assert {row.id for row in found} == set(rows)
        assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
        for row in found:
            _assert_close(row, rows[row.id])


def _has_tags(own: list[str], tags_any: list[str] | None = None, tags_all: list[str] | None = None) -> bool:
    return (not tags_any or bool(set(own) & set(tags_any))) and set(own) >= set(tags_all or [])


EACH = {
    "by": lambda a: [a.by(dimension) for dimension in get_args(ms.models.Dimension)],
    "over_time": lambda a: [a.over_time("month")],
    "by_stage": lambda a: [a.by_stage()],
    "tools": lambda a: [a.tools()],
    "sequences": lambda a: [a.sequences((1, 10), min_episodes=1)],
    "failures": lambda a: [a.failures()],
    "compare": lambda a: [a.compare((NOON, NOON + timedelta(1)), (NOON, NOON + timedelta(1)))],
    "effectiveness": lambda a: [a.effectiveness()],
    "unused": lambda a: [a.unused(since=datetime.now(timezone.utc))],
    "trend": lambda a: [a.trend()],
    "span": lambda a: [a.span()],
    "summary": lambda a: [a.summary()],
}


@pytest.mark.parametrize("name", EACH)
def test_each_is_one_statement(storage, make_episode, name):
    storage.episodes.save_many([make_episode() for _ in range(3)])
    with spied(storage.engine) as batches:
        answers = EACH[name](storage.analytics)
    assert [len(batch.steps) for batch in batches] == [1] * len(answers)


@pytest.mark.parametrize("name", EACH)
def test_each_method_works_on_an_empty_namespace(storage, name):
    for answer in EACH[name](storage.analytics):
        if isinstance(answer, ms.models.Table) and name not in {"over_time", "compare"}:
            assert list(answer) == []


def test_archived_episodes_count_only_on_request(storage, make_episode):
    _, gone = storage.episodes.save_many([make_episode(), make_episode()])
    storage.episodes.archive(gone.id)
    assert [row.episodes for row in storage.analytics.by("domain")] == [1]
    assert [row.episodes for row in storage.analytics.by("domain", archived=None)] == [2]


def test_patterns_rank_by_lower_bound_and_by_age(target, make_episode):
    moment = NOON
    with ms.MemoryStorage.open(target, now=lambda: moment) as storage:
        often, once, _ = storage.patterns.save_many(
            [ms.Heuristic(condition=name, action="a", description=name) for name in ("often", "once", "never")]
        )
        for _ in range(20):
            storage.patterns.record_application(often.id, success=True)
        storage.patterns.record_application(once.id, success=True)
        found = storage.analytics.effectiveness(half_life=timedelta(days=10))
        assert [row.description for row in found] == ["often", "once", "never"]
        assert found[0].score == found[0].success.low == pytest.approx(oracle.rate(20, 20)[1])
        assert found[2].score == 0.0
        moment = NOON + timedelta(days=20)
        storage.patterns.record_application(once.id, success=True)
        later = {row.description: row for row in storage.analytics.effectiveness(half_life=timedelta(days=10))}
        assert later["often"].score == pytest.approx(found[0].score / 4)
        unused = storage.analytics.unused(since=NOON + timedelta(days=1))
        assert {row.description for row in unused} == {"often", "never"}
        assert list(storage.analytics.unused(since=NOON)) == []  # they were not there yet


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("by", {"dimension": "colour"}, "dimension"),
    ("by", {"dimension": "tool", "confidence": 1.0}, "confidence"),
    ("by", {"dimension": "tool", "confidence": True}, "confidence"),
    ("by", {"dimension": "tool", "success_reward": float("nan")}, "success_reward"),
    ("by", {"dimension": "tool", "success_reward": "1"}, "success_reward"),
    ("over_time", {"unit": "fortnight"}, "unit"),
    ("over_time", {"tz": "Mars/Olympus"}, "tz"),
    ("over_time", {"tz": "../etc/passwd"}, "tz"),
    ("over_time", {"tz": 3}, "tz"),
    ("over_time", {"since": datetime.min.replace(tzinfo=timezone.utc)}, "since"),
    ("over_time", {"tz": "America/New_York", "since": datetime.min.replace(tzinfo=timezone.utc)}, "since"),
    ("by_stage", {"stages": 0}, "stages"),
    ("by_stage", {"stages": 1001}, "stages"),
    ("sequences", {"length": 0}, "length"),
    ("sequences", {"length": 11}, "length"),
    ("sequences", {"length": (3, 2)}, "length"),
    ("sequences", {"length": True}, "length"),
    ("sequences", {"min_episodes": 0}, "min_episodes"),
    ("sequences", {"limit": 0}, "limit"),
    ("failures", {"limit": 2.0}, "limit"),
    ("compare", {"before": (NOON, NOON), "after": (NOON, NOON)}, "before"),
    ("compare", {"before": NOON, "after": NOON}, "before"),
    ("compare", {"before": (NOON, datetime(2027, 1, 1)), "after": NOON}, "before"),  # noqa: DTZ001
    ("effectiveness", {"half_life": timedelta()}, "half_life"),
]


@pytest.mark.parametrize(("method", "asked", "field"), WRONG)
@in_memory
def test_invalid_arguments_are_refused_before_a_read(storage, method, asked, field):
    with spied(storage.engine) as batches, pytest.raises(ms.ValidationError) as caught:
        getattr(storage.analytics, method)(**asked)
    assert caught.value.field == field
    assert batches == []


def test_a_table_converts_to_rows_json_pandas_and_polars(storage, make_episode):
    storage.episodes.save(make_episode(outcome=ms.Success(verdict="v"), reward=ms.RewardScore(total=0.5)))
    table = storage.analytics.by("tool")
    rows = table.to_rows()
    assert list(rows[0]) == table.columns
    assert rows[0]["success_rate"] == 1.0
    assert rows[0]["reward_mean"] == 0.5
    assert json.loads(table.to_json()) == rows
    assert table.to_polars().to_dicts() == rows
    frame = table.to_pandas()
    assert frame.columns.tolist() == table.columns
    assert frame["success_rate"].tolist() == [row["success_rate"] for row in rows]


@pytest.mark.parametrize("name", [name for name in EACH if name not in {"trend", "span", "summary"}])
def test_every_table_converts_empty_or_not(storage, make_episode, name):
    for _ in range(2):
        for table in EACH[name](storage.analytics):
            assert json.loads(table.to_json()) is not None
            assert table.to_pandas().columns.tolist() == table.to_polars().columns == table.columns
            assert len(table.to_pandas()) == len(table.to_polars()) == len(table)
        storage.episodes.save(make_episode(outcome=ms.Success(verdict="v")))
        storage.patterns.save(ms.Heuristic(condition="c", action="a"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ValueError: 3 is too small", "ValueError"),
        ("requests.exceptions.ReadTimeout: after 3 s", "ReadTimeout"),
        ("Error: user mia_li_3668 not found", "user … not found"),
        ("Error: payment of 'gift_1' is $250, not 251", "payment of … is $…, not …"),
        ('\n\n  could not open "a.txt"\nmore', "could not open …"),
        ("Error", "error"),
        ("", "error"),
        ("x" * 500, "x" * 80),
    ],
)
def test_messages_of_one_fault_are_of_one_class(message, expected):
    assert error_class("error", message) == expected
    assert error_class("timeout", message) == "timeout"


@settings(max_examples=30)
@given(confidence=st.floats(0.5, 0.999), count=st.integers(0, 40), more=st.integers(0, 40))
def test_a_wider_confidence_gives_a_wider_interval(confidence, count, more):
    from memory_storage.models.proportion import wilson

    narrow, wide = wilson(count, count + more, confidence), wilson(count, count + more, confidence + 0.0005)
    if count + more:
        assert 0 <= wide.low <= narrow.low <= narrow.rate <= narrow.high <= wide.high <= 1
