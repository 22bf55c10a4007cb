"""The commands report and learn, and stats --by: the same numbers as pages, tables and JSON."""

from __future__ import annotations

import json

import pytest

import memory_storage as ms


@pytest.fixture(autouse=True)
def _filled(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        for number in range(12):
            ended = ms.Failure(reason="r") if number % 3 == 0 else ms.Success(verdict="v")
            context = ms.TaskContext(domain="web" if number % 2 else "data")
            steps = 1 if number % 3 == 0 else 3
            storage.episodes.save(make_episode(steps=steps, outcome=ended, context=context, tags=["auth"]))


def test_report_shows_tables(command, database):
    result = command("report", "-d", database)
    assert result.exit_code == 0
    assert "Success by tool: " in result.stdout
    assert "tool-1 → tool-2" in result.stdout
    assert "There are no patterns yet." in result.stdout


def test_report_is_json_for_machines(answered):
    found = answered("report", "--domain", "web", "--tag", "auth", "--success-reward", "0.5", "--since", "2020-01-01")
    assert found["all"]["episodes"] == 6
    assert found["all"]["success"]["of"] == 0  # nothing has a reward
    assert answered("report")["by_tool"][0]["success_rate"] == pytest.approx(8 / 12)


@pytest.mark.slow
def test_report_writes_a_page(command, database, tmp_path):
    result = command("report", "--html", tmp_path / "report.html", "-d", database)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'report.html'}: 12 episodes\n")
    assert "What works, and what fails" in (tmp_path / "report.html").read_text(encoding="utf-8")
    asked = command("report", "--html", tmp_path / "report.html", "-d", database, "--json")
    assert json.loads(asked.stdout)["file"] == str(tmp_path / "report.html")
    assert command("report", "--html", tmp_path / "no" / "x.html", "-d", database).exit_code == 3


def test_report_refuses_what_cannot_be(command, database):
    assert command("report", "--tz", "Mars/Olympus", "-d", database).exit_code == 4
    assert command("report", "--since", "yesterday", "-d", database).exit_code == 4
    assert command("report", "--task-type", "no such", "-d", database).exit_code == 4


def test_learn_makes_patterns_and_does_it_again_without_harm(command, answered, database):
    learned = answered("learn", "--domain", "web", "--min-episodes", "4")
    assert learned[0]["kind"] == "tool_sequence"
    assert answered("learn", "--domain", "web", "--min-episodes", "4") == learned
    result = command("learn", "-d", database, "--min-lift", "99")
    assert result.stderr.startswith("no pattern was learned")
    shown = command("learn", "-d", database, "--domain", "web", "--min-episodes", "4").stdout
    assert "tool-1 → tool-2" in shown


def test_former_options_work_and_warn(command, database):
    former = ("learn", "--least-episodes", "4", "--most=1", "--reward-at-least", "0.5", "-d", database)
    result = command(*former)
    assert result.exit_code == 0
    assert "warning: --least-episodes is deprecated since 0.1: use --min-episodes" in result.stderr
    assert "warning: --most is deprecated since 0.1: use --max-patterns" in result.stderr
    assert "--reward-at-least" in result.stderr
    assert "deprecated" not in result.stdout
    assert "warning: --zone is deprecated" in command("report", "--zone", "UTC", "-d", database).stderr
    assert "warning: --fix is deprecated" in command("doctor", "--fix", "-d", database).stderr
    assert "warning: memory is deprecated" in command("index", "use", "memory", "-d", database).stderr
    shown = command("learn", "--help").stdout + command("report", "--help").stdout + command("doctor", "--help").stdout
    assert not any(name in shown for name in ("--most", "--least-episodes", "--reward-at-least", "--zone", "--fix"))


def test_stats_by_a_dimension(command, answered, database):
    assert {row["group"]: row["episodes"] for row in answered("stats", "--by", "domain")} == {"web": 6, "data": 6}
    assert "66.7%" in command("stats", "--by", "tag", "-d", database).stdout
    assert command("stats", "--by", "colour", "-d", database).exit_code == 4
