"""Analytics of real transcripts, against plain Python over the raw file. Where that is not, over one like it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.importers import import_file
from tests.importers.transcripts import REAL, write_airline

LENGTH, LEAST = 3, 5


@pytest.fixture(params=["made", "real"] if REAL.exists() else ["made"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return REAL if request.param == "real" else write_airline(tmp_path / "runs.jsonl")


@pytest.fixture
def raw(runs: Path) -> list[tuple[float, list[str]]]:
    """The reward of each run, and the names of its tool calls in their order."""
    records = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines()]
    return [(record["reward"], list(_calls(record["traj"]))) for record in records]


def _calls(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        for call in message.get("tool_calls") or []:
            yield call["function"]["name"]


@pytest.fixture
def analytics(target: str, runs: Path) -> Iterator[ms.AnalyticsRepository]:
    with ms.MemoryStorage.open(target) as storage:
        import_file(storage, runs)
        yield storage.analytics


def test_the_success_rate_by_tool_is_that_of_the_raw_file(analytics, raw):
    expected: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for reward, names in raw:
        for name in set(names):
            expected[name][0] += reward == 1.0
            expected[name][1] += 1
    for found in (analytics.by("tool"), analytics.by("tool", success_reward=1.0)):
        assert {row.group: [row.success.count, row.success.of] for row in found} == expected


def test_top_sequences_by_lift_equal_those_of_the_raw_file(analytics, raw):
    having: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for reward, names in raw:
        for one in {tuple(names[start : start + LENGTH]) for start in range(len(names) - LENGTH + 1)}:
            having[one].append(reward)
    share = sum(reward for reward, _ in raw) / len(raw)
    lifts = {one: sum(ends) / len(ends) / share for one, ends in having.items() if len(ends) >= LEAST}
    best = sorted(lifts, key=lambda one: (-round(lifts[one], 9), -len(having[one]), one))[:10]
    found = analytics.sequences(LENGTH, min_episodes=LEAST, success_reward=1.0)
    assert [row.tools for row in found] == best
    assert [row.lift for row in found] == pytest.approx([lifts[one] for one in best])
    assert [row.support for row in found] == pytest.approx([len(having[one]) / len(raw) for one in best])


def test_runs_with_equal_starts_keep_the_order_of_the_file(analytics, raw):
    stages = analytics.by_stage(10, success_reward=1.0)
    assert [row.success.count for row in stages] == [
        sum(reward for reward, _ in raw[first : first + 20]) for first in range(0, 200, 20)
    ]
