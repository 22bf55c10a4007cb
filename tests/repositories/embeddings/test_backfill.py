"""Embedding stored rows, and again with another model: in batches, outside of transactions, resumable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.embedders import FunctionEmbedder, HashingEmbedder, text_of
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.durability.processes import killed
from tests.raising import raises
from tests.schema.spy import spied
from tests.search import work


class Watched(HashingEmbedder):
    """Counts the texts it receives, and may fail after a number of them."""

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
        return super().embed([text[:1_000] for text in texts])  # to hash a megabyte takes a second


@pytest.fixture
def episodes(storage, make_episode) -> list[ms.Episode]:
    return storage.episodes.save_many([make_episode(2, task_description=f"task {number}") for number in range(25)])


def test_embed_stores_the_missing_vectors_and_then_none(storage, episodes, make_episode):
    embedder = Watched()
    assert storage.embeddings.embed(embedder, batch_size=10) == 25
    assert embedder.batches == [10, 10, 5]
    assert storage.embeddings.embed(embedder) == 0
    new = storage.episodes.save(make_episode())
    assert storage.embeddings.embed(embedder) == 1
    assert storage.embeddings.get("episode", new.id, model=embedder.model).dimension == 16
    assert storage.in_namespace("elsewhere").embeddings.embed(embedder) == 0
    assert_consistent(storage.engine)


def test_large_texts_are_embedded_a_few_at_a_time(storage):
    storage.episodes.save_many([ms.Episode(task_description="x" * 1_500) for _ in range(6)])
    embedder = Watched()
    large = {"text_of": lambda episode: 1_000 * episode.task_description}
    assert storage.embeddings.embed(embedder, **large) == 6
    assert embedder.batches == [2, 2, 2]


def test_large_owners_are_read_a_few_at_a_time(storage):
    for number in range(6):
        storage.episodes.save(ms.Episode(task_description=f"{number}", metadata={"x": "x" * 1_500_000}))
    embedder = Watched()
    with spied(storage.engine) as batches:
        assert storage.embeddings.embed(embedder) == 6
    assert embedder.batches == [6]
    assert sum("json_each" in batch and "e.document" in batch for batch in map(str, batches)) == 3


def test_steps_and_patterns_too(storage, episodes):
    storage.patterns.save_many([ms.Heuristic(condition=f"c{number}", action="a") for number in range(7)])
    embedder = Watched()
    assert storage.embeddings.embed(embedder, owner_type="step") == 50
    assert storage.embeddings.embed(embedder, owner_type="pattern") == 7
    assert storage.embeddings.count() == 57
    hits = storage.episodes.similar_to(embedder.embed_query("action 1"), k=25)
    assert len({hit.item.id for hit in hits}) == 25


def test_a_custom_text_is_passed_untruncated(storage, make_episode):
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
@in_memory
def test_an_embedder_with_invalid_output_stores_nothing(storage, episodes, given, field):
    with pytest.raises(ms.ValidationError) as caught:
        storage.embeddings.embed(FunctionEmbedder(given, model="f"))
    assert caught.value.field == field
    assert storage.embeddings.count() == 0


@pytest.mark.parametrize("size", [0, -1, 1_001, None, 1.5, True])
@in_memory
def test_the_size_of_a_batch_is_bounded(storage, size):
    with raises(ms.ValidationError, field="batch_size", match="batch_size"):
        storage.embeddings.embed(Watched(), batch_size=size)


class Recording(HashingEmbedder):
    """Keeps the texts, and calls something before it makes vectors of them."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(16)
        self.texts: list[str] = []
        self._before = before

    def embed(self, texts):
        before, self._before = self._before, lambda: None
        before()
        self.texts += texts
        return super().embed(texts)


def _closeness(storage: ms.MemoryStorage, kind: Any, item: Any) -> float:
    """How near the stored vector is to the one of the text of now."""
    stored = storage.embeddings.get(kind, item.id, model="hashing-16").vector
    return sum(a * b for a, b in zip(stored, HashingEmbedder(16).embed_query(text_of(item)), strict=True))


