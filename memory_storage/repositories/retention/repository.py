"""The repository of retention: deletes or archives episodes by a policy. `erasure` erases them from the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from uuid import UUID

from memory_storage.errors import MemoryStorageError
from memory_storage.models import RetentionPlan, RetentionPolicy, RetentionResult
from memory_storage.models.retention import CompactCandidates
from memory_storage.monitoring import operation
from memory_storage.sql.paging import draining
from memory_storage.sql.session import Repository
from memory_storage.sql.statement import from_micros, to_micros
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
        remaining = draining(rows)
        del rows  # to free 200,000 rows at once would stop other threads
        return RetentionPlan(policy, moment, CompactCandidates(row[:-1] for row in remaining))

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
        done = removed = size = 0
        skipped: list[UUID] = []
        for batch, removed_ids in self._run(plan, BatchSizer(sleep=sleep)):
            done += len(batch)
            removed += len(removed_ids)
            size += sum(item.bytes for item in batch if item.id in removed_ids)
            skipped += [UUID(item.id) for item in batch if item.id not in removed_ids]
            if progress:
                progress(done, len(plan))
        return RetentionResult(removed, size, skipped)

    def _run(self, plan: RetentionPlan, batch_sizer: BatchSizer) -> Iterator[tuple[list[Item], set[str]]]:
        policy, values = plan.policy, _values(plan.policy, plan.now)
        # Read as they are needed: a plan may have millions, and is more compact.
        items = (Item(str(one.id), one.reason, one.bytes, one.steps) for one in plan)
        deleter = BatchDeleter(self._session, batch_sizer, sql.deletion_statements(policy), **values)
        if policy.archive:
            yield from deleter.archive(items, to_micros(plan.now))
            return
        # Some of their steps are deleted already, so the rest is too, even if the policy protects it by now.
        unfinished = sum(1 for _ in takewhile(lambda one: one.reason == "unfinished", plan))
        yield from BatchDeleter(self._session, batch_sizer).delete(islice(items, unfinished))
        yield from deleter.delete(items)


def _values(policy: RetentionPolicy, now: datetime) -> dict[str, Any]:
    age = 0 if policy.max_age is None else policy.max_age // _MICROSECOND
    return sql.values(policy, max(to_micros(now) - age, -(2**62)), json.dumps(policy.keep_tagged))
