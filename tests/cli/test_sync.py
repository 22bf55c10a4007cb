"""The commands `sync` and `conflicts`."""

from __future__ import annotations

import json
from pathlib import Path

import memory_storage as ms


def test_a_conflict_is_shown_and_resolved(command, migrated_server_url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEMORY_STORAGE_SYNC_URL", migrated_server_url)
    ann, ben = tmp_path / "ann.db", tmp_path / "ben.db"
    with ms.MemoryStorage.open(ann) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="as it was"))
    assert "1 change" in command("sync", "-d", ann).stdout
    assert json.loads(command("sync", "-d", ben, "--json").stdout)["pulled"] == 1
    for path, name in ((ann, "Ann's"), (ben, "Ben's")):
        with ms.MemoryStorage.open(path) as storage:
            stored = storage.episodes.get(episode.id)
            storage.episodes.save(stored.model_copy(update={"task_description": name}))
    status = json.loads(command("sync", "-d", ben, "--status", "--json").stdout)
    assert (status["waiting"], status["conflicts"]) == (1, 0)
    command("sync", "-d", ann)
    assert "1 conflict" in command("sync", "-d", ben).stdout
    (conflict,) = json.loads(command("conflicts", "list", "-d", ben, "--json").stdout)
    shown = command("conflicts", "show", conflict["id"][:8], "-d", ben).stdout
    assert all(text in shown for text in ("task_description", "as it was", "Ann's", "Ben's"))
    assert "task_description" in command("conflicts", "list", "-d", ben).stdout
    assert command("conflicts", "resolve", conflict["id"], "--take", "mine", "-d", ben).exit_code == 0
    assert "no conflicts" in command("conflicts", "list", "-d", ben).stderr
    command("sync", "-d", ben)
    command("sync", "-d", ann)
    with ms.MemoryStorage.open(ann) as storage:
        assert storage.episodes.get(episode.id).task_description == "Ben's"


def test_theirs_is_taken(command, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    ms.MemoryStorage.open(path).close()
    assert command("conflicts", "resolve", "0" * 8, "--take", "theirs", "-d", path).exit_code == 4
    missing = command("conflicts", "show", "01a22845-a038-72e8-a577-df88ac00834a", "-d", path)
    assert missing.exit_code == 5
    assert "no conflict" in missing.stderr


def test_a_server_has_to_be_named(command, tmp_path: Path) -> None:
    for option in ((), ("--status",)):
        result = command("sync", "-d", tmp_path / "a.db", *option)
        assert result.exit_code == 3
        assert "sync_url" in result.stderr
