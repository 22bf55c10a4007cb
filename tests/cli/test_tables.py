"""Tables at various terminal widths: complete headers, typeable ids, no long line, no control characters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from uuid import UUID

import pytest
from rich.cells import cell_len

import memory_storage as ms
from memory_storage.cli.ids import unique_prefixes

WIDTHS = (40, 60, 80, 120)
TASK = "Fix the flaky token refresh"
HOSTILE = "\x1b]0;gone\x07 \x9b2J \u202egnp.exe\nid  started"
TASKS = [TASK, "\u6f22\u5b57" * 40, "x" * 300, HOSTILE]
IDS = [UUID(int=number << 64) for number in (0xABCD1234_0000_7000, 0xABCD1234_0001_7000, 0xABCD9999_0000_7000)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(tmp_path_factory.mktemp("tables") / "memory.db") as storage:
        for number, task in enumerate(TASKS):
            steps = [
                ms.Step(tool="mcp__server__a_long_tool_name", action=task, result=ms.StepError(message=task)),
                ms.Step(tool="pytest", result=ms.StepOk(output="fine " * 50), latency_ms=1_200),
            ]
            ended = ms.PartialSuccess(verdict=task, completed=[], failed=[]) if number % 2 else ms.Success(verdict=task)
            episode = ms.Episode(task_description=task, outcome=ended, reward=ms.RewardScore(total=0.75), steps=steps)
            storage.episodes.save(episode)
            storage.embeddings.put("episode", episode.id, [1.0, number], model="m")
        storage.patterns.save(ms.Heuristic(description=HOSTILE, condition=TASK, action=TASK, success_rate=0.5))
        storage.patterns.save(ms.ToolSequence(description=TASK, tools=["mcp__server__a_long_tool_name", "pytest"]))
        yield storage


@pytest.fixture
def numbered(database) -> list[ms.Episode]:
    """Three episodes whose ids share a prefix: two of 8 digits, all of 4."""
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save_many([ms.Episode(id=one, task_description=TASK) for one in IDS])


COMMANDS = [
    (["query"], ["started", "outcome", "task"]),
    (["search", "flaky"], ["score", "outcome", "where"]),
    (["stats"], ["episodes", "mean reward", "ok rate"]),
    (["stats", "--by", "tool"], ["episodes", "success", "from", "to"]),
    (["report"], ["95 % interval", "mean duration", "errors and timeouts", "p99", "support", "lift"]),
    (["learn", "--min-episodes", "1", "--min-lift", "0"], ["kind", "pattern", "success", "version"]),
    (["retain", "--max-episodes", "1", "--dry-run"], ["reason", "steps", "bytes"]),
    (["patterns", "list"], ["kind", "pattern", "success", "episodes", "version"]),
    (["index", "status"], ["dimension", "preset", "indexed", "pending", "index"]),
    (["index", "verify"], ["in the index", "verdict"]),
    (["show", "ID"], ["started", "task", "version", "action", "result"]),
]


@pytest.mark.parametrize(("arguments", "columns"), COMMANDS, ids=lambda value: value[0])
def test_a_table_fits_its_terminal_and_cuts_no_header(command, storage, monkeypatch, arguments, columns):
    newest = storage.episodes.query(limit=1).items[0]
    given = [str(newest.id) if one == "ID" else one for one in arguments]
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        result = command(*given, "-d", storage.settings.database)
        assert result.exit_code == 0, result.stderr
        rows = [line for line in result.stdout.splitlines() if arguments[0] != "report" or ": " not in line]
        assert max(map(cell_len, rows)) <= width
        assert [name for name in columns if name not in result.stdout] == []
        assert not set(result.stdout) & set("\x1b\x07\x9b\u202e")


TITLES = {"id", "tool", "model", "type", "stage", "pattern"}
LISTS = [arguments for arguments, _ in COMMANDS if "ID" not in arguments and arguments[0] != "learn"]


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_a_narrow_table_splits_no_word_and_cuts_no_id(command, storage, monkeypatch, arguments, width):
    def words(columns: int) -> set[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        return set(command(*arguments, "-d", storage.settings.database).stdout.split())

    # A row that does not fit is shown as a record, whose title, the first cell, has no name.
    wide, narrow = words(1_000) - TITLES, words(width)
    ids = {word for word in wide if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", word)}
    assert {word for word in wide - ids if cell_len(word) <= 36} <= narrow
    prefixes = {one: [word for word in narrow if len(word) >= 8 and one.startswith(word)] for one in ids}
    assert [len(found) for found in prefixes.values()] == [1] * len(ids)
    assert len({found[0] for found in prefixes.values()}) == len(ids)


def test_a_prefix_is_unique_among_the_ids_of_a_table():
    assert unique_prefixes(IDS) == {
        IDS[0]: "abcd1234-0000",
        IDS[1]: "abcd1234-0001",
        IDS[2]: "abcd9999",
    }
    assert unique_prefixes([]) == {}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_shows_each_task_and_ids_that_can_be_typed(command, storage, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = command("query", "-d", storage.settings.database).stdout
    assert set(TASK.split()) <= set(shown.split())
    assert "x" * 16 in shown
    short_ids = storage.episodes.short_ids(episode.id for episode in storage.episodes.query())
    assert set(short_ids.values()) <= set(shown.split())
    assert [one for one in short_ids if str(one) in shown] == []
    assert [storage.episodes.resolve_id(short) for short in short_ids.values()] == list(short_ids)


def test_a_line_end_in_a_cell_starts_no_new_row(command, storage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = command("query", "-d", storage.settings.database).stdout
    assert [line for line in shown.splitlines() if line.startswith("id ")] == shown.splitlines()[:1]


def test_a_file_gets_complete_ids(command, storage):
    shown = command("query", "-d", storage.settings.database).stdout
    assert all(str(episode.id) in shown for episode in storage.episodes.query())


def test_a_short_id_is_as_long_as_it_must_be(command, database, numbered, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = command("query", "--limit", "1", "-d", database).stdout + command("query", "-d", database).stdout
    assert {line.split()[0] for line in shown.splitlines()} == {"id", "abcd1234-0000", "abcd1234-0001", "abcd9999"}


@pytest.mark.parametrize("typed", ["abcd1234-0000", "ABCD123400007", IDS[0].hex])
def test_a_prefix_suffices_for_an_id(command, answered, database, numbered, typed):
    assert answered("show", typed)["id"] == str(IDS[0])
    with ms.MemoryStorage.open(database) as storage:
        storage.embeddings.put("episode", IDS[0], [1.0], model="m")
    found = answered("search", "--like", typed)
    assert [item["episode"]["id"] for item in found["items"]] == [str(IDS[0])]
    assert answered("delete", typed, "--yes") == {"deleted": str(IDS[0])}


def test_an_ambiguous_prefix_lists_its_candidates(command, answered, database, numbered):
    for arguments in (["show"], ["delete", "--yes"], ["forget", "--yes"], ["search", "--like"]):
        result = command(*arguments, "abcd1234", "-d", database)
        assert (result.exit_code, result.stdout) == (4, ""), arguments
        assert f"prefix: ambiguous: {IDS[0]}, {IDS[1]} have this prefix; give more digits" in result.stderr
        assert str(IDS[2]) not in result.stderr
    assert answered("stats")["rows"]["episodes"] == 3


def test_a_prefix_of_nothing_is_not_found(command, answered, database, numbered):
    for arguments in (["show"], ["delete", "--yes"], ["forget", "--yes"], ["search", "--like"]):
        result = command(*arguments, "abcd5", "-d", database)
        assert (result.exit_code, result.stdout) == (5, ""), arguments
        assert "no episode whose id begins with abcd5" in result.stderr


def test_a_string_that_is_not_a_prefix_of_an_id_is_refused(command, database, numbered):
    for typed in ("abc", "seven", "abcd%", "abcd_", "abcd*", " ", "", f"{IDS[0]}0"):
        result = command("show", typed, "-d", database)
        assert (result.exit_code, result.stdout) == (4, ""), typed
        assert "prefix: an id, or at least its first 4 hexadecimal digits" in result.stderr


def test_forget_shows_the_episode_of_a_prefix_before_it_erases(command, answered, database, numbered):
    result = command("forget", "abcd9", "-d", database)
    assert (result.exit_code, answered("stats")["rows"]["episodes"]) == (2, 3)
    result = command("forget", "abcd9", "--yes", "-d", database)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"abcd9 is {IDS[2]} {TASK!r}")
    assert [item["id"] for item in answered("query")["items"]] == [str(IDS[1]), str(IDS[0])]


def test_a_prefix_belongs_to_its_namespace(command, database, numbered):
    assert command("show", "abcd9", "-n", "another", "-d", database).exit_code == 5


NOTHING = [
    (["query"], "there are no episodes in the namespace 'default': import some with `memory-storage import FILE`"),
    (["search", "word"], "there are no episodes in the namespace 'default'"),
    (["stats", "--by", "tool"], "no episode has a tool"),
    (["learn"], "no pattern was learned: too few episodes succeeded"),
    (["retain", "--max-episodes", "1", "--dry-run"], "nothing to do: the policy keeps every episode"),
    (["index", "status"], "there are no vectors: create them in Python"),
    (["index", "verify"], "there are no vectors"),
    (["index", "rebuild"], "there are no vectors"),
]


@pytest.mark.slow
def test_an_empty_result_is_a_message_and_no_table(command, database):
    command("init", "-d", database)
    for arguments, sentence in NOTHING:
        result = command(*arguments, "-d", database)
        assert (result.exit_code, result.stdout) == (0, ""), arguments
        assert sentence in result.stderr
        machines = command(*arguments, "--json", "-d", database)
        assert machines.exit_code == 0
        assert not (found := json.loads(machines.stdout)) or not found["items"], arguments


def test_filters_that_leave_nothing_say_how_many_there_are(command, database, numbered):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.archive(IDS[0])
    for arguments in (["query", "--tag", "none"], ["search", "word", "--tag", "none"]):
        result = command(*arguments, "-d", database)
        assert result.stdout == ""
        assert "has 3 episodes, 1 of them archived (--all); remove a condition" in result.stderr


def test_few_vectors_are_not_pending(command, storage):
    found = command("index", "status", "-d", storage.settings.database, "--json")
    (model,) = json.loads(found.stdout)
    assert (model["vectors"], model["indexed"], model["pending"], model["needs_index"]) == (4, 0, 0, False)
    assert "not needed" in command("index", "status", "-d", storage.settings.database).stdout


def test_help_of_forget_does_not_promise_to_erase_all(command):
    shown = " ".join(command("forget", "--help").stdout.split())
    assert "Default: all" not in shown
    assert "Without it, the whole --namespace is erased." in shown
