"""What calls of a coroutine do while another thread has the write lock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import memory_storage as ms


async def assert_waiting_blocks_no_loop(storage: ms.MemoryStorage, *calls: Coroutine[Any, Any, object]) -> None:
    """Make calls that write while another thread has the lock: the loop runs, and the calls wait until it is free."""
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with storage.transaction() as tx:
            tx.logs.append("other", [1])
            holds.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    await asyncio.to_thread(holds.wait)
    tasks = [asyncio.create_task(call) for call in calls]
    for _ in range(20):  # the loop runs, the calls wait
        await asyncio.sleep(0.005)
    assert not any(task.done() for task in tasks)
    release.set()
    await asyncio.gather(*tasks)
    thread.join()
