"""The client processes: started, killed, replaced, and checked at the end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from tests.durability.processes import PROCESSES

from .clients import Shared, run

PATIENCE = 60.0  # until a client has finished its last call, on a busy machine


@dataclass
class _Member:
    process: Any
    pipe: Any


class Crowd:
    """Some processes of as many writers and readers; a killed one is replaced."""

    def __init__(self, shared: Shared, directory: Path, *, processes: int, writers: int, readers: int) -> None:
        self._shared, self._directory = shared, directory
        self._each = (writers // processes, readers // processes)
        self._started = 0
        self.lock = threading.RLock()
        self._members = [self._new() for _ in range(processes)]
        self.killed = 0
        self.reports: list[tuple[int, list[int]]] = []
        """Of those that lived to the end: how many connections were out, and the memory in use, each second."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.process.kill()
            member.process.join()

    @property
    def pids(self) -> list[int]:
        """The running processes."""
        return [member.process.pid for member in self._members]

    @property
    def ledgers(self) -> list[Path]:
        """Of all that there were."""
        return sorted(self._directory.glob("*.ledger"))

    def kill_one(self, which: float) -> None:
        """Kill one, as the kernel does when memory is short, and start another."""
        with self.lock:
            at = int(which * len(self._members))
            self._members[at].process.kill()
            self._members[at].process.join()
            self._members[at] = self._new()
            self.killed += 1

    def stop(self) -> None:
        """Have all of them finish what they do."""
        for member in self._members:
            member.pipe.send_bytes(b"stop")
        for member in self._members:
            assert member.pipe.poll(PATIENCE), "a client hangs"
            self.reports.append(member.pipe.recv())
            member.process.join(PATIENCE)
            assert member.process.exitcode == 0

    def _new(self) -> _Member:
        self._started += 1
        ours, theirs = PROCESSES.Pipe()
        path = self._directory / f"{self._started:03}.ledger"
        process = PROCESSES.Process(target=run, args=(theirs, self._shared, path, *self._each))
        process.start()
        theirs.close()
        return _Member(process, ours)
