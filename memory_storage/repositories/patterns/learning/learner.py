"""Keeps the counts of a namespace up to date: in portions, each of which is one short transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import UnavailableError
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.indexing import INDEX_STEP
from memory_storage.sql.session import SAVE_ATTEMPTS, SessionProtocol
from memory_storage.sql.validation import size

from . import sql
from .counts import MAX_EVIDENCE, Counts, count
from .traces import Content, Context, Trace, traces_from_rows

LENGTHS = (1, 4)
"""The lengths of the sequences that are counted."""

_TARGET_SECONDS = 0.02  # that a portion holds the write lock; the documented maximum is 0.05
_PAUSE_SECONDS = 0.006  # other writers poll the lock at intervals of at most 5 ms
_FIRST, _LEAST, _MOST = 100, 10, 2_000  # episodes of a portion

_Key = tuple[Content, Context]


@dataclass
class _Portion:
    """Episodes that are learned together: in the order of a walk over all, or that have changed, with their marks."""

    traces: list[Trace]
    gone: list[int] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    place: tuple[int, int] | None = None


@dataclass
class _State:
    revision: int
    next_number: int
    place: tuple[int, int]


class Learner:
    """Learns the episodes of a namespace that are not learned yet."""

    def __init__(self, session: SessionProtocol, *, pause: Callable[[float], None] = sleep) -> None:
        self._session, self._pause = session, pause
        self._numbers: dict[_Key, int] = {}
        self._portion = _FIRST
        self._walked = False

    def run(self) -> int:
        """Learn all that is new, and return how many episodes that were."""
        namespace = self._session.namespace
        # What has changed a moment ago is noted when it is indexed.
        self._session.write([INDEX_STEP, sql.START.bind(namespace=namespace)])
        learned = failures = 0
        while True:
            state = self._state()
            portion = self._next(state)
            if not (portion.traces or portion.gone):
                return learned
            try:
                self._write(state, portion)
            except RowCountError:
                failures += 1  # another learner, or an episode of the portion was deleted
                self._numbers.clear()
                if failures > SAVE_ATTEMPTS:
                    raise UnavailableError("other learners keep changing the counts; try again") from None
            else:
                learned, failures = learned + len(portion.traces), 0

    def _state(self) -> _State:
        ((revision, next_number, *place),) = self._session.read(sql.STATE.bind(namespace=self._session.namespace))
        return _State(revision, next_number, (place[0], place[1]))

    def _next(self, state: _State) -> _Portion:
        namespace, limit = self._session.namespace, self._portion
        if not self._walked:
            at, seq = state.place
            step = sql.traces((), sql.SUCCESS).bind(namespace=namespace, at=at, seq=seq, limit=limit)
            if found := traces_from_rows(self._session.read(step)):
                return _Portion(found, place=(found[-1].started_at, found[-1].seq))
            self._walked = True
        rows = self._session.read(sql.CHANGED.bind(namespace=namespace, limit=limit))
        marks = [(row[1], row[0]) for row in rows]
        judged = traces_from_rows([row[1:] for row in rows if row[3] is not None])
        return _Portion(judged, [seq for seq, _ in marks], marks)

    def _write(self, state: _State, portion: _Portion) -> None:
        counts: Counts = {}
        contents = count(portion.traces, LENGTHS, MAX_EVIDENCE, counts)
        next_number = self._number(counts, state.next_number)
        steps = self._steps(state, portion, counts, contents, next_number)
        began = monotonic()
        self._session.write(steps)
        held = monotonic() - began
        wanted = int(max(len(portion.marks), len(portion.traces)) * _TARGET_SECONDS / max(held, 0.0005))
        self._portion = max(_LEAST, min(wanted, 2 * self._portion, _MOST))
        self._pause(_PAUSE_SECONDS)

    def _number(self, counts: Counts, next_number: int) -> int:
        """Give a number to each key that has none, and return the next one."""
        unknown = [key for key in counts if key not in self._numbers]
        if next_number > 1:  # else nothing is stored yet
            self._read_numbers(unknown)
        for key in unknown:
            if key not in self._numbers:
                self._numbers[key] = next_number
                next_number += 1
        return next_number

    def _read_numbers(self, keys: Sequence[_Key]) -> None:
        texts = [json.dumps(_columns(key), ensure_ascii=False) for key in keys]
        start = 0
        for group in chunked(texts, size, most_bytes=CHUNK_BYTES):
            step = sql.NUMBERS.bind(namespace=self._session.namespace, keys=f"[{','.join(group)}]")
            for place, number in self._session.read(step):
                self._numbers[keys[start + place]] = number
            start += len(group)

    def _steps(
        self,
        state: _State,
        portion: _Portion,
        counts: Counts,
        contents: dict[int, list[Content]],
        next_number: int,
    ) -> list[BatchStep]:
        namespace = self._session.namespace
        walked_at, walked_seq = portion.place or state.place
        values: dict[str, Any] = {"walked_at": walked_at, "walked_seq": walked_seq, "next_number": next_number}
        rows = [
            _json([*_columns(key), self._numbers[key], one.episodes, one.successes, one.weight, one.success_weight])[:-1]
            + f',",{"".join(f"{seq}," for seq in one.evidence)}"]'
            for key, one in counts.items()
        ]
        learned = [
            _json(
                [
                    one.seq,
                    int(one.success),
                    one.weight,
                    [self._numbers[content, one.context] for content in contents[one.seq]],
                ]
            )
            for one in portion.traces
        ]
        again = _json(portion.gone or [one.seq for one in portion.traces])
        return [
            sql.ADVANCE.bind(1, namespace=namespace, revision=state.revision, **values),
            sql.FORGET.bind(seqs=again),
            *(
                sql.COUNT.bind(namespace=namespace, rows=f"[{','.join(group)}]", evidence=MAX_EVIDENCE)
                for group in chunked(rows, size, most_bytes=CHUNK_BYTES)
            ),
            *(
                sql.LEARNED.bind(len(group), namespace=namespace, rows=f"[{','.join(group)}]")
                for group in chunked(learned, size, most_bytes=CHUNK_BYTES)
            ),
            sql.DONE.bind(done=_json(portion.marks)),
        ]


def _columns(key: _Key) -> tuple[Any, ...]:
    (kind, parts), context = key
    return kind, _json(parts), *context


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
