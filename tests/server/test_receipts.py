"""Receipts are dated and removed by the server's clock, whatever the clients' clocks."""

from __future__ import annotations

import random
import time

import pytest

import memory_storage as ms
from memory_storage.testing import Sqld
from tests.proxy import Proxy

HOUR = 3600.0


@pytest.mark.parametrize("hours", [-48, -24, 0, 24, 48])
def test_a_lost_response_is_settled_whatever_the_clocks_say(migrated_server_url: str, sqld: Sqld, monkeypatch, hours):
    clocks = {"skew": 0.0}
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + clocks["skew"] * HOUR)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(clocks["skew"] * HOUR * 1e9))
    with Proxy(sqld.port) as line, ms.MemoryStorage.open(migrated_server_url) as direct:
        url = migrated_server_url.replace(str(sqld.port), str(line.port))
        with ms.MemoryStorage.open(url) as faulty:
            pattern = direct.patterns.save(ms.Heuristic(condition="if", action="then")).id
            guard = faulty._context.guard
            acquire = guard.acquire

            def another_client_sweeps_first(*, early: bool = False) -> int:
                clocks["skew"] = hours
                monkeypatch.setattr(random, "randrange", lambda _: 0)
                direct.episodes.save(ms.Episode(task_description="with another clock"))
                monkeypatch.undo()
                return acquire(early=early)

            line.cut_reply_after(0, times=2)
            monkeypatch.setattr(guard, "acquire", another_client_sweeps_first)
            faulty.patterns.record_application(pattern, success=True)
        assert line.cuts >= 1
        assert direct.patterns.get(pattern).effectiveness.success_when_applied == 1


def test_a_receipt_is_swept_when_it_is_a_day_old(migrated_server_url: str, monkeypatch):
    with ms.MemoryStorage.open(migrated_server_url) as storage:
        for seconds in (86_000, 87_000):
            with storage.transaction() as tx:
                tx.execute(
                    [
                        (
                            "INSERT INTO receipts (id, changed) VALUES (?, ((unixepoch() - ?) << 28) | 7)",
                            (b"a%d" % seconds, seconds),
                        ),
                        (
                            "INSERT INTO receipts (id, changed) VALUES (?, -((unixepoch() - ?) << 28) - 1)",
                            (b"b%d" % seconds, seconds),
                        ),
                    ]
                )
        with storage.transaction() as tx:
            tx.execute([("INSERT INTO receipts (id, changed) VALUES (?, 3)", (b"of an older version",))])
        monkeypatch.setattr(random, "randrange", lambda _: 0)
        storage.episodes.save(ms.Episode(task_description="sweeps"))
        with storage.snapshot() as view:
            [rows] = view.execute([("SELECT id FROM receipts WHERE id < ? ORDER BY id", (b"\xff",))])
    assert [row[0] for row in rows] == [b"a86000", b"b86000", b"of an older version"]
