"""What other stores of LangGraph have been seen to do wrong, and this one has to do right."""

from __future__ import annotations

import threading
import time

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp

import memory_storage as ms
from memory_storage.errors import ValidationError
from memory_storage.integrations.langgraph import STORE_PATH, MemoryStorageStore
from tests.backends import in_memory

from .embeddings import INDEX, LetterEmbeddings, letters


@in_memory
def test_only_the_fields_of_the_index_are_embedded(storage):
    embeddings = LetterEmbeddings()
    store = MemoryStorageStore(storage, index={"dims": 8, "embed": embeddings, "fields": ["title", "tags[*].name"]})
    store.put(("docs",), "1", {"title": "abc", "body": "hidden", "tags": [{"name": "d"}, {"name": "e"}]})
    assert embeddings.texts == ["abc", "d", "e"]


def test_a_batch_that_fails_changes_nothing(storage):
    store = MemoryStorageStore(storage, index=INDEX)
    store.put(("docs",), "old", {"text": "a"})
    puts = [PutOp(("docs",), "old", None), PutOp(("docs",), "new", {"text": "b"}), PutOp(("docs",), "bad", {"x": {1}})]
    with pytest.raises(ValidationError):
        store.batch(puts)
    assert [(item.key, item.value) for item in store.search(("docs",))] == [("old", {"text": "a"})]
    assert [hit.key for hit in store.search(("docs",), query="b")] == ["old"]


def test_a_vector_of_a_wrong_dimension_is_refused_with_its_item(storage):
    sizes = {"bad": 3}

    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0] * sizes.get(text, 8) for text in texts]

    store = MemoryStorageStore(storage, index={"dims": 8, "embed": embed, "fields": ["text"]})
    store.put(("docs",), "good", {"text": "a"})
    with pytest.raises(ValidationError, match="8 dimensions"):
        store.put(("docs",), "bad", {"text": "bad"})
    assert store.get(("docs",), "bad") is None
    assert [hit.key for hit in store.search(("docs",), query="a")] == ["good"]


def test_a_vector_of_another_dimension_than_the_stored_ones_is_refused(storage):
    MemoryStorageStore(storage, index=INDEX).put(("docs",), "good", {"text": "a"})
    other = MemoryStorageStore(storage, index={"dims": 2, "embed": lambda texts: [[1.0, 0.0] for _ in texts]})
    with pytest.raises(ValidationError, match="8 numbers"):
        other.put(("docs",), "bad", {"text": "a"})
    assert [item.key for item in other.search(("docs",))] == ["good"]


def test_the_nearest_item_comes_first_with_the_best_score(storage):
    store = MemoryStorageStore(storage, index=INDEX)
    for key, text in (("far", "hhh"), ("near", "aab"), ("same", "aaa")):
        store.put(("docs",), key, {"text": text})
    hits = store.search(("docs",), query="aaa")
    assert [hit.key for hit in hits] == ["same", "near", "far"]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score == pytest.approx(1)


def test_pages_of_a_search_go_to_its_end(storage):
    store = MemoryStorageStore(storage, index=INDEX)
    store.batch([PutOp(("docs",), f"{n:02}", {"text": "a" * (n + 1) + "b"}) for n in range(25)])
    every = [hit.key for hit in store.search(("docs",), query="a", limit=25)]
    paged = [hit.key for start in range(0, 30, 3) for hit in store.search(("docs",), query="a", limit=3, offset=start)]
    assert paged == every
    assert len(set(every)) == 25


def test_an_item_with_many_vectors_does_not_displace_others(storage):
    store = MemoryStorageStore(storage, index={**INDEX, "fields": ["parts[*]"]})
    for key in "1234":
        store.put(("docs",), key, {"parts": ["aaaaa"] * 10 if key == "1" else ["b", "aaaab"]})
    hits = store.search(("docs",), query="aaaaa", limit=3)
    assert hits[0].key == "1"
    assert len({hit.key for hit in hits}) == 3
    assert [round(hit.score, 2) for hit in hits] == [1, 0.97, 0.97]  # of the nearest vector of each


def test_no_vector_outlives_its_item_or_its_text(storage):
    store = MemoryStorageStore(storage, index=INDEX)
    store.put(("docs",), "deleted", {"text": "a"})
    store.delete(("docs",), "deleted")
    store.put(("docs",), "unindexed", {"text": "a"})
    store.put(("docs",), "unindexed", {"text": "b"}, index=False)
    assert store.search(("docs",), query="a") == []
    assert list(storage.items.iterate_vectors()) == []


def test_an_update_keeps_the_time_of_creation(storage):
    store = MemoryStorageStore(storage)
    store.put(("docs",), "1", {"n": 1})
    first = store.get(("docs",), "1")
    store.put(("docs",), "1", {"n": 2})
    second = store.get(("docs",), "1")
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


@pytest.mark.parametrize("omit_expired", [True, False])
def test_expired_items_are_not_returned(storage, omit_expired):
    store = MemoryStorageStore(storage, ttl={"omit_expired": omit_expired, "refresh_on_read": False})
    store.put(("docs", "soon"), "1", {"n": 1}, ttl=0.05 / 60)
    time.sleep(0.06)
    assert store.get(("docs", "soon"), "1") is None
    assert store.search(("docs",)) == []
    assert store.list_namespaces() == []
    assert store.sweep_ttl() == 1


@in_memory
def test_vectors_need_no_loadable_extension(storage, monkeypatch):
    import sqlite3

    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("the standard module has no vectors"))
    store = MemoryStorageStore(storage, index=INDEX)
    store.put(("docs",), "1", {"text": "a"})
    assert store.search(("docs",), query="a")[0].score == pytest.approx(1)


def test_no_transaction_is_open_while_texts_are_embedded(database):
    with ms.MemoryStorage.open(database) as storage, ms.MemoryStorage.open(database) as other:
        written = threading.Event()

        def embed(texts: list[str]) -> list[list[float]]:
            other.items.put((*STORE_PATH, "docs"), "other", {"n": 1})
            written.set()
            return letters(texts)

        store = MemoryStorageStore(storage, index={"dims": 8, "embed": embed, "fields": ["text"]})
        store.batch([GetOp(("docs",), "1"), PutOp(("docs",), "1", {"text": "a"}), SearchOp(("docs",), query="a")])
        assert written.is_set()
        assert {item.key for item in store.search(("docs",))} == {"1", "other"}
