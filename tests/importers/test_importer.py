"""Importing files: the stored rows, the report, and idempotence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.importers import ImportProblem, ImportReport, import_file, import_stream
from tests.importers.transcripts import REAL, answer, call, run, write_airline, write_lines
from tests.raising import raises


@pytest.fixture(params=["made", "real"] if REAL.exists() else ["made"])
def airline(request, tmp_path) -> Path:
    return REAL if request.param == "real" else write_airline(tmp_path / "runs.jsonl")


def import_records(storage: ms.MemoryStorage, records: list, **options) -> ImportReport:
    text = "".join(json.dumps(record) + "\n" for record in records)
    return import_stream(storage, io.BytesIO(text.encode()), **options)


@pytest.mark.slow
def test_the_airline_runs_are_200_episodes_with_rewards(storage, airline):
    assert import_file(storage, airline) == ImportReport(200, 0, undated=200)
    summary = storage.analytics.summary()
    assert (summary.rows["episodes"], summary.rows["steps"]) == (200, 1164)
    assert storage.episodes.count(min_reward=1.0, max_reward=1.0, outcome="success") == 84
    assert storage.episodes.count(max_reward=0.0, outcome="failure") == 116
    assert storage.episodes.count(metadata={"trial": 0, "source": "openai-chat"}) == 50


@pytest.mark.slow
def test_importing_twice_changes_nothing(storage, airline):
    import_file(storage, airline)
    before = list(storage.episodes.iterate())
    assert import_file(storage, airline) == ImportReport(0, 200, undated=200)
    assert list(storage.episodes.iterate()) == before
    assert {episode.version for episode in before} == {1}


def test_an_episode_that_was_changed_after_its_import_stays_so(storage):
    import_records(storage, [run(reward=0)])
    (episode,) = storage.episodes.query()
    storage.episodes.save(episode.model_copy(update={"tags": ["looked-at"]}))
    assert import_records(storage, [run(reward=0)]) == ImportReport(0, 1, undated=1)
    assert storage.episodes.get(episode.id).tags == ["looked-at"]


def test_an_array_is_imported_as_lines_are(storage, tmp_path):
    records = [run(call("look"), answer("A chair."), trial=trial) for trial in range(3)]
    lines, array = write_lines(tmp_path / "a.jsonl", records), tmp_path / "a.json"
    array.write_text(json.dumps(records, indent=1))
    assert import_file(storage, lines) == ImportReport(3, 0, undated=3)
    assert import_file(storage, array) == ImportReport(0, 3, undated=3)


def test_equal_runs_of_a_file_get_distinct_repeatable_ids(storage):
    rollouts = [run(reward=1), run(trial=1), run(reward=1), run(reward=1)]
    assert import_records(storage, rollouts) == ImportReport(4, 0, undated=4)
    assert import_records(storage, rollouts) == ImportReport(0, 4, undated=4)
    assert storage.episodes.count(outcome="success") == 3
    assert [storage.episodes.count(metadata={"occurrence": number}) for number in (1, 2, 3)] == [0, 1, 1]


BROKEN = {
    "a NUL character": run({"role": "assistant", "content": "a\0b"}),
    "a NUL character in a key": run(**{"a\0b": 1}),
    "a lone surrogate": run({"role": "assistant", "content": "a\ud800b"}),
    "a document that is too large": run(*[{"role": "assistant", "content": "x" * 6_000_000}] * 2),
    "a tag that is too short": run(tags=["x"]),
    "no messages": {"task_id": 1},
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_record_is_reported_with_its_line(storage, name):
    good = [run(trial=trial) for trial in range(4)]
    report = import_records(storage, [*good[:2], BROKEN[name], *good[2:]])
    assert (report.imported, [problem.line for problem in report.failed]) == (4, [3])
    assert report.failed[0].message
    assert storage.episodes.count() == 4


def test_broken_records_are_reported_in_the_order_of_lines(storage):
    records = [run(trial=trial, tags=["x"] if trial % 10 == 5 else []) for trial in range(250)]
    records[17] = "text"
    report = import_records(storage, records)
    assert [problem.line for problem in report.failed] == sorted([18, *range(6, 251, 10)])
    assert report.imported == storage.episodes.count() == 250 - 26


@pytest.mark.parametrize("position", [0, 150, 249])
@pytest.mark.parametrize("broken", ['{"', json.dumps(run(tags=["x"]))])
def test_strict_puts_nothing_in_if_any_record_is_broken(storage, position, broken):
    lines = [json.dumps(run(trial=trial)) for trial in range(250)]
    lines.insert(position, broken)
    report = import_stream(storage, io.BytesIO("\n".join(lines).encode()), strict=True)
    assert (report.imported, report.unchanged) == (0, 0)
    assert [problem.line for problem in report.failed] == [position + 1]
    assert storage.episodes.count() == 0


def test_strict_puts_everything_in_if_nothing_is_broken(storage):
    assert import_records(storage, [run(trial=trial) for trial in range(250)], strict=True) == ImportReport(
        250, 0, undated=250
    )
    assert storage.episodes.count() == 250


def test_a_last_line_that_was_cut_off_is_reported(storage):
    whole = json.dumps(run()) + "\n"
    report = import_stream(storage, io.BytesIO((whole + whole[:30]).encode()))
    assert report.imported == 1
    assert [problem.line for problem in report.failed] == [2]


def test_progress_goes_up_to_the_size_of_the_file(storage, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [run(trial=trial) for trial in range(5)])
    seen: list[int] = []
    import_file(storage, path, on_progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == 5
    assert seen[-1] == path.stat().st_size


def test_an_empty_file_imports_nothing(storage):
    assert import_stream(storage, io.BytesIO()) == ImportReport(0, 0)


def test_a_file_that_is_not_there_is_a_configuration_error(storage, tmp_path):
    with pytest.raises(ms.ConfigurationError, match="no such file"):
        import_file(storage, tmp_path / "none.jsonl")


def test_a_directory_is_a_configuration_error(storage, tmp_path):
    with pytest.raises(ms.ConfigurationError, match="it is a directory"):
        import_file(storage, tmp_path)


def test_a_binary_file_is_refused(storage):
    with raises(ms.ValidationError, field="file", match="UTF-8"):
        import_stream(storage, io.BytesIO(b"\0\0\0\1"))


def test_an_unknown_format_is_refused(storage):
    with raises(ms.ValidationError, field="format", match="openai-chat, export"):
        import_stream(storage, io.BytesIO(b"{}"), format="xml")


def test_a_problem_is_a_line_and_a_message(storage):
    (problem,) = import_records(storage, [{"task_id": 1}], format="openai-chat").failed
    assert isinstance(problem, ImportProblem)
    assert problem.line == 1
    assert "`messages` or `traj`" in problem.message
