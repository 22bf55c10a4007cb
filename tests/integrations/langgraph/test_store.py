"""The store by the interface of LangGraph: batches, filters, namespaces, vectors, expiry, and coroutines."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.integrations.langgraph import STORE_PATH, MemoryStorageStore
from tests.backends import in_memory

from .embeddings import INDEX, LetterEmbeddings, letters

NS = ("docs",)


@pytest.fixture
def store(storage):
    return MemoryStorageStore(storage)


def test_a_batch_reads_the_state_before_its_puts(store):
    store.put(NS, "1", {"n": 1})
    got, _, _, found, spaces = store.batch(
        [
            GetOp(NS, "1"),
            PutOp(NS, "1", {"n": 2}),
            PutOp(NS, "1", {"n": 3}),
            SearchOp(NS),
            ListNamespacesOp(),
        ]
    )
    assert got.value == {"n": 1}
    assert [item.value for item in found] == [{"n": 1}]
    assert spaces == [NS]
    assert store.get(NS, "1").value == {"n": 3}


def test_of_a_put_and_a_delete_the_last_counts(store):
    store.batch([PutOp(NS, "1", {"n": 1}), PutOp(NS, "1", None), PutOp(NS, "2", None), PutOp(NS, "2", {"n": 2})])
    assert [item.key for item in store.search(NS)] == ["2"]


def test_the_items_of_the_store_are_those_of_the_storage(store, storage):
    store.put(("users", "7"), "name", {"first": "Ada"})
    assert storage.items.get((*STORE_PATH, "users", "7"), "name").value == {"first": "Ada"}
    storage.items.put(("elsewhere",), "x", {"n": 1})
    assert [item.key for item in store.search(())] == ["name"]
    assert store.list_namespaces() == [("users", "7")]


SMALL_PAGES = ms.Settings(database=":memory:", limits={"query_default": 4, "query_maximum": 4})


def test_limits_and_offsets_are_exact_beyond_a_page():
    with ms.MemoryStorage.open(SMALL_PAGES) as storage:
        store = MemoryStorageStore(storage, index=INDEX)
        store.batch([PutOp(("a", f"{n:02}"), f"{n:02}", {"text": "a" + "b" * n, "n": n}) for n in range(30)])
        for limit, offset in ((0, 0), (1, 29), (20, 0), (20, 15), (100, 0), (14, 7)):
            expected = [f"{n:02}" for n in range(30)][offset : offset + limit]
            found = store.search(("a",), query="a", limit=limit, offset=offset)
            assert [item.key for item in found] == expected
            assert [one[1] for one in store.list_namespaces(limit=limit, offset=offset)] == expected
            newest = [item.key for item in store.search(("a",), limit=limit, offset=offset)]
            assert newest == [f"{n:02}" for n in reversed(range(30))][offset : offset + limit]


# -- filters ----------------------------------------------------------------------------------------------------------

VALUES = [
    {"n": 1, "color": "red", "tags": ["a", "b"], "at": {"x": 1, "y": {"z": 2}}},
    {"n": 2, "color": "green", "tags": ["a"], "at": {"x": 1}},
    {"n": 2.5, "color": None, "tags": [], "at": {}},
    {"n": 3, "tags": [{"name": "a", "w": 1}], "at": 5},
    {"n": -4, "color": 'it\'s "q"', "tags": "a", "at": {"x": 1, "y": {"z": 2, "w": 3}}},
    {"n": True, "color": "red", "flag": True, "dotted.key": 1, "at": None},
]
FILTERS = [
    None,
    {},
    {"color": "red"},
    {"color": None},
    {"color": {"$eq": "green"}},
    {"color": {"$ne": "red"}},
    {"color": {"$ne": None}},
    {"flag": True},
    {"n": {"$gt": 1}, "color": "green"},
    {"n": {"$gte": 2, "$lt": 3}},
    {"n": {"$lte": 2}},
    {"n": {"$lt": math.inf}},
    {"n": {"$gt": -math.inf}},
    {"n": {"$gt": math.inf}},
    {"n": {"$lt": 10**100}},
    {"n": {"$eq": math.nan}},
    {"color": "no\0such"},
    {"tags": ["a", "b"]},
    {"tags": ["a"]},
    {"tags": []},
    {"tags": [{"name": "a"}]},
    {"tags": {"$eq": ["a"]}},
    {"tags": {"$ne": ["a"]}},
    {"at": {"x": 1}},
    {"at": {"y": {"z": 2}}},
    {"at": {"$eq": {"x": 1}}},
    {"at": {"$ne": {"x": 1}}},
    {"at": {}},
    {"at": {"q": None}},
    {"color": 'it\'s "q"'},
    {"dotted.key": 1},
    {"missing": None},
    {"missing": {"$ne": 1}},
]


@pytest.mark.parametrize("number", range(len(FILTERS)))
@in_memory
def test_filters_find_what_the_store_in_memory_finds(store, number):
    model, wanted = InMemoryStore(), FILTERS[number]
    # A boolean is no number here: the last value has one where the others have numbers.
    values = VALUES[:-1] if wanted and "n" in wanted else VALUES
    for n, value in enumerate(values):
        for one in (model, store):
            one.put(NS, str(n), value)
    expected = {item.key for item in model.search(NS, filter=wanted)}
    assert {item.key for item in store.search(NS, filter=wanted)} == expected


@in_memory
def test_an_operator_below_a_key(store):
    for n, value in enumerate(VALUES):
        store.put(NS, str(n), value)
    assert {item.key for item in store.search(NS, filter={"at": {"y": {"w": {"$gte": 3}}}})} == {"4"}


def test_a_filter_with_a_list_is_exact_on_every_page():
    with ms.MemoryStorage.open(SMALL_PAGES) as storage:
        store = MemoryStorageStore(storage, index=INDEX)
        puts = [PutOp(NS, f"{n:02}", {"text": "a" + "b" * n, "tags": ["x"] if n % 3 else ["y"]}) for n in range(20)]
        store.batch(puts)
        wanted = [f"{n:02}" for n in range(20) if n % 3]
        for limit, offset in ((0, 0), (5, 0), (5, 10), (100, 0)):
            found = store.search(NS, filter={"tags": ["x"]}, query="a", limit=limit, offset=offset)
            assert [item.key for item in found] == wanted[offset : offset + limit]
            found = store.search(NS, filter={"tags": ["x"]}, limit=limit, offset=offset)
            assert [item.key for item in found] == wanted[::-1][offset : offset + limit]


def test_a_batch_with_such_a_filter_is_one_transaction(store):
    store.put(NS, "1", {"tags": ["x"]})
    found, _ = store.batch([SearchOp(NS, filter={"tags": ["x"]}), PutOp(NS, "2", {"tags": ["x"]})])
    assert [item.key for item in found] == ["1"]
    with pytest.raises(ValidationError):
        store.batch([SearchOp(NS, filter={"tags": ["x"]}), PutOp(NS, "3", {}), PutOp(NS, "4", {"n": object})])
    assert {item.key for item in store.search(NS, filter={"tags": ["x"]})} == {"1", "2"}


@pytest.mark.parametrize("wanted", [{"n": {"$regex": "a"}}, {"$or": [{"n": 1}]}, "n", {1: 2}])
@in_memory
def test_an_unknown_filter_is_refused(store, wanted):
    with pytest.raises(ValidationError) as caught:
        store.search(NS, filter=wanted)
    assert caught.value.field == "filter"


# -- namespaces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", [(), ("a.b",), ("",), ("a", ""), ("langgraph", "x"), (1,)])
@in_memory
def test_an_invalid_namespace_is_refused(store, namespace):
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "1", {})
    assert store.search(()) == []


@in_memory
def test_a_batch_with_an_invalid_namespace_stores_nothing(store):
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(NS, "1", {}), PutOp(("a.b",), "1", {})])
    assert store.search(()) == []


SPACES = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "x", "c"), ("b", "c"), ("store", "a"), ("c",)]
PATTERNS = [
    {},
    {"prefix": ("a",)},
    {"prefix": ("*", "b")},
    {"prefix": ("a", "*", "c")},
    {"suffix": ("c",)},
    {"suffix": ("*", "c")},
    {"suffix": ("*", "*", "c")},
    {"suffix": ("store", "a")},
    {"prefix": ("a",), "suffix": ("*", "c")},
    {"prefix": ("*",), "suffix": ("*",)},
    {"max_depth": 1},
    {"max_depth": 2, "suffix": ("c",)},
    {"limit": 2, "offset": 1},
    {"max_depth": 1, "limit": 2, "offset": 2},
]


@pytest.mark.parametrize("number", range(len(PATTERNS)))
def test_namespaces_are_listed_as_by_the_store_in_memory(store, number):
    model = InMemoryStore()
    for namespace in SPACES:
        model.put(namespace, "1", {})
        store.put(namespace, "1", {})
    assert store.list_namespaces(**PATTERNS[number]) == model.list_namespaces(**PATTERNS[number])


@in_memory
def test_several_conditions_of_one_kind_all_hold(store):
    for namespace in SPACES:
        store.put(namespace, "1", {})
    first, second, third = (MatchCondition("prefix", one) for one in (("a", "*"), ("*", "b"), ("b",)))
    assert store.batch([ListNamespacesOp((first, second))]) == [[("a", "b"), ("a", "b", "c")]]
    assert store.batch([ListNamespacesOp((first, third))]) == [[]]


# -- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        (["a"], ["top"]),
        (["m.title"], ["inner"]),
        (["parts[*].text"], ["one", "two"]),
        (["parts[0].text"], ["one"]),
        (["parts[-1].text"], ["two"]),
        (["absent", "a"], ["top"]),
        (["$"], ['{"a": "top", "m": {"title": "inner"}, "parts": [{"text": "one"}, {"text": "two"}]}']),
    ],
)
@in_memory
def test_paths_of_fields(storage, fields, texts):
    embeddings = LetterEmbeddings()
    value = {"a": "top", "m": {"title": "inner"}, "parts": [{"text": "one"}, {"text": "two"}]}
    MemoryStorageStore(storage, index={"dims": 8, "embed": embeddings, "fields": fields}).put(NS, "1", value)
    assert embeddings.texts == texts
    embeddings.texts.clear()
    MemoryStorageStore(storage, index={"dims": 8, "embed": embeddings, "fields": ["a"]}).put(NS, "1", value, fields)
    assert embeddings.texts == texts


@in_memory
def test_equal_texts_of_a_batch_are_embedded_once(storage):
    embeddings = LetterEmbeddings()
    store = MemoryStorageStore(storage, index={**INDEX, "embed": embeddings})
    store.batch([PutOp(NS, "1", {"text": "a"}), PutOp(NS, "2", {"text": "a"}), PutOp(NS, "2", {"text": "b"})])
    assert embeddings.texts == ["a", "b"]


@in_memory
def test_without_an_index_a_query_is_ignored(store):
    store.put(NS, "1", {"text": "a"}, index=["text"])
    assert [(item.key, item.score) for item in store.search(NS, query="a")] == [("1", None)]


def test_the_embedder_of_the_storage_is_the_default():
    with ms.MemoryStorage.open(":memory:", embedder=HashingEmbedder()) as storage:
        store = MemoryStorageStore(storage, index={"fields": ["text"]})
        store.put(NS, "1", {"text": "the cat sat on the mat"})
        store.put(NS, "2", {"text": "stocks fell on Monday"})
        assert [hit.key for hit in store.search(NS, query="a cat on a mat")] == ["1", "2"]
        assert {one.model for one in storage.items.iterate_vectors()} == {HashingEmbedder().model}


@pytest.mark.parametrize("embed", [HashingEmbedder(), "hashing"], ids=["embedder", "name"])
@in_memory
def test_embedders_of_this_package(storage, embed):
    store = MemoryStorageStore(storage, index={"embed": embed})
    store.put(NS, "1", {"text": "cat"})
    assert [hit.key for hit in store.search(NS, query="cat")] == ["1"]


@pytest.mark.parametrize("index", [{}, {"embed": 5}, {"embed": letters, "dims": 0}, {"embed": letters, "fields": "a"}])
@in_memory
def test_an_index_that_cannot_work_is_refused(storage, index):
    with pytest.raises(ConfigurationError, match="index"):
        MemoryStorageStore(storage, index=index)


@in_memory
def test_an_embedder_that_returns_too_few_vectors_is_refused(storage):
    store = MemoryStorageStore(storage, index={**INDEX, "embed": lambda texts: letters(texts)[1:]})
    with pytest.raises(ValidationError, match="one vector for each"):
        store.put(NS, "1", {"text": "a"})
    assert store.search(NS) == []


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"t": (1, 2)}, {"s": {1}}, {"f": math.nan}, {1: 2}, [1], "text"])
@in_memory
def test_a_value_that_would_not_be_read_back_equal_is_refused(store, value):
    with pytest.raises(ValidationError):
        store.put(NS, "1", value)
    assert store.search(NS) == []


# -- expiry -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.moment = ms.models.utc_now()

    def __call__(self):
        return self.moment

    def pass_minutes(self, minutes):
        from datetime import timedelta

        self.moment += timedelta(minutes=minutes)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timed(clock, target):
    with ms.MemoryStorage.open(target, now=clock) as storage:
        yield storage


def test_a_read_begins_the_time_to_live_again(timed, clock):
    store = MemoryStorageStore(timed, ttl={"default_ttl": 10})
    for key in ("got", "searched", "left"):
        store.put(NS, key, {"key": key})
    clock.pass_minutes(9)
    store.get(NS, "got")
    store.search(NS, filter={"key": "searched"})
    clock.pass_minutes(9)
    assert {item.key for item in store.search(NS)} == {"got", "searched"}
    assert store.sweep_ttl() == 1


@pytest.mark.parametrize("by", ["config", "call"])
@in_memory
def test_a_read_without_refresh_does_not(timed, clock, by):
    store = MemoryStorageStore(timed, ttl={"default_ttl": 10, "refresh_on_read": by == "call"})
    store.put(NS, "1", {})
    clock.pass_minutes(9)
    assert store.get(NS, "1", refresh_ttl=False if by == "call" else None)
    clock.pass_minutes(2)
    assert store.get(NS, "1") is None


@in_memory
def test_the_time_to_live_of_a_put_overrides_the_default(timed, clock):
    store = MemoryStorageStore(timed, ttl={"default_ttl": 10, "refresh_on_read": False})
    for key, options in (("short", {"ttl": 1}), ("default", {}), ("none", {"ttl": None})):
        store.put(NS, key, {}, **options)
    clock.pass_minutes(2)
    assert {item.key for item in store.search(NS)} == {"default", "none"}
    clock.pass_minutes(20)
    assert {item.key for item in store.search(NS)} == {"none"}
    assert store.sweep_ttl() == 2
    assert store.sweep_ttl() == 0


@in_memory
def test_the_sweeper_deletes_until_it_is_stopped(storage):
    store = MemoryStorageStore(storage, ttl={"default_ttl": 0.01 / 60, "sweep_interval_minutes": 0.01 / 60})
    future = store.start_ttl_sweeper()
    assert not store.start_ttl_sweeper().done()
    store.put(NS, "1", {})
    until = time.monotonic() + 10
    while storage.items.delete_expired(limit=1) or time.monotonic() < until:
        if not _stored_rows(storage):
            break
        time.sleep(0.01)
    assert _stored_rows(storage) == 0
    assert store.stop_ttl_sweeper(timeout=10)
    assert future.done()
    assert store.stop_ttl_sweeper()


@in_memory
def test_the_sweeper_ends_with_its_future_or_its_store(storage):
    store = MemoryStorageStore(storage, ttl={"sweep_interval_minutes": 60})
    store.start_ttl_sweeper().cancel()
    thread = store._sweeper
    thread.join(10)
    assert not thread.is_alive()
    store.start_ttl_sweeper()
    thread, alive = store._sweeper, weakref.ref(store)
    del store
    gc.collect()
    assert alive() is None
    thread.join(10)
    assert not thread.is_alive()


@in_memory
def test_without_a_configuration_nothing_sweeps(store):
    assert store.start_ttl_sweeper().done()
    assert store._sweeper is None


def _stored_rows(storage):
    with storage.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM items").scalar()


# -- coroutines -------------------------------------------------------------------------------------------------------


def test_coroutines_do_what_the_methods_do(storage):
    async def embed(texts):
        await asyncio.sleep(0)
        return letters(texts)

    async def main():
        store = MemoryStorageStore(
            storage, index={"dims": 8, "embed": embed, "fields": ["text"]}, ttl={"default_ttl": 5}
        )
        await store.aput(NS, "1", {"text": "aaa", "tags": ["x"]})
        await asyncio.gather(*(store.aput(NS, f"{n}", {"text": "b" * n, "tags": []}) for n in range(2, 12)))
        assert (await store.aget(NS, "1")).value["text"] == "aaa"
        assert (await store.asearch(NS, query="aaa"))[0].key == "1"
        assert [item.key for item in await store.asearch(NS, filter={"tags": ["x"]})] == ["1"]
        found, _ = await store.abatch([SearchOp(NS, filter={"tags": ["x"]}), PutOp(NS, "1", None)])
        assert [item.key for item in found] == ["1"]
        assert await store.alist_namespaces(prefix=["docs"]) == [NS]
        await store.adelete(NS, "2")
        return await store.asearch(NS, limit=100)

    assert {item.key for item in asyncio.run(main())} == {f"{n}" for n in range(3, 12)}


def test_a_batch_does_not_block_the_event_loop(database):
    async def main(storage, other):
        store = MemoryStorageStore(storage)
        with other.transaction() as tx:
            tx.items.put(("x",), "lock", 1)
            writing = asyncio.ensure_future(store.aput(NS, "1", {}))
            ticks = 0
            while ticks < 20:
                await asyncio.sleep(0.005)
                ticks += 1
            assert not writing.done()
        await writing

    with ms.MemoryStorage.open(database) as storage, ms.MemoryStorage.open(database) as other:
        asyncio.run(main(storage, other))
        assert [item.key for item in MemoryStorageStore(storage).search(NS)] == ["1"]


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_store_is_opened_by_a_path(database):
    with MemoryStorageStore.from_conn_string(str(database), ttl={"sweep_interval_minutes": 1}) as store:
        store.put(NS, "1", {"n": 1})
        store.start_ttl_sweeper()
        thread = store._sweeper
    assert not thread.is_alive()
    with MemoryStorageStore.from_conn_string(str(database)) as store:
        assert store.get(NS, "1").value == {"n": 1}


def test_what_is_no_storage_is_refused():
    with pytest.raises(ConfigurationError, match="MemoryStorage"):
        MemoryStorageStore("memory.db")
