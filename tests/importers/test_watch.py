"""A directory that is watched: its files are imported when they are stable, and again when they have grown."""

from __future__ import annotations

import os
import signal
import time

import pytest

import memory_storage as ms
from memory_storage.importers import DirectoryWatch

from ..backends import in_memory
from ..cli.conftest import start
from ..raising import raises
from .formats.files import CLAUDE_CODE, CODEX, FILES, lines


def polled(watch: DirectoryWatch) -> list[tuple[str, object]]:
    """The names of the files of a poll, with the numbers of new and updated episodes, or the error."""
    return [
        (file.path.name, (file.report.imported, file.report.updated) if file.report else type(file.error))
        for file in watch.poll()
    ]


@pytest.fixture
def watch(storage, tmp_path):
    return DirectoryWatch(storage, tmp_path)


@in_memory
def test_a_file_is_imported_when_it_is_stable(watch, tmp_path):
    path = tmp_path / "project" / "session.jsonl"
    path.parent.mkdir()
    path.write_bytes(lines(*CLAUDE_CODE[:6]))
    assert polled(watch) == []
    path.write_bytes(lines(*CLAUDE_CODE[:8]))
    assert polled(watch) == []
    assert polled(watch) == [("session.jsonl", (1, 0))]
    assert polled(watch) == []


@in_memory
def test_a_file_that_has_grown_is_imported_again(watch, storage, tmp_path):
    path = tmp_path / "session.jsonl"
    for count, expected in ((6, (1, 0)), (9, (0, 1)), (len(CLAUDE_CODE), (3, 1))):
        path.write_bytes(lines(*CLAUDE_CODE[:count]))
        polled(watch)
        assert polled(watch) == [("session.jsonl", expected)]
    assert storage.episodes.count() == 4


@in_memory
def test_a_restart_doubles_nothing(watch, storage, tmp_path):
    for name in ("claude-code", "codex", "atif"):
        (tmp_path / f"{name}.jsonl").write_bytes(FILES[name][1])
    (tmp_path / "notes.md").write_text("not a transcript")
    (tmp_path / "empty.jsonl").touch()
    polled(watch)
    assert sorted(polled(watch)) == [("atif.jsonl", (2, 0)), ("claude-code.jsonl", (4, 0)), ("codex.jsonl", (2, 0))]
    again = DirectoryWatch(storage, tmp_path)
    polled(again)
    assert {counts for _, counts in polled(again)} == {(0, 0)}


@in_memory
def test_a_file_that_cannot_be_read_is_reported_once(watch, tmp_path):
    path = tmp_path / "unknown.json"
    path.write_text('{"what": "is this"}')
    (tmp_path / "good.jsonl").write_bytes(lines(*CODEX))
    polled(watch)
    assert sorted(polled(watch), key=str) == [("good.jsonl", (2, 0)), ("unknown.json", ms.ValidationError)]
    assert polled(watch) == []
    path.unlink()
    assert polled(watch) == []


@in_memory
def test_a_file_is_tried_again_when_the_database_is_back(watch, tmp_path, monkeypatch):
    (tmp_path / "session.jsonl").write_bytes(lines(*CODEX))
    polled(watch)

    def unavailable(*_: object, **__: object) -> None:
        raise ms.UnavailableError("the server does not answer")

    with monkeypatch.context() as broken:
        broken.setattr("memory_storage.importers.watch.import_file", unavailable)
        assert polled(watch) == [("session.jsonl", ms.UnavailableError)]
    assert polled(watch) == [("session.jsonl", (2, 0))]


@in_memory
def test_it_polls_until_it_is_interrupted(watch, tmp_path):
    (tmp_path / "session.jsonl").write_bytes(lines(*CODEX))
    waits: list[float] = []
    seen: list[str] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch.run(lambda file: seen.append(file.path.name), interval=0.5, sleep=sleep)
    assert (waits, seen) == ([0.5] * 3, ["session.jsonl"])


@in_memory
def test_what_cannot_be_watched_is_refused(storage, watch, tmp_path):
    with raises(ms.ConfigurationError, match="not a directory"):
        DirectoryWatch(storage, tmp_path / "absent")
    with raises(ms.ValidationError, field="format"):
        DirectoryWatch(storage, tmp_path, format="xml")
    for interval in (0, -1, float("inf"), float("nan")):
        with raises(ms.ValidationError, field="interval"):
            watch.run(print, interval=interval)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process")
def test_the_command_watches_until_ctrl_c(tmp_path):
    sessions, database = tmp_path / "sessions", tmp_path / "memory.db"
    sessions.mkdir()
    process = start("import", "--watch", sessions, "--interval", "0.1", "-d", database)
    try:
        assert b"Ctrl-C ends it" in process.stderr.readline()
        (sessions / "a.jsonl").write_bytes(lines(*CODEX))
        assert b"2 imported" in process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    with ms.MemoryStorage.open(database) as storage:
        assert storage.episodes.count() == 2
