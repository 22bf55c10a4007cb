"""Removing episodes in portions that hold the write lock shortly. Decides nothing: who calls it says which.

All that it has to know is in the tables, so it may be interrupted anywhere: what was not removed is found again, and an
episode that was removed in part is marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from memory_storage.dbapi import Step
from memory_storage.monitoring import note_removed
from memory_storage.sql.documents import to_micros
from memory_storage.sql.session import Row, SessionProtocol

from . import sql
from .pacing import Pace
from .tombstones import digest_of

_SMALL = 100  # is removed at once, whatever it takes


class Item(NamedTuple):
    """One to be removed."""

    id: str
    reason: str
    bytes: int
    steps: int

    @property
    def weight(self) -> int:
        """How much work it is."""
        return sql.weight(self.bytes, self.steps)


class Remover:
    """Removes them, a portion at a time, by the statements of a `Removal`, filled with `values`."""

    def __init__(self, session: SessionProtocol, pace: Pace, removal: sql.Removal = sql.ALWAYS, **values: Any) -> None:
        self._session = session
        self._pace = pace
        self._removal = removal
        self._values = values

    def delete(self, items: Iterable[Item]) -> Iterator[tuple[list[Item], set[str]]]:
        """Delete them: each portion, and the ids of those that went."""
        waiting = list(items)[::-1]
        while waiting:
            if waiting[-1].weight > max(2 * self._pace.portion, _SMALL) and waiting[-1].steps > 1:
                item = waiting.pop()
                yield [item], self._in_parts(item)
            else:
                portion = self._next(waiting)
                yield portion, self._run(portion, [one.bind(**self._given(portion)) for one in self._removal.deletion])

    def archive(self, items: Iterable[Item], now: int) -> Iterator[tuple[list[Item], set[str]]]:
        """The same, but into the archive."""
        waiting = [item._replace(bytes=0, steps=0) for item in items][::-1]  # no work is done for these
        while waiting:
            portion = self._next(waiting)
            yield portion, self._run(portion, [self._removal.archive.bind(now=now, **self._given(portion))])

    def _next(self, waiting: list[Item]) -> list[Item]:
        portion, weight = [waiting.pop()], 0
        while waiting and (weight := weight + portion[-1].weight) + waiting[-1].weight <= self._pace.portion:
            portion.append(waiting.pop())
        return portion

    def _in_parts(self, item: Item) -> set[str]:
        """An episode that is too large to go at once: its last steps first."""
        namespace = self._session.namespace
        given, digest = self._given([item]), digest_of(namespace, item.id)
        put_away = sql.PUT_AWAY.bind(digest=digest, now=to_micros(self._session.now()))
        if not self._rows(1, [self._removal.begin.bind(**given), put_away]):
            return set()
        while self._some_steps(item.id):
            pass
        return self._run([item._replace(bytes=0, steps=0)], [sql.ALWAYS.delete.bind(**given)])

    def _some_steps(self, episode_id: str) -> int:
        step = sql.SOME_STEPS.bind(namespace=self._session.namespace, id=episode_id, portion=self._pace.portion)
        self._pace.begin()
        rows = self._session.write([step])
        weight = sum(int(row[0]) for row in rows if row)
        self._pace.ended(weight, self._locked_at(rows))
        return weight

    def _run(self, portion: Sequence[Item], steps: Sequence[Step]) -> set[str]:
        rows = self._rows(sum(item.weight for item in portion), steps)
        # Rows without values: the answer was lost, and the write was done.
        removed = {row[0] for row in rows} if all(rows) else {item.id for item in portion}
        note_removed(removed)
        return removed

    def _rows(self, weight: int, steps: Sequence[Step]) -> Sequence[Row]:
        self._pace.begin()
        rows = self._session.write(steps)
        self._pace.ended(weight, self._locked_at(rows))
        return rows

    def _locked_at(self, rows: Sequence[Row]) -> float | None:
        """When the database had the lock; None for a server, whose clock is not this machine's."""
        return rows[0][1] if self._session.max_value_bytes is None and rows and rows[0] else None

    def _given(self, portion: Sequence[Item]) -> dict[str, Any]:
        namespace = self._session.namespace
        items = json.dumps([(item.id, digest_of(namespace, item.id)) for item in portion])
        surplus = json.dumps([item.id for item in portion if item.reason in ("max_episodes", "max_bytes")])
        return {"namespace": namespace, "items": items, "surplus": surplus, **self._values}
