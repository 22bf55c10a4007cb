"""Every command: its effect, its output and messages, and its exit code."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage import schema
from memory_storage.cli import app, exit_codes
from tests.importers.formats.files import FILES


@pytest.fixture
def episode(database, make_episode) -> ms.Episode:
    """One in the database, with two steps."""
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save(
            make_episode(
                context=ms.TaskContext(domain="web-api", language="python"),
                task_type="debugging",
                tags=["auth", "flaky"],
                metadata={"trial": 3, "model": "small", "notes": {"a": 1}},
                outcome=ms.Success(verdict="it works"),
                reward=ms.RewardScore(total=0.75),
                started_at="2025-03-01T12:00:00Z",
            )
        )


def test_init_makes_a_database(answered, database):
    assert answered("init") == {"database": str(database), "revision": schema.HEAD}
    assert database.exists()
    assert answered("check")["revision"] == schema.HEAD


def test_init_keeps_existing_data(answered, episode):
    answered("init")
    assert answered("show", episode.id)["id"] == str(episode.id)


def test_upgrade_makes_a_schema_and_then_has_nothing_to_do(command, database):
    assert f"empty -> {schema.HEAD}" in command("upgrade", "-d", database).stdout
    assert f"already at {schema.HEAD}" in command("upgrade", "-d", database).stdout


def test_upgrade_knows_its_revisions(command, database):
    result = command("upgrade", "no-such", "-d", database)
    assert result.exit_code == 4
    assert "revision: must be one that this version knows" in result.stderr


def test_current_is_the_revision(command, answered, database, episode):
    assert answered("current") == {"database": str(database), "revision": schema.HEAD}
    assert command("current", "-d", database).stdout.strip() == schema.HEAD


def test_check_refuses_a_database_without_a_schema(command, database):
    database.touch()
    result = command("check", "-d", database)
    assert result.exit_code == 8
    assert "run `memory-storage upgrade`" in result.stderr


READING = [["query"], ["show", str(uuid4())], ["stats"], ["export"], ["delete", str(uuid4())], ["current"], ["check"]]


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_a_command_that_reads_makes_no_file(command, database, arguments):
    result = command(*arguments, "-d", database)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "there is no database" in result.stderr
    assert "memory-storage init" in result.stderr
    assert not database.exists()


@pytest.mark.parametrize("arguments", [*READING, ["init"], ["upgrade"]], ids=lambda arguments: arguments[0])
def test_a_file_that_is_not_a_database_is_refused_unchanged(command, database, arguments):
    database.write_text("some words, and no database\n" * 100)
    result = command(*arguments, "-d", database)
    assert (result.exit_code, result.stdout) == (9, "")
    assert database.read_text().startswith("some words")


@pytest.mark.parametrize("arguments", [*READING, ["init"], ["import", __file__]], ids=lambda arguments: arguments[0])
def test_without_a_database_the_error_has_a_remedy(command, arguments):
    result = command(*arguments)
    assert result.exit_code == 3
    assert "LIBSQL_DATABASE_PATH" in result.stderr


@pytest.mark.parametrize("name", ["LIBSQL_DATABASE_PATH", "TURSO_DATABASE_URL"])
def test_the_environment_may_give_the_database(command, database, monkeypatch, name):
    monkeypatch.setenv(name, str(database) if name.startswith("LIBSQL") else f"libsql:///{database}")
    assert command("init").exit_code == 0
    assert database.exists()


@pytest.mark.parametrize(
    "filters",
    [
        ["--task-type", "debugging"],
        ["--domain", "web-api"],
        ["--language", "python"],
        ["--outcome", "success"],
        ["--tag", "auth", "--tag", "flaky"],
        ["--any-tag", "auth", "--any-tag", "other"],
        ["--metadata", "trial=3", "--metadata", "model=small"],
        ["--metadata", 'model="small"'],
        ["--metadata", "trial>=3", "--metadata", "trial<4", "--metadata", "trial=3"],
        ["--metadata", "trial>2", "--metadata", "trial<=3", "--metadata", "model!=large"],
        ["--metadata", "notes.a=1", "--metadata", '{"$or": [{"model": "large"}, {"trial": {"$in": [3, 4]}}]}'],
        ["--min-reward", "0.7", "--max-reward", "0.8"],
        ["--since", "2025-03-01", "--until", "2025-03-01T13:00:00+01:00", "--until", "2025-03-02"],
        ["--text", "flaky token"],
        ["--all"],
    ],
    ids=lambda filters: filters[0],
)
def test_query_applies_the_filters(answered, episode, filters):
    page = answered("query", *filters)
    assert [item["id"] for item in page["items"]] == [str(episode.id)]
    assert page["next_cursor"] is None


def test_query_lists_the_children_of_an_episode(command, answered, database, episode):
    with ms.MemoryStorage.open(database) as storage:
        child = storage.episodes.save(ms.Episode(task_description="child"))
        storage.relationships.add(episode.id, child.id, "parent_child")
    # The first digits are the time: those of two new episodes may be the same.
    for parent in (str(episode.id), _prefix_of(database, episode)):
        assert [item["id"] for item in answered("query", "--child-of", parent)["items"]] == [str(child.id)]
    assert answered("query", "--child-of", child.id)["items"] == []
    assert command("query", "--child-of", "zz", "-d", database).exit_code == 4


def _prefix_of(database, episode: ms.Episode) -> str:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.short_ids([episode.id])[episode.id]


@pytest.mark.parametrize(
    "filters",
    [
        ["--outcome", "failure"],
        ["--tag", "auth", "--tag", "other"],
        ["--metadata", 'trial="3"'],
        ["--metadata", "trial>3"],
        ["--metadata", "model=small", "--metadata", "model=large"],
        ["--metadata", "model~=small"],  # a string is no list
        ["--since", "2025-03-01T12:00:01"],
        ["--until", "2025-03-01T12:00:00Z"],
        ["--text", "nothing of that"],
        ["--archived"],
        ["--namespace", "else"],
    ],
    ids=lambda filters: filters[0],
)
def test_query_leaves_out_the_others(answered, episode, filters):
    assert answered("query", *filters)["items"] == []


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["--outcome", "great"], "outcome"),
        (["--since", "yesterday"], "since: a time in ISO 8601"),
        (["--metadata", "trial"], "metadata: key=value"),
        (["--metadata", '{"trial": '], "metadata: a filter in JSON"),
        (["--metadata", '{"trial": {"$near": 3}}'], "metadata.trial: one of $eq, $ne"),
        (["--limit", "0"], "limit"),
        (["--cursor", "nonsense"], "cursor"),
        (["--min-reward", "nan"], "min_reward"),
    ],
)
def test_a_filter_that_cannot_be_is_bad_input(command, database, episode, filters, message):
    result = command("query", *filters, "-d", database)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(f"error: {message}")


def test_query_continues_after_the_previous_page(answered, command, database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save_many([make_episode(0) for _ in range(5)])
    seen, cursor = [], []
    while True:
        page = answered("query", "--limit", 2, *cursor)
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert len(set(seen)) == len(seen) == 5
    result = command("query", "--limit", 2, "-d", database)
    assert "more follow: --cursor" in result.stderr
    assert "--cursor" not in result.stdout


def test_query_returns_steps_only_on_request(answered, episode):
    assert "steps" not in answered("query")["items"][0]
    assert len(answered("query", "--steps")["items"][0]["steps"]) == 2


def test_query_shows_a_table(command, database, episode):
    shown = command("query", "-d", database).stdout
    for text in (str(episode.id), "2025-03-01", "success 0.75", "Fix the flaky token refresh"):
        assert text in shown


def test_query_finds_a_value_in_a_list(answered, database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        listed = storage.episodes.save(make_episode(metadata={"labels": ["flaky", 7]}))
    for condition in ("labels~=flaky", "labels~=7"):
        assert [item["id"] for item in answered("query", "--metadata", condition)["items"]] == [str(listed.id)]


def test_show_prints_the_complete_episode(answered, episode):
    assert ms.Episode.model_validate_json(json.dumps(answered("show", episode.id))) == episode
    assert "steps" not in answered("show", episode.id, "--no-steps")


def test_show_tells_of_an_episode_and_its_steps(command, database, episode):
    shown = command("show", episode.id, "-d", database).stdout
    for text in ("Fix the flaky", "web-api", "success: it works", "auth, flaky", "trial=3", "notes (in", "output 2"):
        assert text in shown
    assert "output 2" not in command("show", episode.id, "--no-steps", "-d", database).stdout


def test_text_of_a_transcript_cannot_control_the_terminal(command, database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        hostile = storage.episodes.save(make_episode(task_description="\x1b]0;gone\x07 [red]not red[/red] \x9b2J"))
    shown = command("show", hostile.id, "-d", database).stdout + command("query", "-d", database).stdout
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert shown.count("[red]not red[/red]") == 2


def test_an_episode_that_is_not_there_is_not_found(command, database, episode):
    missing = uuid4()
    for name in ("show", "delete"):
        result = command(name, missing, "-d", database)
        assert (result.exit_code, result.stdout) == (5, "")
        assert f"no episode {missing}" in result.stderr


def test_an_id_that_is_none_is_bad_input(command, database, episode):
    assert command("show", "seven", "-d", database).exit_code == 4


def test_stats_count_the_stored_rows(command, answered, database, episode):
    found = answered("stats")
    assert (found["rows"]["episodes"], found["rows"]["steps"]) == (1, 2)
    assert found["outcomes"] == {"success": {"episodes": 1, "mean_reward": 0.75}}
    shown = command("stats", "-d", database).stdout
    assert "tool-1" in shown
    assert "0.75" in shown


def test_delete_with_yes_deletes(answered, database, episode):
    assert answered("delete", episode.id, "--yes") == {"deleted": str(episode.id)}
    assert answered("stats")["rows"]["steps"] == 0


def test_delete_without_a_terminal_needs_yes(command, answered, database, episode):
    result = command("delete", episode.id, "-d", database, stdin="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes" in result.stderr
    assert answered("stats")["rows"]["episodes"] == 1


def test_import_reports_what_went_in_and_what_did_not(command, database, runs):
    result = command("import", runs, "--format", "openai-chat", "-d", database, "--json")
    assert result.exit_code == 10
    report = json.loads(result.stdout)
    assert (report["imported"], report["unchanged"]) == (3, 0)
    assert [problem["line"] for problem in report["failed"]] == [4]
    assert result.stderr.startswith("line 4: ")


def test_import_twice_changes_nothing(command, answered, database, runs):
    command("import", runs, "-d", database)
    before = answered("query", "--steps")
    result = command("import", runs, "-d", database)
    assert result.stdout.strip() == "0 imported, 3 unchanged, 1 invalid"
    assert answered("query", "--steps") == before


def test_import_names_the_format_and_what_was_not_taken(command, database, tmp_path):
    path = tmp_path / "session.jsonl"
    path.write_bytes(FILES["claude-code"][1])
    result = command("import", path, "-d", database)
    assert result.stdout.strip() == "4 imported, 0 unchanged, 0 invalid"
    assert result.stderr.startswith("read as claude-code: 5 steps, 1 error, 97 tokens\nnot taken: 1 thinking blocks, ")
    report = json.loads(command("import", path, "--format", "auto", "-d", database, "--json").stdout)
    assert (report["format"], report["steps"], report["not_taken"]["thinking blocks"]) == ("claude-code", 5, 1)


def test_import_of_an_unknown_file_lists_what_can_be_read(command, database, tmp_path):
    path = tmp_path / "unknown.json"
    path.write_text('{"what": "is this"}')
    result = command("import", path, "-d", database)
    assert result.exit_code == 4
    assert "Claude Code sessions" in result.stderr
    assert not database.exists()


def test_import_takes_a_file_or_a_directory_to_watch(command, database, tmp_path):
    assert command("import", "-d", database).exit_code == 4
    assert command("import", "x.jsonl", "--watch", tmp_path, "-d", database).exit_code == 4
    assert command("import", "--watch", tmp_path / "absent", "-d", database).exit_code == 3


def test_import_strict_puts_nothing_in(command, answered, database, runs):
    result = command("import", runs, "--strict", "-d", database)
    assert result.exit_code == 10
    assert "nothing was imported" in result.stderr
    assert answered("stats")["rows"]["episodes"] == 0


def test_import_reads_stdin(command, answered, database, runs):
    result = command("import", "-", "-d", database, stdin=runs.read_bytes())
    assert result.exit_code == 10
    assert answered("stats")["outcomes"]["success"]["episodes"] == 2


def test_import_lists_the_first_problems_and_counts_the_rest(command, database):
    result = command("import", "-", "-d", database, stdin="oops\n" * 30)
    assert result.stderr.count("not JSON") == 20
    assert "and 10 more" in result.stderr


@pytest.mark.parametrize("name", ["none.jsonl", ""])
def test_import_of_a_missing_file_creates_no_database(command, database, tmp_path, name):
    result = command("import", tmp_path / name, "-d", database)
    assert (result.exit_code, result.stdout) == (3, "")
    assert not database.exists()


def test_import_of_binary_data_is_invalid_input(command, database, tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_bytes("[]".encode("utf-16"))
    result = command("import", path, "-d", database)
    assert result.exit_code == 4
    assert "must be UTF-8" in result.stderr


def test_import_of_an_unknown_format_is_bad_input(command, database, runs):
    result = command("import", runs, "--format", "xml", "-d", database)
    assert result.exit_code == 4
    assert "openai-chat, export" in result.stderr


def test_export_and_import_copy_a_memory(command, answered, database, runs, tmp_path):
    command("import", runs, "-d", database)
    file, copy = tmp_path / "all.jsonl", tmp_path / "copy.db"
    assert answered("export", "--output", file) == {"file": str(file), "values": 3}
    assert file.read_bytes() == command("export", "-d", database).stdout_bytes
    assert command("import", file, "-d", copy, "--strict").exit_code == 0
    assert command("export", "-d", copy).stdout_bytes == file.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("all*")) == ["all.jsonl"]


def test_export_overwrites_nothing(command, database, episode, tmp_path):
    file = tmp_path / "all.jsonl"
    file.write_text("precious")
    assert command("export", "--output", file, "-d", database).exit_code == 3
    assert file.read_text() == "precious"


@pytest.mark.slow
def test_every_command_takes_json_and_a_database(command):
    for info in app.registered_commands:
        name = info.name or info.callback.__name__
        if name == "mcp":  # a server: it answers its client in JSON
            continue
        shown = command(name, "--help").stdout
        assert "--json" in shown, name
        assert "--database" in shown, name


def test_help_tells_the_exit_codes(command):
    shown = " ".join(command("--help").stdout.split())
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code} {meaning}" in shown


def test_every_error_has_an_exit_code_that_is_explained():
    codes = [exit_codes.CODES[kind] for kind in ms.MemoryStorageError.__subclasses__()]
    assert len(set(codes)) == len(codes) == len(exit_codes.CODES)
    assert set(codes) < exit_codes.MEANINGS.keys()


def test_a_kind_of_error_has_the_code_of_the_kind_above_it():
    assert exit_codes.code_of(ms.TokenExpiredError("x")) == exit_codes.CODES[ms.ConfigurationError]
    assert exit_codes.code_of(ms.CircuitOpenError("x")) == exit_codes.CODES[ms.UnavailableError]
    assert exit_codes.code_of(ms.MemoryStorageError("x")) == exit_codes.OTHER


def test_the_version_is_that_of_the_package(command):
    assert command("--version").stdout.strip()


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["show"], ["query", "--nope"], ["query", "--limit", "many"]])
def test_wrong_usage_is_two(command, arguments):
    assert command(*arguments).exit_code == 2


def test_upgrade_refuses_to_downgrade_and_names_the_command(command, database):
    command("init", "--database", database)
    result = command("upgrade", "0001", "--database", database)
    assert result.exit_code == 4
    assert "revision: not before" in result.stderr
    assert "use `memory-storage downgrade`" in result.stderr
