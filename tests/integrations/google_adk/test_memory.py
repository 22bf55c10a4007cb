"""The memory service: what is found and how it is ranked, idempotence, deletion, scopes and vectors."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from datetime import datetime, timezone

import pytest
from google.adk.memory.in_memory_memory_service import InMemoryMemoryService
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.sessions.session import Session
from google.genai import types

import memory_storage as ms
from memory_storage.embedders import FunctionEmbedder, HashingEmbedder
from memory_storage.integrations.google_adk import MemoryStorageMemoryService
from tests.raising import raises

from .services import SCOPE, event, texts

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)


@pytest.fixture
def service(storage) -> MemoryStorageMemoryService:
    return MemoryStorageMemoryService(storage)


def _session(*events, session_id: str = "s", **scope) -> Session:
    return Session(**{**SCOPE, **scope}, id=session_id, events=list(events))


async def _search(service, query: str, **scope) -> list[str]:
    return texts((await service.search_memory(**{**SCOPE, **scope}, query=query)).memories)


def _entry(text: str, **fields) -> MemoryEntry:
    return MemoryEntry(content=types.Content(parts=[types.Part(text=text)]), **fields)


def test_a_session_is_found_by_its_words(service):
    one = event("I like Python.", id="e1", timestamp=1_700_000_000.5, author="ann")

    async def main():
        call = types.Part(function_call=types.FunctionCall(name="python", args={}))
        thought = types.Part(text="python, I think", thought=True)
        silent = [event(), event("x").model_copy(update={"content": types.Content(parts=[call, thought])})]
        await service.add_session_to_memory(_session(one, *silent))
        (found,) = (await service.search_memory(**SCOPE, query="Which PYTHON version?")).memories
        assert found.content == one.content
        assert found.author == "ann"
        assert found.timestamp == "2023-11-14T22:13:20.500000+00:00"
        assert found.custom_metadata == {"session_id": "s", "event_id": "e1"}
        assert found.id.startswith("event-")
        for query in ("thon", "ruby", "", " \n", "!?"):
            assert await _search(service, query) == []

    asyncio.run(main())


def test_a_session_that_grew_adds_only_its_new_events(service, storage):
    async def main():
        session = _session(event("apples"), event("pears"))
        for _ in range(2):
            await service.add_session_to_memory(session)
        session.events.append(event("apples again"))
        await service.add_session_to_memory(session)
        await service.add_events_to_memory(**SCOPE, session_id="s", events=session.events[1:])
        assert sorted(await _search(service, "apples pears")) == ["apples", "apples again", "pears"]
        await service.add_events_to_memory(**SCOPE, events=[event("no session")], custom_metadata={"a": [1]})
        (found,) = (await service.search_memory(**SCOPE, query="no")).memories
        assert found.custom_metadata["a"] == [1]
        assert "session_id" not in found.custom_metadata

    asyncio.run(main())
    assert storage.items.count() == 4


@in_memory
def test_events_without_an_id_are_known_by_their_content(service):
    async def main():
        one, other = event("apples", timestamp=1), event("apples", timestamp=2)
        one.id = other.id = ""
        for _ in range(2):
            await service.add_session_to_memory(_session(one, other))
        assert await _search(service, "apples") == ["apples", "apples"]

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_memories_with_more_words_of_the_query_come_first(storage, kind):
    service = MemoryStorageMemoryService(storage) if kind == "ours" else InMemoryMemoryService()

    async def main():
        notes = ["The deploy is ready.", "Ready.", "The deploy status is ready."]
        await service.add_session_to_memory(_session(*map(event, notes)))
        found = await _search(service, "deploy status ready")
        assert found == ["The deploy status is ready.", "The deploy is ready.", "Ready."]

    asyncio.run(main())


@in_memory
def test_at_most_ten_memories_are_returned_those_with_rare_words_first(service):
    async def main():
        await service.add_session_to_memory(
            _session(*(event(f"note {n} about work") for n in range(20)), event("the backlog"), session_id="2")
        )
        found = await _search(service, "note about the backlog")
        assert len(found) == 10
        assert found[0] == "the backlog"

    asyncio.run(main())


@in_memory
def test_a_rare_word_is_found_beside_a_frequent_one(target):
    limits = {"query_maximum": 20, "query_default": 20}
    with ms.MemoryStorage.open(ms.Settings(database=target, limits=limits)) as storage:
        service = MemoryStorageMemoryService(storage, limit=2)

        async def main():
            await service.add_session_to_memory(_session(event("the unicorn", timestamp=1)))
            await service.add_session_to_memory(_session(*(event("the horse") for _ in range(30)), session_id="2"))
            assert await _search(service, "the unicorn") == ["the unicorn", "the horse"]

        asyncio.run(main())


@in_memory
def test_of_equal_memories_the_newer_comes_first(service):
    async def main():
        await service.add_session_to_memory(_session(event("tea", timestamp=2), event("tea!", timestamp=3)))
        await service.add_session_to_memory(_session(event("tea?", timestamp=1), session_id="2"))
        assert await _search(service, "tea") == ["tea!", "tea", "tea?"]

    asyncio.run(main())


@in_memory
@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("私の名前は太郎です", "太郎", True),
        ("私の名前は太郎です", "天気", False),
        ("私の名前は太郎です", "私", True),
        ("我喜欢机器学习", "机器学习", True),
        ("我喜欢机器学习", "天气预报", False),
        ("제 이름은 민수입니다", "민수입니다", True),
        (unicodedata.normalize("NFD", "제 이름은 민수입니다"), "민수입니다", True),
        ("Меня зовут Алексей", "алексей", True),
        ("私はPythonでADKを使っています", "adk", True),
        ("私はPythonでADKを使っています", "使って", True),
        ("私はPythonでADKを使っています", "thon", False),
        (unicodedata.normalize("NFD", "Meet at the Café"), "Café", True),
        ("Meet at the Café", unicodedata.normalize("NFD", "café"), True),
        ("straße", "STRASSE", True),
    ],
)
def test_words_of_all_scripts_are_found(service, text, query, is_found):
    async def main():
        await service.add_session_to_memory(_session(event(text)))
        assert bool(await _search(service, query)) is is_found

    asyncio.run(main())


@in_memory
def test_a_very_long_query_finds_by_its_first_words(service):
    async def main():
        await service.add_session_to_memory(_session(event("apples")))
        assert await _search(service, f"{'filler ' * 5_000} apples {' '.join(map(str, range(2_000)))}") == ["apples"]

    asyncio.run(main())


# -- memories without an event -----------------------------------------------------------------------------------------


@in_memory
def test_memories_are_added_replaced_and_deleted(service, storage):
    async def main():
        await service.add_memory(
            **SCOPE,
            memories=[
                _entry("likes tea", id="drink", author="ann", timestamp="2026-01-01", custom_metadata={"a": 1}),
                _entry("likes apples"),
            ],
            custom_metadata={"a": 0, "b": 2},
        )
        await service.add_memory(**SCOPE, memories=[_entry("likes apples")])
        found = (await service.search_memory(**SCOPE, query="likes")).memories
        assert sorted(texts(found)) == ["likes apples", "likes tea"]
        tea = next(one for one in found if one.id == "drink")
        assert (tea.author, tea.timestamp, tea.custom_metadata) == ("ann", "2026-01-01", {"a": 1, "b": 2})
        apples = next(one for one in found if one.id != "drink")
        age = datetime.now(timezone.utc) - datetime.fromisoformat(apples.timestamp)
        assert 0 <= age.total_seconds() < 60
        await service.add_memory(**SCOPE, memories=[_entry("likes coffee", id="drink")])
        assert await _search(service, "tea coffee") == ["likes coffee"]
        for _ in range(2):
            await service.delete_memory(**SCOPE, memory_id="drink")
        await service.delete_memory(**SCOPE, memory_id=None)
        assert await _search(service, "likes") == ["likes apples"]
        with raises(ms.ValidationError, field="memories.0.content"):
            await service.add_memory(**SCOPE, memories=[MemoryEntry(content=types.Content(parts=[]))])

    asyncio.run(main())
    assert storage.items.count() == 1


def test_a_deleted_event_is_not_added_again_with_its_session(service, storage):
    async def main():
        session = _session(event("my secret number"), event("hello"))
        await service.add_session_to_memory(session)
        (found,) = (await service.search_memory(**SCOPE, query="secret")).memories
        await service.delete_memory(app_name=SCOPE["app_name"], user_id="bob", memory_id=found.id)
        assert await _search(service, "secret") == ["my secret number"]
        for _ in range(2):
            await service.delete_memory(**SCOPE, memory_id=found.id)
            await service.add_session_to_memory(session)
        assert await _search(service, "my secret hello") == ["hello"]

    asyncio.run(main())
    assert "secret" not in str([item.value for item in storage.items.iterate()])


# -- scopes ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "a",
    "a/b",
    "b/a",
    "",
    " ",
    "%",
    "*",
    "a\x01b",
    "\x02",
    "\x01",
    "a:b",
    "'; DROP TABLE items; --",
    '"',
    "null",
]


@pytest.mark.parametrize("embedder", [None, "hashing"])
@in_memory
def test_no_id_reaches_the_memories_of_another(storage, embedder):
    service = MemoryStorageMemoryService(storage, embedder=embedder, min_similarity=-1)
    pairs = [{"app_name": app, "user_id": user} for app in HOSTILE for user in HOSTILE]

    async def main():
        for number, scope in enumerate(pairs):
            await service.add_session_to_memory(_session(event(f"secret {number}", id="same"), **scope))
        for number, scope in enumerate(pairs):
            assert await _search(service, "secret", **scope) == [f"secret {number}"]
        assert await _search(service, "secret", user_id="stranger") == []
        assert await _search(service, "secret", app_name="stranger") == []

    asyncio.run(main())


@in_memory
def test_sessions_and_event_ids_with_separators_are_apart(service):
    async def main():
        for session_id, event_id in (("a", "b/c"), ("a/b", "c"), ("a,b", "c"), ('a", "b', "c"), ("a", 'b", "c')):
            await service.add_session_to_memory(_session(event("x", id=event_id), session_id=session_id))
        assert len(await _search(service, "x")) == 5

    asyncio.run(main())


@in_memory
def test_namespaces_are_apart(storage, service):
    async def main():
        await service.add_session_to_memory(_session(event("secret")))
        assert await _search(MemoryStorageMemoryService(storage.in_namespace("other")), "secret") == []

    asyncio.run(main())


# -- vectors -----------------------------------------------------------------------------------------------------------


class _Meaning(FunctionEmbedder):
    """Knows that tea and coffee are drinks; counts what it embeds."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        super().__init__(self._vectors, model="meaning")

    def _vectors(self, of: list[str]) -> list[list[float]]:
        self.texts += of
        return [[1.0, 0.0] if {"tea", "coffee", "drink"} & set(one.split()) else [0.0, 1.0] for one in of]


