"""Processes that open one file by several names and with several keys, for test_open_files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memory_storage import dbapi

from .processes import PROCESSES

SPELLINGS = ("plain", "linked directory", "dots", "linked file", "hard link", "relative")
_LOCKS = Path("/proc/locks")


def make_spellings(directory: Path) -> None:
    """The links by which `spelled` leads to the file."""
    (directory / "there").mkdir()
    (directory / "linked").symlink_to(directory / "there")
    (directory / "link.db").symlink_to(directory / "there" / "memory.db")


def spelled(directory: Path, spelling: str) -> str:
    """A name of the file `there/memory.db`. The hard link is made on first use."""
    path = directory / "there" / "memory.db"
    if spelling == "hard link" and path.exists():
        with suppress(FileExistsError):
            os.link(path, directory / "hard.db")
    return {
        "plain": str(path),
        "linked directory": str(directory / "linked" / "memory.db"),
        "dots": str(directory / "linked" / ".." / "there" / "." / "memory.db"),
        "linked file": str(directory / "link.db"),
        "hard link": str(directory / "hard.db"),
        "relative": os.path.relpath(path),
    }[spelling]


class Worker:
    """A process with connections to the file, which runs the commands that it receives."""

    def __init__(self, directory: Path) -> None:
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_work, args=(theirs, directory), daemon=True)
        self._process.start()
        theirs.close()
        self.open: dict[int, str] = {}

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def ask(self, command: str, *arguments: object) -> str:
        """Have it done: "" or the code of the error."""
        self._pipe.send((command, *arguments))
        assert self._pipe.poll(60), command
        answer: str = self._pipe.recv()
        return answer

    def enter(self, directory: Path) -> None:
        """Close everything, and continue with the file of this directory."""
        assert self.ask("enter", directory) == ""
        self.open.clear()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()
        self._process.close()
        self._pipe.close()
        self.open.clear()

    def has_locks(self, path: Path) -> bool:
        """Whether the kernel knows of a lock that the process has on the file. Where it does not tell, True."""
        if not _LOCKS.exists():
            return True
        inode, lines = path.stat().st_ino, (line.split() for line in _LOCKS.read_text().splitlines())
        return any(
            int(line[4]) == self.pid and int(line[5].split(":")[2]) == inode for line in lines if line[1] != "->"
        )


@contextmanager
def workers(directory: Path, number: int) -> Iterator[list[Worker]]:
    """A number of them, which end with the block."""
    started = [Worker(directory) for _ in range(number)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


def use(directory: Path, key: str | None) -> str:
    """Open, read and close the file in a process that is not kept: "" or the code of the error."""
    with workers(directory, 1) as (worker,):
        return worker.ask("open", 0, "plain", key) or worker.ask("read", 0) or worker.ask("close", 0)


def _work(pipe: Any, directory: Path) -> None:
    os.chdir(directory)
    connections: dict[int, dbapi.Connection] = {}
    while True:
        command, *arguments = pipe.recv()
        try:
            if command == "enter":
                (directory,) = arguments
                os.chdir(directory)
                while connections:
                    connections.popitem()[1].close()
                pipe.send("")
                continue
            _COMMANDS[command](connections, directory, *arguments)
        except dbapi.Error as error:
            pipe.send(error.code or "?")
        except BaseException as error:  # noqa: BLE001 - the test fails by it
            pipe.send(repr(error))
        else:
            pipe.send("")


def _open(connections: dict[int, dbapi.Connection], directory: Path, slot: int, spelling: str, key: str | None) -> None:
    connections[slot] = dbapi.connect(spelled(directory, spelling), encryption_key=key, busy_timeout=20)


def _read(connections: dict[int, dbapi.Connection], directory: Path, slot: int) -> None:
    connections[slot].execute("SELECT count(*) FROM t").fetchall()
    connections[slot].commit()


def _write(connections: dict[int, dbapi.Connection], directory: Path, slot: int, value: int) -> None:
    connections[slot].execute("CREATE TABLE IF NOT EXISTS t (x INTEGER)")
    connections[slot].execute("INSERT INTO t VALUES (?)", (value,))
    connections[slot].commit()


def _close(connections: dict[int, dbapi.Connection], directory: Path, slot: int) -> None:
    connections.pop(slot).close()


def _forget(connections: dict[int, dbapi.Connection], directory: Path, slot: int) -> None:
    """The garbage collector closes it."""
    del connections[slot]


def _race(connections: dict[Any, dbapi.Connection], directory: Path, right: str) -> None:
    """Threads open and close by every name and with every key; of those with the right key one is kept."""

    def run(number: int) -> None:
        for turn in range(6):
            spelling = SPELLINGS[(number + turn) % len(SPELLINGS)]
            for key in (right, "another key", None):
                try:
                    opened = dbapi.connect(spelled(directory, spelling), encryption_key=key)
                except dbapi.Error as error:
                    if error.code not in {"OTHER_KEY", "WRONG_KEY"}:
                        raise
                    continue
                if connections.setdefault("kept", opened) is not opened:
                    opened.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))


def _fork(
    connections: dict[int, dbapi.Connection], directory: Path, spelling: str, key: str | None, values: list[int]
) -> None:
    """A child opens the file by itself and writes; its parent waits for it."""
    child = os.fork()
    if child == 0:
        try:
            _open(connections, directory, -1, spelling, key)
            for value in values:
                _write(connections, directory, -1, value)
            os._exit(0)
        except dbapi.Error as error:
            os._exit(2 if error.code in {"WRONG_KEY", "NOT_ENCRYPTED"} else 1)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise dbapi.OperationalError("the child failed", {2: "REFUSED"}.get(status, "CHILD"))


_COMMANDS = {
    "open": _open,
    "read": _read,
    "write": _write,
    "close": _close,
    "forget": _forget,
    "fork": _fork,
    "race": _race,
}
