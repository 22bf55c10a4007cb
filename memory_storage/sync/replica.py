"""Reconciles a file with its server: pushes what is new here, pulls what is new there, until both have the same.

A round is one request: what waits is pushed, and what is new at the server comes with the answer. Then the answer is
applied in one transaction. Whatever is interrupted is repeated: nothing that is sent has an effect twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from memory_storage._execution import Executor
from memory_storage._files import MaintenanceLock
from memory_storage.dbapi import BatchStep, register_after_fork
from memory_storage.errors import MemoryStorageError, ServerChangedError, UnavailableError
from memory_storage.models import SyncReport, SyncStatus
from memory_storage.monitoring import named_operation
from memory_storage.repositories.embeddings.repository import ensure_space
from memory_storage.repositories.retention.tombstones import tombstone_forms
from memory_storage.search.vector_index import Progress
from memory_storage.session import Session, StorageContext
from memory_storage.sql.statement import from_micros, to_micros

from .ahead import Ahead
from .applying import Applier, Policy, Tally
from .local import Local, LocalState, LocalTransaction, Outbox, Sent, log_everything, next_push
from .rows import CHECKPOINT, EMBEDDING, EPISODE, KINDS, PATTERN, PLACE, RELATIONSHIP, STEP, Change
from .server import Answer, Page, Position, Server, State

_EVICTED_AT_ONCE = 200
_FETCHED_AT_ONCE = 100
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between two attempts of one that waits
_MANY_CHANGES = 200  # of which a pull is noted before it begins
_IS_PULLING = "progress = json_set(coalesce(progress, '{}'), '$.is_pulling', ?)"
_WANTED = "SELECT namespace, episode_id FROM sync_wanted LIMIT ?"
_IDLE_ROUNDS = 5  # without progress, after which a sync gives up what the server refuses


@dataclass(frozen=True)
class Options:
    """How a replica syncs.

    Attributes:
        namespaces: The namespaces that are pulled; None for all.
        keep: How old an episode may be that is pulled; None for any age.
        patience: Seconds to wait for another thread or process that syncs the same file.
    """

    namespaces: tuple[str, ...] | None = None
    keep: timedelta | None = None
    patience: float = 30.0


class Replica:
    """The sync of one file. Thread-safe: one thread of one process syncs at a time, others wait.

    Args:
        context: The file.
        executor: Runs the requests to the server.
        policy: How clashes are decided.
        options: What is pulled.
        lock: Excludes other processes.
        upgrade: Upgrades the schema of the server.
    """

    def __init__(
        self,
        context: StorageContext,
        executor: Executor,
        policy: Policy,
        options: Options,
        lock: MaintenanceLock,
        upgrade: Callable[[], None],
    ) -> None:
        self._context, self._executor = context, executor
        self._policy, self._options = policy, options
        self._process_lock, self._thread_lock = lock, threading.Lock()
        self._upgrade = upgrade
        self._session = Session(context, "")  # its operations are measured as those of repositories
        self._local = Local(context)
        self._server = Server(executor, policy.writer, options.namespaces)
        self._last_error: str | None = None
        self._is_joined = False
        self._ahead = Ahead()
        register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Have a lock that no thread of the parent holds."""
        self._thread_lock = threading.Lock()

    def prepare(self) -> None:
        """Have the file log its changes."""
        self._local.become_replica()

    @named_operation("sync")
    def sync(
        self,
        *,
        wait: float | None = None,
        migrate: bool = False,
        rejoin: bool = False,
        progress: Progress | None = None,
    ) -> SyncReport:
        """See `MemoryStorage.sync`."""
        until, pause = time.monotonic() + (wait or 0.0), _FIRST_PAUSE
        while True:
            try:
                with self._alone(None if wait is None else max(0.0, until - time.monotonic())):
                    report = self._sync(migrate=migrate, rejoin=rejoin, progress=progress)
                    self._last_error = None
                    return report
            except MemoryStorageError as error:
                self._last_error = f"{type(error).__name__}: {error}"
                if not isinstance(error, UnavailableError) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def join(self) -> None:
        """Have the file know its server: what is written there from now on, `pull` brings."""
        if not self._is_joined:
            with self._alone():
                self._join(migrate=False, rejoin=False)
            self._is_joined = True

    def pull(self) -> None:
        """Pull what is new at the server since `join`."""
        self.join()
        with self._alone():
            tally, has_more = Tally(), True
            while has_more:
                has_more = self._pull_round(self._state(), tally, None)

    def fetch(self, namespace: str, episode_id: str) -> None:
        """Pull an episode as a whole, of any age."""
        self.join()
        with self._alone():
            self._fetch_round([(namespace, episode_id)], Tally())

    def status(self) -> SyncStatus:
        """See `MemoryStorage.sync_status`."""
        state = self._local.state()
        ((conflicts,),) = self._local.read("SELECT count(*) FROM sync_conflicts")
        return SyncStatus(
            waiting=self._local.waiting(),
            conflicts=conflicts,
            synced_at=from_micros(state.synced_at) if state else None,
            is_complete=state is not None and state.epoch is not None and state.position is None,
            last_error=self._last_error,
        )

    @contextmanager
    def _alone(self, patience: float | None = None) -> Iterator[None]:
        patience = self._options.patience if patience is None else patience
        if not self._thread_lock.acquire(timeout=patience):
            raise UnavailableError("another thread syncs this file; try again", code="SYNC_RUNNING")
        try:
            with self._process_lock.exclusive(patience):
                self._ahead = Ahead()
                yield
        finally:
            self._thread_lock.release()

    def _sync(self, *, migrate: bool, rejoin: bool, progress: Progress | None) -> SyncReport:
        since, server = time.perf_counter(), self._server
        before_sync = server.round_trips, server.bytes_sent, server.bytes_received
        tally = Tally()
        self._local.become_replica()
        if self._local.was_interrupted(self._state()):
            server.pace.slow_down()
        self._join(migrate=migrate, rejoin=rejoin)
        try:
            is_over = self._rounds(tally, progress)
        except UnavailableError:
            server.pace.slow_down()
            raise
        self._evict()
        now = to_micros(self._context.now())
        state = self._state()
        is_recent = state.synced_at is not None and now - state.synced_at <= 1_000_000
        if tally != Tally() or not is_recent or state.is_pulling:
            with self._local.transaction() as tx:
                tx.run([BatchStep(f"UPDATE sync_state SET synced_at = ?, {_IS_PULLING}", (now, 0))])
        return SyncReport(
            **vars(tally),
            waiting=self._local.waiting(),
            round_trips=server.round_trips - before_sync[0],
            bytes_sent=server.bytes_sent - before_sync[1],
            bytes_received=server.bytes_received - before_sync[2],
            seconds=time.perf_counter() - since,
            is_complete=is_over,
        )

    def _rounds(self, tally: Tally, progress: Progress | None) -> bool:
        """Push and pull until both have the same; return False if the server refuses what waits."""
        pace, has_news, idle = self._server.pace, None, 0  # unknown, until the server says it
        while idle < _IDLE_ROUNDS:
            before = replace(tally)
            state = self._state()
            waits = state.position is None and self._local.has_waiting()
            if state.position is not None:  # first: what is pushed before would come back with the rest
                self._rows_round(state, state.position, tally, progress)
            elif waits:
                has_news = self._push_round(state, tally, progress)
            elif has_news is None:
                has_news = self._has_news(state)
            elif has_news:
                has_news = self._pull_round(state, tally, progress)
            elif wanted := self._local.read(_WANTED, pace.of(_FETCHED_AT_ONCE)):
                self._fetch_round(wanted, tally)
            else:
                return True
            pace.speed_up()
            idle = idle + 1 if waits and before == tally else 0
        return False

    def _state(self) -> LocalState:
        state = self._local.state()
        if state is None:
            raise ServerChangedError("this file is no replica any more: open it with sync_url again")
        return state

    # -- joining ---------------------------------------------------------------------------------------------------

    def _join(self, *, migrate: bool, rejoin: bool) -> None:
        """Have the file know its server."""
        state = self._state()
        if state.epoch is not None and state.namespaces != self._options.namespaces:
            self._change_namespaces(state)
        if state.epoch is not None and not (rejoin or migrate):
            return
        if migrate:
            self._upgrade()
        server = self._server.state()
        if server.epoch is None:
            server = self._server.join()
        if state.epoch == server.epoch and state.since <= server.last:
            return
        if state.epoch is not None and not rejoin:
            raise _changed()
        with self._local.transaction() as tx:
            saved = _progress(Position.first(EPISODE), self._options.namespaces)
            tx.run(
                [
                    BatchStep(
                        "UPDATE sync_state SET epoch = ?, since = ?, progress = ?",
                        (server.epoch, server.last, saved),
                    )
                ]
            )
            if state.epoch is not None:  # all that is here may be new there
                tx.run(list(log_everything()))

    def _change_namespaces(self, state: LocalState) -> None:
        """Pull the rows of namespaces that were not asked for before. Those that are no longer asked for stay."""
        wanted, before = self._options.namespaces, state.namespaces
        is_part = before is None or (wanted is not None and set(wanted) <= set(before))
        position = state.position if is_part else Position.first(EPISODE)
        with self._local.transaction() as tx:
            saved = _progress(position, wanted)
            tx.run([BatchStep("UPDATE sync_state SET progress = ?", (saved,))])

    def _check(self, state: LocalState) -> State:
        server = self._server.state()
        if server.epoch != state.epoch or server.last < state.since:
            raise _changed()
        return server

    def _has_news(self, state: LocalState) -> bool:
        """Return whether the server has new changes. A long pull is noted before it begins: see `was_interrupted`."""
        new = self._check(state).last - state.since
        if new > _MANY_CHANGES:
            with self._local.transaction() as tx:
                tx.run([BatchStep(f"UPDATE sync_state SET {_IS_PULLING}", (1,))])
        return new != 0

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _push_round(self, state: LocalState, tally: Tally, progress: Progress | None) -> bool:
        """Push what waits, pull what is new; return whether there is more."""
        outbox = self._next_push()
        answer = self._server.push(outbox.push, state.since, state.epoch or b"", self._oldest())
        if answer is None:
            self._check(state)
            raise _changed()
        refused = self._apply_answer(state, outbox, answer, tally)
        if refused:
            self._resolve_refused(refused, outbox, tally)
        if progress is not None:
            progress("pushed", tally.pushed, 0)
        return not answer.page.is_last

    def _next_push(self) -> Outbox:
        for _ in range(10):
            with self._local.transaction() as tx:
                outbox = next_push(tx, self._server.pace, self._server.space)
            if not outbox.vectors:
                break
            self._make_spaces(outbox)
        return outbox

    def _make_spaces(self, outbox: Outbox) -> None:
        """Have the server make the tables of vectors that it lacks, outside of a transaction on the file."""
        self._server.learn_spaces()
        remote = StorageContext(
            executor=self._executor, limits=self._context.limits, now=self._context.now, vector_index="exact"
        )
        missing = [one for one in outbox.vectors if self._server.space(*one[1:]) is None]
        for namespace, model, dimension in missing:
            ensure_space(Session(remote, namespace), model, dimension)
        if missing:
            self._server.learn_spaces()

    def _apply_answer(self, state: LocalState, outbox: Outbox, answer: Answer, tally: Tally) -> list[Sent]:
        page = answer.page
        with self._local.transaction() as tx, tx.applying():
            applier = self._applier(tx, tally, state)
            # First: what was deleted here and at the server by this push may be in the page, and is not applied.
            applier.apply(page)
            refused = applier.acknowledge(outbox.sent, answer, _episodes_of_steps(outbox))
            tx.run([_move_cursor(page)])
            left = tx.read(
                "SELECT number FROM sync_changes WHERE number IN (SELECT value FROM json_each(?))",
                json.dumps([one.number for one in refused]),
            )
        numbers, pulled = {row[0] for row in left}, {one.name for one in page.changes}
        return [one for one in refused if one.number in numbers and one.name not in pulled]

    def _resolve_refused(self, refused: Sequence[Sent], outbox: Outbox, tally: Tally) -> None:
        """Merge what the server has refused with what it has; delete what it has deleted."""
        owners = _episodes_of_steps(outbox)
        keys = [one.name for one in refused]
        parents = [(EPISODE, *name) for name in sorted({(step[0], episode) for step, episode in owners.items()})]
        page = self._server.fetch([*keys, *(key for key in parents if key not in keys)], ())
        there = {one.name for one in page.changes}
        gone = [
            one
            for one in refused
            if one.name not in there
            and (one.kind != STEP or (EPISODE, one.namespace, owners[one.namespace, one.key]) in there)
        ]
        gone += [
            Sent(0, *key, is_row=True)
            for key in parents
            if key not in there and key not in keys and self._is_synced(key)
        ]
        forms = {
            form: (one.namespace, one.key)
            for one in gone
            if one.kind in (EPISODE, PATTERN)
            for form in tombstone_forms(one.namespace, one.key)
        }
        erased = sorted({forms[form] for form in self._server.erased_among(list(forms))}) if forms else []
        state = self._state()
        with self._local.transaction() as tx, tx.applying():
            applier = self._applier(tx, tally, state)
            applier.apply(Page([one for one in page.changes if one.name in keys], page.vectors))
            applier.erase(erased)
            for one in gone:
                if (one.namespace, one.key) not in erased:
                    applier.remove(Change(0, one.kind, one.namespace, one.key))

    def _is_synced(self, key: tuple[int, str, str]) -> bool:
        """Return whether an episode is here that the server has had: nothing of it waits to be pushed as new."""
        _, namespace, episode_id = key
        return bool(
            self._local.read(
                """SELECT 1 FROM episodes AS e WHERE namespace = ? AND id = ? AND NOT EXISTS (
    SELECT 1 FROM sync_changes WHERE kind = 1 AND seq = e.seq)""",
                namespace,
                episode_id,
            )
        )

    def _pull_round(self, state: LocalState, tally: Tally, progress: Progress | None) -> bool:
        """Pull a page of changes; return whether there is more."""
        page = self._ahead.take(self._changes, state.since)
        if page.epoch != state.epoch or page.last < state.since:
            raise _changed()
        if not page.is_last and self._server.pace.is_full:
            self._ahead.start(self._changes, page.end)
        with self._local.transaction() as tx, tx.applying():
            self._applier(tx, tally, state).apply(page)
            tx.run([_move_cursor(page)])
        if progress is not None:
            progress("pulled", tally.pulled, 0)
        return not page.is_last

    def _rows_round(self, state: LocalState, position: Position, tally: Tally, progress: Progress | None) -> None:
        """Pull a page of the first sync."""
        page, after = self._ahead.take(self._rows, position)
        if after is not None and self._server.pace.is_full:
            self._ahead.start(self._rows, after)
        with self._local.transaction() as tx, tx.applying():
            self._applier(tx, tally, state).apply(page)
            saved = _progress(after, state.namespaces)
            tx.run([BatchStep("UPDATE sync_state SET progress = ?", (saved,))])
        if progress is not None:
            progress("pulled", tally.pulled, 0)

    def _changes(self, since: int) -> Page:
        return self._server.changes(since, self._oldest())

    def _rows(self, position: Position) -> tuple[Page, Position | None]:
        return self._server.rows(position, self._oldest())

    def _fetch_round(self, wanted: Sequence[Sequence[Any]], tally: Tally) -> None:
        """Pull episodes as a whole."""
        names = [(row[0], row[1]) for row in wanted]
        page = self._server.fetch((), names)
        with self._local.transaction() as tx, tx.applying():
            self._applier(tx, tally, self._state(), waits=True).apply(page)
            tx.run(
                [
                    BatchStep(
                        """DELETE FROM sync_wanted WHERE (namespace, episode_id) IN (
    SELECT value ->> 0, value ->> 1 FROM json_each(?))""",
                        (json.dumps(names),),
                    )
                ]
            )

    def _applier(self, tx: LocalTransaction, tally: Tally, state: LocalState, *, waits: bool = False) -> Applier:
        return Applier(
            tx,
            self._policy,
            self._server.dimension,
            tally,
            waits_for_owners=waits or state.position is not None or self._options.keep is not None,
        )

    def _evict(self) -> None:
        """Delete from the file what is too old to be kept and has been pushed. It stays at the server."""
        if self._options.keep is None:
            return
        old = f"""SELECT e.seq, e.namespace, e.id FROM namespaces AS n
CROSS JOIN episodes AS e ON e.namespace = n.name AND e.started_at < ?
WHERE NOT EXISTS (SELECT 1 FROM sync_changes WHERE kind = {EPISODE} AND seq = e.seq)
    AND NOT EXISTS (SELECT 1 FROM steps AS s CROSS JOIN sync_changes AS c ON c.kind = {STEP} AND c.seq = s.seq
        WHERE s.namespace = e.namespace AND s.episode_id = e.id)
    AND NOT EXISTS (SELECT 1 FROM embeddings AS m CROSS JOIN sync_changes AS c
        ON c.kind = {EMBEDDING} AND c.seq = m.seq WHERE m.item_seq = e.seq AND m.owner_type <> 'pattern')
    AND NOT EXISTS (SELECT 1 FROM spatiotemporal_index AS p CROSS JOIN sync_changes AS c
        ON c.kind = {PLACE} AND c.seq = p.seq WHERE p.episode_seq = e.seq)
    AND NOT EXISTS (SELECT 1 FROM relationships AS r CROSS JOIN sync_changes AS c
        ON c.kind = {RELATIONSHIP} AND c.seq = r.seq WHERE r.namespace = e.namespace AND r.from_id = e.id)
    AND NOT EXISTS (SELECT 1 FROM relationships AS r CROSS JOIN sync_changes AS c
        ON c.kind = {RELATIONSHIP} AND c.seq = r.seq WHERE r.namespace = e.namespace AND r.to_id = e.id)
    AND NOT EXISTS (SELECT 1 FROM checkpoints AS k CROSS JOIN sync_changes AS c
        ON c.kind = {CHECKPOINT} AND c.seq = k.seq WHERE k.namespace = e.namespace AND k.episode_id = e.id)
LIMIT {_EVICTED_AT_ONCE}"""
        while rows := self._local.read(old, self._oldest()):
            with self._local.transaction() as tx, tx.applying():
                seqs = json.dumps([row[0] for row in rows])
                tx.run(
                    [BatchStep("DELETE FROM episodes WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))],
                    changed=[(row[1], row[2]) for row in rows],
                )

    def _oldest(self) -> int:
        """Return the start of the oldest episodes that are pulled, in microseconds."""
        keep = self._options.keep
        return -(2**62) if keep is None else to_micros(self._context.now() - keep)


def _progress(position: Position | None, namespaces: tuple[str, ...] | None) -> str:
    return json.dumps({"position": position, "namespaces": namespaces, "is_pulling": True})


def _move_cursor(page: Page) -> BatchStep:
    # What was pushed with the request has the numbers after those of the page: it need not come back.
    return BatchStep(
        f"UPDATE sync_state SET since = max(since, ?), {_IS_PULLING}",
        (page.last if page.is_last else page.end, int(not page.is_last)),
    )


def _episodes_of_steps(outbox: Outbox) -> dict[tuple[str, str], str]:
    """Return the episode of each pushed step, by the namespace and id of the step."""
    step = KINDS[STEP]
    return {
        (row.values[0], row.values[step.place("id")]): row.values[step.place("episode_id")]
        for row in outbox.push.rows.get(STEP, ())
    }


def _changed() -> ServerChangedError:
    return ServerChangedError(
        "sync_url: the server is not the one that this file was synchronized with, or was restored from an older copy; "
        "nothing was changed on either side; to merge the two, call sync(rejoin=True)"
    )