def test_memories_are_found_by_their_meaning(storage):
    meaning = _Meaning()
    service = MemoryStorageMemoryService(storage, embedder=meaning, limit=2)

    async def main():
        session = _session(event("tea please"), event("a red car"))
        for _ in range(2):
            await service.add_session_to_memory(session)
        assert meaning.texts == ["tea please", "a red car"]  # each once
        assert await _search(service, "coffee") == ["tea please"]
        await service.add_memory(**SCOPE, memories=[_entry("coffee is black", id="c")])
        assert await _search(service, "drink coffee") == ["coffee is black", "tea please"]
        await service.delete_memory(**SCOPE, memory_id="c")
        assert await _search(service, "drink coffee") == ["tea please"]

    asyncio.run(main())
    assert len(list(storage.items.iterate_vectors())) == 2


def test_the_embedder_of_the_storage_is_the_default():
    with ms.MemoryStorage.open(":memory:", embedder="hashing") as storage:
        service = MemoryStorageMemoryService(storage)
        assert isinstance(service._embedder, HashingEmbedder)
        asyncio.run(service.add_session_to_memory(_session(event("programming languages"))))
        assert asyncio.run(_search(service, "program language")) == ["programming languages"]


@in_memory
def test_an_embedder_that_fails_stores_nothing(storage):
    def fail(_: list[str]) -> list[list[float]]:
        raise OSError("no model")

    service = MemoryStorageMemoryService(storage, embedder=FunctionEmbedder(fail, model="m"))
    with pytest.raises(OSError, match="no model"):
        asyncio.run(service.add_session_to_memory(_session(event("x"))))
    short = MemoryStorageMemoryService(storage, embedder=FunctionEmbedder(lambda _: [], model="m"))
    with pytest.raises(ms.ValidationError):
        asyncio.run(short.add_session_to_memory(_session(event("x"))))
    assert storage.items.count() == 0


