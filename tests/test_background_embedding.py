"""A storage that owns its embedder: what is saved is embedded, once, outside of transactions, and nothing is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from tests.raising import raises

MODEL = "counted"


class CountingEmbedder:
    """Keeps the texts that it was asked for; may fail, refuse a text, or call something."""

    model = MODEL

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fails: Exception | None = None
        self.refused = "nothing has this"
        self.during: Callable[[], object] = lambda: None
        self._hashing = HashingEmbedder(64)

    def embed(self, texts):
        self.during()
        if self.fails:
            raise self.fails
        if any(self.refused in text for text in texts):
            raise ValueError(f"cannot embed {self.refused!r}")
        self.texts += texts
        return self._hashing.embed(texts)

    def embed_query(self, text):
        if self.fails:
            raise self.fails
        return self._hashing.embed_query(text)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
def opened(target: str, embedder: CountingEmbedder) -> Iterator[ms.MemoryStorage]:
    """An empty storage with the embedder, which embeds in the background without delay, on each backend."""
    with ms.MemoryStorage.open(ms.Settings(database=target, embed_delay=0.01), embedder=embedder) as storage:
        yield storage


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def vectors(storage: ms.MemoryStorage) -> int:
    return storage.embeddings.count(model=MODEL)


def test_what_is_saved_is_embedded_in_the_background(opened, make_episode):
    opened.episodes.save_many([make_episode(task_description=f"Fix test {n}") for n in range(3)])
    opened.patterns.save(ms.Heuristic(condition="a test is flaky", action="freeze the clock", confidence=0.9))
    wait_for(lambda: vectors(opened) == 4)
    hits = opened.episodes.similar_to("Fix test 2", k=1)
    assert [hit.item.task_description for hit in hits] == ["Fix test 2"]
    assert opened.patterns.similar_to("freeze the clock")[0].similarity > 0.3


def test_a_text_is_embedded_again_only_if_it_has_changed(opened, embedder, make_episode):
    episode = opened.episodes.save(make_episode())
    assert opened.embeddings.flush() + opened.embedding_status().embedded >= 1
    before = list(embedder.texts)
    opened.episodes.append_step(episode.id, ms.Step(tool="pytest"))
    opened.episodes.save(opened.episodes.get(episode.id).model_copy(update={"metadata": {"not": "in the text"}}))
    opened.embeddings.flush()
    assert embedder.texts == before
    opened.episodes.complete(episode.id, ms.Success(verdict="the clock was real"))
    opened.embeddings.flush()
    assert [text for text in embedder.texts if "the clock was real" in text] == embedder.texts[len(before) :] != []


def test_on_save_the_vector_is_there_when_the_save_returns(target, embedder, make_episode):
    with ms.MemoryStorage.open(ms.Settings(database=target, embed="on_save"), embedder=embedder) as storage:
        storage.episodes.save(make_episode())
        assert vectors(storage) == 1
        with storage.transaction() as tx:
            tx.episodes.save(make_episode())
            assert len(embedder.texts) == 1
        assert vectors(storage) == 2
        with pytest.raises(ZeroDivisionError), storage.transaction() as tx:
            tx.episodes.save(make_episode(steps=1 // (tx.episodes.save(make_episode()).version - 1)))
        assert len(embedder.texts) == 2


def test_manually_only_a_flush_embeds(target, embedder, make_episode):
    with ms.MemoryStorage.open(target, embedder=embedder, embed="manually") as storage:
        storage.episodes.save(make_episode())
        assert storage.embedding_status().pending == 1
        assert embedder.texts == []
        assert storage.embeddings.flush() == 1
        assert storage.embedding_status().pending == 0


def test_what_is_saved_during_a_flush_stays_pending(target, embedder, make_episode):
    with ms.MemoryStorage.open(target, embedder=embedder, embed="manually") as storage:
        storage.episodes.save(make_episode())
        late = [make_episode(id=UUID(int=1))]  # before those that are read next
        embedder.during = lambda: late and storage.episodes.save(late.pop())
        assert storage.embeddings.flush() == 1
        assert storage.embedding_status().pending == 1
        embedder.fails = ConnectionError("no route")
        with pytest.raises(ConnectionError):
            storage.embeddings.flush()
        assert storage.embedding_status().pending == 1
        embedder.fails = None
        assert storage.embeddings.flush() == 1
        assert storage.embedding_status().pending == 0


def test_no_transaction_is_open_while_the_embedder_works(tmp_path, embedder, make_episode):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(path) as other, ms.MemoryStorage.open(path, embedder=embedder, embed="on_save") as own:
        embedder.during = lambda: other.episodes.save(make_episode())  # it would wait for a lock, and fail
        own.episodes.save(make_episode())
        assert other.episodes.count() == 2
        assert vectors(own) == 1


def test_a_failing_embedder_loses_nothing_and_is_seen(opened, embedder, make_episode, caplog):
    embedder.fails = ConnectionError("no route")
    opened.episodes.save_many([make_episode() for _ in range(5)])
    wait_for(lambda: opened.embedding_status().last_error)
    status, health = opened.embedding_status(), opened.health_check()
    assert status.last_error == "ConnectionError: no route"
    assert health.status == "degraded"
    assert "no route" in health.reason
    assert health.embedding.pending == 5 or health.embedding.is_searching
    with pytest.raises(ConnectionError, match="no route"):
        opened.embeddings.flush()
    embedder.fails = None
    assert opened.embeddings.flush() == 5
    wait_for(lambda: opened.health_check().status == "healthy")
    assert opened.embedding_status().pending == 0
    assert len([record for record in caplog.records if "no route" in record.message]) == 1


def test_on_save_a_failing_embedder_does_not_fail_the_save(target, embedder, make_episode):
    embedder.fails = ConnectionError("no route")
    settings = ms.Settings(database=target, embed="on_save", embed_delay=0.01)
    with ms.MemoryStorage.open(settings, embedder=embedder) as storage:
        episode = storage.episodes.save(make_episode())
        assert storage.episodes.get(episode.id).version == 1
        embedder.fails = None
        wait_for(lambda: vectors(storage) == 1)


@pytest.mark.slow
def test_one_text_that_is_refused_does_not_block_the_others(tmp_path, embedder, make_episode):
    embedder.refused = "poison"
    settings = ms.Settings(database=str(tmp_path / "memory.db"), embed_delay=0.01)
    with ms.MemoryStorage.open(settings, embedder=embedder) as storage:
        wait_for(lambda: not storage.embedding_status().is_searching)
        storage.episodes.save_many([make_episode(task_description=f"Fix {what}") for what in ("a", "poison", "b", "c")])
        wait_for(lambda: vectors(storage) == 3)
        wait_for(lambda: storage.embedding_status().refused == 1)
        with pytest.raises(ValueError, match="poison"):
            storage.embeddings.flush()
        embedder.refused = "nothing"
        assert storage.embeddings.flush() == 1
        assert storage.embedding_status().refused == 0


def test_what_was_not_embedded_is_when_the_storage_is_opened_again(tmp_path, embedder, make_episode):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(path) as storage:  # as if the process had been killed before it was embedded
        storage.episodes.save(make_episode())
    with ms.MemoryStorage.open(ms.Settings(database=str(path), embed_delay=0.0), embedder=embedder) as storage:
        wait_for(lambda: vectors(storage) == 1)


def test_closing_embeds_what_is_pending(tmp_path, embedder, make_episode):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(ms.Settings(database=str(path), embed_delay=30), embedder=embedder) as storage:
        storage.episodes.save(make_episode())
    with ms.MemoryStorage.open(path) as storage:
        assert vectors(storage) == 1


@pytest.mark.slow
def test_closing_does_not_wait_for_an_embedder_that_hangs(tmp_path, embedder, make_episode, monkeypatch, caplog):
    monkeypatch.setattr("memory_storage.background_embedding._CLOSING_SECONDS", 0.2)
    begun, answered = threading.Event(), threading.Event()
    embedder.during = lambda: begun.set() or answered.wait(60)
    storage = ms.MemoryStorage.open(ms.Settings(database=str(tmp_path / "m.db"), embed_delay=0), embedder=embedder)
    storage.episodes.save(make_episode())
    assert begun.wait(20)
    since = time.monotonic()
    storage.close()
    assert time.monotonic() - since < 10
    assert "not embedded yet: 1 text" in caplog.text
    answered.set()


def test_each_namespace_has_its_own_vectors(opened, make_episode):
    other = opened.in_namespace("other")
    other.episodes.save(make_episode())
    wait_for(lambda: vectors(other) == 1)
    assert vectors(opened) == 0


def test_a_text_needs_an_embedder(storage):
    with raises(ms.ConfigurationError, match="open the storage with embedder"):
        storage.episodes.similar_to("text")
    with raises(ms.ConfigurationError, match="this storage has none"):
        storage.embeddings.flush()
    assert storage.embedding_status() is None
    assert storage.health_check().embedding is None


def test_a_text_has_the_model_of_the_embedder(opened):
    with raises(ms.ValidationError, field="model"):
        opened.episodes.similar_to("text", model="another")
    with opened.transaction() as tx, raises(ms.ValidationError, field="flush"):
        tx.embeddings.flush()


def test_an_empty_memory_has_no_hits(opened):
    assert list(opened.episodes.similar_to("text")) == list(opened.episodes.search("text")) == []


def test_a_search_uses_the_embedder_and_words_alone_without_it(opened, embedder, make_episode):
    opened.episodes.save(make_episode(task_description="Fix the login"))
    opened.embeddings.flush()
    assert opened.episodes.search("login")[0].method == "hybrid"
    assert opened.episodes.search("login", weights=ms.Weights(vector=0))[0].method == "text"
    embedder.fails = ConnectionError("no route")
    assert opened.episodes.search("login")[0].method == "text"
    assert opened.embedding_status().last_error == "ConnectionError: no route"
    with pytest.raises(ConnectionError):
        opened.episodes.similar_to("login")


def test_an_embedder_is_chosen_by_name_or_by_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(path, embedder="hashing") as storage:
        assert storage.embedding_status().model == "hashing-384"
    monkeypatch.setenv("MEMORY_STORAGE_EMBEDDER", "hashing")
    with ms.MemoryStorage.open(path) as storage:
        assert storage.embedding_status().mode == "in_background"
    with raises(ms.ConfigurationError, match="embedder: must be one of hashing, openai"):
        ms.MemoryStorage.open(path, embedder="word2vec")
    with raises(ms.ValidationError, field="embedder"):
        ms.MemoryStorage.open(path, embedder=len)


def test_many_saving_threads_leave_nothing_behind(opened, make_episode):
    def save():
        for _ in range(20):
            opened.episodes.save(make_episode(steps=0))

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: vectors(opened) == 80)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.slow
def test_a_forked_child_embeds_what_it_saves(tmp_path: Path, embedder, make_episode):
    settings = ms.Settings(database=str(tmp_path / "memory.db"), embed_delay=0.01)
    with ms.MemoryStorage.open(settings, embedder=embedder) as storage:
        storage.episodes.save(make_episode())
        wait_for(lambda: vectors(storage) == 1)
        child = os.fork()
        if not child:
            storage.episodes.save(make_episode())
            for _ in range(500):
                if vectors(storage) == 2:
                    os._exit(0)
                time.sleep(0.01)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
