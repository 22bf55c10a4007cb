"""The command `recall`."""

from __future__ import annotations

import pytest

import memory_storage as ms


@pytest.fixture
def stored(database, make_episode) -> list[ms.Episode]:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save_many(
            [
                make_episode(outcome=ms.Success(verdict="froze the clock"), context=ms.TaskContext(domain="web")),
                make_episode(0, outcome=ms.Failure(reason="deleted the test")),
            ]
        )


def test_a_recall_is_markdown_on_stdout(command, database, stored):
    result = command("recall", "flaky token", "-d", database)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "froze the clock" in result.stdout
    assert "deleted the test" in result.stdout


def test_a_recall_as_json_has_its_records(answered, stored):
    found = answered("recall", "flaky token", "--k", 3)
    assert {item["id"] for item in found["items"]} == {str(one.id) for one in stored}
    assert found["task"] == "flaky token"
    assert [item["id"] for item in answered("recall", "flaky", "--domain", "web")["items"]] == [str(stored[0].id)]


def test_a_small_budget_names_what_did_not_fit(command, database, stored):
    result = command("recall", "flaky token", "--budget-tokens", 60, "-d", database)
    assert result.exit_code == 0
    assert "did not fit: raise --budget-tokens" in result.stderr


def test_a_recall_of_nothing_says_so(command, database, stored):
    result = command("recall", "zebra", "-d", database)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no episode matches" in result.stderr
    assert command("recall", "t", "--k", 0, "-d", database).exit_code == 4
