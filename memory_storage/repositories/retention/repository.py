"""The repository of retention: deletes or archives episodes by a policy. `erasure` erases them from the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from memory_storage.errors import MemoryStorageError
from memory_storage.models import RetentionCandidate, RetentionPlan, RetentionPolicy, RetentionResult
from memory_storage.monitoring import operation
from memory_storage.sql.documents import from_micros, to_micros
from memory_storage.sql.session import Repository
from memory_storage.sql.validation import checked_moment, function, instance

from . import sql
from .deletion import BatchDeleter, BatchSizer, Item

_MICROSECOND = timedelta(microseconds=1)


class RetentionRepository(Repository):
    """Retention in one namespace. Nothing is removed automatically: call `apply`, for example from a scheduler."""

    _operations = "retention"

    @operation
    def plan(self, policy: RetentionPolicy, *, now: datetime | None = None) -> RetentionPlan:
        """List what a policy would remove, and why: a dry run. The same rows and the same `now` give the same plan.

        The age of an episode is counted from its `started_at`.

        Args:
            policy: What to keep.
            now: The time from which ages count back; by default the storage's clock, on a server the earlier of that
                and the server's, so that a clock that is ahead removes nothing too early.

        Returns:
            The plan, in the order in which `apply` removes.

        Raises:
            ValidationError: An argument is invalid.
        """
        instance("policy", policy, RetentionPolicy, "RetentionPolicy(max_age=timedelta(days=90))")
        moment = self._session.now() if now is None else checked_moment("now", now)
        is_limited = now is None and self._session.max_value_bytes is not None  # on a server
        # 2**62: SQL computes with it in 64 bits.
        age = min(policy.max_age // _MICROSECOND, 2**62) if is_limited and policy.max_age is not None else None
        rows = self._session.read(
            sql.plan(policy).bind(namespace=self._session.namespace, age=age, **_values(policy, moment))
        )
        if rows and age is not None:
            moment = min(moment, from_micros(rows[0][-1]) or moment)
        return RetentionPlan(policy, moment, [RetentionCandidate(UUID(row[0]), *row[1:-1]) for row in rows])

    @operation
    def apply(
        self,
        plan: RetentionPlan | RetentionPolicy,
        *,
        progress: Callable[[int, int], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> RetentionResult:
        """Remove (or archive) what a plan lists, or what the plan of a policy lists now.

        Episodes are removed in batches that hold the write lock for about 15 ms, with pauses for other writers. A large
        episode takes several batches, and is archived by the first. Each episode is checked again before it is removed:
        one that became protected is skipped. If it is interrupted, plan with the same policy and `now` again; the
        result is the same. Removed episodes have tombstones: see `MemoryStorage.forget`.

        Args:
            plan: The plan, or a policy.
            progress: Called with the number of episodes done, and the total.
            sleep: Waits for some seconds between batches; for tests.

        Returns:
            The numbers of removed episodes and bytes, and the IDs of skipped ones.

        Raises:
            MemoryStorageError: Called in a transaction, which would hold the write lock throughout.
        """
        if self._session.is_transaction:
            raise MemoryStorageError(
                "retention has short transactions of its own; nothing was removed; call it on the storage"
            )
        if progress is not None:
            function("progress", progress, "lambda done, total: print(done, total)")
        if not isinstance(plan, RetentionPlan):
            advice = "plan(policy), or RetentionPolicy(max_age=timedelta(days=90))"
            plan = self.plan(instance("plan", plan, RetentionPolicy, advice))
        removed: set[str] = set()
        done = 0
        for batch, batch_removed in self._run(plan, BatchSizer(sleep=sleep)):
            removed |= batch_removed
            done += len(batch)
            if progress:
                progress(done, len(plan))
        return _result(plan, removed)

    def _run(self, plan: RetentionPlan, batch_sizer: BatchSizer) -> Iterator[tuple[list[Item], set[str]]]:
        policy, values = plan.policy, _values(plan.policy, plan.now)
        items = [Item(str(one.id), one.reason, one.bytes, one.steps) for one in plan]
        unfinished = [item for item in items if item.reason == "unfinished"]
        deleter = BatchDeleter(self._session, batch_sizer, sql.deletion_statements(policy), **values)
        if policy.archive:
            yield from deleter.archive(items, to_micros(plan.now))
            return
        # Some of their steps are deleted already, so the rest is too, even if the policy protects it by now.
        yield from BatchDeleter(self._session, batch_sizer).delete(unfinished)
        yield from deleter.delete(items[len(unfinished) :])


def _values(policy: RetentionPolicy, now: datetime) -> dict[str, Any]:
    age = 0 if policy.max_age is None else policy.max_age // _MICROSECOND
    return sql.values(policy, max(to_micros(now) - age, -(2**62)), json.dumps(policy.keep_tagged))


def _result(plan: RetentionPlan, removed: set[str]) -> RetentionResult:
    sizes = [item.bytes for item in plan if str(item.id) in removed]
    return RetentionResult(len(sizes), sum(sizes), [item.id for item in plan if str(item.id) not in removed])
