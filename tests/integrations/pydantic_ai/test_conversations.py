"""The conversation store: as Pydantic AI's own one in memory, on each backend; and what that one does not have."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic_ai import (
    Agent,
    BinaryImage,
    Conversation,
    DeferredToolRequests,
    UserError,
)
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RunUsage

import memory_storage as ms
from memory_storage.integrations.pydantic_ai import CONVERSATIONS_PATH, MemoryStorageConversationStore
from tests.proxy import Proxy
from tests.raising import raises

from .models import Script

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)


@pytest.fixture
def store(storage) -> MemoryStorageConversationStore:
    return MemoryStorageConversationStore(storage)


def _messages(*texts: str) -> list[ModelMessage]:
    return [ModelRequest.user_text_prompt(text) for text in texts]


def _conversation(conversation_id: str, *texts: str) -> Conversation:
    return Conversation(conversation_id=conversation_id, messages=_messages(*texts))


def _texts(conversation: Conversation | None) -> list[str] | None:
    return None if conversation is None else [str(one.parts[0].content) for one in conversation.messages]


def _entries(*ids: str, after: str | None = None) -> list[ConversationEntry]:
    parents = [after, *ids]
    return [
        ConversationEntry(id=one, parent_id=parent, message=_messages(one)[0])
        for one, parent in zip(ids, parents, strict=False)
    ]


async def _outcome(call: Any) -> Any:
    """Return what a call returns; of an error, the class."""
    try:
        return await call
    except (ConversationConflict, UserError) as error:
        return type(error)


def test_runs_of_an_agent_are_saved_and_continued(store, storage):
    agent = Agent(Script([("stock", {})], answer="5").model, tools=[stock])

    async def main() -> None:
        first = await agent.run("How many?", conversation=Conversation(conversation_id="c"))
        entries = await store.save(first, scope="user-42")
        assert [one.message for one in entries] == first.all_messages()
        loaded = await store.load("c", scope="user-42")
        assert (loaded.messages, loaded.usage) == (first.all_messages(), first.usage)
        second = await agent.run("Sure?", conversation=loaded)
        assert len(await store.save(second)) == 4
        assert [one.message for one in await store.load_entries("c")] == second.all_messages()
        assert await store.load("c", scope="another") is None
        (record,) = await store.list_conversations(scope="user-42")
        assert (record.conversation_id, record.scope, record.usage) == ("c", "user-42", second.usage)
        with pytest.raises(ConversationConflict):
            await store.save(first.conversation)
        await store.delete("c")
        assert await store.load("c") is None

    asyncio.run(main())
    assert storage.items.count() == 0


def stock() -> int:
    """Return how many are left."""
    return 5


def test_it_branches_forks_and_lists_as_the_store_in_memory(store):
    async def script(one: ConversationStore) -> list[Any]:
        conversation = _conversation("c", *"abcdef")
        await one.save(conversation, scope="s")
        conversation.messages += _messages("g")
        await one.save(conversation)
        rewritten = _conversation("c", *"abcX")
        rewritten.revision = conversation.revision
        await one.save(rewritten)
        results: list[Any] = [_texts(await one.load("c")), _texts(await one.load("c", limit=2))]
        (tip,) = (await one.list_conversations())[0].branches
        back = await one.branch("c", from_entry=tip, expected_revision=rewritten.revision)
        results.append(_texts(back))
        early = await one.branch("c", at=2, expected_revision=back.revision)
        early.messages += _messages("Y")
        await one.save(early)
        results.append(_texts(await one.load("c")))
        fork = await one.fork("c", at=1, new_conversation_id="f", scope="t")
        fork.messages += _messages("Z")
        await one.save(fork)
        results += [_texts(await one.load(name)) for name in ("c", "f")]
        results.append([record.forked_from for record in await one.list_conversations()])
        results += [await _outcome(one.branch("c", at=99, expected_revision=early.revision))]
        results += [await _outcome(one.branch("c", at=1, expected_revision="stale"))]
        results += [await _outcome(one.fork("none")), await _outcome(one.fork("c", new_conversation_id="f"))]
        results += [await _outcome(one.load("c", limit=-1)), _texts(await one.load("c", limit=0))]
        results += [await _outcome(one.save(_conversation("c", "new")))]
        for scope, limit in ((None, None), ("s", None), ("t", 1), ("u", None), (None, 1), (None, 0)):
            records = await one.list_conversations(scope=scope, limit=limit)
            results.append([record.conversation_id for record in records])
        await one.delete("c", scope="t")
        await one.delete("c", scope="s")
        results += [_texts(await one.load(name)) for name in ("c", "f")]
        return results

    assert asyncio.run(script(store)) == asyncio.run(script(InMemoryConversationStore()))


_MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Twins:
    """The store and the one in memory, which get the same writes and have to give the same outcomes."""

    def __init__(self, store: ConversationStore, seed: int) -> None:
        self._store, self._model, self._choose = store, InMemoryConversationStore(), random.Random(seed)

    async def write(self, number: int) -> None:
        """Write a record with up to three new entries: by a right or stale revision, on a known or an unknown head."""
        choose, model = self._choose, self._model
        known = sorted(model._entries)
        conversation_id = choose.choice("abcd")
        after = choose.choice([None, *known])
        entries = _entries(*(f"{number}.{index}" for index in range(choose.randrange(4))), after=after)
        stored = await model.read_record(conversation_id)
        record = ConversationRecord(
            conversation_id=conversation_id,
            head_id=entries[-1].id if entries else choose.choice([None, *known, "unknown"]),
            scope=choose.choice([None, "s", "t"]),
            branches=choose.sample(known, min(2, len(known))),
            updated_at=_MOMENT + timedelta(microseconds=choose.randrange(10**9)),
            usage=RunUsage(requests=number),
        )
        expected = choose.choice([stored.revision if stored else None] * 5 + [None, "stale"])
        await self._both(lambda one: one.write_record(record, new_entries=entries, expected_revision=expected))

    async def delete(self) -> None:
        """Delete a record by a right or stale revision."""
        conversation_id = self._choose.choice("abcd")
        stored = await self._model.read_record(conversation_id)
        revision = self._choose.choice([stored.revision if stored else "none", "stale"])
        await self._both(lambda one: one.delete_record(conversation_id, expected_revision=revision))

    async def compare(self) -> None:
        """Assert that both have the same records, histories and entries."""
        for scope, limit in ((None, None), ("s", None), ("t", 1), (None, 2)):
            records = await self._model.read_records(scope=scope, limit=limit)
            assert await self._store.read_records(scope=scope, limit=limit) == records
        for record in await self._model.read_records():
            assert await self._store.read_record(record.conversation_id) == record
            for tip in (record.head_id, *record.branches):
                most = self._choose.choice([None, 0, 1, 3])
                history = await self._model.read_history(tip, limit=most)
                assert await self._store.read_history(tip, limit=most) == history
        for entry_id, entry in self._model._entries.items():
            assert await self._store.read_entry(entry_id) == entry

    async def _both(self, call: Callable[[ConversationStore], Any]) -> None:
        assert await _outcome(call(self._store)) is await _outcome(call(self._model))


@pytest.mark.parametrize("seed", range(6))
def test_its_primitives_behave_as_those_of_the_store_in_memory(store, storage, seed):
    twins, choose = Twins(store, seed), random.Random(seed)

    async def main() -> None:
        for number in range(25):
            await (twins.write(number) if choose.random() < 0.75 else twins.delete())
            await twins.compare()
        for record in await store.read_records():
            await store.delete(record.conversation_id)

    asyncio.run(main())
    assert storage.items.count() == 0


@in_memory
@pytest.mark.parametrize("count", [1, 64, 65, 66, 129, 300])
def test_a_long_history_is_read_whole_and_in_few_reads(store, storage, count, monkeypatch):
    ids = [f"e{number:03d}" for number in range(count)]
    record = ConversationRecord(conversation_id="c", head_id=ids[-1])
    reads: list[int] = []

    async def main() -> None:
        # In parts, so that a later save continues a block.
        head, revision = None, None
        for start in range(0, count, 7):
            part = _entries(*ids[start : start + 7], after=head)
            head = part[-1].id
            current = replace(record, head_id=head, revision=f"r{start}")
            await store.write_record(current, new_entries=part, expected_revision=revision)
            revision = current.revision
        get_many = type(storage.items).get_many
        monkeypatch.setattr(
            type(storage.items), "get_many", lambda items, keys: reads.append(len(keys)) or get_many(items, keys)
        )
        for limit in (None, 1, 2, 63, 64, 65, 66, count, count + 1):
            reads.clear()
            history = await store.read_history(ids[-1], limit=limit)
            wanted = ids if limit is None else ids[-limit:]
            assert [one.id for one in history] == wanted
            assert [one.parent_id for one in history] == [None, *ids][len(ids) - len(wanted) : -1]
            assert len(reads) <= len(wanted) // 64 + 3  # the head, and a first block that is not full
        await store.delete("c")

    asyncio.run(main())
    assert storage.items.count() == 0


def test_one_of_many_writers_with_a_revision_wins(store, storage):
    async def main() -> None:
        await store.save(_conversation("c", "a"))
        copies = [await store.load("c") for _ in range(8)]
        for number, one in enumerate(copies):
            one.messages += _messages(str(number))
        results = await asyncio.gather(*(_outcome(store.save(one)) for one in copies))
        assert results.count(ConversationConflict) == 7
        assert len((await store.load("c")).messages) == 2
        new = await asyncio.gather(*(_outcome(store.save(_conversation("n", str(n)))) for n in range(8)))
        assert new.count(ConversationConflict) == 7

    asyncio.run(main())


_WRITER = """
import asyncio, sys
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.messages import ModelRequest
import memory_storage as ms
from memory_storage.integrations.pydantic_ai import MemoryStorageConversationStore

