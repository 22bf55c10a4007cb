"""Pages, episodes and tables in a notebook and a terminal: short, aligned, escaped."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from rich.cells import cell_len

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
        assert len(repr(episode)) <= 100
        assert "outcome='success', reward=0.5" in repr(episode)


def test_a_table_prints_aligned_columns(filled: ms.MemoryStorage):
    table = filled.analytics.tools()
    head, row = str(table).splitlines()
    assert head.split()[:2] == ["tool", "steps"]
    assert row.split()[:2] == ["pytest", "10"]
    assert head.index("steps") == row.index("10")
    assert repr(table) == "Table(1 row of ToolUse)"


def test_html_is_escaped(filled: ms.MemoryStorage):
    assert "&lt;b&gt;0&lt;/b&gt;" in filled.episodes.query()._repr_html_()
    assert "<b>" not in filled.episodes.query()._repr_html_()
    assert "<td>pytest</td>" in filled.analytics.tools()._repr_html_()


def test_hits_print_a_short_table(filled: ms.MemoryStorage):
    hits = filled.episodes.search("long", k=1)
    assert repr(hits) == "Hits(1 hit, next_cursor=...)"
    assert len(str(hits).splitlines()) == 3
    assert len(str(hits)) < 600
    assert str(hits).splitlines()[1].split()[:2] == ["score", "id"]
    assert str(hits[0].item.id) in str(hits)
    assert str(hits[0].item.id) in str(hits[0])
    assert "1.000" not in repr(hits)
    assert repr(filled.episodes.search("nothing")) == str(filled.episodes.search("nothing")) == "Hits(0 hits)"


def test_hits_are_escaped_html(filled: ms.MemoryStorage):
    hits = filled.episodes.search("long")
    for shown in (hits._repr_html_(), hits[0]._repr_html_()):
        assert "<th>score</th>" in shown
        assert "&lt;b&gt;" in shown
        assert "<b>" not in shown


def test_steps_and_patterns_print_briefly(filled: ms.MemoryStorage):
    step = filled.steps.latest(filled.episodes.query().items[0].id, 1)[0]
    assert len(repr(step)) <= 100
    assert "tool='pytest', action='run', status='ok'" in repr(step)
    evidence = [one.id for one in filled.episodes.query()]
    filled.patterns.save(ms.Heuristic(condition="c" * 900, action="a" * 900, description="d" * 900, evidence=evidence))
    page = filled.patterns.query()
    assert len(repr(page.items[0])) <= 100
    assert repr(page.items[0]).startswith(f"Heuristic({str(page.items[0].id)[:13]}…, 'ddd")
    assert len(str(page)) < 400
    assert str(filled.patterns.search("d" * 900)).startswith("Hits(1 hit)")


def test_printed_text_cannot_control_the_terminal(storage: ms.MemoryStorage):
    text = "\x1b]0;gone\x07 \x9b2J \u202egnp.exe\nword"
    steps = [ms.Step(tool=text, result=ms.StepError(message=text))]
    storage.episodes.save(ms.Episode(task_description=text, steps=steps))
    page, hits = storage.episodes.query(), storage.episodes.search("word")
    for shown in (page, hits, hits[0], storage.analytics.tools(), page.items[0], page.items[0].steps[0]):
        for printed in (str(shown), repr(shown)):
            assert not set(printed) & set("\x1b\x07\x9b\u202e"), printed
    assert len(str(page).splitlines()) == 3


def test_a_repr_is_one_short_line_that_identifies_its_object():
    steps = [ms.Step(tool="tool\n" * 40, action="act " * 40, result=ms.StepTimeout())]
    outcome, reward = ms.PartialSuccess(verdict="v" * 900), ms.RewardScore(total=1 / 3)
    episode = ms.Episode(task_description="Fix\nthe login " * 40, steps=steps, outcome=outcome, reward=reward)
    embedding = ms.models.Embedding(owner_type="episode", owner_id=episode.id, model="m" * 200, vector=[0.5] * 4096)
    candidate = ms.models.RetentionCandidate(episode.id, "max_age", bytes=1_000, steps=1)
    now = datetime.now(timezone.utc)
    plan = ms.models.RetentionPlan(ms.RetentionPolicy(max_episodes=1), now, [candidate] * 500)
    hit = ms.Hit(item=episode, score=1 / 3)
    for shown in map(repr, (episode, *episode.steps, embedding, plan, hit, ms.Page([episode] * 9), ms.Hits([hit] * 9))):
        assert len(shown) <= 110, shown
        assert "\n" not in shown
    assert repr(episode).startswith(f"Episode({str(episode.id)[:13]}…, 'Fix the")
    assert repr(episode).endswith("…', outcome='partial_success', reward=0.3333, 1 step)")
    assert str(episode) == repr(episode)
    assert repr(plan) == "RetentionPlan(500 episodes, 500,000 bytes)"


def test_a_repr_of_an_episode_decodes_no_steps(filled: ms.MemoryStorage):
    episode = filled.episodes.query().items[0]
    assert "step" not in repr(episode)
    assert len(episode.steps) == 5
    assert repr(episode).endswith(", 5 steps)")


def test_an_episode_shows_its_fields_and_steps_in_a_notebook(filled: ms.MemoryStorage):
    hostile = "<script>alert('x')</script>\x1b[2J"
    steps = [ms.Step(tool=hostile, action=hostile, result=ms.StepError(message=hostile))]
    context = ms.TaskContext(domain=hostile)
    episode = ms.Episode(task_description=hostile, tags=[hostile], context=context, steps=steps)
    table = ms.models.Table(ms.models.ToolUse, (filled.analytics.tools()[0],))
    for shown in (episode, ms.Page([episode]), ms.Hits([ms.Hit(item=episode, score=1.0)])):
        html = shown._repr_html_()
        assert "&lt;script&gt;" in html
        assert "<script" not in html
        assert "\x1b" not in html
    assert episode._repr_html_().count("&lt;script&gt;") == 5
    assert "<th>tool</th>" in table._repr_html_()


def test_wide_characters_stay_in_their_columns(storage: ms.MemoryStorage):
    for tool in ("\u6f22\u5b57", "e\u0301", "pytest"):
        storage.episodes.save(ms.Episode(task_description="t", steps=[ms.Step(tool=tool)]))
    rows = str(storage.analytics.tools()).splitlines()[1:]
    assert {cell_len(row[: row.index("1 ")]) for row in rows} == {cell_len("pytest  ")}


@pytest.mark.slow
def test_a_type_checker_sees_a_misspelled_filter(tmp_path: Path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(snippet)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert wrong == {4, 5, 6}, done.stdout
