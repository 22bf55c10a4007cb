"""The command as a process: streams, pipes, signals, terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.importers import export_lines
from tests.importers.transcripts import REAL, run, write_airline

from .conftest import start

READ = {"x86_64": "0", "aarch64": "63"}
"""The number of the system call `read`, as /proc shows it."""


def finish(process: subprocess.Popen[bytes], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    out, err = process.communicate(stdin, timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_airline_runs_are_imported_once_and_exported(database, tmp_path):
    path = REAL if REAL.exists() else write_airline(tmp_path / "runs.jsonl")
    code, out, err = finish(start("import", path, "--format", "openai-chat", "-d", database, "--json"))
    report = {"imported": 200, "unchanged": 0, "failed": [], "updated": 0, "erased": 0, "undated": 200, "notes": []}
    if path == REAL:
        report |= {"steps": 1164, "errors": 73}
    read = json.loads(out)
    steps = {name: read[name] for name in ("steps", "errors")}
    report = {**report, "format": "openai-chat", "tokens": 0, "not_taken": {}, **(steps if path != REAL else {})}
    assert (code, json.loads(out)) == (0, report)
    assert err.startswith(b"200 without times start at the time of the import; set another with --started-at\n")
    assert err.splitlines()[1].startswith(b"read as openai-chat: ")
    before = exported(database)
    code, out, _ = finish(start("import", path, "-d", database))
    assert (code, out.strip()) == (0, b"0 imported, 200 unchanged, 0 invalid")
    assert finish(start("export", "-d", database)) == (0, before, b"")
    assert finish(start("import", "-", "-d", tmp_path / "copy.db"), before)[0] == 0
    assert exported(tmp_path / "copy.db") == before


def exported(database) -> bytes:
    with ms.MemoryStorage.open(database) as storage:
        return "".join(line + "\n" for line in export_lines(storage)).encode()


def test_an_error_is_one_line_without_a_traceback(database):
    code, out, err = finish(start("stats", "-d", database))
    assert (code, out) == (3, b"")
    assert err.startswith(b"error: there is no database")
    assert err.count(b"\n") == 1


def test_a_closed_output_pipe_is_not_an_error(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save_many([make_episode(20, metadata={"big": "x" * 5000}) for _ in range(60)])
    for arguments in (["export"], ["query", "--json"], ["query", "--steps"]):
        process = start(*arguments, "-d", database)
        process.stdout.read(1)
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(300) in ({141} if "--steps" not in arguments else {0, 141})
        process.stderr.close()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_exits_with_130_and_keeps_what_was_read(database):
    with ms.MemoryStorage.open(database) as storage:
        process = start("import", "-", "-d", database)
        process.stdin.write("".join(json.dumps(run(trial=trial)) + "\n" for trial in range(150)).encode())
        process.stdin.flush()
        wait_for(lambda: storage.episodes.count() == 100 and is_reading_stdin(process))
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
        assert (code, out, err) == (130, b"", b"interrupted\n")
        assert storage.episodes.count() == 100


@pytest.fixture
def background_job():
    """A job in the background of a shell, which inherits SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("background_job", "interruptible")
def test_an_interrupt_reaches_a_child_of_a_background_job():
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.send_signal(signal.SIGINT)
    assert child.wait(300) == -signal.SIGINT


def episodes_in(database) -> int:
    if not database.exists():
        return 0
    code, out, _ = finish(start("stats", "--json", "-d", database))
    return json.loads(out)["rows"]["episodes"] if code == 0 else 0


def is_reading_stdin(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process's main thread is blocked in read(0): it has taken up all input, and waits for more."""
    number, *arguments = Path(f"/proc/{process.pid}/syscall").read_text().split()
    return number == READ.get(os.uname().machine) and arguments[0] == "0x0"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300  # a processor that is busy is no failure
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("said", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_delete_asks_at_a_terminal(database, make_episode, said, code, left):
    with ms.MemoryStorage.open(database) as storage:
        episode = storage.episodes.save(make_episode())
    ours, theirs = pty.openpty()
    process = start("delete", episode.id, "-d", database, stdin=theirs)
    os.write(ours, said)
    out, err = process.communicate(timeout=300)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code
    assert f"Delete {episode.id} ".encode() in err
    assert b"with its 2 steps?" in err
    assert out == (b"" if left else f"deleted {episode.id}\n".encode())
    assert episodes_in(database) == left


def test_text_that_the_terminal_cannot_show_is_no_error(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode(task_description="Grüße, 漢字"))
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code, out, _ = finish(start("query", "-d", database, env=ascii_only))
    assert (code, b"Gr??e" in out) == (0, True)
    code, out, _ = finish(start("query", "-d", database, "--json", env=ascii_only))
    assert json.loads(out)["items"][0]["task_description"] == "Grüße, 漢字"