class TestChanges:
    """What has changed since it was embedded."""

    @pytest.mark.parametrize("change", ["complete", "save", "a step", "save a pattern", "merge"])
    def test_it_is_embedded_again_and_the_rest_costs_nothing(self, storage, episodes, change):
        patterns = storage.patterns.save_many([ms.Heuristic(condition=f"c {n}", action="a") for n in range(3)])
        kinds: list[Any] = ["episode", "step", "pattern"]
        for kind in kinds:
            storage.embeddings.embed(HashingEmbedder(16), owner_type=kind)
        before = storage.embeddings.count()
        kind: Any = "episode"
        if change == "complete":
            reflection = ms.Reflection(insights=["the real cause was a stale cache"])
            item: Any = storage.episodes.complete(episodes[3].id, ms.Success(verdict="ok"), reflection=reflection)
        elif change == "save":
            item = storage.episodes.save(episodes[3].model_copy(update={"task_description": "another task"}))
        elif change == "a step":
            old = episodes[3].steps[0]
            new = old.model_copy(update={"action": "another action"})
            storage.episodes.save(episodes[3].model_copy(update={"steps": [new, *episodes[3].steps[1:]]}))
            kind, item = "step", storage.steps.get(old.id)
        elif change == "save a pattern":
            kind, item = "pattern", storage.patterns.save(patterns[0].model_copy(update={"action": "another"}))
        else:
            storage.patterns.save(patterns[1].model_copy(update={"tags": ["from the other"]}))
            kind, item = "pattern", storage.patterns.merge(patterns[0].id, patterns[1].id)
            before -= 1
        item = {"episode": storage.episodes, "step": storage.steps, "pattern": storage.patterns}[kind].get(item.id)
        embedder = Recording()
        for one in kinds:
            storage.embeddings.embed(embedder, owner_type=one)
        assert embedder.texts == [text_of(item)]
        assert _closeness(storage, kind, item) == pytest.approx(1.0, abs=1e-5)
        assert storage.embeddings.count() == before
        idle = Recording()
        assert [storage.embeddings.embed(idle, owner_type=one) for one in kinds] == [0, 0, 0]
        assert idle.texts == []
        assert_consistent(storage.engine)

    def test_a_change_of_another_part_costs_no_call(self, storage, episodes):
        storage.embeddings.embed(HashingEmbedder(16))
        storage.episodes.save(episodes[0].model_copy(update={"metadata": {"seen": True}}))
        storage.episodes.append_step(episodes[1].id, ms.Step(tool="t"))
        storage.episodes.archive(episodes[2].id)
        embedder = Recording()
        assert storage.embeddings.embed(embedder) == 0
        assert embedder.texts == []

    def test_what_did_not_change_is_not_read(self, storage, episodes):
        storage.embeddings.embed(HashingEmbedder(16))
        storage.episodes.save(episodes[0].model_copy(update={"metadata": {"seen": True}}))
        seen: list[Any] = []
        for expected in (1, 0):
            seen.clear()
            assert storage.embeddings.embed(Recording(), text_of=lambda one: seen.append(one) or text_of(one)) == 0
            assert len(seen) == expected

    def test_a_vector_of_the_callers_stays(self, storage, episodes):
        vector = [1.0, *[0.0] * 15]
        storage.embeddings.put("episode", episodes[0].id, vector, model="hashing-16")
        assert storage.embeddings.embed(HashingEmbedder(16)) == 24
        storage.embeddings.put("episode", episodes[1].id, vector, model="hashing-16")
        storage.episodes.save_many([one.model_copy(update={"task_description": "new"}) for one in episodes[:2]])
        assert storage.embeddings.embed(HashingEmbedder(16)) == 0
        assert storage.embeddings.get("episode", episodes[1].id, model="hashing-16").vector == vector
        assert storage.embeddings.reembed("hashing-16", HashingEmbedder(16)) == 2
        assert _closeness(storage, "episode", storage.episodes.get(episodes[0].id)) == pytest.approx(1.0, abs=1e-5)
        assert storage.embeddings.reembed("hashing-16", HashingEmbedder(16)) == 0
        assert_consistent(storage.engine)

    def test_a_change_while_it_is_embedded_is_embedded_next(self, storage, episodes):
        changed = episodes[4].model_copy(update={"task_description": "changed concurrently"})
        storage.embeddings.embed(Recording(lambda: storage.episodes.save(changed)))
        embedder = Recording()
        assert storage.embeddings.embed(embedder) == 1
        assert embedder.texts[0].startswith("changed concurrently")
        assert storage.embeddings.embed(embedder) == 0

    def test_a_later_vector_of_another_writer_stays(self, storage, episodes):
        mine = [0.0, 1.0, *[0.0] * 14]
        changed = episodes[4].model_copy(update={"task_description": "changed concurrently"})

        def change_episode() -> None:
            storage.episodes.save(changed)
            storage.embeddings.embed(HashingEmbedder(16))
            storage.embeddings.put("episode", episodes[5].id, mine, model="hashing-16")

        storage.embeddings.embed(Recording(change_episode))
        assert _closeness(storage, "episode", changed) == pytest.approx(1.0, abs=1e-5)
        assert storage.embeddings.get("episode", episodes[5].id, model="hashing-16").vector == mine
        assert storage.embeddings.embed(Recording()) == 0
        assert_consistent(storage.engine)

    def test_an_interruption_loses_no_change(self, storage, episodes):
        storage.embeddings.embed(HashingEmbedder(16))
        storage.episodes.save_many([one.model_copy(update={"task_description": f"new {one.id}"}) for one in episodes])
        with pytest.raises(RuntimeError, match="the model is down"):
            storage.embeddings.embed(Watched(fails_after=12), batch_size=4)
        assert storage.embeddings.embed(Watched(), batch_size=4) == 25 - 12
        for episode in storage.episodes.iterate():
            assert _closeness(storage, "episode", episode) == pytest.approx(1.0, abs=1e-5)

    def test_a_text_that_is_none_is_refused(self, storage, episodes):
        with pytest.raises(ms.ValidationError) as caught:
            storage.embeddings.embed(HashingEmbedder(16), text_of=lambda one: None)
        assert caught.value.field == "text_of"


