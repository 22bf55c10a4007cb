"""Embedding what is stored, and embedding it again by another model: in batches, outside of transactions, resumable."""

from __future__ import annotations

import pytest

import memory_storage as ms
from memory_storage.embedders import FunctionEmbedder, HashingEmbedder
from tests.checks import assert_consistent
from tests.durability.processes import killed

from . import work


class Watched(HashingEmbedder):
    """Counts what it is given, and may fail after so many texts."""

    def __init__(
        self, dimension: int = 16, *, fails_after: int = 10**9, storage: ms.MemoryStorage | None = None
    ) -> None:
        super().__init__(dimension)
        self.batches: list[int] = []
        self._fails_after, self._storage = fails_after, storage

    def embed(self, texts):
        if self._storage is not None:  # a transaction would hold the lock against this
            self._storage.in_namespace("elsewhere").episodes.save(ms.Episode(task_description="while embedding"))
        if sum(self.batches) + len(texts) > self._fails_after:
            raise RuntimeError("the model is down")
        self.batches.append(len(texts))
        return super().embed(texts)


@pytest.fixture
def episodes(storage, make_episode) -> list[ms.Episode]:
    return storage.episodes.save_many([make_episode(2, task_description=f"task {number}") for number in range(25)])


def test_what_has_no_vector_gets_one_and_then_nothing_is_left_to_do(storage, episodes, make_episode):
    embedder = Watched()
    assert storage.embeddings.embed(embedder, batch_size=10) == 25
    assert embedder.batches == [10, 10, 5]
    assert storage.embeddings.embed(embedder) == 0
    new = storage.episodes.save(make_episode())
    assert storage.embeddings.embed(embedder) == 1
    assert storage.embeddings.get("episode", new.id, model=embedder.model).dimension == 16
    assert storage.in_namespace("elsewhere").embeddings.embed(embedder) == 0
    assert_consistent(storage.engine)


def test_steps_and_patterns_too(storage, episodes):
    storage.patterns.save_many([ms.Heuristic(condition=f"c{number}", action="a") for number in range(7)])
    embedder = Watched()
    assert storage.embeddings.embed(embedder, owner_type="step") == 50
    assert storage.embeddings.embed(embedder, owner_type="pattern") == 7
    assert storage.embeddings.count() == 57
    hits = storage.episodes.similar_to(embedder.embed_query("action 1"), k=25)
    assert len({hit.item.id for hit in hits}) == 25


def test_the_text_may_be_chosen_and_is_handed_over_as_a_whole(storage, make_episode):
    storage.episodes.save(make_episode(task_description="x" * 5_000))
    seen = []
    embedder = FunctionEmbedder(lambda texts: [[1.0, float(len(text))] for text in seen.__iadd__(texts)], model="f")
    storage.embeddings.embed(embedder, text_of=lambda episode: episode.task_description)
    assert seen == ["x" * 5_000]


def test_a_model_that_fails_keeps_what_was_done_before(storage, episodes):
    with pytest.raises(RuntimeError, match="the model is down"):
        storage.embeddings.embed(Watched(fails_after=20), batch_size=10)
    assert storage.embeddings.count() == 20
    assert storage.embeddings.embed(Watched(), batch_size=10) == 5
    assert_consistent(storage.engine)


def test_the_model_is_called_outside_of_transactions(storage, episodes):
    assert storage.embeddings.embed(Watched(storage=storage), batch_size=10) == 25
    assert storage.in_namespace("elsewhere").episodes.count() == 3


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (lambda texts: [[1.0, 2.0]] * (len(texts) - 1), "vectors"),
        (lambda texts: [[]] * len(texts), "vector"),
        (lambda texts: [[float("nan")]] * len(texts), "vector"),
        (lambda texts: [[1.0] * (1 + number % 2) for number, _ in enumerate(texts)], "items.1.vector"),
    ],
)
def test_an_embedder_that_gives_nonsense_is_named_and_nothing_is_stored(storage, episodes, given, field):
    with pytest.raises(ms.ValidationError) as caught:
        storage.embeddings.embed(FunctionEmbedder(given, model="f"))
    assert caught.value.field == field
    assert storage.embeddings.count() == 0


@pytest.mark.parametrize("size", [0, -1, 1_001, None, 1.5, True])
def test_the_size_of_a_batch_is_bounded(storage, size):
    with pytest.raises(ms.ValidationError, match="batch_size"):
        storage.embeddings.embed(Watched(), batch_size=size)


