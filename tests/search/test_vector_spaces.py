"""Vector spaces: no model blocks another namespace, none has to be there to search, and the first vector decides."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.search.hnsw.index import HnswIndex
from memory_storage.search.vectors import KnownSpaces
from tests.checks import assert_consistent, dump
from tests.raising import raises
from tests.search import work
from tests.search.conftest import at

WORDS = "refresh the token"
RACES = int(os.environ.get("MEMORY_STORAGE_TEST_RACES", "3"))


@pytest.fixture
def episode(storage: ms.MemoryStorage) -> ms.Episode:
    return storage.episodes.save(ms.Episode(task_description=WORDS))


def _seen(memory: ms.MemoryStorage, **options: Any) -> list[tuple[Any, ...]]:
    """What searches by words and a vector, and by the vector alone, give of one episode and one pattern."""
    found = []
    for items in (memory.episodes, memory.patterns):
        hybrid = items.search(WORDS, **{"vector": [1.0, 0.5], **options})
        found.append((hybrid.plan, hybrid.next_cursor, [(hit.score, hit.similarity, hit.method) for hit in hybrid]))
        alone = items.similar_to([1.0, 0.5], **options)
        found.append((alone.plan, alone.next_cursor, list(alone)))
    return found


def _fill(memory: ms.MemoryStorage) -> ms.MemoryStorage:
    memory.episodes.save(ms.Episode(task_description=WORDS))
    memory.patterns.save(ms.Heuristic(condition=WORDS, action="a"))
    return memory


class TestWithoutVectors:
    """A search by vector where there is none."""

    @pytest.mark.parametrize("with_embedder", [False, True])
    def test_recall_act_record_embed_on_an_empty_memory(self, storage, with_embedder):
        embedder = HashingEmbedder(16)
        options: dict[str, Any] = {"embedder": embedder} if with_embedder else {}
        for memory in (storage, storage.in_namespace("fresh")):
            for items in (memory.episodes, memory.patterns):
                assert list(items.search(WORDS, **options)) == []
                assert list(items.similar_to(embedder.embed_query(WORDS), model=embedder.model)) == []
            episode = memory.episodes.save(ms.Episode(task_description=WORDS))
            assert [hit.item.id for hit in memory.episodes.search(WORDS, **options)] == [episode.id]
            memory.episodes.complete(episode.id, ms.Success(verdict="done"))
            if with_embedder:
                assert memory.embeddings.embed(embedder) == 1
                assert memory.embeddings.embed(embedder) == 0
            assert [hit.item.id for hit in memory.episodes.search(WORDS, **options)] == [episode.id]

    @pytest.mark.parametrize("model", ["m", None])
    def test_others_vectors_make_no_difference(self, storage, model):
        own = _fill(storage)
        before = _seen(own, model=model)
        assert [len(row[2]) for row in before] == [1, 0, 1, 0]
        for dimension in (3, 2):
            other = _fill(storage.in_namespace(f"other {dimension}"))
            owner = next(other.episodes.iterate()).id
            other.embeddings.put("episode", owner, [1.0] * dimension, model="m")
            assert _seen(own, model=model) == before

    def test_vectors_that_were_deleted_make_no_difference(self, storage):
        own = _fill(storage)
        before = _seen(own, model="m")
        owner = next(own.episodes.iterate()).id
        own.embeddings.put("episode", owner, [1.0, 2.0, 3.0], model="m")
        own.embeddings.delete("episode", owner, model="m")
        assert _seen(own, model="m") == before

    @pytest.mark.parametrize("source", ["hnsw", "diskann", "exact"])
    def test_each_kind_of_index_finds_by_words(self, database, source):
        with ms.MemoryStorage.open(at(database, source)) as storage:
            own = _fill(storage)
            before = _seen(own, model="m")
            owner = next(own.episodes.iterate()).id
            own.embeddings.put("episode", owner, [1.0, 2.0], model="m")
            own.embeddings.delete("episode", owner, model="m")
            assert _seen(own, model="m") == before

    def test_in_a_transaction_and_in_a_snapshot_too(self, storage):
        _fill(storage)
        before = _seen(storage, model="m")
        with storage.transaction() as tx:
            assert _seen(tx, model="m") == before
        with storage.snapshot() as snapshot:
            assert _seen(snapshot, model="m") == before

    @pytest.mark.slow
    def test_where_an_index_compares_other_dimensions(self, on_file):
        empty = _fill(on_file.storage.in_namespace("empty"))
        assert [len(row[2]) for row in _seen(empty, model="m", mode="index")] == [1, 0, 1, 0]

    @pytest.mark.slow
    def test_unknown_models_leave_nothing_behind(self, database):
        with ms.MemoryStorage.open(at(database, "hnsw")) as storage:
            for number in range(60):
                storage.episodes.similar_to([1.0, 2.0], model=f"unknown {number}")
                storage.episodes.search(WORDS, vector=[1.0, 2.0], model=f"unknown {number}")
                storage.embeddings.find("episode", uuid4(), model=f"unknown {number}")
            gc.collect()
            left = [one for one in gc.get_objects() if type(one) is HnswIndex]
            assert not [one for one in left if one._indexes is storage._context.memory]


class TestDimensions:
    """The first vector that is stored decides, in its namespace."""

    def test_namespaces_use_a_model_with_dimensions_of_their_own(self, storage):
        sizes = {"a": 2, "b": 3, "c": 384, "d": 3}
        owners = {}
        for name, size in sizes.items():
            memory = _fill(storage.in_namespace(name))
            owners[name] = next(memory.episodes.iterate()).id
            memory.embeddings.put("episode", owners[name], [1.0] * size, model="m")
        for name, size in sizes.items():
            memory = storage.in_namespace(name)
            assert memory.embeddings.models() == {"m": size}
            assert memory.embeddings.index.dimension("m") == size
            assert memory.embeddings.get("episode", owners[name], model="m").dimension == size
            assert [one.dimension for one in memory.embeddings.iterate()] == [size]
            assert [hit.similarity for hit in memory.episodes.similar_to([1.0] * size)] == [pytest.approx(1.0)]
            for wrong in {2, 3, 4, 384} - {size}:
                vector, key = [1.0] * wrong, owners[name]
                for call in (
                    partial(memory.episodes.similar_to, vector, model="m"),
                    partial(memory.patterns.similar_to, vector),
                    partial(memory.episodes.search, WORDS, vector=vector, model="m"),
                    partial(memory.patterns.search, WORDS, vector=vector),
                    partial(memory.episodes.search, "nothing", vector=vector, model="m"),
                    partial(memory.embeddings.put, "episode", key, vector, model="m"),
                ):
                    with raises(ms.ValidationError, field="vector", match=f"{size} numbers") as caught:
                        call()
                    assert (caught.value.field, caught.value.value) == ("vector", wrong)
        assert {(one.name, one.dimension, one.vectors) for one in storage.embeddings.index.status()} == {
            ("m", 2, 1),
            ("m", 3, 1),
            ("m", 384, 1),
        }
        assert_consistent(storage.engine)

    def test_a_refused_vector_decides_nothing(self, storage, episode):
        before = dump(storage.engine)
        with raises(ms.NotFoundError, kind="episode"):
            storage.embeddings.put("episode", uuid4(), [1.0, 2.0], model="m")
        items: list[Any] = [("episode", episode.id, [1.0, 2.0]), ("step", uuid4(), [1.0, 2.0])]
        with raises(ms.NotFoundError, kind="step"):
            storage.embeddings.put_many(items, model="m")
        orphan = ms.models.Embedding(owner_type="episode", owner_id=uuid4(), model="m", vector=[1.0, 2.0])
        with raises(ms.NotFoundError, kind="episode"):
            storage.embeddings.import_many([orphan])
        assert dump(storage.engine) == before
        storage.embeddings.put("episode", episode.id, [1.0, 2.0, 3.0], model="m")
        assert storage.embeddings.models() == {"m": 3}

    @pytest.mark.parametrize("remove", ["delete", "forget", "delete the episode"])
    def test_a_model_without_vectors_may_change_its_dimension(self, storage, episode, remove):
        storage.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
        if remove == "delete":
            storage.embeddings.delete("episode", episode.id, model="m")
        elif remove == "forget":
            storage.forget(namespace=storage.namespace)
        else:
            storage.episodes.delete(episode.id)
        new = storage.episodes.save(ms.Episode(task_description="new"))
        for dimension in (3, 2, 5):
            storage.embeddings.put("episode", new.id, [1.0] * dimension, model="m")
            assert storage.embeddings.models() == {"m": dimension}
            assert len(storage.episodes.similar_to([1.0] * dimension, model="m")) == 1
            assert storage.embeddings.delete("episode", new.id, model="m")
        assert_consistent(storage.engine)

    def test_a_rolled_back_first_vector_decides_nothing(self, storage, episode):
        with suppress(RuntimeError), storage.transaction() as tx:
            tx.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
            assert tx.embeddings.models() == {"m": 2}
            raise RuntimeError
        storage.embeddings.put("episode", episode.id, [1.0, 2.0, 3.0], model="m")
        assert storage.embeddings.models() == {"m": 3}
        assert storage.embeddings.get("episode", episode.id, model="m").dimension == 3

    def test_another_client_follows_a_changed_dimension(self, shared, episode_of):
        first, second = shared
        key = episode_of(first)
        other = first.in_namespace("other")
        other.embeddings.put("episode", episode_of(other), [1.0, 2.0], model="m")
        for dimension in (3, 4, 2, 5):
            first.embeddings.put("episode", key, [1.0] * dimension, model="m")
            assert second.embeddings.get("episode", key, model="m").dimension == dimension
            assert len(second.episodes.similar_to([1.0] * dimension, model="m")) == 1
            assert len(second.episodes.search("nothing", vector=[1.0] * dimension, model="m")) == 1
            second.embeddings.put("episode", key, [2.0] * dimension, model="m")
            first.embeddings.delete("episode", key, model="m")
            assert second.embeddings.find("episode", key, model="m") is None
            assert list(second.episodes.similar_to([1.0] * dimension, model="m")) == []

    def test_a_first_vector_that_is_stored_during_a_search_is_found(self, shared, episode_of, monkeypatch):
        """The search meets no table, and then a space: that is no damage."""
        first, second = shared
        key, pending, look_up = episode_of(first), ["m"], KnownSpaces.look_up

        def late(spaces: KnownSpaces, session: Any, model: str) -> Any:
            while pending:
                second.embeddings.put("episode", key, [1.0, 2.0], model=pending.pop())
            return look_up(spaces, session, model)

        monkeypatch.setattr(KnownSpaces, "look_up", late)
        assert [hit.item.id for hit in first.episodes.similar_to([1.0, 2.0], model="m")] == [key]
        assert not pending

    def test_a_table_that_is_missing_is_reported(self, storage, episode):
        storage.embeddings.put("episode", episode.id, [1.0, 2.0], model="m")
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {VectorSpace('m').table}")
        with raises(ms.SchemaError, match="no such table"):
            storage.episodes.similar_to([1.0, 2.0], model="m")

    def test_one_of_two_first_vectors_wins(self, shared, episode_of):
        for number in range(RACES):
            owners = [(memory, episode_of(memory), size) for memory, size in zip(shared, (2, 3), strict=True)]
            barrier, errors, model = threading.Barrier(2), {}, f"m{number}"
            threads = [threading.Thread(target=_put_first, args=(barrier, errors, model, *owner)) for owner in owners]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ((loser, error),) = errors.items()
            winner = 5 - loser
            assert (error.field, error.value) == ("vector", loser)
            assert f"{winner} numbers" in str(error)
            assert shared[0].embeddings.models()[model] == winner
        assert_consistent(shared[0].engine)

    @pytest.mark.slow
    def test_first_vectors_of_two_namespaces_both_win(self, database):
        with ms.MemoryStorage.open(database) as storage:
            views = {name: _fill(storage.in_namespace(name)) for name in ("a", "b")}
            keys = {name: next(view.episodes.iterate()).id for name, view in views.items()}
        spawned = multiprocessing.get_context("spawn")
        barrier = spawned.Barrier(2)
        arguments = [(barrier, database, "a", keys["a"], 2), (barrier, database, "b", keys["b"], 3)]
        processes = [spawned.Process(target=work.put_first, args=one) for one in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        with ms.MemoryStorage.open(database) as storage:
            assert storage.in_namespace("a").embeddings.models() == {f"m{n}": 2 for n in range(RACES)}
            assert storage.in_namespace("b").embeddings.models() == {f"m{n}": 3 for n in range(RACES)}
            assert_consistent(storage.engine)

    def test_indexes_are_kept_for_each_dimension(self, database):
        with ms.MemoryStorage.open(at(database, "hnsw")) as storage:
            for name, size in (("a", 2), ("b", 3)):
                memory = _fill(storage.in_namespace(name))
                memory.embeddings.put("episode", next(memory.episodes.iterate()).id, [1.0] * size, model="m")
            index = storage.in_namespace("b").embeddings.index
            assert index.verify("m").model.dimension == 3
            assert index.verify("m", dimension=2).model.dimension == 2
            assert index.costs("m", dimension=2)["hnsw"].memory < index.costs("m")["hnsw"].memory
            with pytest.raises(ms.ValidationError, match="2, 3") as caught:
                storage.in_namespace("c").embeddings.index.verify("m")
            assert caught.value.field == "dimension"
            with raises(ms.NotFoundError, kind="embedding model 'm' of dimension", match="4"):
                index.verify("m", dimension=4)
            assert (index.catch_up("m"), index.rebuild("m"), index.switch_to("hnsw", model="m")) == (0, 0, 0)


def _put_first(barrier: Any, errors: dict[int, Any], model: str, memory: Any, owner: Any, size: int) -> None:
    barrier.wait()
    try:
        memory.embeddings.put("episode", owner, [1.0] * size, model=model)
    except ms.ValidationError as error:
        errors[size] = error


def test_no_text_of_a_caller_is_in_the_schema(storage, episode):
    storage.in_namespace("x'; DROP").episodes.save(episode.model_copy(update={"version": 0}))
    for memory, vector in ((storage, [1.0, 2.0]), (storage.in_namespace("x'; DROP"), [1.0, 2.0, 3.0])):
        memory.embeddings.put("episode", episode.id, vector, model="x'; DROP TABLE episodes;--")
    with storage.engine.connect() as connection:
        schema = connection.exec_driver_sql("SELECT group_concat(sql) FROM sqlite_master").scalar_one()
    assert "DROP" not in schema
    assert VectorSpace("x'; DROP TABLE episodes;--", 3).table in schema


@pytest.fixture
def shared(storage: ms.MemoryStorage, request: pytest.FixtureRequest) -> Any:
    """Two clients of one database."""
    if storage.settings.database == ":memory:":
        yield storage, storage
        return
    with ms.MemoryStorage.open(storage.settings) as second:
        yield storage, second


@pytest.fixture
def episode_of() -> Any:
    """Saves an episode."""
    return lambda memory: memory.episodes.save(ms.Episode(task_description=WORDS)).id
