"""Unusable paths: the error names the cause and the remedy, and no file is left or changed."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.backup import back_up

from .conftest import start

A_DIRECTORY = "it is a directory: name a file in it"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A database, its backup, an empty directory and a file."""
    place = tmp_path_factory.mktemp("paths")
    with ms.MemoryStorage.open(place / "memory.db") as storage:
        storage.episodes.save(ms.Episode(task_description="t", steps=[ms.Step(tool="t", action="word " * 40_000)]))
        back_up(storage, place / "backup.db")
    (place / "directory").mkdir()
    (place / "file").write_text("precious")
    return place


def _names(place: Path) -> list[str]:
    """The files but for the logs of databases."""
    return sorted(path.name for path in place.iterdir() if not path.name.endswith(("-wal", "-shm")))


def _cases(place: Path) -> Iterator[tuple[tuple[object, ...], str]]:
    database, missing, under_a_file = ("-d", place / "memory.db"), place / "none" / "x", place / "file" / "x"
    for path in (missing, place / "directory", under_a_file):  # the report's package gives the system's own reason
        yield ("report", "--html", path, *database), f"{path}: cannot be written: "
    for command in (("export", "-o"), ("backup",)):
        yield (*command, missing, *database), f"{missing}: cannot be written: there is no directory {place / 'none'}"
        yield (*command, place / "directory", *database), f"cannot be written: {A_DIRECTORY}"
        yield (*command, under_a_file, *database), f"cannot be written: {place / 'file'} is a file, not a directory"
        yield (*command, "", *database), f"cannot be written: {A_DIRECTORY}"
    for target, problem in (
        (missing, f"there is no directory {place / 'none'}: create it first"),
        (place / "directory", A_DIRECTORY),
        (under_a_file, f"{place / 'file'} is a file, not a directory"),
    ):
        yield ("restore", place / "backup.db", "-d", target), f"{target}: cannot be written: {problem}"
    for command in ("import", "restore"):
        yield (command, place / "directory", "-d", place / "new.db"), A_DIRECTORY
        yield (command, missing, "-d", place / "new.db"), f"{missing}: "
    yield ("export", "-o", place / "file", *database), "already exists: choose another file or delete it"
    yield ("backup", place / "file", *database), "already exists; choose another name"
    yield ("restore", place / "backup.db", *database), "already exists; pass --force to replace it"
    for command in ("query", "init", "upgrade", "doctor", "health", "stats"):
        yield (command, "-d", place / "directory"), f"the database cannot be opened: {A_DIRECTORY}"
    yield ("init", "-d", under_a_file), f"{place / 'file'} is a file, not a directory"


@pytest.mark.slow
def test_an_unusable_path_is_an_error_with_a_remedy(command, place):
    before = _names(place)
    for arguments, message in _cases(place):
        result = command(*arguments)
        assert (result.exit_code, result.stdout) == (3, ""), arguments
        assert message in result.stderr, arguments
        assert ".part" not in result.stderr
        assert "Errno" not in result.stderr
    assert _names(place) == before
    assert (place / "file").read_text() == "precious"


@pytest.mark.slow
def test_a_disk_without_room_leaves_no_file(place):
    new = place / "new.jsonl"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start("export", "-o", new, "-d", place / "memory.db", preexec_fn=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert f"{new}: cannot be written: File too large: make room, or choose another disk" in err.decode()
    assert not list(place.glob("new*"))


@pytest.mark.slow
def test_an_output_that_takes_no_more_is_one_sentence(place):
    with open("/dev/full", "wb") as full:
        process = start("export", "-d", place / "memory.db", stdout=full, stdin=subprocess.DEVNULL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.decode() == "error: cannot write the output: No space left on device; it is incomplete\n"
