"""Items and logs when the response of a server is lost after the commit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import memory_storage as ms
from memory_storage.models import GetItem, PutItem
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises


@pytest.fixture
def faulty(sqld: Sqld, migrated_server_url: str) -> Iterator[tuple[Proxy, ms.MemoryStorage]]:
    with (
        Proxy(sqld.port) as line,
        ms.MemoryStorage.open(migrated_server_url.replace(f":{sqld.port}/", f":{line.port}/")) as storage,
    ):
        storage.logs.append("log", ["a", "b", "c"])
        storage.items.put((), "k", "before", ttl=1e6)
        yield line, storage
        assert line.cuts == 1


def test_an_append_is_stored_once(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    assert storage.logs.append("log", ["d", "e"]) == [4, 5]
    assert [one.value for one in storage.logs.read("log")] == ["a", "b", "c", "d", "e"]


def test_a_pop_says_that_its_record_is_lost(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    with raises(ms.CommitUnknownError, code="RESULT_LOST"):
        storage.logs.pop("log")
    assert [one.value for one in storage.logs.read("log")] == ["a", "b"]


def test_a_put_returns_what_is_stored(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    item = storage.items.put((), "k", "after")
    assert item == storage.items.get((), "k")
    assert item.version == 2


def test_a_batch_that_reads_and_writes_says_what_is_lost(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    with raises(ms.CommitUnknownError, code="RESULT_LOST"):
        storage.items.batch([GetItem(key="k"), PutItem(key="k", value="after")])
    assert storage.items.get((), "k").value == "after"


def test_a_read_that_refreshes_is_repeated(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    item = storage.items.get((), "k", refresh=True)
    assert item == storage.items.get((), "k")


def test_deletes_count_what_was_there(faulty):
    line, storage = faulty
    line.cut_reply_after(0, times=1)
    assert storage.items.delete((), "k") is True
    assert storage.logs.clear("log") == 3
