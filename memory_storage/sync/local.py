"""The file of a replica: its state, its transactions, and what it has not pushed yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_bytes
from typing import NamedTuple

from memory_storage._execution import TransactionExecutor
from memory_storage.dbapi import BatchStep
from memory_storage.repositories.embeddings.repository import ensure_space
from memory_storage.repositories.retention.tombstones import FIND_TOMBSTONES, digest_of, tombstone_forms
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.session import Session, StorageContext
from memory_storage.sql.session import Row

from .counts import IS_WAITING, WAITING, Count
from .pace import Pace
from .rows import (
    CHECKPOINT,
    EMBEDDING,
    EPISODE,
    FORGOTTEN,
    KINDS,
    PATTERN,
    PLACE,
    RELATIONSHIP,
    STEP,
    Name,
    Values,
    bytes_of,
)
from .server import Position, Push
from .writing import Pushed

REPLICA, APPLYING = 2, 3
"""Modes of `sync_state`: of a replica, and while it applies what it has pulled, which is not logged."""

PUSH_ROWS = 1_000
PUSH_BYTES = 4_000_000
"""Of documents in one push: a server rolls a transaction back that others have waited for for 5 seconds."""


class LocalState(NamedTuple):
    """What a replica knows.

    Attributes:
        epoch: The identity of its server's log; None before the first sync.
        since: The number up to which it has pulled.
        position: Where its first sync is; None when it is over.
        is_pulling: Whether it has begun to pull, and has not pulled all.
        synced_at: When the latest sync ended, in microseconds since the epoch; None before the first.
        namespaces: The namespaces that it pulls; None for all.
    """

    epoch: bytes | None
    since: int
    position: Position | None
    is_pulling: bool
    synced_at: int | None
    namespaces: tuple[str, ...] | None


class Sent(NamedTuple):
    """A change that is pushed: its number, kind, namespace and key, and whether it is a row, not a tombstone."""

    number: int
    kind: int
    namespace: str
    key: str
    is_row: bool

    @property
    def name(self) -> Name:
        """The kind, namespace and key."""
        return self[1:4]


class LocalTransaction:
    """A write transaction on the file of a replica."""

    def __init__(self, context: StorageContext, executor: TransactionExecutor) -> None:
        self._context, self._executor = context, executor
        self._changed: set[tuple[str, str]] = set()

    def read(self, sql: str, *values: object) -> Sequence[Row]:
        """Return the rows of a SELECT."""
        return self.rows(BatchStep(sql, values))

    def rows(self, step: BatchStep) -> Sequence[Row]:
        """Return the rows of a SELECT with its values."""
        return self._executor.read(step)

    def run(self, steps: Sequence[BatchStep], *, changed: Iterable[tuple[str, str]] = ()) -> None:
        """Run statements.

        Args:
            steps: The statements.
            changed: Namespace and id of the episodes whose words and facets they change: `applying` indexes them.
        """
        self._changed.update(changed)
        if steps:
            self._executor.write(steps)

    def space(self, namespace: str, model: str, dimension: int) -> VectorSpace:
        """Return where the vectors of a model and dimension are stored; it is created if there is none."""
        session = Session(self._context, namespace, executor=self._executor)
        return ensure_space(session, model, dimension)

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Do not log what is written in the block. In the end, what has changed is indexed at once."""
        self.run([BatchStep("UPDATE sync_state SET mode = ?", (APPLYING,))])
        yield
        as_before = BatchStep("UPDATE sync_state SET mode = ?", (REPLICA,))
        self._executor.write([as_before], changed=len(self._changed))


