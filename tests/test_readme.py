"""What the README and the guides show is run here, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import memory_storage as ms

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
SILENT = {("resilience-and-observability", 2), ("testing", 0)}  # registers exporters; defines a test
ELSEWHERE = "db.example.io"  # what shows a server that is nowhere is not run


def block(containing: str) -> str:
    """The README's Python block that has this text."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(code for code in blocks if containing in code)


def run(code: str, known: dict[str, Any] | None = None) -> dict[str, Any]:
    names: dict[str, Any] = {**(known or {}), "__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_five_minute_tour_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(block("MemoryStorage.open("))
    assert "['pytest', 'edit']" in capsys.readouterr().out
    assert (tmp_path / "data" / "memory.db").exists()
    names["storage"].close()


def test_finding_what_helps_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(block("MemoryStorage.open("))
    capsys.readouterr()
    run(block("HashingEmbedder()"), {**names})
    shown = capsys.readouterr().out
    assert "a flaky test about time -> freeze the clock" in shown
    assert "['pytest', 'edit']" in shown
    assert "'text': 1.0" in shown
    assert "[flaky]" in shown.lower() or "[test]" in shown
    names["storage"].close()


def test_the_web_app_gives_each_user_its_own_episodes(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBSQL_DATABASE_PATH", str(database))
    names = run(block("FastAPI"))
    storage: ms.MemoryStorage = names["storage"]
    storage.in_namespace("user:alice").episodes.save(ms.Episode(task_description="hers"))
    with TestClient(names["app"]) as client:
        assert [found["task_description"] for found in client.get("/users/alice/episodes").json()] == ["hers"]
        assert client.get("/users/bob/episodes").json() == []
    storage.close()


def test_every_setting_in_the_table_exists() -> None:
    table = README.split("## Settings")[1].split("## Errors")[0]
    for name in re.findall(r"`((?:pool|retry|limits)\.\w+)`", table):
        section, field = name.split(".")
        assert field in ms.Settings.model_fields[section].annotation.model_fields, name


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_what_a_guide_shows_runs_as_written_after_the_tour(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(block("MemoryStorage.open("))
    capsys.readouterr()
    shown = ""
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)):
        if ELSEWHERE not in code:
            names = run(code, names)
            printed = capsys.readouterr().out
            assert bool(printed.strip()) is ((guide.stem, number) not in SILENT), code
            shown += printed
    if guide.stem == "analytics":
        assert "tool_sequence pytest → edit" in shown
        assert "pytest 1 1.0" in shown
        assert "('pytest', 'edit')" in shown
        assert "p95_ms" in shown
    names["storage"].close()


@pytest.mark.parametrize("page", [ROOT / "README.md", *GUIDES], ids=lambda path: path.stem)
def test_every_file_that_is_linked_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_links_every_guide() -> None:
    assert {path.name for path in GUIDES} <= set(re.findall(r"\]\(docs/how-to/([\w-]+\.md)", README))
