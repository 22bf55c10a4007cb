"""The examples run, on real transcripts if available, with the documented results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from memory_storage.importers import import_file
from tests.example_process import EXAMPLES, output_of
from tests.importers.transcripts import REAL, write_airline


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example() -> ModuleType:
    return _module("similar_successes")


@pytest.fixture(params=["made", "real"] if REAL.exists() else ["made"])
def transcripts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return REAL if request.param == "real" else write_airline(tmp_path / "runs.jsonl")


def test_similar_successes_of_ten_failures(example, transcripts, database):
    embedder = HashingEmbedder()
    with ms.MemoryStorage.open(database) as storage:
        import_file(storage, transcripts)
        assert storage.embeddings.embed(embedder, text_of=example.task_of) == 200
        found = list(example.similar_successes(storage, embedder))
    assert len(found) == 10
    for failed, hits in found:
        assert failed.outcome.kind == "failure"
        assert [hit.item.outcome.kind for hit in hits] == ["success"] * 3
        assert any(hit.item.steps for hit in hits)
        assert hits[0].similarity >= hits[-1].similarity > 0


def test_the_most_similar_success_prefers_the_same_task(example, transcripts, database):
    embedder = HashingEmbedder()
    with ms.MemoryStorage.open(database) as storage:
        import_file(storage, transcripts)
        storage.embeddings.embed(embedder, text_of=example.task_of)
        successes = {one.task_description for one in storage.episodes.iterate(outcome="success")}
        for failed, hits in example.similar_successes(storage, embedder):
            if failed.task_description in successes:
                assert hits[0].item.task_description == failed.task_description


@pytest.mark.slow
def test_the_script_shows_them(example, transcripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(transcripts), "--database", str(tmp_path / "memory.db")])
    example.main()
    shown = capsys.readouterr().out
    assert shown.count("\n\n") >= 9
    example.main()  # again: nothing is imported or embedded twice
    assert capsys.readouterr().out == shown


@pytest.mark.slow
def test_what_works_is_deterministic_and_writes_a_page(transcripts, tmp_path, monkeypatch, capsys):
    what_works = _module("what_works")
    page = tmp_path / "report.html"
    arguments = ["x", str(transcripts), "--database", str(tmp_path / "memory.db"), "--html", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    what_works.main()
    shown = capsys.readouterr().out
    assert "% to " in shown
    assert shown.endswith(f"{page}\n")
    what_works.main()
    assert capsys.readouterr().out == shown
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_offline_conflict(migrated_server_url, tmp_path):
    lines = list(_module("offline_conflict").conflict_and_resolution(migrated_server_url, tmp_path))
    assert lines == [
        "Ben's sync: 1 conflict",
        "task_description: it was 'Fix the login'; mine is 'Fix the redirect of the login'; "
        "ann has 'Fix the expired token of the login'",
        "now: 'Fix the redirect of the login', with the steps of both: ['pytest', 'grep']",
    ]


def test_record_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--database", str(tmp_path / "memory.db")])
    _module("record_runs").main()
    assert capsys.readouterr().out.splitlines() == [
        "Sell 2 apples: success (count ok, sell ok)",
        "Sell 5 apples: failure (count ok, sell error) ValueError: only 3 apples are left",
        "Sell 1 pears: abstained (count ok) no pears",
    ]


@pytest.mark.slow
def test_an_agent_with_mcp_needs_fewer_steps_the_second_time(database):
    assert output_of("mcp_agent.py", database) == [
        "Fix the flaky test of the login token",
        "  recall: 0 records",
        "  pytest: test_token: expired 1 s too early",
        "  edit: 1 file changed",
        "  pytest: test_token: expired 1 s too early",
        "  edit: 1 file changed",
        "  pytest: 20 passed",
        "  complete_episode: success",
        "Fix the flaky test of the session token",
        "  recall: 1 record",
        "  edit: 1 file changed",
        "  pytest: 20 passed",
        "  complete_episode: success",
    ]
    with ms.MemoryStorage.open(database) as storage:
        second, first = storage.episodes.query().items
    assert [len(first.steps), len(second.steps)] == [5, 2]
    assert [str(one) for _, one in second.recalled.items] == [str(first.id)]