async def main(storage):
    store, saved = MemoryStorageConversationStore(storage), 0
    while saved < 10:
        conversation = await store.load("c")
        conversation.messages.append(ModelRequest.user_text_prompt(f"{sys.argv[2]}.{saved}"))
        try:
            await store.save(conversation)
        except ConversationConflict:
            continue
        saved += 1

with ms.MemoryStorage.open(sys.argv[1]) as storage:
    asyncio.run(main(storage))
"""


def test_processes_lose_no_message(tmp_path):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(path) as storage:
        store = MemoryStorageConversationStore(storage)
        asyncio.run(store.save(_conversation("c", "first")))
        command = [sys.executable, "-c", _WRITER, str(path)]
        writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
        assert [writer.wait(120) for writer in writers] == [0, 0, 0]
        texts = _texts(asyncio.run(store.load("c")))
    assert texts[0] == "first"
    assert sorted(texts[1:]) == sorted(f"{writer}.{number}" for writer in range(3) for number in range(10))
    for writer in range(3):
        own = [text for text in texts if text.startswith(f"{writer}.")]
        assert own == [f"{writer}.{number}" for number in range(10)]


def test_a_fork_keeps_the_entries_that_it_shares(store, storage):
    async def main() -> None:
        conversation = _conversation("c", *map(str, range(150)))
        await store.save(conversation)
        await store.fork("c", at=70, new_conversation_id="f")
        await store.delete("c")
        assert _texts(await store.load("f")) == [str(number) for number in range(70)]
        assert storage.items.count((*CONVERSATIONS_PATH, "entries")) == 70
        gone = ConversationRecord(conversation_id="g", head_id="no such entry")
        with pytest.raises(ConversationConflict):
            await store.write_record(gone, expected_revision=None)
        with raises(ms.NotFoundError, id="no such entry"):
            await store.read_entry("no such entry")

    asyncio.run(main())


@in_memory
def test_a_save_that_conflicts_stores_nothing(store, storage):
    async def main() -> None:
        await store.save(_conversation("c", "a"))
        count = storage.items.count()
        for entries, expected in (
            (_entries("x"), None),
            (_entries("y", after="gone"), "stale"),
            (_entries("x", "y")[::-1], None),
        ):
            record = ConversationRecord(conversation_id="c", head_id=entries[-1].id)
            with pytest.raises(ConversationConflict) as raised:
                await store.write_record(record, new_entries=entries, expected_revision=expected)
            assert raised.value.conversation_id == "c"
        assert storage.items.count() == count

    asyncio.run(main())


def test_values_are_read_back_equal(store):
    image = BinaryImage(bytes(range(256)), media_type="image/png")
    messages: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart(["look 🍎\u2028", image])], instructions="Sell.", run_id="r"),
        ModelResponse(parts=[ToolCallPart("stock", {"n": 2**60}, tool_call_id="1"), TextPart("")], model_name="m"),
        ModelRequest(parts=[ToolReturnPart("stock", {"left": [1, None, 0.1]}, tool_call_id="1")]),
    ]
    requests = DeferredToolRequests(calls=[ToolCallPart("phone", '{"number": 1}', tool_call_id="2")])
    usage = RunUsage(requests=3, input_tokens=7, details={"cached": 2})
    conversation = Conversation(
        conversation_id="c/é\x01", messages=messages, usage=usage, deferred_tool_requests=requests
    )

    async def main() -> None:
        await store.save(conversation, scope="")
        loaded = await store.load("c/é\x01", scope="")
        assert loaded == conversation
        (record,) = await store.read_records(scope="")
        assert (record.usage, record.deferred_tool_requests) == (usage, requests)
        assert await store.load_entries("c/é\x01") == [
            ConversationEntry(id=one.id, parent_id=one.parent_id, message=one.message)
            for one in await store.read_history(record.head_id)
        ]

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversation_id": "x" * 1_001}, "a"),
        ({"scope": "nul\0"}, "a"),
        ({}, "nul\0"),
        ({}, "x" * 11_000_000),
    ],
)
def test_what_cannot_be_stored_is_refused_and_stores_nothing(store, storage, record, message):
    entry = ConversationEntry(id="e", parent_id=None, message=_messages(message)[0])
    whole = ConversationRecord(**{"conversation_id": "c", "head_id": "e", **record})
    with pytest.raises(ms.ValidationError):
        asyncio.run(store.write_record(whole, new_entries=[entry], expected_revision=None))
    assert storage.items.count() == 0


@in_memory
def test_documents_of_an_unknown_form_are_corrupt(store, storage):
    asyncio.run(store.save(_conversation("c", "a")))
    (entry,) = storage.items.query((*CONVERSATIONS_PATH, "entries"))
    storage.items.put(entry.path, entry.key, {**entry.value, "message": {"kind": "poem"}})
    with raises(ms.CorruptDataError, table="items", id=entry.key):
        asyncio.run(store.load("c"))
    (record,) = storage.items.query((*CONVERSATIONS_PATH, "conversations"))
    storage.items.put(record.path, record.key, {**record.value, "record": {"format_version": 2}})
    with raises(ms.CorruptDataError, table="items", id="c"):
        asyncio.run(store.load("c"))


@in_memory
def test_namespaces_are_separate_and_the_storage_stays_open(store, storage):
    other = MemoryStorageConversationStore(storage.in_namespace("other"))

    async def main() -> None:
        await store.save(_conversation("c", "a"))
        assert await other.load("c") is None
        await other.save(_conversation("c", "b"))
        assert [_texts(await one.load("c")) for one in (store, other)] == [["a"], ["b"]]

    asyncio.run(main())
    assert storage.items.count() == 4
    assert repr(store).startswith("MemoryStorageConversationStore(AsyncMemoryStorage(':memory:'")
    with pytest.raises(ms.ConfigurationError):
        MemoryStorageConversationStore("memory.db")


@pytest.mark.slow
@pytest.mark.server
def test_a_lost_acknowledgement_saves_and_deletes_once(sqld, migrated_server_url, monkeypatch):
    unknown: list[ms.CommitUnknownError] = []
    run = ms.MemoryStorage.run
    with Proxy(sqld.port) as line:
        url = migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")
        storage = ms.MemoryStorage.open(ms.Settings(database=url, circuit_breaker={"enabled": False}))

        def cutting(storage: ms.MemoryStorage, work: Any) -> Any:
            def armed(tx: Any) -> Any:
                work(tx)
                # The acknowledgement of the commit, and the responses to the questions whether it was stored.
                line.cut_reply_after(0, times=20)

            try:
                return run(storage, work if unknown else armed)
            except ms.CommitUnknownError as error:
                line.cut_reply_after(None)
                unknown.append(error)
                raise

        monkeypatch.setattr(ms.MemoryStorage, "run", cutting)
        store = MemoryStorageConversationStore(storage)
        conversation = _conversation("c", "a", "b")
        asyncio.run(store.save(conversation))
        assert len(unknown) == 1
        assert _texts(asyncio.run(store.load("c"))) == ["a", "b"]
        conversation.messages += _messages("c")
        asyncio.run(store.save(conversation))
        assert _texts(asyncio.run(store.load("c"))) == ["a", "b", "c"]
        unknown.clear()
        asyncio.run(store.delete("c"))
        assert len(unknown) == 1
        assert storage.items.count() == 0
        storage.close()