class TestAgain:
    """`reembed`: from one model to another."""

    @pytest.fixture
    def old(self, storage, episodes) -> Watched:
        pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
        embedder = Watched(16)
        storage.embeddings.embed(embedder)
        storage.embeddings.put("step", episodes[0].steps[0].id, [1.0] * 16, model=embedder.model)
        storage.embeddings.put("pattern", pattern.id, [1.0] * 16, model=embedder.model)
        return embedder

    def test_all_that_have_a_vector_by_the_old_model_get_one_by_the_new(self, storage, episodes, old):
        new = Watched(32)
        told = []
        assert storage.embeddings.reembed(old.model, new, progress=lambda *facts: told.append(facts)) == 27
        assert told[-1][0] == "embedded"
        assert storage.embeddings.models() == {old.model: 16, new.model: 32}
        assert storage.embeddings.count(model=new.model) == storage.embeddings.count(model=old.model) == 27
        assert storage.embeddings.reembed(old.model, new) == 0
        assert_consistent(storage.engine)

    def test_search_by_the_old_model_stays_up_meanwhile(self, storage, episodes, old):
        query = old.embed_query("task 7")
        before = [hit.item.id for hit in storage.episodes.similar_to(query, model=old.model)]

        class Searching(Watched):
            def embed(self, texts):
                assert [hit.item.id for hit in storage.episodes.similar_to(query, model=old.model)] == before
                return super().embed(texts)

        new = Searching(32)
        storage.embeddings.reembed(old.model, new, batch_size=5)
        assert len(new.batches) >= 5
        assert len(storage.episodes.similar_to(new.embed_query("task 7"), model=new.model)) == 10

    def test_it_goes_on_where_it_was_interrupted(self, storage, episodes, old):
        with pytest.raises(RuntimeError):
            storage.embeddings.reembed(old.model, Watched(32, fails_after=12), batch_size=4)
        again = Watched(32)
        assert storage.embeddings.reembed(old.model, again, batch_size=4) == 27 - 12
        assert sum(again.batches) == 15

    def test_it_goes_on_after_a_kill(self, database):
        with ms.MemoryStorage.open(database) as storage:
            storage.episodes.save_many([ms.Episode(task_description=f"task {n}") for n in range(300)])
            storage.embeddings.embed(HashingEmbedder(8))
        killed(work.reembed, database, after=0.2, from_first_byte=True)
        with ms.MemoryStorage.open(database) as storage:
            assert_consistent(storage.engine)
            done = storage.embeddings.count(model="hashing-16")
            assert 0 < done < 300
            assert storage.embeddings.reembed("hashing-8", HashingEmbedder(16)) == 300 - done
            assert storage.embeddings.count(model="hashing-16") == 300


def test_two_models_side_by_side_each_find_by_their_own_vectors(storage, episodes):
    first, second = episodes[:2]
    storage.embeddings.put_many([("episode", first.id, [1.0, 0.0]), ("episode", second.id, [0.0, 1.0])], model="a")
    storage.embeddings.put_many(
        [("episode", first.id, [0.0, 0.0, 1.0]), ("episode", second.id, [1.0, 0.0, 0.0])], model="b"
    )
    assert storage.episodes.similar_to([1.0, 0.1], model="a")[0].item.id == first.id
    assert storage.episodes.similar_to([1.0, 0.1, 0.0], model="b")[0].item.id == second.id
    storage.embeddings.delete("episode", first.id, model="a")
    assert len(storage.episodes.similar_to([1.0, 0.1], model="a")) == 1
    assert len(storage.episodes.similar_to([1.0, 0.1, 0.0], model="b")) == 2


def test_identical_vectors_are_stored_once(storage, episodes):
    storage.embeddings.put_many([("episode", one.id, [1.0, 2.0]) for one in episodes], model="m")
    storage.embeddings.put("step", episodes[0].steps[0].id, [1.0, 2.0], model="m")
    (model,) = storage.embeddings.index.status()
    assert (model.vectors, storage.embeddings.count()) == (1, 26)
    for episode in episodes:
        storage.episodes.delete(episode.id)
    (model,) = storage.embeddings.index.status()
    assert (model.vectors, storage.embeddings.count()) == (0, 0)
    assert_consistent(storage.engine)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 1000, 3072, 65_536])
def test_any_dimension_of_the_engine(storage, episodes, dimension):
    vector = [float(number % 7 + 1) for number in range(dimension)]
    storage.embeddings.put("episode", episodes[0].id, vector, model="m")
    (hit,) = storage.episodes.similar_to(vector, model="m")
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)
    assert storage.embeddings.get("episode", episodes[0].id, model="m").vector == vector


def test_the_name_of_a_model_may_be_any_text(storage, episodes):
    names = ["it's", 'a "b"', "DROP TABLE x; --", "漢字 🎉", " ", "%_[]", "a\nb", "x" * 200, "\\", "m'||'m"]
    for number, name in enumerate(names):
        storage.embeddings.put("episode", episodes[number].id, [1.0, float(number)], model=name)
    assert set(storage.embeddings.models()) == set(names)
    for number, name in enumerate(names):
        assert [hit.item.id for hit in storage.episodes.similar_to([1.0, 1.0], model=name)] == [episodes[number].id]
        storage.episodes.delete(episodes[number].id)
    assert storage.embeddings.models() == {}
    assert_consistent(storage.engine)


def test_a_bulk_load_says_how_far_it_is(storage, episodes):
    told = []
    items = [("episode", one.id, [1.0, float(number)]) for number, one in enumerate(episodes)]
    storage.embeddings.put_many(items, model="m", progress=lambda *facts: told.append(facts))
    assert told == [("stored", 25, 25)]