class Local:
    """The file of a replica."""

    def __init__(self, context: StorageContext) -> None:
        self._context = context

    @contextmanager
    def transaction(self) -> Iterator[LocalTransaction]:
        """Run the block as one write transaction."""
        executor = TransactionExecutor(self._context.executor, read_only=False)
        executor.begin()
        try:
            yield LocalTransaction(self._context, executor)
        except BaseException as error:
            executor.end(error)
            raise
        executor.end(None)

    def read(self, sql: str, *values: object) -> Sequence[Row]:
        """Return the rows of a SELECT."""
        return self._context.executor.read(BatchStep(sql, values))

    def state(self) -> LocalState | None:
        """Return the state; None if the file is no replica."""
        rows = self.read("SELECT mode, epoch, since, progress, synced_at FROM sync_state")
        if not rows or rows[0][0] not in (REPLICA, APPLYING):
            return None
        _, epoch, since, progress, synced_at = rows[0]
        saved = json.loads(progress or "{}")
        at = saved.get("position")
        position = Position(at[0], at[1], tuple(at[2])) if at else None
        namespaces = saved.get("namespaces")
        namespaces = None if namespaces is None else tuple(namespaces)
        return LocalState(epoch, since, position, bool(saved.get("is_pulling")), synced_at, namespaces)

    def become_replica(self) -> None:
        """Log changes from now on, and all existing rows. Idempotent."""
        if self.state() is not None:
            return
        with self.transaction() as tx:
            if tx.read("SELECT 1 FROM sync_state WHERE mode <> 1"):
                return  # another process was faster
            tx.run(
                [
                    # A copy of a server's database has its log.
                    *(BatchStep(f"DELETE FROM {table}") for table in ("sync_changes", "sync_counts", "sync_state")),
                    BatchStep(
                        "INSERT INTO sync_state (id, mode, session) VALUES (1, ?, ?)",
                        (REPLICA, token_bytes(16) + bytes(4)),
                    ),
                    *log_everything(),
                ]
            )

    def waiting(self) -> int:
        """Return how many changes have not been pushed."""
        ((changes, counts),) = self.read(
            f"SELECT (SELECT count(*) FROM sync_changes), (SELECT count(*) FROM sync_counts AS c WHERE {IS_WAITING})"
        )
        return int(changes) + int(counts)

    def has_waiting(self) -> bool:
        """Return whether a change has not been pushed."""
        sql = f"""SELECT EXISTS (SELECT 1 FROM sync_changes)
    OR EXISTS (SELECT 1 FROM sync_counts AS c WHERE {IS_WAITING})"""
        return bool(self.read(sql)[0][0])

    def was_interrupted(self, state: LocalState) -> bool:
        """Return whether the latest sync, of this process or another, has not come to its end."""
        sql = f"""SELECT EXISTS (SELECT 1 FROM sync_wanted) OR EXISTS (
    SELECT 1 FROM (SELECT sent FROM sync_changes ORDER BY number LIMIT {PUSH_ROWS}) WHERE sent IS NOT NULL)"""
        return state.is_pulling or bool(self.read(sql)[0][0])


def log_everything() -> Iterator[BatchStep]:
    """Yield statements that log all rows as changed, which are not logged yet."""
    for kind in KINDS.values():
        yield BatchStep(
            f"""INSERT INTO sync_changes (namespace, kind, seq)
SELECT r.namespace, {kind.number}, r.seq FROM {kind.table} AS r WHERE NOT EXISTS (
    SELECT 1 FROM sync_changes AS c WHERE c.kind = {kind.number} AND c.seq = r.seq)"""
        )
    yield BatchStep(
        f"""INSERT INTO sync_changes (namespace, kind, "key")
SELECT '', {FORGOTTEN}, hex(digest) FROM forgotten
WHERE NOT EXISTS (SELECT 1 FROM sync_changes WHERE kind = {FORGOTTEN} AND namespace = '' AND "key" = hex(digest))"""
    )
    yield BatchStep(
        """INSERT INTO sync_counts (namespace, pattern_id, session, acknowledged, retrieved, applied, succeeded, failed,
    reward_sum, last_used_at, counted_at)
SELECT namespace, patterns.id, session, 0, times_retrieved, times_applied, success_when_applied, failure_when_applied,
    avg_reward_delta * times_applied, patterns.last_used_at, unixepoch() FROM patterns CROSS JOIN sync_state
WHERE (times_retrieved OR times_applied) AND NOT EXISTS (
    SELECT 1 FROM sync_counts AS c WHERE c.namespace = patterns.namespace AND c.pattern_id = patterns.id)"""
    )


_PENDING = f"""SELECT number, kind, namespace, seq, "key", created_at, {bytes_of("kind", "c.seq")}
FROM sync_changes AS c ORDER BY number LIMIT ?"""

