"""The start and end of a run, from its record or its messages."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage.importers import episode_from
from memory_storage.importers.timestamps import read_time
from tests.importers.test_importer import import_records
from tests.importers.transcripts import answer, call, run

T0 = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


def at(message: dict, seconds: float, name: str = "timestamp") -> dict:
    return {**message, name: (T0 + seconds * SECOND).isoformat()}


@pytest.mark.parametrize(
    "value",
    [
        1767225600, 1767225600.0, 1767225600_000, 1767225600_000_000, 1767225600_000_000_000,
        "1767225600", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00", "2026-01-01",
    ],
)  # fmt: skip
def test_a_time_is_read_in_each_of_its_forms(value):
    assert read_time(value) == T0


@pytest.mark.parametrize("value", [None, True, "yesterday", "", 0, 12.5, -1, 1e300, float("inf"), [], "0001-01-01"])
def test_a_value_that_is_not_a_time_is_none(value):
    assert read_time(value) is None


def test_the_messages_say_when_a_run_started_and_ended():
    messages = [at({"role": "user", "content": "Go"}, 0), at(call("f"), 9), at(answer("ok"), 12)]
    episode = episode_from({"messages": messages, "success": True})
    assert (episode.started_at, episode.completed_at) == (T0, T0 + 12 * SECOND)
    assert [(step.started_at, step.latency_ms) for step in episode.steps] == [(T0 + 9 * SECOND, 3000)]
    assert "import_notes" not in episode.metadata


@pytest.mark.parametrize("name", ["timestamp", "created_at", "time", "ts"])
def test_a_message_has_its_time_under_several_names(name):
    assert episode_from({"messages": [at({"role": "user", "content": "Go"}, 5, name)]}).started_at == T0 + 5 * SECOND


def test_a_time_inside_of_extra_counts():
    message = {**answer("ok"), "extra": {"timestamp": 1767225605.5, "returncode": 0}}
    episode = episode_from(run(call("f"), message))
    assert episode.started_at == episode.steps[0].started_at == T0 + 5.5 * SECOND


def test_steps_without_a_time_stand_between_those_that_have_one():
    messages = [
        at(call("a", call_id="1"), 10),
        call("b", call_id="2"),
        call("c", call_id="3"),
        at(call("d", call_id="4"), 20),
    ]
    steps = episode_from(run(*messages)).steps
    assert [step.started_at for step in steps] == sorted(step.started_at for step in steps)
    assert (steps[0].started_at, steps[3].started_at) == (T0 + 10 * SECOND, T0 + 20 * SECOND)


def test_a_step_that_is_dated_before_the_last_one_follows_it():
    episode = episode_from(run(at(call("a", call_id="1"), 10), at(call("b", call_id="2"), 3)))
    first, second = episode.steps
    assert second.started_at > first.started_at
    assert any("dated before" in note for note in episode.metadata["import_notes"])


@pytest.mark.parametrize("bad", ["yesterday", True, 0, 3.5, {"day": 1}])
def test_a_bad_time_is_named_and_the_run_is_taken(bad):
    episode = episode_from(run(created=bad), started_at=T0)
    assert episode.started_at == T0
    assert "`created` is no time" in episode.metadata["import_notes"]
    episode = episode_from(run({"role": "assistant", "content": "x", "timestamp": bad}), started_at=T0)
    assert "a message's `timestamp` is no time" in episode.metadata["import_notes"]


def test_an_end_before_the_start_is_left_out_and_named():
    episode = episode_from(run(created=1767225600, completed_at=1767225500, success=True))
    assert (episode.started_at, episode.completed_at) == (T0, None)
    assert any("ends before it starts" in note for note in episode.metadata["import_notes"])


def test_undated_runs_stay_for_retention_and_have_no_duration(storage):
    import_records(storage, [run(trial=trial, reward=1) for trial in range(3)])
    storage.retention.apply(ms.RetentionPolicy(max_age=timedelta(days=90)))
    assert import_records(storage, [run(trial=trial, reward=1) for trial in range(3)]).unchanged == 3
    page = storage.episodes.query(direction="oldest_first")
    assert [episode.metadata["trial"] for episode in page] == [0, 1, 2]
    (group,) = storage.analytics.by("task_type")
    assert (group.episodes, group.duration_s.of, group.duration_s.mean) == (3, 0, None)


def test_the_time_of_undated_runs_can_be_given(storage):
    import_records(storage, [run()], started_at=T0)
    assert storage.episodes.query().items[0].started_at == T0


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), "2026-01-01"])  # noqa: DTZ001 - that is the point
def test_a_naive_time_for_undated_runs_is_refused(storage, time):
    with pytest.raises(ms.ValidationError) as caught:
        import_records(storage, [run()], started_at=time)
    assert caught.value.field == "started_at"
    assert storage.episodes.count() == 0