# -- writers, failures, arguments --------------------------------------------------------------------------------------


def test_threads_that_add_one_session_add_it_once(storage):
    session = _session(*(event(f"apples {n}") for n in range(20)))

    def add(first: int) -> None:
        part = session.model_copy(update={"events": session.events[first:]})
        asyncio.run(MemoryStorageMemoryService(storage, limit=100).add_session_to_memory(part))

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 5, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.items.count() == 20


@in_memory
@pytest.mark.parametrize("failure", [ms.CommitUnknownError("lost"), None])
def test_an_unknown_commit_adds_nothing_twice(service, storage, monkeypatch, failure):
    put_many, failures = storage.items.put_many, [failure] if failure else []

    def fail(items):
        put_many(items)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(storage.items, "put_many", fail)
    asyncio.run(service.add_session_to_memory(_session(event("apples"))))
    asyncio.run(service.add_memory(**SCOPE, memories=[_entry("apples")]))
    assert storage.items.count() == 2


@in_memory
@pytest.mark.parametrize(
    ("arguments", "error", "facts"),
    [
        ({"storage": "memory.db"}, ms.ConfigurationError, {}),
        ({"limit": 0}, ms.ValidationError, {"field": "limit"}),
        ({"limit": True}, ms.ValidationError, {"field": "limit"}),
        ({"limit": 1_001}, ms.ValidationError, {"field": "limit"}),
        ({"min_similarity": 2}, ms.ValidationError, {"field": "min_similarity"}),
        ({"embedder": "no such one"}, ms.ConfigurationError, {}),
    ],
)
def test_bad_arguments_are_refused(storage, arguments, error, facts):
    with raises(error, **facts):
        MemoryStorageMemoryService(**{"storage": storage, **arguments})


@in_memory
def test_what_cannot_be_stored_is_refused_and_nothing_is_stored(service, storage):
    bad = event("x", timestamp=1e300)
    for one in (_session(event("good"), event("\x00")), _session(event("good"), user_id="a\x00"), _session(bad)):
        with pytest.raises(ms.ValidationError):
            asyncio.run(service.add_session_to_memory(one))
    with pytest.raises(ms.ValidationError):
        asyncio.run(service.add_events_to_memory(**SCOPE, events=[event("x")], custom_metadata={"a": object()}))
    assert storage.items.count() == 0
    assert repr(service).startswith("MemoryStorageMemoryService(AsyncMemoryStorage(':memory:'")


@in_memory
@pytest.mark.parametrize("query", [None, 1, b"x", ["a"]])
def test_a_query_that_is_no_text_is_refused(service, query):
    with raises(ms.ValidationError, field="query"):
        asyncio.run(service.search_memory(**SCOPE, query=query))