# The owners of rows that are pushed: those that are new have to be there before.
_OWNERS = f"""WITH pushed AS MATERIALIZED (
    SELECT c.kind, c.seq FROM json_each(?) CROSS JOIN sync_changes AS c ON c.number = value),
owned AS (
    SELECT s.namespace, {EPISODE} AS kind, s.episode_id AS id
    FROM pushed AS p CROSS JOIN steps AS s ON p.kind = {STEP} AND s.seq = p.seq
    UNION
    SELECT m.namespace, CASE m.owner_type WHEN 'episode' THEN 1 WHEN 'step' THEN 2 ELSE 3 END, m.owner_id
    FROM pushed AS p CROSS JOIN embeddings AS m ON p.kind = {EMBEDDING} AND m.seq = p.seq
    UNION
    SELECT m.namespace, iif(m.owner_type = 'episode', 1, 2), m.owner_id
    FROM pushed AS p CROSS JOIN spatiotemporal_index AS m ON p.kind = {PLACE} AND m.seq = p.seq
    UNION
    SELECT r.namespace, {EPISODE}, value
    FROM pushed AS p CROSS JOIN relationships AS r ON p.kind = {RELATIONSHIP} AND r.seq = p.seq
    CROSS JOIN json_each(json_array(r.from_id, r.to_id))
    UNION
    SELECT c.namespace, {EPISODE}, c.episode_id
    FROM pushed AS p CROSS JOIN checkpoints AS c ON p.kind = {CHECKPOINT} AND c.seq = p.seq)
SELECT c.number, c.kind, c.namespace, c.seq, c."key", c.created_at, 0
FROM owned AS o CROSS JOIN episodes AS r ON o.kind = {EPISODE} AND r.namespace = o.namespace AND r.id = o.id
    CROSS JOIN sync_changes AS c ON c.kind = {EPISODE} AND c.seq = r.seq
UNION SELECT c.number, c.kind, c.namespace, c.seq, c."key", c.created_at, 0
FROM owned AS o CROSS JOIN steps AS r ON o.kind = {STEP} AND r.namespace = o.namespace AND r.id = o.id
    CROSS JOIN sync_changes AS c ON c.kind = {STEP} AND c.seq = r.seq
UNION SELECT c.number, c.kind, c.namespace, c.seq, c."key", c.created_at, 0
FROM owned AS o CROSS JOIN patterns AS r ON o.kind = {PATTERN} AND r.namespace = o.namespace AND r.id = o.id
    CROSS JOIN sync_changes AS c ON c.kind = {PATTERN} AND c.seq = r.seq"""


class Outbox(NamedTuple):
    """What is pushed next.

    Attributes:
        push: The request's content.
        sent: Each change in it.
        vectors: The models and dimensions of embeddings that the server has no space for yet: they wait.
    """

    push: Push
    sent: list[Sent]
    vectors: set[tuple[str, str, int]]


def next_push(tx: LocalTransaction, pace: Pace, spaces: Callable[[str, int], VectorSpace | None]) -> Outbox:
    """Return what is pushed next, and note that it is on its way.

    Args:
        tx: The transaction.
        pace: How much is pushed at once.
        spaces: Returns the server's space of a model and dimension, or None.
    """
    pending = _pending(tx, pace)
    push, sent = _tombstones(tx, pending)
    missing: set[tuple[str, str, int]] = set()
    marks = json.dumps(sorted(row[0] for row in pending))
    for kind in KINDS.values():
        rows = tx.read(_rows_of(kind.number), marks) if any(row[1] == kind.number for row in pending) else ()
        for number, is_known, episode_id, *values in rows:
            row = tuple(values)
            pushed = _pushed(row, episode_id, is_new=not is_known)
            if kind.number == EMBEDDING:
                vector = vector_of(tx, row)
                model = row[kind.place("model")], len(vector) // 4
                space = spaces(*model)
                if space is None:
                    missing.add((row[0], *model))
                    continue
                push.embeddings.setdefault(space, []).append((pushed, vector))
            else:
                push.rows.setdefault(kind.number, []).append(pushed)
            sent.append(Sent(number, kind.number, row[0], kind.key_of(row), is_row=True))
    push.counts = [Count(*row) for row in tx.rows(WAITING.bind(limit=PUSH_ROWS))]
    if sent:
        tx.run(
            [
                BatchStep(
                    "UPDATE sync_changes SET sent = number WHERE number IN (SELECT value FROM json_each(?))",
                    (json.dumps([one.number for one in sent]),),
                )
            ]
        )
    return Outbox(push, sent, missing)


