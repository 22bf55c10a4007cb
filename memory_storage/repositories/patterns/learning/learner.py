"""Keeps the counts of a namespace up to date. What it writes is in portions, each of which is one short transaction.

The first time all episodes are counted in memory, then the counts are written. Until all of them are, `learning` says
that they are not built, and the next run begins again; episodes that change in the meantime are noted, and learned
afterwards. From then on only what has changed is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from time import monotonic, sleep
from typing import Any, NamedTuple

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import UnavailableError
from memory_storage.repositories.analytics.sql import SUCCESS_BY_OUTCOME
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.filters import Conditions
from memory_storage.sql.indexing import INDEX_STEP
from memory_storage.sql.session import SAVE_ATTEMPTS, Row, SessionProtocol
from memory_storage.sql.validation import size

from . import sql
from .counts import MAX_COUNTEREXAMPLES, MAX_EVIDENCE, ContextCounts, CountedEpisode, SequenceCounts
from .traces import Trace, encode, traces_from_rows

LONGEST = 4
"""The most tools of a sequence that is counted."""

_TARGET_SECONDS = 0.02  # that a portion holds the write lock; the documented maximum is 0.05
_PAUSE_SECONDS = 0.006  # other writers poll the lock at intervals of at most 5 ms
_FIRST_ROWS, _FIRST_EPISODES = 1_000, 50  # of the first portion
_POLLS, _POLL_SECONDS = 20, 0.1  # without a sign of the learner that counts all, before another one begins
_MOST_POLLS = 300  # while another learner learns what has changed
_RENEW_SECONDS = 0.5
_PORTION_CHARACTERS = 40_000  # of the tools of changed episodes: each step is part of four sequences
_QUEUE = 5_000  # changed episodes that are read at a time
_READ = 1_000  # episodes that are read at a time


class _State(NamedTuple):
    revision: int
    next_number: int
    is_built: bool


class _Pace:
    """The size of the next portion, so that it holds the lock for about as long as it should."""

    def __init__(self, first: int, least: int, most: int, pause: Callable[[float], None]) -> None:
        self.size, self._least, self._most, self._pause = first, least, most, pause

    def write(self, writer: SessionProtocol | _Claim, steps: Sequence[BatchStep], amount: int) -> Sequence[Row]:
        """Write a portion, let other writers do so, and return the rows of the last statement."""
        began = monotonic()
        rows = writer.write(steps)
        held = monotonic() - began
        wanted = int(amount * _TARGET_SECONDS / max(held, 0.0005))
        self.size = max(self._least, min(wanted, 2 * self.size, self._most))
        self._pause(_PAUSE_SECONDS)
        return rows


def read_traces(
    session: SessionProtocol, where: Conditions, success: str, values: Mapping[str, Any]
) -> Iterator[list[Trace]]:
    """Read the episodes that have a result, in portions in the order of their start.

    Args:
        session: The session of their namespace.
        where: Conditions that they have to meet.
        success: SQL for whether an episode succeeded: 1, 0, or NULL for none that has a result.
        values: The values of the parameters of the conditions.
    """
    at, seq = -(2**63), 0
    while True:
        step = sql.traces(where, success).bind(namespace=session.namespace, at=at, seq=seq, limit=_READ, **values)
        traces = traces_from_rows(session.read(step))
        yield traces
        if len(traces) < _READ:
            return
        at, seq = traces[-1].started_at, traces[-1].seq


class Learner:
    """Learns the episodes of a namespace that are not learned yet."""

    def __init__(self, session: SessionProtocol, *, pause: Callable[[float], None] = sleep) -> None:
        self._session, self._namespace, self._pause = session, session.namespace, pause
        self._rows = _Pace(_FIRST_ROWS, 100, 20_000, pause)
        self._episodes = _Pace(_FIRST_EPISODES, 10, 1_000, pause)

    def run(self) -> int:
        """Learn all that is new, and return how many episodes that were."""
        # What has changed a moment ago is noted when it is indexed; but not what is counted with all.
        self._session.write([INDEX_STEP, sql.START.bind(namespace=self._namespace)])
        learned = failures = 0
        while True:
            state = self._state()
            try:
                if not state.is_built and self._is_being_built(state):
                    continue
                count = self._learn_changed(state) if state.is_built else self._build(state)
            except RowCountError:
                failures += 1  # another learner was faster
                if failures > SAVE_ATTEMPTS:
                    raise UnavailableError("other learners keep changing the counts; try again") from None
                self._wait_for_others()
            else:
                if not count and state.is_built:
                    return learned
                learned, failures = learned + count, 0

    def _state(self) -> _State:
        rows = self._session.read(sql.STATE.bind(namespace=self._namespace))
        if not rows:  # the namespace was erased in the meantime, or its counts by a repair
            self._session.write([sql.START.bind(namespace=self._namespace)])
            return self._state()
        ((revision, next_number, is_built),) = rows
        return _State(revision, next_number, bool(is_built))

    def _is_being_built(self, state: _State) -> bool:
        """Wait for another learner that counts all episodes, and return whether it does: then the state is new."""
        if not state.revision:
            return False
        for _ in range(_POLLS):
            self._pause(_POLL_SECONDS)
            if self._state() != state:
                return True
        return False

    def _wait_for_others(self) -> None:
        """Wait until no other learner has written for a while: what it learns need not be learned again."""
        state = self._state()
        for _ in range(_MOST_POLLS):
            self._pause(_POLL_SECONDS)
            before, state = state, self._state()
            if state == before:
                return

    def _advance(self, state: _State, next_number: int, *, is_built: bool) -> BatchStep:
        values = {"revision": state.revision, "next_number": next_number, "is_built": int(is_built)}
        return sql.ADVANCE.bind(1, namespace=self._namespace, **values)

    def _build(self, state: _State) -> int:
        """Count all episodes, and return how many they are. Other learners see that the revision grows, and wait."""
        claim = _Claim(self, state)
        claim.write([])
        for statement in (sql.CLEAR_COUNTS, sql.CLEAR_LEARNED):
            # What a build that was interrupted has left. The counts first: then nothing is taken back from them.
            pace = _Pace(_FIRST_EPISODES, 10, 20_000, self._pause)
            while pace.write(claim, [statement.bind(namespace=self._namespace, limit=pace.size)], pace.size):
                pass
        counts = SequenceCounts(LONGEST)
        learned: list[str] = []
        for traces in read_traces(self._session, (), SUCCESS_BY_OUTCOME, {}):
            learned += [_learned(one, one.numbers) for one in counts.add(traces)]
            claim.renew()
        rows = (_row(_key(one), one, one.number) for one in counts.take())
        for portion in _portions(rows, self._rows):
            self._rows.write(claim, self._count(portion), len(portion))
        for portion in _portions(learned, self._episodes):
            self._episodes.write(claim, self._note(portion), len(portion))
        self._session.write([self._advance(claim.state, counts.next_number, is_built=True)])
        return len(learned)

    def _learn_changed(self, state: _State) -> int:
        """Learn episodes that have changed, up to `_QUEUE` of them, and return how many."""
        queue = self._session.read(sql.CHANGED.bind(namespace=self._namespace, limit=_QUEUE))
        known = _KnownSequences(self._session, state.next_number)
        at = 0
        while rows := _portion(queue, at, self._episodes.size):
            episodes = known.counts.add(traces_from_rows([row[1:] for row in rows if row[3] is not None]))
            counted = known.rows()
            steps = [
                self._advance(state, known.next_number, is_built=True),
                sql.TAKE_BACK.bind(seqs=encode([row[1] for row in rows])),
                *self._count(counted),
                *self._note([_learned(one, [known.numbers[number] for number in one.numbers]) for one in episodes]),
                sql.DONE.bind(done=encode([(row[1], row[0]) for row in rows])),
            ]
            self._episodes.write(self._session, steps, len(rows))
            state = state._replace(revision=state.revision + 1)
            at += len(rows)
        return len(queue)

    def _count(self, rows: Sequence[str]) -> list[BatchStep]:
        return [
            sql.COUNT.bind(
                namespace=self._namespace,
                rows=f"[{','.join(group)}]",
                evidence=MAX_EVIDENCE,
                counterexamples=MAX_COUNTEREXAMPLES,
            )
            for group in chunked(rows, size, most_bytes=CHUNK_BYTES)
        ]

    def _note(self, rows: Sequence[str]) -> list[BatchStep]:
        """Return the statements that note what episodes are counted for, and undo that of those deleted by now."""
        return [
            statement.bind(namespace=self._namespace, rows=f"[{','.join(group)}]")
            for group in chunked(rows, size, most_bytes=CHUNK_BYTES)
            for statement in (sql.NOTE, sql.TAKE_BACK_DELETED)
        ]


class _KnownSequences:
    """Counts of changed episodes, and the stored numbers of what they have, which are read once."""

    def __init__(self, session: SessionProtocol, next_number: int) -> None:
        self.counts = SequenceCounts(LONGEST)
        self.next_number = next_number
        self.numbers: dict[int, int] = {}
        self._session = session
        self._keys: dict[int, str] = {}

    def rows(self) -> list[str]:
        """Return the rows of what was counted since the last time; new sequences get the next stored numbers."""
        counted = self.counts.take()
        new = [(one.number, _key(one)) for one in counted if one.number not in self._keys]
        self._keys.update(new)
        start = 0
        for group in chunked([key for _, key in new], size, most_bytes=CHUNK_BYTES):
            step = sql.NUMBERS.bind(namespace=self._session.namespace, keys=f"[{','.join(group)}]")
            self.numbers.update((new[start + place][0], stored) for place, stored in self._session.read(step))
            start += len(group)
        for number, _ in new:
            if number not in self.numbers:
                self.numbers[number], self.next_number = self.next_number, self.next_number + 1
        return [_row(self._keys[one.number], one, self.numbers[one.number]) for one in counted]


class _Claim:
    """The claim of a learner to count all episodes: each write renews it, and fails once another one has a claim."""

    def __init__(self, learner: Learner, state: _State) -> None:
        self.state = state
        self._learner, self._renewed_at = learner, monotonic()

    def write(self, steps: Sequence[BatchStep]) -> Sequence[Row]:
        """Write in a transaction with the renewal."""
        learner = self._learner
        rows = learner._session.write([learner._advance(self.state, 1, is_built=False), *steps])
        self.state = self.state._replace(revision=self.state.revision + 1)
        self._renewed_at = monotonic()
        return rows

    def renew(self) -> None:
        """Write, if the last time is a while ago."""
        if monotonic() - self._renewed_at > _RENEW_SECONDS:
            self.write([])


def _portion(queue: Sequence[Row], at: int, most: int) -> list[Row]:
    """Return the next episodes of a queue: at most `most` of them, and fewer if they are long, but one of them."""
    rows: list[Row] = []
    characters = 0
    for row in queue[at : at + most]:
        characters += len(row[-1])
        if rows and characters > _PORTION_CHARACTERS:
            break
        rows.append(row)
    return rows


def _portions(rows: Iterable[str], pace: _Pace) -> Iterator[list[str]]:
    """Return the rows in portions, each of the size that the pace has then."""
    remaining = iter(rows)
    while portion := list(islice(remaining, pace.size)):
        yield portion


def _key(counts: ContextCounts) -> str:
    """Return the key of the row as JSON: kind, content, context."""
    kind, parts = counts.content
    return encode([kind, encode(parts), *counts.context])


def _row(key: str, counts: ContextCounts, number: int) -> str:
    evidence, counterexamples = ("".join(f"{seq}," for seq in seqs) for seqs in counts[7:9])
    return (
        f"{key[:-1]},{number},{counts.episodes},{counts.successes},{counts.weight!r},{counts.success_weight!r},"
        f'",{evidence}",",{counterexamples}"]'
    )


def _learned(episode: CountedEpisode, numbers: Sequence[int]) -> str:
    return f"[{episode.seq},{int(episode.success)},{episode.weight!r},{list(numbers)}]"
