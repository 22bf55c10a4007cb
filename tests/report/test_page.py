"""The figures of a report, its sentences and its page, without a browser."""

from __future__ import annotations

import dataclasses
import re
import stat
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage_report import collect, page, sections, write_page
from memory_storage_report.charts import charts
from memory_storage_report.formatting import percent, seconds
from memory_storage_report.projection import project
from memory_storage_report.svg import render_svg

from .conftest import START, everything, harm


@pytest.fixture(scope="module")
def memory():
    with ms.MemoryStorage.open(":memory:") as storage:
        everything(storage)
        yield storage


def test_the_figures_are_those_of_analytics(memory):
    report = collect(memory, tz="Europe/Berlin")
    assert report.by_tool == memory.analytics.by("tool")
    assert report.tools == memory.analytics.tools()
    assert report.sequences == memory.analytics.sequences((2, 4), min_episodes=4)
    assert report.all.episodes == memory.episodes.count() == sum(row.episodes for row in report.periods)
    assert report.all.success.count == memory.episodes.count(outcome="success")
    assert report.unit == "week"
    assert [one.outcome.kind for one in report.episodes] == ["failure"] * 4 + ["success"] * 4
    assert len(report.places) == 40
    assert len(report.points) == 160


@pytest.mark.slow
def test_filters_hold_for_all_of_it(memory):
    report = collect(memory, domain="data", since=datetime(2026, 10, 1, tzinfo=timezone.utc), episodes=3)
    expected = memory.episodes.count(domain="data", since=datetime(2026, 10, 1, tzinfo=timezone.utc))
    assert report.all.episodes == expected == sum(row.episodes for row in report.periods)
    assert {one.context.domain for one in report.episodes} == {"data"}
    assert len(report.points) == expected
    assert len(report.places) < 40
    assert collect(memory, episodes=0).episodes == []
    assert {one.outcome.kind for one in collect(memory, outcome="failure").episodes} == {"failure"}


@pytest.mark.slow
def test_success_may_be_a_reward(memory):
    report = collect(memory, success_reward=0.99)
    assert report.all.success.count == memory.episodes.count(min_reward=0.99)
    assert "their reward is at least 0.99" in page(report)


def test_every_section_has_a_sentence_and_rows_under_its_columns(memory):
    for section in sections(collect(memory)):
        assert section.summary
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.columns)}


@pytest.mark.slow
def test_a_report_is_of_one_moment_and_changes_nothing(memory):
    before = memory.analytics.summary()
    collect(memory)
    assert memory.analytics.summary() == before


@pytest.mark.parametrize("years", [1, 9999])
def test_the_ends_of_time_can_be_reported(storage, make_episode, years):
    first = datetime(years, 1 if years == 1 else 12, 1, tzinfo=timezone.utc)
    storage.episodes.save_many([make_episode(started_at=first), make_episode(started_at=first + timedelta(days=30))])
    report = collect(storage)
    assert sum(row.episodes for row in report.periods) == 2


def test_all_of_time_is_shown_from_its_end(storage, make_episode):
    for year in (1, 2026):
        storage.episodes.save(make_episode(started_at=datetime(year, 6, 1, tzinfo=timezone.utc)))
    report = collect(storage)
    assert report.all.episodes == 2
    assert sum(row.episodes for row in report.periods) == 1


