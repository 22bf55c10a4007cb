"""The saver by LangGraph's own conformance suite, and by what that leaves out."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate

import memory_storage as ms
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.integrations.langgraph import THREADS_PATH, MemoryStorageSaver
from tests.backends import in_memory

THREAD = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
CAPABILITIES = {"copy_thread", "delete_thread", "get_tuple", "list", "put", "put_writes"}


@pytest.fixture
def saver(storage):
    return MemoryStorageSaver(storage)


def put(saver, number, config=THREAD, **metadata):
    """Store a checkpoint whose ID sorts by a number."""
    checkpoint = empty_checkpoint() | {"id": f"{number:08}", "channel_values": {"n": number}}
    return saver.put(config, checkpoint, {"source": "loop", "step": number, **metadata}, {})


def ids(tuples):
    return [int(one.checkpoint["id"]) for one in tuples]


@contextmanager
def counted_reads(storage, monkeypatch):
    """Count the batches of statements that are sent."""
    counts = {"read": 0, "write": 0}
    session = storage.items._session
    for name in counts:
        original = getattr(session, name)

        def counting(*args, name=name, original=original, **options):
            counts[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(session, name, counting)
    yield counts


def test_it_conforms(storage):
    @checkpointer_test(name="MemoryStorageSaver")
    async def saver():
        with ms.MemoryStorage.open(":memory:") as other:
            yield MemoryStorageSaver(storage.in_namespace("of the suite") if storage.settings.server else other)

    report = asyncio.run(validate(saver))
    assert {name: one.failures for name, one in report.results.items() if one.failures} == {}
    assert {name for name, one in report.results.items() if one.tests_passed} == CAPABILITIES
    assert report.passed_all_base()


def test_the_latest_checkpoint_has_the_greatest_id(saver):
    for number in (3, 10, 2, 9):
        put(saver, number)
    assert saver.get_tuple(THREAD).checkpoint["channel_values"] == {"n": 10}
    assert ids(saver.list(THREAD)) == [10, 9, 3, 2]
    before = {"configurable": {"thread_id": "1", "checkpoint_id": f"{9:08}"}}
    assert ids(saver.list(THREAD, before=before, limit=1)) == [3]


@pytest.mark.parametrize("shorter", ["a", "1f06a3b0"])
@in_memory
def test_of_ids_the_longer_one_is_greater(saver, shorter):
    for one in (shorter, shorter + "0"):
        saver.put(THREAD, empty_checkpoint() | {"id": one}, {}, {})
    assert [one.checkpoint["id"] for one in saver.list(THREAD)] == [shorter + "0", shorter]


@pytest.mark.parametrize("checkpoint_id", ["", "é", "a\nb", "x" * 201, 5])
@in_memory
def test_an_id_that_cannot_be_sorted_is_refused(saver, checkpoint_id):
    with pytest.raises(ValidationError) as caught:
        saver.put(THREAD, empty_checkpoint() | {"id": checkpoint_id}, {}, {})
    assert caught.value.field == "checkpoint_id"


@in_memory
def test_a_configuration_without_a_thread_is_refused(saver):
    with pytest.raises(ValidationError, match="thread_id"):
        saver.get_tuple({"configurable": {}})


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({"source": "loop"}, [3, 2, 1]),
        ({"step": {"$gte": 2}}, [3, 2]),
        ({"tags": ["a"]}, [2]),
        ({"more": {"x": 1}}, [3]),
        ({"more": None}, [2, 1]),
        ({"a.b": 1}, [1]),
        ({"source": "input"}, []),
    ],
)
def test_metadata_are_filtered(saver, filter_, expected):
    put(saver, 1, **{"a.b": 1})
    put(saver, 2, tags=["a"])
    put(saver, 3, tags=["a", "b"], more={"x": 1, "y": 2})
    assert ids(saver.list(THREAD, filter=filter_)) == expected
    assert ids(saver.list(THREAD, filter=filter_, limit=1)) == expected[:1]


@in_memory
def test_metadata_that_are_no_json_are_read_back_equal(saver):
    put(saver, 1, at={1, 2}, more={"text": "a\0b"})
    metadata = saver.get_tuple(THREAD).metadata
    assert metadata == {"source": "loop", "step": 1, "at": {1, 2}, "more": {"text": "a\0b"}}


def test_a_list_has_two_reads_however_many_checkpoints(saver, storage, monkeypatch):
    for number in range(30):
        saver.put_writes(put(saver, number), [("a", number), ("b", number)], "task")
    with counted_reads(storage, monkeypatch) as counts:
        tuples = list(saver.list(THREAD, limit=30))
    assert counts == {"read": 2, "write": 0}
    assert [one.pending_writes for one in tuples] == [
        [("task", "a", number), ("task", "b", number)] for number in reversed(range(30))
    ]


def test_round_trips_of_single_calls(saver, storage, monkeypatch):
    config = put(saver, 1)
    with counted_reads(storage, monkeypatch) as counts:
        put(saver, 2)
        assert counts == {"read": 0, "write": 1}
        saver.put_writes(config, [("a", 1), ("b", 2)], "task")
        assert counts == {"read": 0, "write": 2}
        saver.get_tuple(config)
        assert counts == {"read": 1, "write": 2}
        saver.get_tuple(THREAD)
        assert counts == {"read": 3, "write": 2}
        saver.delete_thread("1")
        assert counts == {"read": 3, "write": 3}


def test_more_writes_than_a_page_are_all_read():
    settings = ms.Settings(database=":memory:", limits={"query_default": 3, "query_maximum": 3})
    with ms.MemoryStorage.open(settings) as storage:
        saver = MemoryStorageSaver(storage)
        config = put(saver, 1)
        for task in range(5):
            saver.put_writes(config, [("a", 1), ("b", 2)], f"{task}")
        for found in (saver.get_tuple(config), saver.get_tuple(THREAD), *saver.list(THREAD)):
            assert found.pending_writes == [
                (f"{task}", name, n) for task in range(5) for name, n in (("a", 1), ("b", 2))
            ]


def test_the_first_write_of_a_position_stays_and_an_error_is_replaced(saver):
    config = put(saver, 1)
    saver.put_writes(config, [("a", 1), ("__error__", "first")], "task")
    saver.put_writes(config, [("a", 2), ("__error__", "second"), ("c", 3)], "task")
    expected = [("task", "__error__", "second"), ("task", "a", 1), ("task", "c", 3)]
    assert saver.get_tuple(config).pending_writes == expected


def test_writes_that_are_repeated_at_once_are_stored_once(saver):
    config = put(saver, 1)
    barrier = threading.Barrier(4)

    def write(_):
        barrier.wait()
        saver.put_writes(config, [("a", 1), ("b", 2)], "task")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert saver.get_tuple(config).pending_writes == [("task", "a", 1), ("task", "b", 2)]


def test_writes_are_in_the_order_of_their_tasks(saver):
    config = put(saver, 1)
    for task_id, path in (("x", "~2"), ("y", "~1"), ("z", "")):
        saver.put_writes(config, [(f"{n}", n) for n in range(12)], task_id, path)
    found = saver.get_tuple(config).pending_writes
    assert found == [(task, f"{n}", n) for task in "zyx" for n in range(12)]


def test_a_copy_has_the_writes_and_the_source_stays(storage):
    saver = MemoryStorageSaver(storage)
    for number in range(3):
        saver.put_writes(put(saver, number), [("a", number)], "task")
    put(saver, 7, {"configurable": {"thread_id": "1", "checkpoint_ns": "child:1"}})
    saver.copy_thread("1", "2")
    copy, source = (
        [(one.checkpoint, one.metadata, one.pending_writes) for one in saver.list({"configurable": {"thread_id": id_}})]
        for id_ in ("2", "1")
    )
    assert copy == source
    assert len(copy) == 4
    saver.delete_thread("1")
    assert saver.get_tuple(THREAD) is None
    assert storage.items.count((*THREADS_PATH, "1")) == 0
    assert storage.items.count((*THREADS_PATH, "2")) == 7


def test_a_paused_list_holds_no_lock(database):
    with ms.MemoryStorage.open(database) as storage, ms.MemoryStorage.open(database) as other:
        saver = MemoryStorageSaver(storage)
        for number in range(5):
            put(saver, number)
        listed = saver.list(THREAD)
        next(listed)
        put(MemoryStorageSaver(other), 9)
        assert len(list(listed)) == 4


def test_coroutines_list_in_pages(saver):
    async def main():
        for number in range(120):
            await saver.aput(THREAD, empty_checkpoint() | {"id": f"{number:08}"}, {"step": number}, {})
        every = [one async for one in saver.alist(THREAD)]
        some = [one async for one in saver.alist(THREAD, filter={"step": {"$lt": 50}}, limit=3)]
        none = [one async for one in saver.alist(THREAD, limit=0)]
        await saver.acopy_thread("1", "2")
        await saver.adelete_thread("1")
        return every, some, none, await saver.aget_tuple(THREAD)

    every, some, none, latest = asyncio.run(main())
    assert ids(every) == list(reversed(range(120)))
    assert ids(some) == [49, 48, 47]
    assert (none, latest) == ([], None)
    assert len(list(saver.list({"configurable": {"thread_id": "2"}}))) == 120


def test_a_saver_is_opened_by_a_path(database):
    with MemoryStorageSaver.from_conn_string(str(database)) as saver:
        put(saver, 1)
    with MemoryStorageSaver.from_conn_string(str(database)) as saver:
        assert ids(saver.list(None)) == [1]


def test_what_is_no_storage_is_refused():
    with pytest.raises(ConfigurationError, match="MemoryStorage"):
        MemoryStorageSaver("memory.db")
