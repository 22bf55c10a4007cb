"""The command `export`: formats, conditions, files and stdout."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest

import memory_storage as ms
from tests.exporters import trajectories


@pytest.fixture
def stored(database, make_episode) -> list[ms.Episode]:
    """Three episodes: a success, a failure, and an archived success."""
    with ms.MemoryStorage.open(database) as storage:
        episodes = storage.episodes.save_many(
            [
                make_episode(outcome=ms.Success(verdict="done"), reward=ms.RewardScore(total=1.0)),
                make_episode(outcome=ms.Failure(reason="no way"), reward=ms.RewardScore(total=0.0)),
                make_episode(outcome=ms.Success(verdict="old"), reward=ms.RewardScore(total=0.9)),
            ]
        )
        storage.episodes.archive(episodes[2].id)
        storage.patterns.save(ms.Heuristic(condition="a", action="b"))
        return episodes


def test_an_export_in_chat_format_has_the_episodes_of_the_query(command, database, stored):
    result = command("export", "--format", "openai-chat", "--outcome", "success", "--min-reward", "0.5", "-d", database)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["messages"][-1]["content"] == "done"
    assert "not in this format: " in result.stderr
    assert "reward (1)" in result.stderr


def test_an_export_takes_archived_episodes_on_request(command, database, stored):
    for options, count in (([], 2), (["--all"], 3), (["--archived"], 1)):
        result = command("export", "-", "--format", "atif", *options, "-d", database)
        assert len(result.stdout.splitlines()) == count
        assert trajectories.problems(result.stdout_bytes) == []


@pytest.mark.parametrize("format_", ["openai-chat", "atif", "markdown", "parquet"])
def test_a_file_is_the_same_as_stdout(command, answered, database, stored, tmp_path, format_):
    file = tmp_path / "out"
    report = answered("export", file, "--format", format_)
    assert (report["file"], report["episodes"]) == (str(file), 2)
    assert bool(report["omitted"]) == (format_ == "openai-chat")
    assert file.stat().st_mode & 0o777 == 0o600
    data = command("export", "--format", format_, "-d", database).stdout_bytes
    if format_ == "parquet":
        assert pq.read_table(io.BytesIO(data)) == pq.read_table(file)
    else:
        assert data == file.read_bytes()


def test_a_lossless_export_with_conditions_has_only_episodes(command, database, stored, tmp_path):
    result = command("export", "--outcome", "success", "--all", "-d", database)
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    assert kinds == ["header", "episode", "episode", "end"]
    assert "only episodes: an export with conditions has no patterns, embeddings and places" in result.stderr
    imported = command("import", "-", "--strict", "-d", tmp_path / "copy.db", stdin=result.stdout_bytes)
    assert imported.stdout.startswith("2 imported")


def test_a_lossless_export_without_conditions_has_everything(command, database, stored):
    result = command("export", "-d", database)
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    assert kinds == ["header", "episode", "episode", "episode", "pattern", "end"]
    assert result.stderr == ""


def test_an_export_of_nothing_says_so(command, database, stored):
    result = command("export", "--format", "atif", "--tag", "none", "-d", database)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no episode matches" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "xml"], 4, "format: one of jsonl, openai-chat, atif, markdown, parquet"),
        (["a.jsonl", "--output", "b.jsonl"], 3, "leave one of them out"),
        (["--outcome", "great", "--format", "atif"], 4, "outcome"),
    ],
)
def test_wrong_options_write_nothing(command, database, stored, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = command("export", *arguments, "-d", database)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("format_", ["jsonl", "atif"])
def test_an_existing_file_is_kept(command, database, stored, tmp_path, format_):
    file = tmp_path / "all.jsonl"
    file.write_text("precious")
    assert command("export", file, "--format", format_, "-d", database).exit_code == 3
    assert file.read_text() == "precious"
