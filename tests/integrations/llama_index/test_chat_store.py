"""The chat store: LlamaIndex's interface on each backend, its limits, keys, failures, cancellation and concurrency."""

from __future__ import annotations

import asyncio
import copy
import logging
import subprocess
import sys
import threading

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.llama_index import MemoryStorageChatStore, RecallMemoryBlock
from tests.backends import in_memory
from tests.integrations.lock import assert_waiting_blocks_no_loop
from tests.proxy import Proxy
from tests.raising import raises
from tests.server.tokens import token

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


def _messages(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text) for text in texts]


def _texts(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


@pytest.fixture
def chats(storage) -> MemoryStorageChatStore:
    return MemoryStorageChatStore(storage)


def test_messages_are_added_archived_and_deleted(chats, storage):
    async def main() -> None:
        assert await chats.get_messages("k") == []
        await chats.add_message("k", _messages("a")[0])
        await chats.add_messages("k", _messages("b", "c", "d", "e"))
        await chats.add_messages("k", [])
        assert _texts(await chats.archive_oldest_messages("k", 2)) == ["a", "b"]
        assert _texts(await chats.get_messages("k")) == ["c", "d", "e"]
        assert _texts(await chats.get_messages("k", ARCHIVED)) == ["a", "b"]
        assert _texts(await chats.get_messages("k", None)) == ["a", "b", "c", "d", "e"]
        assert _texts(await chats.delete_oldest_messages("k", 1)) == ["c"]
        assert (await chats.delete_message("k", 1)).content == "e"
        assert await chats.delete_message("k", 1) is None
        await chats.add_messages("k", _messages("f", "g"))
        assert _texts(await chats.get_messages("k")) == ["d", "f", "g"]
        assert [await chats.count_messages("k", one) for one in (ACTIVE, ARCHIVED, None)] == [3, 2, 5]
        assert _texts(await chats.archive_oldest_messages("k", 9)) == ["d", "f", "g"]
        assert await chats.archive_oldest_messages("k", 9) == []
        await chats.add_messages("k", _messages("h"))
        assert _texts(await chats.archive_oldest_messages("k", 1)) == ["h"]
        assert _texts(await chats.get_messages("k", ARCHIVED)) == ["a", "b", "d", "f", "g", "h"]
        assert await chats.get_keys() == ["k"]
        await chats.delete_messages("k")

    asyncio.run(main())
    assert storage.logs.list() == []


def test_set_messages_replaces_active_and_archived_ones(chats):
    async def main() -> None:
        await chats.add_messages("k", _messages("a", "b"))
        await chats.add_messages("other", _messages("z"))
        await chats.archive_oldest_messages("k", 1)
        await chats.set_messages("k", _messages("c", "d"))
        assert _texts(await chats.get_messages("k", None)) == ["c", "d"]
        await chats.set_messages("k", _messages("e"), ARCHIVED)
        assert await chats.get_messages("k") == []
        assert _texts(await chats.get_messages("k", None)) == ["e"]
        await chats.add_messages("k", _messages("f"))
        await chats.delete_messages("k", ARCHIVED)
        assert _texts(await chats.get_messages("k", None)) == ["f"]
        await chats.set_messages("k", [])
        assert await chats.get_keys() == ["other"]

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize("status", [ACTIVE, ARCHIVED, None])
@pytest.mark.parametrize("limit", [None, 0, 1, 3, 9])
@pytest.mark.parametrize("offset", [None, 0, 2, 9])
def test_limit_and_offset_count_from_the_oldest(chats, status, limit, offset):
    async def main() -> None:
        await chats.add_messages("k", _messages("a", "b"), ARCHIVED)
        await chats.add_messages("k", _messages("c", "d", "e"))
        texts = {ACTIVE: ["c", "d", "e"], ARCHIVED: ["a", "b"], None: ["a", "b", "c", "d", "e"]}[status]
        wanted = texts[offset or 0 :][:limit]
        assert _texts(await chats.get_messages("k", status, limit=limit, offset=offset)) == wanted

    asyncio.run(main())


@pytest.mark.parametrize("target", ["memory", "file"], indirect=True)
def test_conversations_longer_than_a_page_are_whole(target, monkeypatch):
    limits = {"query_maximum": 3, "query_default": 3}
    texts = [str(number) for number in range(10)]

    async def main(storage: ms.MemoryStorage) -> None:
        chats = MemoryStorageChatStore(storage)
        await chats.add_messages("k", _messages(*texts))
        assert _texts(await chats.get_messages("k")) == texts
        assert _texts(await chats.archive_oldest_messages("k", 4)) == texts[:4]
        assert _texts(await chats.get_messages("k", None, limit=7, offset=1)) == texts[1:8]
        for key in texts:
            await chats.add_messages(key, _messages("a"))
        with monkeypatch.context() as patch:
            _failing_once(patch, storage, ms.CommitUnknownError("lost"))
            await chats.add_messages("k", _messages("b"))
        assert _texts(await chats.get_messages("k")) == [*texts[4:], "b"]
        assert await chats.get_keys() == [*texts, "k"]

    with ms.MemoryStorage.open(ms.Settings(database=target, limits=limits)) as storage:
        asyncio.run(main(storage))


KEYS = ["", " ", "a:b", "active:x", "archived:x", "llama-index:active:x", "%", "_", "'; DROP TABLE logs; --"]
KEYS += ["ключ", "🦙", "K", "k"]


def test_any_text_is_a_key_of_its_own(chats):
    async def main() -> None:
        for key in KEYS:
            await chats.add_messages(key, _messages(key or "-", "second"))
            await chats.archive_oldest_messages(key, 1)
        for key in KEYS:
            assert _texts(await chats.get_messages(key, None)) == [key or "-", "second"]
        assert await chats.get_keys() == sorted(KEYS)
        await chats.delete_messages("")
        assert await chats.get_keys() == sorted(KEYS)[1:]

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda chats: chats.get_messages(7), "key"),
        (lambda chats: chats.get_messages("a\0b"), "key"),
        (lambda chats: chats.add_messages("\ud800", _messages("a")), "key"),
        (lambda chats: chats.get_messages("k", "deleted"), "status"),
        (lambda chats: chats.get_messages("k", limit=-1), "limit"),
        (lambda chats: chats.get_messages("k", offset=True), "offset"),
        (lambda chats: chats.archive_oldest_messages("k", -1), "n"),
        (lambda chats: chats.delete_oldest_messages("k", "1"), "n"),
        (lambda chats: chats.delete_message("k", -1), "idx"),
        (lambda chats: chats.add_messages("k", 7), "messages"),
        (lambda chats: chats.add_messages("k", [*_messages("a"), "b"]), "messages.1"),
        (lambda chats: chats.set_messages("k", [ChatMessage("a", additional_kwargs={"x": object()})]), "messages.0"),
        (lambda chats: chats.add_message("k", ChatMessage("a\ud800")), "messages.0.blocks.0.text"),
        (lambda chats: chats.add_message("k", ChatMessage("a\0")), "messages.0.blocks.0.text"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(chats, call, field):
    async def main() -> None:
        await chats.add_messages("k", _messages("kept"))
        with raises(ms.ValidationError, field=field):
            await call(chats)
        assert _texts(await chats.get_messages("k", None)) == ["kept"]

    asyncio.run(main())


def test_a_key_over_the_limit_is_refused(chats):
    with raises(ms.ValidationError, field="log"):
        asyncio.run(chats.add_messages("k" * 1_000, _messages("a")))


def test_what_is_no_storage_is_refused():
    with raises(ms.ConfigurationError):
        MemoryStorageChatStore("memory.db")


def test_messages_of_each_kind_are_read_back_equal(chats):
    messages = [
        ChatMessage(role="system", content=""),
        ChatMessage(role="user", blocks=[TextBlock(text="üñ 🦙\n"), ImageBlock(url="https://example.com/a.png")]),
        ChatMessage(role="user", blocks=[ImageBlock(image=b"\x89PNG", image_mimetype="image/png")]),
        ChatMessage(
            role="assistant",
            blocks=[
                ThinkingBlock(content="hm"),
                ToolCallBlock(tool_call_id="1", tool_name="look", tool_kwargs={"a": [1, 2.5, None]}),
            ],
        ),
        ChatMessage(role="tool", content="5", additional_kwargs={"tool_call_id": "1", "nested": {"x": [True]}}),
    ]

    async def main() -> None:
        await chats.add_messages("k", messages)
        assert await chats.get_messages("k") == messages
        assert await chats.archive_oldest_messages("k", 9) == messages
        assert await chats.get_messages("k", ARCHIVED) == messages

    asyncio.run(main())


def test_namespaces_have_their_own_conversations(storage):
    async def main() -> None:
        chats, others = MemoryStorageChatStore(storage), MemoryStorageChatStore(storage.in_namespace("other"))
        await chats.add_messages("k", _messages("a"))
        assert (await others.get_messages("k", None), await others.get_keys()) == ([], [])
        await others.delete_messages("k")
        await others.archive_oldest_messages("k", 1)
        assert _texts(await chats.get_messages("k")) == ["a"]
        await others.set_messages("k", [])

    asyncio.run(main())


def test_corrupt_records_hide_no_others_and_are_never_destroyed(chats, storage, caplog):
    async def main() -> None:
        with caplog.at_level(logging.WARNING, "memory_storage.integrations.llama_index"):
            assert _texts(await chats.get_messages("k")) == ["a", "d"]
            assert _texts(await chats.get_messages("k", limit=2)) == ["a", "d"]
        for call in (chats.archive_oldest_messages("k", 3), chats.delete_message("k", 1)):
            with raises(ms.CorruptDataError):
                await call

    asyncio.run(chats.add_messages("k", _messages("a", "b", "c", "d")))
    storage.logs.append("llama-index:active:k", ["no message"])
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE logs SET document = '{' WHERE number IN (2, 3)")
    asyncio.run(main())
    assert len(caplog.records) == 3 + 2
    assert storage.logs.count() == 5


@in_memory
def test_a_dump_has_nothing_of_the_storage(chats, storage):
    memory = Memory.from_defaults(session_id="k", chat_store=chats)
    assert isinstance(chats, AsyncDBChatStore)
    assert chats.model_dump() == {}
    assert "sql_store" not in memory.model_dump()
    assert chats.class_name() == "MemoryStorageChatStore"
    assert repr(chats).startswith("MemoryStorageChatStore(AsyncMemoryStorage(':memory:'")
    asyncio.run(chats.add_messages("k", _messages("a")))
    for copied in (copy.copy(chats), copy.deepcopy(chats), chats.model_copy(deep=True)):
        assert _texts(asyncio.run(copied.get_messages("k"))) == ["a"]


@pytest.mark.slow
@pytest.mark.server
def test_no_representation_has_the_token(guarded, key):
    secret = token(key=key)
    with ms.MemoryStorage.open(guarded.url, auth_token=secret) as storage:
        memory = Memory.from_defaults(
            chat_store=MemoryStorageChatStore(storage), memory_blocks=[RecallMemoryBlock(storage)]
        )
        memory.put(_messages("a")[0])
        assert secret not in f"{memory!r} {memory} {memory.sql_store!r} {memory.to_dict()} {memory.model_dump_json()}"


def test_a_memory_without_an_event_loop_works(chats):
    memory = Memory.from_defaults(session_id="k", chat_store=chats, chat_history=_messages("a"))
    memory.put(_messages("b")[0])
    assert _texts(memory.get()) == ["a", "b"]
    memory.set(_messages("c"))
    assert _texts(memory.get_all()) == ["c"]
    memory.reset()
    assert memory.get_all() == []


def test_a_long_conversation_is_archived_and_loses_nothing(chats):
    async def main() -> None:
        memory = Memory.from_defaults(
            session_id="k", chat_store=chats, token_limit=40, token_flush_size=10, tokenizer_fn=str.split
        )
        texts = [f"message {number} of five words" for number in range(20)]
        for text in texts:
            await memory.aput(_messages(text)[0])
        active = _texts(await memory.aget())
        assert active == texts[-len(active) :]
        assert 1 <= len(active) <= 5
        assert _texts(await memory.aget_all()) == texts

    asyncio.run(main())


def test_tasks_threads_and_stores_lose_and_interleave_nothing(storage):
    archived: list[ChatMessage] = []

    async def use(writer: int) -> None:
        chats = MemoryStorageChatStore(storage)
        await asyncio.gather(*(chats.add_messages("k", _messages(*[f"{writer}.{n}"] * 2)) for n in range(5)))
        for _ in range(5):
            archived.extend(await chats.archive_oldest_messages("k", 1))

    threads = [threading.Thread(target=asyncio.run, args=(use(writer),)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chats = MemoryStorageChatStore(storage)
    texts = _texts(asyncio.run(chats.get_messages("k", None)))
    assert sorted(texts) == sorted(f"{writer}.{n}" for writer in range(4) for n in range(5) for _ in range(2))
    assert texts[::2] == texts[1::2]
    assert _texts(asyncio.run(chats.get_messages("k", ARCHIVED))) == texts[:20]
    assert sorted(_texts(archived)) == sorted(texts[:20])


_PROCESS = """
import asyncio, sys
from llama_index.core.llms import ChatMessage
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.llama_index import MemoryStorageChatStore

async def main(path, writer):
    async with AsyncMemoryStorage.open(path) as storage:
        chats = MemoryStorageChatStore(storage)
        for n in range(25):
            await chats.add_messages("k", [ChatMessage(content=f"{writer}.{n}")] * 2)
            await chats.archive_oldest_messages("k", 1)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_lose_nothing(migrated_file):
    writers = [subprocess.Popen([sys.executable, "-c", _PROCESS, migrated_file, name]) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    with ms.MemoryStorage.open(migrated_file) as storage:
        chats = MemoryStorageChatStore(storage)
        texts = _texts(asyncio.run(chats.get_messages("k", None)))
        assert asyncio.run(chats.count_messages("k", ARCHIVED)) == 50
    assert texts[::2] == texts[1::2]
    for name in "ab":
        assert [one for one in texts[::2] if one.startswith(name)] == [f"{name}.{n}" for n in range(25)]


def _failing_once(monkeypatch, storage, *failures: BaseException) -> None:
    """Have appends fail after they have stored the records, as often as there are errors."""
    append, left = storage.logs.append, list(failures)

    def fail(log, values, *, ids):
        numbers = append(log, values, ids=ids)
        if left:
            raise left.pop(0)
        return numbers

    monkeypatch.setattr(storage.logs, "append", fail)


@in_memory
def test_an_unknown_commit_is_repeated_and_doubles_nothing(chats, storage, monkeypatch):
    _failing_once(monkeypatch, storage, ms.CommitUnknownError("lost"))
    asyncio.run(chats.add_messages("k", _messages("a", "a")))
    assert _texts(asyncio.run(chats.get_messages("k"))) == ["a", "a"]


@in_memory
@pytest.mark.parametrize("archived", [0, 1, 2])
def test_the_caller_may_repeat_a_call_that_failed(chats, storage, monkeypatch, archived):
    async def main() -> None:
        with raises(ms.UnavailableError):
            await chats.add_messages("k", _messages("a", "a"))
        await MemoryStorageChatStore(storage).archive_oldest_messages("k", archived)
        await chats.add_messages("other", _messages("b"))
        await chats.add_messages("k", _messages("a", "a"))
        assert _texts(await chats.get_messages("k", None)) == ["a", "a"]
        await chats.add_messages("k", _messages("a", "a"))  # acknowledged before: a new batch
        assert len(await chats.get_messages("k", None)) == 4

    _failing_once(monkeypatch, storage, ms.UnavailableError("lost"))
    asyncio.run(main())


@in_memory
def test_other_messages_after_a_failure_are_a_new_batch(chats, storage, monkeypatch):
    _failing_once(monkeypatch, storage, ms.UnavailableError("lost"))
    with raises(ms.UnavailableError):
        asyncio.run(chats.add_messages("k", _messages("a")))
    asyncio.run(chats.add_messages("k", _messages("b")))
    asyncio.run(chats.add_messages("k", _messages("a")))
    assert _texts(asyncio.run(chats.get_messages("k"))) == ["a", "b", "a"]


@pytest.mark.slow
@pytest.mark.server
def test_a_lost_response_doubles_nothing(sqld, migrated_server_url):
    with (
        Proxy(sqld.port) as line,
        ms.MemoryStorage.open(migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")) as storage,
    ):
        chats = MemoryStorageChatStore(storage)
        asyncio.run(chats.add_messages("k", _messages("a")))
        line.cut_reply_after(0, times=1)
        asyncio.run(chats.add_messages("k", _messages("b", "b")))
        assert line.cuts == 1
        assert _texts(asyncio.run(chats.get_messages("k"))) == ["a", "b", "b"]


@pytest.mark.parametrize("delay", [0, 0.001, 0.003, 0.01])
@pytest.mark.parametrize("method", ["add", "set", "archive"])
def test_a_cancelled_call_has_its_whole_effect_or_none(migrated_file, method, delay):
    batch = _messages(*(str(number) for number in range(50)))

    async def main() -> None:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            chats = MemoryStorageChatStore(storage)
            await chats.add_messages("k", _messages("a", "b", "c"))
            calls = {
                "add": lambda: chats.add_messages("k", batch),
                "set": lambda: chats.set_messages("k", batch),
                "archive": lambda: chats.archive_oldest_messages("k", 2),
            }
            done = {"add": (53, 0), "set": (50, 0), "archive": (1, 2)}[method]
            task = asyncio.create_task(calls[method]())
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            counts = (await chats.count_messages("k"), await chats.count_messages("k", ARCHIVED))
            assert counts in ((3, 0), done) if task.cancelled() else counts == done
            if method == "add" and task.cancelled():
                await chats.add_messages("k", batch)  # the same batch again
                assert await chats.count_messages("k") == 53

    asyncio.run(main())


@in_memory
def test_the_event_loop_is_not_blocked_while_another_writes(storage, chats):
    async def main() -> None:
        calls = chats.add_messages("k", _messages("a")), chats.archive_oldest_messages("other", 1)
        await assert_waiting_blocks_no_loop(storage, *calls)
        assert _texts(await chats.get_messages("k")) == ["a"]

    asyncio.run(main())
