"""What a notebook and a terminal show of pages, episodes and tables: short, aligned, escaped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import memory_storage as ms

SNIPPET = """
import memory_storage as ms
storage = ms.MemoryStorage.open(":memory:")
storage.episodes.query(outcome="sucess")
storage.episodes.count(task_type="debuging")
storage.episodes.search("x", complexity="hard")
storage.episodes.query(outcome="success", task_type="debugging", complexity="simple")
"""


@pytest.fixture
def filled(storage: ms.MemoryStorage) -> ms.MemoryStorage:
    for number in range(2):
        steps = [ms.Step(tool="pytest", action="run", result=ms.StepOk(output="x" * 5_000)) for _ in range(5)]
        episode = storage.episodes.save(ms.Episode(task_description=f"<b>{number}</b> " + "long " * 100, steps=steps))
        storage.episodes.complete(episode.id, ms.Success(verdict="v" * 1_000), reward=0.5)
    return storage


def test_a_page_of_two_prints_a_short_table(filled: ms.MemoryStorage):
    page = filled.episodes.query()
    assert repr(page) == "Page(2 items)"
    assert len(str(page)) < 600
    assert len(str(page).splitlines()) == 4
    for episode in page:
        assert str(episode.id) in str(page)
        assert len(repr(episode)) < 250
        assert "outcome='success', reward=0.5" in repr(episode)


def test_a_table_prints_aligned_columns(filled: ms.MemoryStorage):
    table = filled.analytics.tools()
    head, row = str(table).splitlines()
    assert head.split()[:2] == ["tool", "steps"]
    assert row.split()[:2] == ["pytest", "10"]
    assert head.index("steps") == row.index("10")
    assert repr(table) == "Table(1 rows of ToolUse)"


def test_html_is_escaped(filled: ms.MemoryStorage):
    assert "&lt;b&gt;0&lt;/b&gt;" in filled.episodes.query()._repr_html_()
    assert "<b>" not in filled.episodes.query()._repr_html_()
    assert "<td>pytest</td>" in filled.analytics.tools()._repr_html_()


def test_a_type_checker_sees_a_misspelled_filter(tmp_path: Path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(snippet)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert wrong == {4, 5, 6}, done.stdout
