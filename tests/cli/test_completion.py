"""Completion in a shell: as bash asks for it, and what it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

import memory_storage as ms
from memory_storage.cli.completion import complete_episode, complete_outcome, complete_pattern, complete_tool


class Line:
    """The context of a command line so far."""

    def __init__(self, **params: object) -> None:
        self.params = params


@pytest.fixture
def episode(database, make_episode) -> ms.Episode:
    with ms.MemoryStorage.open(database) as storage:
        storage.patterns.save(ms.Heuristic(description="retry", condition="a", action="b"))
        return storage.episodes.save(make_episode(context=ms.TaskContext(domain="web-api"), tags=["auth"]))


def completed(line: str, **environment: str) -> list[str]:
    """What bash gets for the last word of a line, from a process of its own."""
    words = line.split(" ")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "import sys; sys.argv[0] = 'memory-storage'; from memory_storage.cli import main; main()",
        ],
        env={
            **environment,
            "_MEMORY_STORAGE_COMPLETE": "complete_bash",
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_ids(database, episode):
    assert completed("memory-storage unar") == ["unarchive"]
    given = {"LIBSQL_DATABASE_PATH": str(database)}
    assert completed(f"memory-storage show {str(episode.id)[:6]}", **given) == [str(episode.id)]
    assert completed("memory-storage query --domain we", **given) == ["web-api"]


def test_ids_come_with_their_tasks_from_the_given_database(database, episode):
    line = Line(database=str(database), namespace=None)
    assert complete_episode(line, "") == [(str(episode.id), "Fix the flaky token refresh")]
    assert complete_episode(line, str(episode.id)[:7].upper()) == complete_episode(line, "")
    assert complete_episode(line, "zz") == []
    assert [said for _, said in complete_pattern(line, "")] == ["retry"]
    assert [name for name, _ in complete_tool(line, "tool-")] == ["tool-1", "tool-2"]
    assert complete_episode(Line(database=str(database), namespace="else"), "") == []


def test_a_database_that_is_missing_completes_nothing_and_is_not_created(database, tmp_path, capsys):
    assert complete_episode(Line(database=str(database)), "") == []
    assert complete_episode(Line(), "") == []
    broken = tmp_path / "broken.db"
    broken.write_text("no database " * 1000)
    assert complete_episode(Line(database=str(broken)), "") == []
    assert not database.exists()
    assert capsys.readouterr() == ("", "")


def test_fixed_values_need_no_database():
    assert complete_outcome("s") == ["success"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(command, monkeypatch, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = command("--show-completion", shell)
    assert result.exit_code == 0
    assert "_COMPLETE=complete_" in result.stdout
