"""The planner: requests validate themselves, and filters are compiled once a search, however often that is run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder
from memory_storage.models import EpisodeFilter
from memory_storage.search import planner
from memory_storage.search.request import SearchRequest
from memory_storage.sql import filters
from tests.raising import raises
from tests.schema.spy import spied
from tests.search.conftest import MODEL, Indexed, at

VECTOR = [1.0, 0.0]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The owner type of each compilation of filters."""
    calls: list[str] = []
    compile_filters = filters.compile_filters

    def counted(asked, owner_type, prefix="", **more):
        calls.append(owner_type)
        return compile_filters(asked, owner_type, prefix, **more)

    monkeypatch.setattr(filters, "compile_filters", counted)
    monkeypatch.setattr(planner, "compile_filters", counted)
    return calls


def test_a_broadened_search_compiles_its_filters_once(in_memory: Indexed, compiled: list[str]):
    in_memory.storage.episodes.similar_to(in_memory.queries[0], model=MODEL, k=1)  # it loads the index
    compiled.clear()
    with spied(in_memory.storage.engine) as batches:
        hits = in_memory.storage.episodes.similar_to(in_memory.queries[0], model=MODEL, k=1, task_type="testing")
    assert (hits.plan, len(batches), compiled) == ("hnsw", 2, ["episode"])


def test_a_continued_search_compiles_its_filters_once(storage: ms.MemoryStorage, compiled: list[str]):
    saved = storage.episodes.save_many([ms.Episode(task_description="fix", tags=["aa"]) for _ in range(4)])
    storage.embeddings.put_many([("episode", one.id, VECTOR) for one in saved], model=MODEL)
    best = storage.episodes.similar_to(VECTOR, k=1, tags_any=["aa"])[0].item.id
    with storage.transaction() as tx:
        tx.execute([("UPDATE episodes SET document = json_set(document, '$.x', 1) WHERE id = ?", [str(best)])])
    compiled.clear()
    corrupt: list[ms.CorruptDataError] = []
    assert len(storage.episodes.similar_to(VECTOR, k=2, tags_any=["aa"], on_corrupt=corrupt.append)) == 2
    assert (len(corrupt), compiled) == (1, ["episode"])


def test_a_search_in_another_space_compiles_its_filters_once(database: object, compiled: list[str]):
    with ms.MemoryStorage.open(at(database)) as storage:
        for name, size in {"a": 2, "b": 3}.items():
            memory = storage.in_namespace(name)
            memory.episodes.save(ms.Episode(task_description=name))
            memory.embeddings.embed(HashingEmbedder(size, model=MODEL))
    with ms.MemoryStorage.open(at(database)) as storage:  # it has not learned yet that b has a space of its own
        compiled.clear()
        assert len(storage.in_namespace("b").episodes.similar_to([1.0, 0.0, 0.0], model=MODEL, archived=False)) == 1
        assert compiled == ["episode"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("mode", "fast"), ("explain", 1), ("cursor", "x"), ("vector", []), ("min_similarity", 2), ("model", "")],
)
def test_a_request_validates_itself(field: str, value: object):
    arguments = {"k": 1, "vector": VECTOR, field: value}
    with raises(ms.ValidationError, field=field):
        SearchRequest(EpisodeFilter(), **arguments)


def test_a_request_by_words_ignores_the_arguments_of_vectors():
    request = SearchRequest(EpisodeFilter(), 1, "fix the login", model="", min_similarity=2)
    assert (request.packed, request.words) == (None, '["\\"fix\\"", "\\"the\\"", "\\"login\\""]')
