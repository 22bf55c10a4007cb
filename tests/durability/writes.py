"""An endless sequence of writes that is decided by a seed: the seed tells what was written, and when.

Each function is one call that a caller sees return, or not; what it writes is there whole after it, or not at all.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import memory_storage as ms

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, timezone.utc)
MODEL = "test-model"


def now() -> datetime:
    """A constant, so that two stores with the same writes are equal."""
    return NOW


class Writer:
    """Writes to its own episodes and its own pattern; `done` counts the writes that have returned."""

    def __init__(self, storage: ms.MemoryStorage, seed: str) -> None:
        self._storage = storage
        self._random = random.Random(seed)
        self._seed = uuid.uuid5(uuid.NAMESPACE_OID, seed)
        self._made = 0
        self._alive: list[uuid.UUID] = []
        self._pattern = ms.Heuristic(id=self._new_id(), condition="if", action="then")
        self.done = 0

    def run(self, writes: int | None = None) -> Iterator[int]:
        """Run the writes one after another, or the next `count`; yield the number of writes after each."""
        while writes is None or self.done < writes:
            if self.done == 0:
                self._storage.patterns.save(self._pattern)
            else:
                self._next()()
            self.done += 1
            yield self.done

    def _next(self) -> Callable[[], object]:
        common = [self._save, self._append, self._append, self._apply, self._apply_and_more]
        rare = [self._complete, self._archive, self._embed, self._place, self._delete, self._save_many]
        return self._random.choice(common + rare if len(self._alive) > 1 else [self._save])

    def _save(self) -> None:
        self._storage.episodes.save(self._episode())

    def _save_many(self) -> None:
        self._storage.episodes.save_many([self._episode(steps=5) for _ in range(3)])

    def _append(self) -> None:
        self._storage.episodes.append_step(self._random.choice(self._alive), self._step())

    def _complete(self) -> None:
        verdict = ms.Success(verdict=f"done by write {self.done}", artifacts=["a", "b"])
        self._storage.episodes.complete(self._random.choice(self._alive), verdict, reward=self._random.random())

    def _archive(self) -> None:
        self._storage.episodes.archive(self._random.choice(self._alive))

    def _delete(self) -> None:
        self._storage.episodes.delete(self._alive.pop(self._random.randrange(len(self._alive))))

    def _apply(self) -> None:
        self._storage.patterns.record_application(self._pattern.id, success=True, reward_delta=self._random.random())

    def _embed(self) -> None:
        self._storage.embeddings.put("episode", self._random.choice(self._alive), self._vector(), model=MODEL)

    def _place(self) -> None:
        self._storage.spatiotemporal.put(self._where(self._random.choice(self._alive)))

    def _apply_and_more(self) -> None:
        with self._storage.transaction() as tx:
            new = tx.episodes.save(self._episode(steps=3))
            tx.patterns.record_application(self._pattern.id, success=False)
            tx.embeddings.put("episode", new.id, self._vector(), model=MODEL)
            tx.spatiotemporal.put(self._where(new.id))
            tx.episodes.append_step(new.id, self._step())
            tx.episodes.delete(self._alive.pop(0))

    def _episode(self, steps: int = 20) -> ms.Episode:
        episode = ms.Episode(
            id=self._new_id(),
            task_description=f"write {self.done}",
            started_at=NOW,
            tags=["killed", f"tag-{self.done}"],
            metadata={"write": self.done},
            steps=[self._step() for _ in range(steps)],
        )
        self._alive.append(episode.id)
        return episode

    def _step(self) -> ms.Step:
        text = f"output of write {self.done} " * self._random.randrange(20)
        return ms.Step(
            id=self._new_id(), started_at=NOW, tool=f"tool-{self.done % 5}", action="act", result=ms.StepOk(output=text)
        )

    def _where(self, episode: uuid.UUID) -> ms.SpatiotemporalEntry:
        latitude, longitude = self._random.uniform(-90, 90), self._random.uniform(-180, 180)
        return ms.SpatiotemporalEntry(
            id=self._new_id(), owner_type="episode", owner_id=episode, latitude=latitude, longitude=longitude
        )

    def _vector(self) -> list[float]:
        return [self._random.gauss(0, 1) for _ in range(384)]

    def _new_id(self) -> uuid.UUID:
        self._made += 1
        return uuid.uuid5(self._seed, str(self._made))