class TestDeletions:
    """Owners that are deleted while they are embedded."""

    def test_the_rest_is_stored(self, storage, episodes):
        embedder = Recording(lambda: storage.episodes.delete(episodes[7].id))
        assert storage.embeddings.embed(embedder) == 24
        assert storage.embeddings.count() == 24
        assert storage.embeddings.index.status()[0].vectors == 24
        assert storage.embeddings.embed(embedder) == 0
        assert_consistent(storage.engine)

    def test_of_steps_and_patterns_and_to_another_model_too(self, storage, episodes):
        patterns = storage.patterns.save_many([ms.Heuristic(condition=f"c {n}", action="a") for n in range(3)])
        embedder = Recording(lambda: storage.episodes.delete(episodes[7].id))
        assert storage.embeddings.embed(embedder, owner_type="step") == 48
        embedder = Recording(lambda: storage.patterns.delete(patterns[0].id))
        assert storage.embeddings.embed(embedder, owner_type="pattern") == 2

        class Deleting(HashingEmbedder):
            def embed(self, texts):
                storage.episodes.delete(episodes[8].id)
                return super().embed(texts)

        assert storage.embeddings.reembed("hashing-16", Deleting(8)) == 46 + 2
        assert_consistent(storage.engine)

    def test_all_of_them_leave_nothing(self, storage, episodes):
        embedder = Recording(lambda: [storage.episodes.delete(one.id) for one in episodes])
        assert storage.embeddings.embed(embedder) == 0
        assert storage.embeddings.models() == {}
        assert_consistent(storage.engine)

    def test_the_callers_own_vectors_are_all_or_none(self, storage, episodes):
        storage.episodes.delete(episodes[7].id)
        with raises(ms.NotFoundError, kind="episode") as caught:
            storage.embeddings.put_many([("episode", one.id, [1.0, 2.0]) for one in episodes], model="m")
        assert (caught.value.kind, caught.value.id) == ("episode", episodes[7].id)
        assert storage.embeddings.count() == 0


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

    def test_reembed_gives_every_item_a_vector_of_the_new_model(self, storage, episodes, old):
        new = Watched(32)
        reported = []
        assert storage.embeddings.reembed(old.model, new, progress=lambda *facts: reported.append(facts)) == 27
        assert reported[-1][0] == "embedded"
        assert storage.embeddings.models() == {old.model: 16, new.model: 32}
        assert storage.embeddings.count(model=new.model) == storage.embeddings.count(model=old.model) == 27
        assert storage.embeddings.reembed(old.model, new) == 0
        assert_consistent(storage.engine)

    def test_search_by_the_old_model_works_during_reembed(self, storage, episodes, old):
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

    def test_it_resumes_after_an_interruption(self, storage, episodes, old):
        with pytest.raises(RuntimeError):
            storage.embeddings.reembed(old.model, Watched(32, fails_after=12), batch_size=4)
        again = Watched(32)
        assert storage.embeddings.reembed(old.model, again, batch_size=4) == 27 - 12
        assert sum(again.batches) == 15

    @pytest.mark.slow
    def test_it_resumes_after_a_kill(self, database):
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


def test_a_bulk_load_reports_progress(storage, episodes):
    reported = []
    items = [("episode", one.id, [1.0, float(number)]) for number, one in enumerate(episodes)]
    storage.embeddings.put_many(items, model="m", progress=lambda *facts: reported.append(facts))
    assert reported == [("stored", 25, 25)]
