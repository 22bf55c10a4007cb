"""Batched deletion of episodes: short holds of the write lock.

All state is in the tables, so it may be interrupted anywhere: the remaining episodes are selected again, and an episode
that was deleted in part is marked.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from memory_storage.dbapi import BatchStep
from memory_storage.monitoring import note_removed
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import to_micros

from . import sql
from .tombstones import digest_of

_TARGET_SECONDS = 0.015  # target seconds that a batch holds the lock; the documented maximum is 0.05
_PAUSE_SECONDS = 0.012  # waiting writers poll the lock at intervals of at most 5 ms
_INITIAL_SIZE = 40
_MIN_SIZE = 24  # smaller batches save nothing: BEGIN and COMMIT take as long
_MAX_SIZE = 4_000
_WINDOW = 4  # in batches; a slow batch may be followed by another
_SMALL_WEIGHT = 100  # removed in one batch, however long that takes


class BatchSizer:
    """Measures batches and adapts `batch_size`, in the unit of the caller's weights."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.time) -> None:
        self.batch_size = _INITIAL_SIZE
        self._estimates = deque([_INITIAL_SIZE], maxlen=_WINDOW)
        self._sleep = sleep
        self._clock = clock
        self._started_at = 0.0

    def start(self) -> None:
        """Start timing a batch."""
        self._started_at = self._clock()

    def finish(self, weight: int, locked_at: float | None) -> None:
        """Finish a batch that held the lock since `locked_at` (database clock); pause for other writers."""
        whole = self._clock() - self._started_at
        held = whole if locked_at is None else self._clock() - locked_at
        if not 0 <= held <= whole:  # a server's clock may differ
            held = whole
        if weight:
            self._estimates.append(int(weight * _TARGET_SECONDS / max(held, 0.0005)))
            self.batch_size = max(_MIN_SIZE, min(*self._estimates, 2 * self.batch_size, _MAX_SIZE))
        self._sleep(max(_PAUSE_SECONDS, held / 2))  # even where batches take long, the lock is free a third of the time


class Item(NamedTuple):
    """An episode to delete."""

    id: str
    reason: str
    bytes: int
    steps: int

    @property
    def weight(self) -> int:
        """The estimated work, in rows."""
        return 1 + self.steps + self.bytes // sql.BYTES_PER_ROW


class BatchDeleter:
    """Deletes or archives episodes in batches, by `DeletionStatements` filled with `values`."""

    def __init__(
        self,
        session: SessionProtocol,
        batch_sizer: BatchSizer,
        deletion_statements: sql.DeletionStatements = sql.UNCONDITIONAL,
        **values: Any,
    ) -> None:
        self._session = session
        self._batch_sizer = batch_sizer
        self._statements = deletion_statements
        self._values = values

    def delete(self, items: Iterable[Item]) -> Iterator[tuple[list[Item], set[str]]]:
        """Delete the episodes; yield each batch, and the ids that were deleted."""
        for batch in self._batches(items):
            if self._is_large(batch[0]):
                yield batch, self._delete_incrementally(batch[0])
            else:
                steps = [one.bind(**self._values_of(batch)) for one in self._statements.deletion]
                yield batch, self._run_batch(batch, steps, sum(item.weight for item in batch))

    def archive(self, items: Iterable[Item], now: int) -> Iterator[tuple[list[Item], set[str]]]:
        """Archive the episodes; yield each batch, and the ids that were archived."""
        for batch in self._batches(items, of_rows=False):
            step = self._statements.archive.bind(now=now, **self._values_of(batch))
            yield batch, self._run_batch(batch, [step], len(batch))

    def _batches(self, items: Iterable[Item], *, of_rows: bool = True) -> Iterator[list[Item]]:
        """Yield the items in batches of the current size, and a large episode alone.

        Args:
            items: The episodes; the next ones are read when a batch is done.
            of_rows: Whether their steps and texts count as work, or each episode is one row.
        """
        batch: list[Item] = []
        weight = 0
        for item in items:
            added = item.weight if of_rows else 1
            if batch and (weight + added > self._batch_sizer.batch_size or (of_rows and self._is_large(item))):
                yield batch
                batch, weight = [], 0
            batch.append(item)
            weight += added
            if of_rows and self._is_large(item):
                yield batch
                batch, weight = [], 0
        if batch:
            yield batch

    def _is_large(self, item: Item) -> bool:
        """Return whether the episode is deleted in several batches."""
        return item.weight > max(2 * self._batch_sizer.batch_size, _SMALL_WEIGHT) and item.steps > 1

    def _delete_incrementally(self, item: Item) -> set[str]:
        """Delete an episode that is too large for one batch: its last steps first."""
        namespace = self._session.namespace
        values, digest = self._values_of([item]), digest_of(namespace, item.id)
        archive = sql.ARCHIVE_TOMBSTONED.bind(digest=digest, now=to_micros(self._session.now()))
        if not self._write_measured(1, [self._statements.mark_unfinished.bind(**values), archive]):
            return set()  # it is deleted, or protected by now
        while self._delete_step_batch(item.id):
            pass
        return self._run_batch([item], [sql.UNCONDITIONAL.delete.bind(**values)], 1)

    def _delete_step_batch(self, episode_id: str) -> int:
        step = sql.DELETE_LAST_STEPS.bind(
            namespace=self._session.namespace, id=episode_id, batch_weight=self._batch_sizer.batch_size
        )
        self._batch_sizer.start()
        rows = self._session.write([step])
        weight = sum(int(row[0]) for row in rows if row)
        self._batch_sizer.finish(weight, self._locked_at(rows))
        return weight

    def _run_batch(self, batch: Sequence[Item], steps: Sequence[BatchStep], weight: int) -> set[str]:
        rows = self._write_measured(weight, steps)
        # Rows without values: the write was applied, and its acknowledgement is missing.
        removed = {row[0] for row in rows} if all(rows) else {item.id for item in batch}
        note_removed(removed)
        return removed

    def _write_measured(self, weight: int, steps: Sequence[BatchStep]) -> Sequence[Row]:
        self._batch_sizer.start()
        rows = self._session.write(steps)
        self._batch_sizer.finish(weight, self._locked_at(rows))
        return rows

    def _locked_at(self, rows: Sequence[Row]) -> float | None:
        """Return when the database took the lock; None for a server, whose clock may differ."""
        return rows[0][1] if self._session.max_value_bytes is None and rows and rows[0] else None

    def _values_of(self, batch: Sequence[Item]) -> dict[str, Any]:
        namespace = self._session.namespace
        items = json.dumps([(item.id, digest_of(namespace, item.id)) for item in batch])
        surplus = json.dumps([item.id for item in batch if item.reason in ("max_episodes", "max_bytes")])
        return {"namespace": namespace, "items": items, "surplus": surplus, **self._values}
