"""The commands on the schema: output, refusals and effects of upgrades and downgrades."""

from __future__ import annotations

import io
import sqlite3

import pytest

import memory_storage as ms
from memory_storage.schema import HEAD


class Terminal(io.TextIOWrapper):
    """A terminal with input."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch):
    """Have this typed at the terminal."""

    def type_in(answer: str) -> None:
        import memory_storage.cli.confirmation as confirmation

        terminal = Terminal(io.BytesIO(answer.encode()))
        monkeypatch.setattr(confirmation, "sys", type("Sys", (), {"stdin": terminal}))

    return type_in


@pytest.fixture
def stored(database) -> ms.Episode:
    with ms.MemoryStorage.open(database) as storage:
        return storage.episodes.save(ms.Episode(task_description="t"))


def revision_of(database) -> str | None:
    with sqlite3.connect(database) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row and row[0]


def test_a_downgrade_and_an_upgrade_restore_the_schema(command, answered, database, stored):
    result = command("downgrade", "0004", "--yes", "--database", database)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{database}: {HEAD} -> 0004\n"
    assert revision_of(database) == "0004"
    assert answered("upgrade")["revision"] == HEAD
    with ms.MemoryStorage.open(database) as storage:
        assert storage.episodes.get(stored.id) == stored


def test_a_downgrade_lists_losses_and_asks(command, database, stored, typed):
    typed("y\n")
    result = command("downgrade", "0005", "--database", database)
    assert result.exit_code == 0, result.stderr
    for line in ("0008: ", "0007: ", "0006: ", "memory-storage backup FILE", f"from {HEAD} to 0005? [y/N]"):
        assert line in result.stderr
    assert "0005: " not in result.stderr
    assert "refused while there are vectors" in result.stderr
    assert revision_of(database) == "0005"


def test_a_downgrade_without_a_yes_changes_nothing(command, database, stored, typed):
    typed("\n")
    result = command("downgrade", "base", "--database", database)
    assert result.exit_code == 1
    assert "every row of every namespace" in result.stderr
    assert result.stderr.endswith("nothing was changed\n")
    assert revision_of(database) == HEAD


def test_a_downgrade_without_a_terminal_is_refused(command, database, stored):
    result = command("downgrade", "0005", "--database", database)
    assert result.exit_code == 2
    assert "stdin is not a terminal" in result.stderr
    assert "pass --yes" in result.stderr
    assert revision_of(database) == HEAD


def test_a_downgrade_to_nothing_leaves_no_revision(answered, database, stored):
    assert answered("downgrade", "base", "--yes") == {"database": str(database), "revision": None}
    assert revision_of(database) is None


def test_a_downgrade_to_the_stored_revision_does_nothing(command, database, stored):
    result = command("downgrade", HEAD, "--database", database)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{database}: already at {HEAD}\n"


@pytest.mark.parametrize("revision", ["9999", "0006x", "head", ""])
def test_a_downgrade_to_no_earlier_revision_is_bad_input(command, database, stored, revision):
    command("downgrade", "0005", "--yes", "--database", database)
    result = command("downgrade", revision, "--yes", "--database", database)
    assert result.exit_code == 4
    assert "revision: must be one before 0005" in result.stderr
    assert revision_of(database) == "0005"


def test_a_downgrade_makes_no_file(command, database):
    assert command("downgrade", "0005", "--yes", "--database", database).exit_code == 3
    assert not database.exists()


def test_a_downgrade_of_a_file_without_a_schema_is_bad_input(command, database):
    sqlite3.connect(database).close()
    database.touch()
    assert command("downgrade", "0005", "--yes", "--database", database).exit_code == 4


def test_a_downgrade_that_has_no_place_for_rows_changes_nothing(command, database, stored):
    with ms.MemoryStorage.open(database) as storage:
        storage.embeddings.put("episode", stored.id, [1.0, 2.0], model="m")
    result = command("downgrade", "0002", "--yes", "--database", database)
    assert result.exit_code == 8
    assert "dimension 2" in result.stderr
    assert revision_of(database) == HEAD
