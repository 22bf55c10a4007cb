"""A client process: writers and readers on one storage, which record every response until the end, or a kill."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import memory_storage as ms

from .ledger import KINDS, Ledger

STEPS = 6
TRANSACTED = 4
BREAKER_SECONDS = 1.0
REQUEST_TIMEOUT = 2.0

Work = dict[str, Callable[[UUID], None]]


@dataclass(frozen=True)
class Shared:
    """Where the clients work, and on what all of them write."""

    database: str
    token: Path | None
    episode: UUID
    pattern: UUID

    def settings(self) -> ms.Settings:
        """Impatient ones, so that much can go wrong in a minute."""
        return ms.Settings(
            database=self.database,
            auth_token=self.token and partial(_token_in, self.token),
            request_timeout=REQUEST_TIMEOUT,
            circuit_breaker={"failure_threshold": 5, "timeout": BREAKER_SECONDS},
        )


def _token_in(path: Path) -> str:
    return path.read_text()


def run(pipe: Any, shared: Shared, path: Path, writers: int, readers: int) -> None:
    """Work until the pipe is closed; then say how many connections are out, and how much memory was in use."""
    over, ledger = threading.Event(), Ledger(path)
    storage = _opened(shared, over, pipe)
    if storage is None:
        return
    client = Client(storage, shared, ledger, over)
    memory = []
    with storage, ThreadPoolExecutor(writers + readers) as threads:
        jobs = [threads.submit(client.write, number) for number in range(writers)]
        jobs += [threads.submit(client.read) for _ in range(readers)]
        while not _is_over(pipe, seconds=1.0):
            memory.append(resident_bytes())
        over.set()
        for job in jobs:
            job.result()
        pipe.send((storage.engine.pool.checkedout(), memory))


def _is_over(pipe: Any, seconds: float) -> bool:
    return bool(pipe.poll(seconds))


def _opened(shared: Shared, over: threading.Event, pipe: Any) -> ms.MemoryStorage | None:
    while not _is_over(pipe, seconds=0):
        try:
            return ms.MemoryStorage.open(shared.settings())
        except (ms.UnavailableError, ms.CredentialError, ms.CommitUnknownError):
            over.wait(0.1)
    pipe.send((0, []))
    return None


def resident_bytes() -> int:
    """Of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


class Client:
    """The threads of one process. They share the keys that were acknowledged to any of them."""

    def __init__(self, storage: ms.MemoryStorage, shared: Shared, ledger: Ledger, over: threading.Event) -> None:
        self._storage, self._shared, self._ledger, self._over = storage, shared, ledger, over
        self._known: list[tuple[UUID, int]] = []
        self._work: Work = {kind: getattr(self, f"_{kind}") for kind in KINDS}

    def write(self, number: int) -> None:
        """Write one after another."""
        draw = random.Random(number)
        while not self._over.is_set():
            self._attempt(draw.choice(KINDS), uuid4())
            time.sleep(draw.uniform(0, 0.02))

    def read(self) -> None:
        """Read: no episode is partially stored, and every acknowledged write is found."""
        while not self._over.is_set():
            try:
                self._look()
            except (ms.UnavailableError, ms.CredentialError):
                time.sleep(0.05)
            except Exception as error:  # noqa: BLE001 - noted, and it fails the test
                self._ledger.note("wrong", "read", uuid4(), repr(error))

    def _attempt(self, kind: str, key: UUID) -> None:
        self._ledger.note("begun", kind, key)
        try:
            self._work[kind](key)
        except ms.CommitUnknownError as error:
            self._ledger.note("unknown", kind, key, _told(error))
        except (ms.UnavailableError, ms.CredentialError) as error:
            self._ledger.note("refused", kind, key, _told(error))
        except Exception as error:  # noqa: BLE001 - as above
            self._ledger.note("wrong", kind, key, _told(error))
        else:
            self._ledger.note("done", kind, key)

    def _save(self, key: UUID) -> None:
        saved = self._storage.episodes.save(_episode(key, "save", STEPS))
        assert (saved.version, len(saved.steps)) == (1, STEPS)
        self._known.append((key, STEPS))

    def _append(self, key: UUID) -> None:
        step = ms.Step(id=key, tool="t", action="append")
        assert self._storage.episodes.append_step(self._shared.episode, step).id == key

    def _apply(self, key: UUID) -> None:
        self._storage.patterns.record_application(self._shared.pattern, success=True)

    def _transact(self, key: UUID) -> None:
        with self._storage.transaction() as tx:
            tx.episodes.save(_episode(key, "transact", TRANSACTED - 1))
            tx.patterns.record_application(self._shared.pattern, success=False)
            tx.episodes.append_step(key, ms.Step(tool="t", action="append"))
        self._known.append((key, TRANSACTED))

    def _look(self) -> None:
        for found in self._storage.episodes.query(limit=10, task_type="testing"):
            wanted = {"save": STEPS, "transact": TRANSACTED}[found.task_description]
            if len(found.steps) != wanted:
                self._ledger.note("wrong", found.task_description, found.id, f"seen with {len(found.steps)} steps")
        if self._known:
            key, wanted = random.choice(self._known)
            there = self._storage.episodes.find(key)
            if there is None or len(there.steps) != wanted:
                self._ledger.note("wrong", "read", key, f"acknowledged, and found as {there}")


def _episode(key: UUID, kind: str, steps: int) -> ms.Episode:
    done = [ms.Step(tool="t", action=f"{number}", result=ms.StepOk(output="done " * 50)) for number in range(steps)]
    return ms.Episode(id=key, task_description=kind, task_type="testing", steps=done)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__} {getattr(error, 'code', '')}: {error}"