def _pending(tx: LocalTransaction, pace: Pace) -> list[Row]:
    """Return the changes of the next push, with the owners of its rows."""
    pending: list[Row] = []
    total = 0
    for row in tx.read(_PENDING, pace.of(PUSH_ROWS)):
        total += row[6]
        if pending and total > pace.of(PUSH_BYTES):
            break
        pending.append(row)
    numbers = {row[0] for row in pending}
    new = numbers
    while new:  # a step's episode, and of a vector of the step too
        owners = [row for row in tx.read(_OWNERS, json.dumps(sorted(new))) if row[0] not in numbers]
        pending += owners
        new = {row[0] for row in owners}
        numbers |= new
    return pending


def _tombstones(tx: LocalTransaction, pending: Sequence[Row]) -> tuple[Push, list[Sent]]:
    """Return a push of what was deleted and erased among the changes."""
    push, sent = Push(), []
    names = {digest_of(row[2], row[4]): row for row in pending if row[3] is None and row[1] in (EPISODE, PATTERN)}
    found = tx.rows(FIND_TOMBSTONES.bind(digests=json.dumps(list(names)))) if names else ()
    erased = {names[digest.lower()][:2]: bytes.fromhex(digest) for (digest,) in found}  # by number and kind
    for row in pending:
        number, kind, namespace, seq, key, created_at, _ = row
        if seq is not None:
            continue
        if kind == FORGOTTEN:
            push.digests.append(bytes.fromhex(key))
        elif row[:2] in erased:  # the digest may be in another push: with the name it has to be there
            push.erased.append((namespace, key))
            push.digests.append(erased[row[:2]])
        else:
            push.deleted.append((kind, namespace, key, created_at))
        sent.append(Sent(number, kind, namespace, key, is_row=False))
    return push, sent


def _rows_of(kind: int) -> str:
    """Return the SELECT of the rows to push: number, whether it was in sync once, the episode, and the columns."""
    one = KINDS[kind]
    episode = {
        EPISODE: "r.id",
        STEP: "r.episode_id",
        PATTERN: "r.id",
        EMBEDDING: "CASE r.owner_type WHEN 'step' THEN (SELECT episode_id FROM steps AS s WHERE s.namespace ="
        " r.namespace AND s.id = r.owner_id) ELSE r.owner_id END",
        PLACE: "CASE r.owner_type WHEN 'step' THEN (SELECT episode_id FROM steps AS s WHERE s.namespace ="
        " r.namespace AND s.id = r.owner_id) ELSE r.owner_id END",
        RELATIONSHIP: "r.from_id",
        CHECKPOINT: "r.episode_id",
    }[kind]
    return f"""SELECT c.number, EXISTS (SELECT 1 FROM sync_bases AS b WHERE b.kind = {kind}
    AND b.namespace = r.namespace AND b."key" = {one.key_sql("r")} AND b.sent = 0), {episode}, {one.columns_of("r")}
FROM json_each(?) CROSS JOIN sync_changes AS c ON c.number = value CROSS JOIN {one.table} AS r ON r.seq = c.seq
WHERE c.kind = {kind} ORDER BY c.number"""


def _pushed(values: Values, owner: str | None, *, is_new: bool) -> Pushed:
    if not is_new or owner is None:
        return Pushed(values, is_new, None, None)
    return Pushed(values, is_new, *map(bytes.fromhex, tombstone_forms(values[0], owner)))


def vector_of(tx: LocalTransaction, values: Values) -> bytes:
    """Return the vector of an embedding of this file."""
    kind = KINDS[EMBEDDING]
    table = f"vectors_{int(values[kind.place('space')], 16):016x}"  # a token, which is hexadecimal
    ((vector,),) = tx.read(f"SELECT vector FROM {table} WHERE seq = ?", values[kind.place("vector_seq")])
    return bytes(vector)