@pytest.mark.slow
def test_the_page_names_no_other_and_holds_no_script(memory, tmp_path):
    text = write_page(collect(memory), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert set(re.findall(r"https?://[^\"' )]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert len(text) < 1_000_000


def test_hostile_text_never_becomes_markup():
    with ms.MemoryStorage.open(":memory:") as storage:
        harm(storage)
        text = page(collect(storage, episodes=50))
    assert "<script" not in text
    assert "<img" not in text
    assert "onload=alert" not in text.replace("&gt;&lt;svg onload=alert", "")
    assert "\x01" not in text
    assert text.count("</style>") == 1


@pytest.mark.slow
def test_text_that_vega_would_abort_on_is_drawn(memory):
    spec = {
        "data": {"values": [{"a": "x\x01\x1f\ufffe\ud800y" * 99}]},
        "mark": "text",
        "encoding": {"text": {"field": "a"}},
    }
    assert "x\ufffd\ufffd\ufffd\ufffdy" in render_svg(spec, "said \x00")


@pytest.mark.slow
def test_a_page_is_replaced_atomically(memory, tmp_path):
    report = collect(memory, episodes=0)
    file = write_page(report, tmp_path / "report.html")
    file.write_text("old", encoding="utf-8")
    write_page(report, file)
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ms.ConfigurationError, match="cannot be written"):
        write_page(report, tmp_path / "no" / "report.html")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_a_page_is_for_its_owner_and_follows_no_link(memory, tmp_path, monkeypatch):
    report = collect(memory, episodes=0)
    path = write_page(report, tmp_path / "page.html")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # by its owner: it stays so

    (tmp_path / "precious").write_text("precious")
    path.with_name("page.html.guessed.part").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(["guessed", "other"]))
    write_page(report, path)
    assert (tmp_path / "precious").read_text() == "precious"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_two_principal_components_keep_what_differs_most():
    flat = project([[1.0, 0.0, 5.0], [-1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [0.0, -2.0, 5.0]])
    assert flat.variance_ratio == pytest.approx(1.0)
    assert [abs(round(x, 6)) for x, _ in flat.coordinates] == [0, 0, 2, 2]
    assert project([[1.0, 2.0]] * 2).startswith("Only 2")
    assert project([[1.0, 2.0]] * 5).startswith("All vectors are the same")
    assert project([[1.0], [2.0], [3.0]]).startswith("All vectors are the same")


WITHOUT = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import memory_storage as ms
from memory_storage_report import collect, page, sections
with ms.MemoryStorage.open(":memory:") as storage:
    for number in range(4):
        episode = storage.episodes.save(ms.Episode(task_description=f"t{number}", steps=[ms.Step(tool="t")],
            outcome=ms.Success(verdict="v")))
        storage.embeddings.put("episode", episode.id, [1.0, number, 0.5], model="m")
    report = collect(storage)
print(report.vectors)
print(len(sections(report)))
print(len(page(report)) > 1000)
"""


@pytest.mark.slow
def test_without_numpy_the_page_says_that_a_picture_needs_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT, "numpy"], capture_output=True, text=True, check=True)
    assert "pip install numpy" in done.stdout
    assert done.stdout.endswith("True\n")


@pytest.mark.slow
def test_a_table_needs_neither_the_template_nor_the_charts():
    code = WITHOUT.replace("print(len(page(report)) > 1000)", "")
    command = [sys.executable, "-c", code, "vl_convert", "jinja2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"^\d+$", done.stdout, re.MULTILINE)


def test_numbers_are_written_as_people_read_them():
    assert [percent(value) for value in (None, 0.0, 1.0, 0.123)] == ["-", "0%", "100%", "12.3%"]
    assert [seconds(value) for value in (None, 0.0, 1e-6, 0.02, 90.0, 7200.0)] == [
        "-", "0 s", "under 1 ms", "20 ms", "1.5 min", "2 h",
    ]  # fmt: skip


def _summary(report, key: str) -> str:
    return next(one.summary for one in sections(report) if one.key == key)


def _episodes(tools: str, *, well: int, failed: int = 0, at: datetime = START) -> list[ms.Episode]:
    return [
        ms.Episode(
            task_description="t",
            started_at=at,
            steps=[ms.Step(tool=tool, result=ms.StepError(message="m"), latency_ms=5) for tool in tools.split()],
            outcome=ms.Success(verdict="v") if number < well else ms.Failure(reason="r"),
        )
        for number in range(well + failed)
    ]


def test_a_tie_and_what_may_be_chance_are_not_the_best(storage):
    storage.episodes.save_many(_episodes("edit look test", well=12, failed=7))
    report = collect(storage)
    assert _summary(report, "tools") == "No tool makes a clear difference: 3 tools, 63.2%, within the noise."
    assert _summary(report, "errors") == "3 tools fail most often: 19 times each."
    assert _summary(report, "latency").startswith("3 tools are the slowest: ")
    assert _summary(report, "failures") == "Most often: 3 kinds of error, 19 times each."
    storage.episodes.save_many(_episodes("guess", well=8, failed=8))
    assert "50.0% to 63.2%, within the noise" in _summary(collect(storage), "tools")


def test_a_significant_difference_is_named(storage):
    storage.episodes.save_many([*_episodes("edit", well=40), *_episodes("guess", well=1, failed=30)])
    assert _summary(collect(storage), "tools").startswith("Episodes that use edit go well most surely (100% of 40)")


def test_no_line_goes_through_a_period_of_few_episodes(storage):
    for day, (well, failed) in enumerate([(6, 2), (1, 0), (0, 1), (5, 3)]):
        storage.episodes.save_many(_episodes("t", well=well, failed=failed, at=START + timedelta(days=2 * day)))
    layers = charts(collect(storage))["timeline"](646)["layer"]
    line = next(one for one in layers if isinstance(one["mark"], dict) and one["mark"]["type"] == "line")
    assert [row["of"] for row in line["data"]["values"]] == [8, 8]
    whiskers = next(one for one in layers if one["mark"].get("strokeWidth") == 6)
    assert [row["of"] for row in whiskers["data"]["values"]] == [1, 1]


def test_one_is_singular_in_the_report(storage):
    storage.episodes.save_many(_episodes("look edit", well=1))
    storage.patterns.save(ms.Heuristic(condition="c", action="a"))
    report = collect(storage)
    text = " ".join(one.summary for one in sections(report)) + page(report)
    for wrong in ("1 episodes", "1 patterns", "1 steps", "1 rows", "1 times", "1 tools", "1 places"):
        assert not re.search(rf"\b{wrong}", text), wrong
    assert "1 pattern, never used: 1." in text


def test_a_truncated_table_has_a_note(storage):
    storage.patterns.save_many([ms.Heuristic(condition=f"c{number}", action="a") for number in range(21)])
    assert _summary(collect(storage), "patterns").endswith("The table shows the first 20.")
    assert "max-height: 26rem" not in page(collect(storage))


@pytest.mark.slow
def test_json_has_every_table(memory):
    found = collect(memory).tables()
    assert found["by_tool"] == memory.analytics.by("tool").to_rows()
    assert dataclasses.is_dataclass(found["summary"])
