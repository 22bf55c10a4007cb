"""The commands retain, forget and scrub."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import memory_storage as ms

NOW = datetime.now(timezone.utc)


@pytest.fixture
def episodes(database) -> list[ms.Episode]:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save_many(
            [
                ms.Episode(
                    task_description=f"zqcanary {days}",
                    started_at=NOW - timedelta(days=days),
                    reward=ms.RewardScore(total=days / 10),
                    tags=["kept"] if days == 9 else [],
                    steps=[ms.Step(tool="t")],
                )
                for days in range(10)
            ]
        )


def _left(database: Path, archived: bool | None = None) -> list[str]:
    with ms.MemoryStorage.open(database) as storage:
        return [str(one.id) for one in storage.episodes.iterate(archived=archived)]


def test_a_dry_run_lists_ids_and_reasons_and_changes_nothing(answered, database, episodes):
    found = answered("retain", "--max-age", "5.5d", "--min-reward", 0.1, "--keep-tag", "kept", "--dry-run")
    expected = [(str(episodes[days].id), "max_age") for days in (8, 7, 6)] + [(str(episodes[0].id), "min_reward")]
    assert [(item["id"], item["reason"]) for item in found["items"]] == expected
    assert found["bytes"] == sum(item["bytes"] for item in found["items"]) > 0
    assert len(_left(database)) == 10


def test_a_dry_run_shows_a_table(command, database, episodes):
    result = command("retain", "--max-episodes", 9, "--dry-run", "-d", database)
    assert result.exit_code == 0
    assert "max_episodes" in result.stdout
    assert str(episodes[9].id) in result.stdout
    assert "1 episode with" in result.stderr


def test_retain_does_what_the_dry_run_listed(answered, database, episodes):
    done = answered("retain", "--max-episodes", 4, "--keep-tag", "kept", "--yes")
    assert (done["removed"], done["skipped"]) == (6, [])
    assert set(_left(database)) == {str(episodes[days].id) for days in (0, 1, 2, 9)}


def test_retain_can_archive_in_place_of_deleting(answered, database, episodes):
    assert answered("retain", "--max-bytes", "0kb", "--archive", "--yes")["removed"] == 10
    assert len(_left(database, archived=True)) == 10


def test_retain_and_forget_without_a_terminal_need_yes(command, database, episodes):
    for arguments in (("retain", "--max-episodes", 1), ("forget", episodes[0].id), ("forget", "-n", "default")):
        result = command(*arguments, "-d", database)
        assert result.exit_code == 2
        assert "pass --yes" in result.stderr
    assert len(_left(database)) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-age", "soon"], "max_age"),
        (["--max-age", "9x"], "max_age"),
        (["--max-age", "99999999999999w"], "max_age"),
        (["--max-bytes", "1 meter"], "max_bytes"),
        (["--only-failed"], "no rule is set"),
    ],
)
def test_a_policy_that_cannot_be_is_bad_input(command, database, episodes, arguments, message):
    result = command("retain", *arguments, "-d", database)
    assert result.exit_code == 4
    assert message in result.stderr


def test_forget_erases_an_episode_and_leaves_no_byte(answered, database, episodes):
    done = answered("forget", episodes[3].id, "--yes")
    assert (done["episodes"], done["scrubbed"]) == (1, True)
    assert b"zqcanary 3" not in database.read_bytes()
    assert len(_left(database)) == 9
    assert answered("forget", episodes[3].id, "--yes")["episodes"] == 0


def test_forget_erases_a_namespace(command, answered, database, episodes):
    assert command("forget", "--yes", "-d", database).exit_code == 3
    assert answered("forget", "--namespace", "another", "--yes")["episodes"] == 0
    assert len(_left(database)) == 10
    assert answered("forget", "--namespace", "default", "--yes", "--no-scrub") == {
        "episodes": 10,
        "patterns": 0,
        "patterns_changed": 0,
        "items": 0,
        "records": 0,
        "scrubbed": False,
        "why": "not requested (scrub=False); call scrub() later, once for all erasures",
    }
    assert b"zqcanary" in database.read_bytes()
    assert answered("scrub") == {"complete": True, "why": ""}
    assert b"canar" not in database.read_bytes()


def test_forget_on_a_server_reports_what_it_cannot_erase(command, migrated_server_url):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        saved = storage.episodes.save(ms.Episode(task_description="a"))
    result = command("forget", saved.id, "--yes", "--json", "-d", migrated_server_url)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["scrubbed"] is False
    assert "cannot be scrubbed by a client" in result.stderr


def test_a_failed_scrub_has_its_own_exit_code(command, database, episodes):
    with ms.MemoryStorage.open(database) as storage, storage.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE others (a F32_BLOB(3))")
        connection.exec_driver_sql("CREATE INDEX others_index ON others (libsql_vector_idx(a))")
    result = command("forget", episodes[0].id, "--yes", "--json", "-d", database)
    assert result.exit_code == 7
    assert json.loads(result.stdout)["episodes"] == 1
    assert "others_index" in result.stderr
