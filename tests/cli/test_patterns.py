"""The commands `patterns`, `archive` and `unarchive`."""

from __future__ import annotations

import json

import pytest

import memory_storage as ms


@pytest.fixture
def patterns(database) -> list[ms.models.AnyPattern]:
    """Two of different kinds."""
    with ms.MemoryStorage.open(database) as storage:
        return storage.patterns.save_many(
            [
                ms.Heuristic(description="retry flaky tests", condition="flaky", action="retry", success_rate=0.25),
                ms.ToolSequence(tools=["read", "edit"], success_rate=0.75, occurrence_count=8, tags=["web"]),
            ]
        )


def test_patterns_are_listed_by_success(answered, patterns):
    page = answered("patterns", "list")
    assert [item["id"] for item in page["items"]] == [str(patterns[1].id), str(patterns[0].id)]
    assert page["next_cursor"] is None
    assert len(answered("patterns", "list", "--limit", 1)["items"]) == 1


@pytest.mark.parametrize(
    "filters",
    [["--kind", "tool_sequence"], ["--tag", "web"], ["--min-success-rate", "0.5"], ["--min-occurrences", "2"]],
)
def test_patterns_are_filtered(answered, patterns, filters):
    assert [item["id"] for item in answered("patterns", "list", *filters)["items"]] == [str(patterns[1].id)]


def test_a_page_of_patterns_can_be_continued(command, answered, database, patterns):
    result = command("patterns", "list", "--limit", 1, "-d", database)
    cursor = result.stderr.split("--cursor ")[1].strip()
    assert answered("patterns", "list", "--cursor", cursor)["items"][0]["id"] == str(patterns[0].id)


def test_a_listed_short_id_shows_its_pattern(command, answered, database, patterns, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    listed = command("patterns", "list", "-d", database).stdout
    short_ids = [line.split()[0] for line in listed.splitlines()[1:]]
    assert [answered("patterns", "show", one)["id"] for one in short_ids] == [str(one.id) for one in patterns[::-1]]
    shown = command("patterns", "show", short_ids[0], "-d", database).stdout
    for said in ("read, edit", "75% of 8", "web", str(patterns[1].id)):
        assert said in shown


def test_an_empty_list_of_patterns_says_what_to_do(command, answered, database):
    answered("init")
    assert "`memory-storage learn`" in command("patterns", "list", "-d", database).stderr


def test_conditions_that_leave_no_pattern_say_how_many_are_stored(command, database, patterns):
    result = command("patterns", "list", "--kind", "error_recovery", "-d", database)
    assert "no pattern matches: there are 2" in result.stderr


def test_an_unknown_pattern_is_not_found(command, database, patterns):
    assert command("patterns", "show", "dead", "-d", database).exit_code == 5
    assert command("patterns", "list", "--kind", "nonsense", "-d", database).exit_code == 4


def test_a_playbook_is_listed_by_name_and_shown_step_by_step(command, answered, database, patterns, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    steps = [ms.PlaybookStep(tool="pytest", action="run it", on_error="read the log"), ms.PlaybookStep(action="wait")]
    with ms.MemoryStorage.open(database) as storage:
        saved = storage.patterns.save(ms.Playbook.from_patterns("All", patterns).model_copy(update={"steps": steps}))
    assert [one["id"] for one in answered("patterns", "list", "--kind", "playbook")["items"]] == [str(saved.id)]
    listed = command("patterns", "list", "--kind", "playbook", "-d", database).stdout
    assert "  All  " in listed
    shown = command("patterns", "show", saved.id, "-d", database).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "step 1 Use `pytest`: run it. On error: read the log" in lines
    assert "step 2 Do: wait" in lines
    assert f"sources {patterns[0].id}, {patterns[1].id}" in lines
    assert answered("patterns", "show", str(saved.id))["steps"][1]["action"] == "wait"


@pytest.fixture
def episodes(database, make_episode) -> list[ms.Episode]:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save_many([make_episode() for _ in range(3)])


def test_archived_episodes_are_left_out_until_they_are_unarchived(command, answered, database, episodes):
    with ms.MemoryStorage.open(database) as storage:
        short = list(storage.episodes.short_ids([one.id for one in episodes[:2]]).values())
    assert answered("archive", *short) == {"archived": [str(one.id) for one in episodes[:2]]}
    assert [item["id"] for item in answered("query")["items"]] == [str(episodes[2].id)]
    assert command("archive", *short, "-d", database).stdout == "archived 2 episodes\n"
    assert command("unarchive", short[0], "-d", database).stdout == f"unarchived {episodes[0].id}\n"
    assert len(answered("query")["items"]) == 2


def test_of_several_ids_all_are_archived_or_none(command, answered, database, episodes):
    missing = "00000000-0000-7000-8000-000000000000"
    result = command("archive", episodes[0].id, missing, "-d", database)
    assert result.exit_code == 5
    assert len(answered("query")["items"]) == 3


def test_learn_shows_ids_that_can_be_typed(command, answered, database, make_episode, monkeypatch):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save_many([make_episode(outcome=ms.Success(verdict="v")) for _ in range(3)])
    monkeypatch.setenv("COLUMNS", "100")
    listed = command("learn", "--min-episodes", 2, "--min-lift", 0, "-d", database).stdout
    short_ids = [line.split()[0] for line in listed.splitlines() if not line.startswith((" ", "id "))]
    assert short_ids
    for one in short_ids:
        assert json.loads(command("patterns", "show", one, "--json", "-d", database).stdout)["id"].startswith(one)
