"""Histories of replicas and a server, with faults at every hand-over, against a plain model.

A replica saves, appends, edits, relates, completes, archives, deletes, erases and counts, without a line and with one
that loses requests and responses, and delivers requests late; another replica syncs between two requests; a replica is
killed at any of its transactions; a file is copied, and both are used; and clocks are off by a year. After all have
synced twice without faults, all are equal to each other, to the server and to the model.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memory_storage.dbapi import BatchStep

from .world import Client, World, small_pages

BEHIND = BatchStep(
    """SELECT p.id FROM patterns AS p CROSS JOIN sync_counts AS c ON c.namespace = p.namespace AND c.pattern_id = p.id
WHERE c.acknowledged = 0 AND p.times_applied < c.applied"""
)

CLIENTS = st.integers(0, 2)
NUMBERS = st.integers(0, 999)
FAULTS = st.lists(st.sampled_from(["", "", "", "request", "answer", "late"]), max_size=6)


class Histories(RuleBasedStateMachine):
    """Each rule is what one client does."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.world = World(self.directory)

    def teardown(self) -> None:
        try:
            self.world.check()
        finally:
            self.world.close()
            shutil.rmtree(self.directory)

    def _client(self, number: int) -> Client:
        return self.world.clients[number]

    @rule(client=CLIENTS, steps=st.integers(0, 2))
    def save(self, client: int, steps: int) -> None:
        self.world.save(self._client(client), steps)

    @rule(client=CLIENTS, number=NUMBERS, name=st.sampled_from("do"))
    def edit(self, client: int, number: int, name: str) -> None:
        self.world.edit(self._client(client), number, name)

    @rule(client=CLIENTS, number=NUMBERS, what=st.sampled_from(["append", "append", "tag", "complete", "archive"]))
    def change(self, client: int, number: int, what: str) -> None:
        getattr(self.world, what)(self._client(client), number)

    @rule(client=CLIENTS, number=NUMBERS, what=st.sampled_from(["change_step", "delete_step", "embed", "place"]))
    def change_part(self, client: int, number: int, what: str) -> None:
        getattr(self.world, what)(self._client(client), number)

    @rule(client=CLIENTS, number=NUMBERS, what=st.sampled_from(["delete", "forget", "delete_pattern", "unrelate"]))
    def remove(self, client: int, number: int, what: str) -> None:
        getattr(self.world, what)(self._client(client), number)

    @rule(client=CLIENTS, number=NUMBERS, what=st.sampled_from(["relate", "relate", "checkpoint"]))
    def relate(self, client: int, number: int, what: str) -> None:
        getattr(self.world, what)(self._client(client), number)

    @rule(client=CLIENTS)
    def learn(self, client: int) -> None:
        self.world.learn(self._client(client))

    @rule(client=CLIENTS, number=NUMBERS, what=st.sampled_from(["count", "count", "edit_pattern"]))
    def use_pattern(self, client: int, number: int, what: str) -> None:
        getattr(self.world, what)(self._client(client), number)

    @rule(client=CLIENTS, faults=FAULTS, crash=st.none() | st.integers(0, 7), other=st.none() | CLIENTS)
    def sync(self, client: int, faults: list[str], crash: int | None, other: int | None) -> None:
        one = self._client(client)
        one.line.faults, one.crash_at = list(faults), crash
        if other is not None and other != client:
            one.line.between = self._client(other).sync
        one.sync()

    @rule(client=CLIENTS)
    def sync_in_peace(self, client: int) -> None:
        self._client(client).sync()

    @rule(client=CLIENTS)
    def deliver(self, client: int) -> None:
        self._client(client).line.deliver()

    @rule(client=CLIENTS)
    def reopen(self, client: int) -> None:
        self._client(client).reopen()

    @rule(client=CLIENTS)
    def copy(self, client: int) -> None:
        self.world.copy(self._client(client))

    @invariant()
    def counters_are_never_behind_what_was_counted_here(self) -> None:
        for client in self.world.clients:
            rows = client.storage._context.executor.read(BEHIND)
            assert not rows


class HistoriesOfSmallPages(Histories):
    """The same, with requests of a few rows."""

    def __init__(self) -> None:
        super().__init__()
        self._pages = ExitStack()
        self._pages.enter_context(small_pages())

    def teardown(self) -> None:
        with self._pages:
            super().teardown()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40)
TestHistoriesOfSmallPages = HistoriesOfSmallPages.TestCase
TestHistoriesOfSmallPages.settings = settings(max_examples=25, stateful_step_count=40)
