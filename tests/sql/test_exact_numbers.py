"""Columns hold the numbers of their documents exactly, though the engine reads some decimals as their neighbours.

MEMORY_STORAGE_TEST_DECIMALS is how many of the million decimals that are held to be read exactly are tried; 50,000
by default.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.repositories.spatiotemporal.geo import on_sphere
from memory_storage.sql.documents import EXACT_IN_JSON
from tests.backends import needs_libsql
from tests.checks import assert_consistent
from tests.strategies import floats, ratios

pytestmark = pytest.mark.whole_database  # the columns are read by SQL

# Each of these, as text, is read by SQLite 3.45 (libSQL, and servers) as the float next to it.
RATIOS = (0.90131, 0.23314, 0.853311930582, 0.3648274178912915, 0.4330960743506235)
LATITUDES = (-48.80190682023213, 60.58694726747893, 51.01530496001185)
LONGITUDES = (-54.3557750953787, 104.7990976265095, 1.7292497713228)
LARGE_AND_SMALL = (2.908600144371571e36, -6.321112289472165e115, 4.301769216043059e210, -4.031696605129294e-24)
MISREAD = (*RATIOS, *LATITUDES, *LONGITUDES, *LARGE_AND_SMALL)
EDGES = (0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1e308, -1.7976931348623157e308, 0.1 + 0.2, 1e16, 1e22, 1e23)

DECIMALS = int(os.environ.get("MEMORY_STORAGE_TEST_DECIMALS", "50000"))


def _bits(number: float) -> bytes:
    return struct.pack("<d", number)


def _episode(reward: float, **fields: Any) -> ms.Episode:
    return ms.Episode(task_description="t", reward=ms.RewardScore(total=reward), **fields)


def _heuristic(rate: float, delta: float = 0.0, **fields: Any) -> ms.Heuristic:
    effectiveness = ms.models.Effectiveness(times_applied=1, avg_reward_delta=delta)
    return ms.Heuristic(condition="c", action="a", success_rate=rate, effectiveness=effectiveness, **fields)


def _place(owner: ms.Episode, latitude: float, longitude: float) -> ms.SpatiotemporalEntry:
    return ms.SpatiotemporalEntry(owner_type="episode", owner_id=owner.id, latitude=latitude, longitude=longitude)


def _column(storage: ms.MemoryStorage, table: str, column: str) -> list[Any]:
    with storage.snapshot() as view:
        return [row[0] for row in view.execute([(f"SELECT {column} FROM {table} ORDER BY seq", [])])[0]]


@needs_libsql
def test_these_decimals_are_misread_by_libsql():
    connection = dbapi.connect(":memory:", local_engine="libsql")
    values = json.dumps([[one] for one in MISREAD])
    rows = connection.execute("SELECT value ->> 0 FROM json_each(?)", (values,)).fetchall()
    connection.close()
    assert all(read != one for (read,), one in zip(rows, MISREAD, strict=True))


@pytest.mark.parametrize("local_engine", ["sqlite", "libsql"])
def test_numbers_of_three_decimals_are_read_exactly(local_engine):
    last = EXACT_IN_JSON * 1_000
    numbers = [one / 1_000 for one in (*range(10_000), *range(10_000, last + 1, max(1, last // DECIMALS)), last)]
    connection = dbapi.connect(":memory:", local_engine=local_engine)
    rows = connection.execute("SELECT value FROM json_each(?)", (json.dumps(numbers),)).fetchall()
    connection.close()
    assert [row[0] for row in rows] == numbers


def test_saved_rewards_are_found_by_their_own_value(storage):
    storage.episodes.save(_episode(MISREAD[0]))
    storage.episodes.save_many([_episode(one) for one in MISREAD[1:]])
    assert _column(storage, "episodes", "reward") == list(MISREAD)
    for one in MISREAD:
        assert [e.reward.total for e in storage.episodes.query(min_reward=one, max_reward=one)] == [one]
    assert_consistent(storage.engine)


def test_a_changed_reward_is_exact(storage):
    episodes = storage.episodes.save_many([_episode(0.5) for _ in MISREAD])
    changed = [e.model_copy(update={"reward": ms.RewardScore(total=r)}) for e, r in zip(episodes, MISREAD, strict=True)]
    storage.episodes.save(changed[0])
    storage.episodes.save_many([*changed[1:], _episode(RATIOS[0])])
    assert _column(storage, "episodes", "reward") == [*MISREAD, RATIOS[0]]
    assert_consistent(storage.engine)


def test_a_large_episode_has_an_exact_reward(storage):
    steps = [ms.Step(tool="t", result=ms.StepOk(output="x" * 400_000)) for _ in range(12)]
    storage.episodes.save_many([_episode(LATITUDES[0], steps=steps), _episode(RATIOS[1], tags=["漢字"])])
    assert sorted(_column(storage, "episodes", "reward")) == sorted([LATITUDES[0], RATIOS[1]])


def test_imported_numbers_are_exact(storage):
    storage.episodes.import_many([_episode(one, version=3) for one in MISREAD])
    storage.episodes.import_many([_episode(one, version=3) for one in RATIOS])
    storage.patterns.import_many([_heuristic(one, one, version=2) for one in RATIOS])
    owner = next(iter(storage.episodes.query()))
    pairs = list(zip(LATITUDES, LONGITUDES, strict=True))
    storage.spatiotemporal.import_many([_place(owner, *pair) for pair in pairs])
    assert _column(storage, "episodes", "reward") == [*MISREAD, *RATIOS]
    assert _column(storage, "patterns", "success_rate") == list(RATIOS)
    assert _column(storage, "patterns", "avg_reward_delta") == list(RATIOS)
    assert list(
        zip(*[_column(storage, "spatiotemporal_index", c) for c in ("latitude", "longitude")], strict=True)
    ) == (pairs)
    assert_consistent(storage.engine)


def test_a_completed_episode_has_its_reward_exactly(storage):
    episode = storage.episodes.save(_episode(RATIOS[0]))
    storage.episodes.complete(episode.id, ms.Success(verdict="v"))
    assert _column(storage, "episodes", "reward") == [RATIOS[0]]
    for reward in MISREAD:
        assert storage.episodes.complete(episode.id, ms.Success(verdict="v"), reward=reward).reward.total == reward
        assert _column(storage, "episodes", "reward") == [reward]


def test_success_rates_are_exact_when_saved_and_changed(storage):
    patterns = storage.patterns.save_many([_heuristic(0.5, delta) for delta in RATIOS])
    changed = [p.model_copy(update={"success_rate": rate}) for p, rate in zip(patterns, RATIOS, strict=True)]
    storage.patterns.save(changed[0])
    storage.patterns.save_many([*changed[1:], _heuristic(RATIOS[-1], LATITUDES[0])])
    assert _column(storage, "patterns", "success_rate") == [*RATIOS, RATIOS[-1]]
    assert _column(storage, "patterns", "avg_reward_delta") == [*RATIOS, LATITUDES[0]]
    for rate in RATIOS[:-1]:
        found = storage.patterns.query(min_success_rate=rate)
        assert rate in [one.success_rate for one in found]
    assert_consistent(storage.engine)


def test_a_rate_that_is_learned_again_is_exact(storage):
    def store(good: int, poor: int) -> None:
        ends = [ms.Success(verdict="v")] * good + [ms.Failure(reason="r")] * poor
        steps = [("a", "b"), ("c", "d")]
        storage.episodes.save_many(
            [
                ms.Episode(task_description="t", outcome=end, steps=[ms.Step(tool=tool) for tool in steps[kind]])
                for end, kind in [*((end, 0) for end in ends), *[(ms.Failure(reason="r"), 1)] * (good + poor)]
            ]
        )

    for good, poor in ((5, 2), (11, 1), (17, 3)):
        store(good, poor)
        learned = storage.patterns.learn(min_lift=1.0)
        assert learned
        assert_consistent(storage.engine)


@settings(max_examples=25)
@given(rates=st.tuples(ratios, ratios), counts=st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_a_merged_rate_is_that_of_its_document(storage, rates, counts):
    one, other = storage.patterns.save_many(
        [_heuristic(rate, rate, occurrence_count=count) for rate, count in zip(rates, counts, strict=True)]
    )
    merged = storage.patterns.merge(one.id, other.id)
    assert _bits(storage.patterns.get(one.id).success_rate) == _bits(merged.success_rate)
    assert _column(storage, "patterns", "success_rate") == [merged.success_rate]
    storage.patterns.delete(one.id)


def test_applied_deltas_are_read_back_exactly(storage):
    pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
    for delta in MISREAD:
        fresh = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
        storage.patterns.record_application(fresh.id, success=True, reward_delta=delta)
        assert storage.patterns.get(fresh.id).effectiveness.avg_reward_delta == delta
    storage.patterns.record_retrieval(pattern.id)
    assert_consistent(storage.engine)


def test_a_place_on_the_edge_of_a_box_is_in_it(storage):
    owner = storage.episodes.save(_episode(1.0))
    pairs = [(north, east) for north in LATITUDES for east in LONGITUDES]
    storage.spatiotemporal.put(_place(owner, *pairs[0]))
    places = storage.spatiotemporal.put_many([_place(owner, *pair) for pair in pairs[1:]])
    storage.spatiotemporal.put_many([one.model_copy(update={"latitude": LATITUDES[0]}) for one in places[-2:]])
    storage.spatiotemporal.put_many([_place(owner, 90.0, 1.0), _place(owner, -90.0, 180.0)])
    for latitude, longitude in pairs[:-2]:
        box = ms.Box(south=latitude, north=latitude, west=longitude, east=longitude)
        found = {(one.latitude, one.longitude) for one in storage.spatiotemporal.within(box)}
        assert found == {(latitude, longitude)}
    everywhere = ms.Box(south=-90.0, north=90.0, west=LONGITUDES[2], east=LONGITUDES[2] - 0.5)
    assert len(storage.spatiotemporal.within(everywhere)) == len(pairs) + 2
    assert_consistent(storage.engine)


@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=20))
@settings(max_examples=25)
def test_points_on_the_sphere_are_exact(storage, positions):
    owner = storage.episodes.save(_episode(1.0))
    storage.spatiotemporal.put_many([_place(owner, *position) for position in positions])
    for number, column in enumerate(("x", "y", "z")):
        stored = _column(storage, "spatiotemporal_index", column)
        assert stored == [on_sphere(*position)[number] for position in positions]
    storage.episodes.delete(owner.id)


def test_pages_of_patterns_have_each_rate_once(storage):
    storage.patterns.save_many([_heuristic(rate) for rate in (*RATIOS, *RATIOS)])

    def pages() -> Iterator[float]:
        page = storage.patterns.query(limit=1)
        while True:
            yield from (one.success_rate for one in page)
            if page.next_cursor is None:
                return
            page = storage.patterns.query(limit=1, cursor=page.next_cursor)

    assert list(pages()) == sorted((*RATIOS, *RATIOS), reverse=True)


@settings(max_examples=25)
@given(rewards=st.lists(floats | st.sampled_from(MISREAD + EDGES), min_size=1, max_size=5), rate=ratios)
def test_any_number_is_found_and_read_back_bit_for_bit(storage, rewards, rate):
    def step() -> ms.Step:
        return ms.Step(tool="t", parameters={"x": rewards})

    saved = storage.episodes.save_many([_episode(one, metadata={"m": one}, steps=[step()]) for one in rewards])
    pattern = storage.patterns.save(_heuristic(rate, rewards[0]))
    for episode, reward in zip(saved, rewards, strict=True):
        found = storage.episodes.get(episode.id)
        assert _bits(found.reward.total) == _bits(found.metadata["m"]) == _bits(reward)
        assert list(map(_bits, found.steps[0].parameters["x"])) == list(map(_bits, rewards))
        assert episode.id in {one.id for one in storage.episodes.query(min_reward=reward, max_reward=reward)}
        assert episode.id in {one.id for one in storage.episodes.query(metadata={"m": reward})}
    appended = storage.episodes.append_step(saved[0].id, step())
    assert list(map(_bits, storage.steps.get(appended.id).parameters["x"])) == list(map(_bits, rewards))
    found_pattern = storage.patterns.get(pattern.id)
    assert found_pattern.effectiveness.avg_reward_delta == rewards[0]
    assert _bits(found_pattern.success_rate) == _bits(rate)
    assert _column(storage, "episodes", "reward") == rewards
    assert _column(storage, "patterns", "success_rate") == [rate]
    for episode in saved:
        storage.episodes.delete(episode.id)
    storage.patterns.delete(pattern.id)


@pytest.mark.parametrize("key", ["m", 'we"ird', 'we"ird.key'])
def test_metadata_finds_a_number_and_not_its_neighbour(storage, key):
    with storage.snapshot() as view:
        sql = "SELECT value ->> 0 FROM json_each(?)"
        read = [row[0] for row in view.execute([(sql, [json.dumps([[one] for one in MISREAD])])])[0]]
    numbers = list(dict.fromkeys((*MISREAD, *read)))
    storage.episodes.save_many([_episode(0.0, metadata={key: one}) for one in numbers])
    for one in numbers:
        assert [episode.metadata[key] for episode in storage.episodes.query(metadata={key: one})] == [one]
