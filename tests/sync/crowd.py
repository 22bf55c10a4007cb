"""A client in a process of its own: it works on its file, syncs, and writes down what was acknowledged.

    python -m tests.sync.crowd FILE URL LEDGER SEED

A line of the ledger is `try` or `ok`, a kind and an id. It ends when its input ends, or by a kill.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import memory_storage as ms


class Ledger:
    """Lines that outlive a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


class Client:
    """What a client does."""

    def __init__(self, storage: ms.MemoryStorage, ledger: Ledger, seed: int) -> None:
        self._storage, self._ledger, self._random = storage, ledger, random.Random(seed)

    def work(self) -> None:
        """Do one thing."""
        what = self._random.choices([self.save, self.append, self.count, self.tag, self.sync], [3, 4, 3, 2, 2])[0]
        with suppress(ms.UnavailableError, ms.ConflictError, ms.NotFoundError, IndexError):
            what()

    def save(self) -> None:
        """Save a new episode with two steps."""
        steps = [ms.Step(tool="t", action="first"), ms.Step(tool="t", action="second")]
        episode = ms.Episode(task_description="of the crowd", steps=steps)
        self._storage.episodes.save(episode)
        self._ledger.note("ok", "episode", episode.id)
        for step in steps:
            self._ledger.note("ok", "step", step.id)

    def append(self) -> None:
        """Append a step to an episode of anybody."""
        step = ms.Step(tool="t", action="appended", parameters={"text": "x" * self._random.randrange(2_000)})
        self._storage.episodes.append_step(self._any_episode(), step)
        self._ledger.note("ok", "step", step.id)

    def count(self) -> None:
        """Count an application of a pattern."""
        for pattern in self._storage.patterns.query(limit=1).items:
            self._ledger.note("try", "count", pattern.id)
            self._storage.patterns.record_application(pattern.id, success=True)
            self._ledger.note("ok", "count", pattern.id)

    def tag(self) -> None:
        """Add a key to the metadata of an episode of anybody."""
        episode = self._storage.episodes.get(self._any_episode(), steps=False)
        key = f"key{self._random.getrandbits(40)}"
        if len(episode.metadata) < 200:
            metadata = {**episode.metadata, key: 1}
            self._storage.episodes.save(episode.model_copy(update={"metadata": metadata}))
            self._ledger.note("ok", "key", key)

    def sync(self) -> None:
        """Sync."""
        self._storage.sync()

    def _any_episode(self) -> UUID:
        return self._random.choice(self._storage.episodes.query(limit=20).items).id


def main() -> None:
    """Work until the input ends."""
    path, url, ledger, seed = sys.argv[1:]
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    settings = ms.Settings(
        database=path,
        sync_url=url,
        sync_writer=Path(path).stem,
        request_timeout=2.0,
        circuit_breaker={"timeout": 0.5},
        retry={"max_attempts": 2, "initial_backoff": 0.02},
    )
    while not over.is_set():
        # Opening fails as any call may, for instance where others write to the file for longer than `request_timeout`.
        with suppress(ms.UnavailableError), ms.MemoryStorage.open(settings) as storage:
            client = Client(storage, Ledger(Path(ledger)), int(seed))
            while not over.is_set():
                client.work()


if __name__ == "__main__":
    main()
