"""Retention and erasure with concurrent writers, and after a kill: the same result, and no partial episode."""

from __future__ import annotations

import random
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from tests.checks import assert_consistent, dump
from tests.durability.processes import killed, together
from tests.durability.work import forget_until_killed, retain_and_say_so, retain_until_killed, write_for_a_while

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
EPISODES, LONG, KILLS, WRITERS = 400, 600, 6, 4
CANARY = "zqcanary"
POLICY = ms.RetentionPolicy(max_age=timedelta(days=390), min_reward=0.2, max_bytes=250_000, keep_tagged=["kept"])


def _fill(storage: ms.MemoryStorage) -> None:
    episodes = [
        ms.Episode(
            task_description=f"{CANARY} {n} " * 9,
            started_at=NOW - timedelta(days=n),
            reward=ms.RewardScore(total=n % 7 / 6),
            tags=["kept"] if n % 50 == 0 else [],
            steps=[ms.Step(tool="t", result=ms.StepOk(output=f"{CANARY} {k}")) for k in range(LONG if n == 388 else 2)],
        )
        for n in range(EPISODES)
    ]
    saved = storage.episodes.save_many(episodes)
    storage.embeddings.put_many([("episode", one.id, [1.0, n % 13, n % 7]) for n, one in enumerate(saved)], model="m")
    storage.patterns.save_many(
        [ms.Heuristic(condition="c", action="a", evidence=[one.id for one in saved[n::90]]) for n in (2, 5)]
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with expired episodes, closed."""
    path = tmp_path_factory.mktemp("letting-go") / "memory.db"
    with ms.MemoryStorage.open(path) as storage:
        _fill(storage)
    return path


def _copy(template: Path, to: Path) -> Path:
    shutil.copy(template, to)
    return to


def _rows(storage: ms.MemoryStorage) -> dict[str, list[tuple[Any, ...]]]:
    return dump(storage.engine)


@pytest.mark.slow
def test_killed_retention_ends_like_an_uninterrupted_run(template: Path, tmp_path: Path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with ms.MemoryStorage.open(_copy(template, tmp_path / "once.db")) as storage:
        plan = storage.retention.plan(POLICY, now=NOW)
        storage.retention.apply(plan)
        expected = _rows(storage)
        sources = {one for pattern in storage.patterns.iterate() for one in pattern.evidence}
        assert all(storage.episodes.find(one) for one in sources)
    path = _copy(template, tmp_path / "killed.db")
    chunked = 0
    for _ in range(KILLS):
        after = moments.uniform(0, 0.1)
        chunked += len(killed(retain_until_killed, path, POLICY, NOW, after=after, from_first_byte=True))
        with ms.MemoryStorage.open(path) as storage:
            assert_consistent(storage.engine)
    print(f"{chunked} chunked were done until the last of {KILLS} kills")
    with ms.MemoryStorage.open(path) as storage:
        storage.retention.apply(storage.retention.plan(POLICY, now=NOW))
        assert _rows(storage) == expected
        assert_consistent(storage.engine)
    assert 50 < len(plan) < EPISODES


def test_a_killed_erasure_is_finished_by_a_second_run(template: Path, tmp_path: Path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    path = _copy(template, tmp_path / "memory.db")
    for number in range(KILLS):
        killed(forget_until_killed, path, "default", after=moments.uniform(0, 0.1 * (number + 1)), from_first_byte=True)
        with ms.MemoryStorage.open(path) as storage:
            assert_consistent(storage.engine)
    with ms.MemoryStorage.open(path) as storage:
        assert storage.forget(namespace="default").scrubbed
        assert [one.name for one in tmp_path.iterdir() if CANARY[2:7].encode() in one.read_bytes().lower()] == []
        assert_consistent(storage.engine)


def test_retention_among_four_writers_removes_only_the_plan(template: Path, tmp_path: Path):
    path, done = _copy(template, tmp_path / "memory.db"), tmp_path / "done"
    with ms.MemoryStorage.open(path) as storage:
        before = {str(one.id) for one in storage.episodes.iterate(steps=False)}
    policy = ms.RetentionPolicy(min_reward=0.9, max_episodes=50)
    planned, *took = together(_call, [("retain", path, policy, done), *[("write", path, policy, done)] * WRITERS])
    with ms.MemoryStorage.open(path) as storage:
        left = {str(one.id) for one in storage.episodes.iterate(steps=False)}
        assert left == before - set(planned)
        with storage.engine.connect() as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM episodes WHERE namespace <> 'default'").scalar()
        assert count == sum(len(one) for one in took)
        assert_consistent(storage.engine)
    assert all(took)
    print(f"the longest of {count} writes took {max(max(one) for one in took):.3f} s")


def _call(barrier: Any, what: str, path: Path, policy: ms.RetentionPolicy, done: Path) -> list[Any]:
    if what == "retain":
        return list(retain_and_say_so(barrier, path, policy, done))
    return list(write_for_a_while(barrier, path, done))
