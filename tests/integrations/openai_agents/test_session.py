"""The session: the SDK's protocol on each backend, its limits, corrupt items, failures, cancellation and threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading

import pytest
from agents import SessionSettings
from agents.memory import Session

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.openai_agents import MemoryStorageSession
from tests.integrations.lock import assert_waiting_blocks_no_loop
from tests.proxy import Proxy
from tests.raising import raises

LOG = "openai-agents:s"
in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)


def _items(*texts: str) -> list[dict]:
    return [{"role": "user", "content": text} for text in texts]


def _texts(items: list[dict]) -> list[str]:
    return [item["content"] for item in items]


@pytest.fixture
def session(storage) -> MemoryStorageSession:
    return MemoryStorageSession("s", storage)


def test_a_conversation_is_added_read_popped_and_cleared(session, storage):
    async def main():
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.add_items(_items("a", "b"))
        await session.add_items([])
        await session.add_items(_items("b"))
        assert _texts(await session.get_items()) == ["a", "b", "b"]
        assert _texts(await session.get_items(2)) == ["b", "b"]
        assert await session.get_items(limit=0) == []
        assert (await session.pop_item())["content"] == "b"
        assert _texts(await MemoryStorageSession("s", storage).get_items()) == ["a", "b"]
        assert await MemoryStorageSession("other", storage).get_items() == []
        await session.clear_session()
        assert await session.get_items() == []

    asyncio.run(main())
    assert storage.logs.list() == []


@in_memory
def test_it_is_a_session_of_the_sdk(session, storage):
    assert isinstance(session, Session)
    assert (session.session_id, session.session_settings) == ("s", SessionSettings())
    assert repr(session).startswith("MemoryStorageSession('s', AsyncMemoryStorage(':memory:'")
    other = storage.in_namespace("other")
    asyncio.run(session.add_items(_items("a")))
    assert asyncio.run(MemoryStorageSession("s", other).get_items()) == []


@in_memory
def test_an_explicit_limit_beats_the_settings(storage):
    limited = MemoryStorageSession("s", storage, session_settings={"limit": 2})
    asyncio.run(limited.add_items(_items("a", "b", "c")))
    assert _texts(asyncio.run(limited.get_items())) == ["b", "c"]
    assert _texts(asyncio.run(limited.get_items(3))) == ["a", "b", "c"]
    none = MemoryStorageSession("s", storage, session_settings=SessionSettings(limit=0))
    assert asyncio.run(none.get_items()) == []
    none.session_settings = None
    assert len(asyncio.run(none.get_items())) == 3


@pytest.mark.parametrize("target", ["memory", "file"], indirect=True)
@pytest.mark.parametrize(("count", "limit"), [(6, None), (6, 5), (6, 4), (7, None), (7, 3), (2, 9), (3, 3), (3, None)])
def test_conversations_longer_than_a_page_are_whole(target, count, limit):
    settings = {"limits": {"query_maximum": 3, "query_default": 3}}
    if isinstance(target, ms.Settings):
        target = target.model_copy(update={"limits": target.limits.model_copy(update=settings["limits"])})
    else:
        target = ms.Settings(database=target, **settings)
    texts = [str(number) for number in range(count)]
    with ms.MemoryStorage.open(target) as storage:
        session = MemoryStorageSession("s", storage)
        asyncio.run(session.add_items(_items(*texts)))
        assert _texts(asyncio.run(session.get_items(limit))) == texts[-limit if limit else None :]


def test_corrupt_items_hide_no_others_and_do_not_count(session, storage, caplog):
    asyncio.run(session.add_items(_items("a", "b", "c", "d", "e")))
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE logs SET document = '{' WHERE number IN (2, 4, 5)")
    with caplog.at_level(logging.WARNING, "memory_storage.integrations.openai_agents"):
        assert _texts(asyncio.run(session.get_items())) == ["a", "c"]
        assert _texts(asyncio.run(session.get_items(2))) == ["a", "c"]
        assert asyncio.run(session.pop_item())["content"] == "c"
    assert len(caplog.records) == 3 + 3 + 2
    assert _texts(asyncio.run(session.get_items())) == ["a"]


def test_a_batch_with_a_bad_item_stores_nothing(session):
    with raises(ms.ValidationError, field="values.1"):
        asyncio.run(session.add_items([*_items("a"), {"content": threading.Lock()}]))
    assert asyncio.run(session.get_items()) == []
    asyncio.run(session.add_items(_items("after")))
    assert _texts(asyncio.run(session.get_items())) == ["after"]


@in_memory
@pytest.mark.parametrize(
    ("arguments", "error", "facts"),
    [
        ({"session_id": ""}, ms.ValidationError, {"field": "session_id"}),
        ({"session_id": 7}, ms.ValidationError, {"field": "session_id"}),
        ({"session_settings": {"limitt": 1}}, ms.ValidationError, {"field": "session_settings"}),
        ({"session_settings": {"limit": "many"}}, ms.ValidationError, {"field": "session_settings"}),
        ({"storage": "memory.db"}, ms.ConfigurationError, {}),
    ],
)
def test_bad_arguments_are_refused(storage, arguments, error, facts):
    with raises(error, **facts):
        MemoryStorageSession(**{"session_id": "s", "storage": storage, **arguments})


@in_memory
@pytest.mark.parametrize("limit", [-1, "2", True, 1.5])
def test_bad_limits_are_refused(session, limit):
    with raises(ms.ValidationError, field="limit"):
        asyncio.run(session.get_items(limit))


def test_batches_of_many_tasks_and_loops_are_not_interleaved(storage):
    async def add(writer: int) -> None:
        session = MemoryStorageSession("s", storage)
        await asyncio.gather(*(session.add_items(_items(f"{writer}.{n}", f"{writer}.{n}")) for n in range(5)))

    threads = [threading.Thread(target=asyncio.run, args=(add(writer),)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = _texts(asyncio.run(MemoryStorageSession("s", storage).get_items()))
    assert len(texts) == 40
    assert texts[::2] == texts[1::2]


@in_memory
def test_sessions_share_the_threads_of_their_storage(storage):
    def callers() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if one.name.startswith("memory-storage call")}

    before, own = callers(), set()

    async def main() -> None:
        sessions = [MemoryStorageSession(f"s{n}", storage) for n in range(50)]
        await asyncio.gather(*(one.add_items(_items("a")) for one in sessions))
        own.update(callers() - before)
        assert 1 <= len(own) <= 2

    asyncio.run(main())
    gc.collect()  # the sessions
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()


def _failing_once(monkeypatch, storage, *failures: BaseException) -> list[list[str]]:
    """Have appends fail after they have stored the records, as often as there are errors; return their ids."""
    append, ids_of_calls, left = storage.logs.append, [], list(failures)

    def fail(log, values, *, ids):
        ids_of_calls.append(ids)
        numbers = append(log, values, ids=ids)
        if left:
            raise left.pop(0)
        return numbers

    monkeypatch.setattr(storage.logs, "append", fail)
    return ids_of_calls


@in_memory
def test_an_unknown_commit_is_repeated_with_the_same_ids(session, storage, monkeypatch):
    calls = _failing_once(monkeypatch, storage, ms.CommitUnknownError("lost"))
    asyncio.run(session.add_items(_items("a", "a")))
    assert _texts(asyncio.run(session.get_items())) == ["a", "a"]
    assert len(calls) == 2
    assert calls[0] == calls[1]


@in_memory
def test_the_caller_may_repeat_a_call_that_failed(session, storage, monkeypatch):
    _failing_once(monkeypatch, storage, ms.UnavailableError("lost"))
    with raises(ms.UnavailableError):
        asyncio.run(session.add_items(_items("a", "a")))
    asyncio.run(session.add_items(_items("a", "a")))
    assert _texts(asyncio.run(session.get_items())) == ["a", "a"]
    asyncio.run(session.add_items(_items("a", "a")))  # acknowledged before: a new batch
    assert len(asyncio.run(session.get_items())) == 4


@in_memory
def test_other_items_after_a_failure_are_a_new_batch(session, storage, monkeypatch):
    _failing_once(monkeypatch, storage, ms.UnavailableError("lost"))
    with raises(ms.UnavailableError):
        asyncio.run(session.add_items(_items("a")))
    asyncio.run(session.add_items(_items("b")))
    asyncio.run(session.add_items(_items("a")))
    assert _texts(asyncio.run(session.get_items())) == ["a", "b", "a"]


@pytest.mark.slow
@pytest.mark.server
def test_a_lost_response_doubles_nothing(sqld, migrated_server_url):
    with (
        Proxy(sqld.port) as line,
        ms.MemoryStorage.open(migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")) as storage,
    ):
        session = MemoryStorageSession("s", storage)
        asyncio.run(session.add_items(_items("a")))
        line.cut_reply_after(0, times=1)
        asyncio.run(session.add_items(_items("b", "b")))
        assert _texts(asyncio.run(session.get_items())) == ["a", "b", "b"]
        line.cut_reply_after(0, times=1)
        with raises(ms.CommitUnknownError, code="RESULT_LOST"):
            asyncio.run(session.pop_item())
        assert _texts(asyncio.run(session.get_items())) == ["a", "b"]
        assert line.cuts == 2


@pytest.mark.parametrize("delay", [0, 0.001, 0.003, 0.01])
def test_a_cancelled_batch_is_stored_completely_or_not_at_all(migrated_file, delay):
    async def main() -> None:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            session = MemoryStorageSession("s", storage)
            batch = _items(*(str(number) for number in range(50)))
            task = asyncio.create_task(session.add_items(batch))
            await asyncio.sleep(delay)
            is_cancelled = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stored = len(await session.get_items())
            assert stored in ((0, 50) if is_cancelled else (50,))
            await session.add_items(batch)  # after a cancellation: the same batch again
            assert len(await session.get_items()) == (50 if task.cancelled() else 100)

    asyncio.run(main())


@in_memory
def test_the_event_loop_is_not_blocked_while_another_writes(storage, session):
    async def main() -> None:
        await assert_waiting_blocks_no_loop(storage, session.add_items(_items("a")))
        assert _texts(await session.get_items()) == ["a"]

    asyncio.run(main())


@pytest.mark.slow
def test_a_missing_sdk_is_named_with_its_extra():
    code = (
        "import sys; sys.modules['agents'] = None\n"
        "import memory_storage as ms\n"
        "try: import memory_storage.integrations.openai_agents\n"
        "except ms.ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'memory-storage[openai-agents]'" in done.stdout
