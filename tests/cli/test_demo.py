"""The demo runs real actions on this machine, records them, and finds them again."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

import memory_storage as ms

from .conftest import start


def test_the_demo_records_what_it_did_on_this_machine(command, database, tmp_path, monkeypatch):
    (tmp_path / "something of mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    answer = json.loads(command("demo", "-d", database, "--json").stdout)
    with ms.MemoryStorage.open(database) as storage:
        (episode,) = storage.episodes.query(tags_all=["demo"])
    assert answer["found"] == [str(episode.id)]
    version, listing, lines, failure = (step.result for step in episode.steps)
    assert platform.python_version() in version.output
    assert "something of mine.txt" in listing.output
    assert lines.output == f"{len(Path(episode.steps[2].parameters['path']).read_bytes().splitlines())} lines"
    assert isinstance(failure, ms.StepError)
    assert "No such file" in failure.message
    assert episode.steps[0].latency_ms > 0


def test_the_demo_reports_its_real_outcome(command, database):
    answer = json.loads(command("demo", "-d", database, "--json").stdout)["episode"]
    assert answer["outcome"]["kind"] == "partial_success"
    assert answer["outcome"]["failed"] == ["run a script that is not there"]
    assert answer["reward"]["total"] == 0.75


@pytest.mark.parametrize("name", ["LIBSQL_DATABASE_PATH", "TURSO_DATABASE_URL"])
def test_the_demo_writes_to_a_new_file_only(command, database, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, str(database))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answer = json.loads(command("demo", "--json").stdout)
    assert not database.exists()
    assert Path(answer["database"]).is_relative_to(tmp_path)
    assert Path(answer["database"]).exists()


@pytest.mark.slow
def test_the_demo_tells_its_tale(database):
    out, err = start("demo", "-d", database).communicate(timeout=60)
    for text in ("Recorded as episode", "Python 3", "exit code 2", "0.75", "returned 1 episode", str(database)):
        assert text in out.decode()
    assert err == b""
