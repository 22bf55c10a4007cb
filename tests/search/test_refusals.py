"""Invalid searches and vectors are refused by name, change nothing, and do not affect the storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.backends import in_memory
from tests.checks import assert_consistent, dump
from tests.raising import raises

NAN, INF = math.nan, math.inf


@pytest.fixture
def known(storage: ms.MemoryStorage, make_episode: Callable[..., ms.Episode]) -> ms.Episode:
    """One with a vector of dimension 3, and a pattern with one."""
    episode = storage.episodes.save(make_episode(task_description='quoted "words" 漢字 emoji 🎉 don\'t'))
    pattern = storage.patterns.save(ms.Heuristic(condition="a flaky test", action="retry it"))
    storage.embeddings.put_many(
        [("episode", episode.id, [1.0, 0.0, 0.5]), ("pattern", pattern.id, [1.0, 0.0, 0.5])], model="m"
    )
    return episode


BAD_VECTORS = [
    [],
    [1.0, 2.0],
    [1.0] * 4,
    [1.0] * 70_000,
    [NAN, 1.0, 1.0],
    [1.0, INF, 1.0],
    [0.0, 0.0, 0.0],
    [1e30, 1e30, 1e30],
    [1e-30, 0.0, 0.0],
    [1e300, 1.0, 1.0],
    [10**400, 1, 1],
    ["1", "2", "3"],
    "abc",
    b"\0" * 12,
    None,
    3.0,
    {"a": 1},
    np.ones((3, 1)),
    np.array(["a", "b", "c"]),
]


@pytest.mark.parametrize("vector", BAD_VECTORS, ids=lambda vector: repr(vector)[:30])
@in_memory
def test_a_bad_vector_is_neither_stored_nor_looked_for(storage, known, vector):
    before = dump(storage.engine)
    for repository in (storage.episodes, storage.patterns):
        for mode in ("auto", "exact", "index"):
            # A text is for the embedder of the storage, of which there is none.
            refusal = ms.ConfigurationError if isinstance(vector, str) else ms.ValidationError
            with raises(refusal, match="vector"):
                repository.similar_to(vector, model="m", mode=mode)
    if vector is not None:
        with raises(ms.ValidationError, field="vector"):
            storage.episodes.search("words", vector=vector, model="m")
    with raises(ms.ValidationError, field="vector"):
        storage.embeddings.put("episode", known.id, vector, model="m")
    assert dump(storage.engine) == before
    assert len(storage.episodes.similar_to([1.0, 0.0, 0.5], model="m")) == 1


def test_a_wrong_dimension_is_named_with_the_right_one(storage, known):
    for call in (
        lambda: storage.episodes.similar_to([1.0], model="m"),
        lambda: storage.embeddings.put("episode", known.id, [1.0], model="m"),
    ):
        with raises(ms.ValidationError, field="vector") as caught:
            call()
        assert (caught.value.field, caught.value.value) == ("vector", 1)
        assert "3 numbers, as all vectors of 'm' have" in str(caught.value)


@pytest.mark.parametrize("k", [0, -1, 1001, 10**9, 2**63, 2**64, None, 1.0, True, "10", NAN])
@in_memory
def test_k_is_bounded(storage, known, k):
    for search in (
        lambda: storage.episodes.similar_to([1.0, 0.0, 0.5], model="m", k=k),
        lambda: storage.patterns.similar_to([1.0, 0.0, 0.5], model="m", k=k, mode="index"),
        lambda: storage.episodes.search("words", k=k),
    ):
        with raises(ms.ValidationError, field="k") as caught:
            search()
        assert (caught.value.field, "1 to 1,000" in str(caught.value)) == ("k", True)
    assert len(storage.episodes.similar_to([1.0, 0.0, 0.5], model="m")) == 1


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("mode", {"mode": "best"}),
        ("mode", {"mode": None}),
        ("min_similarity", {"min_similarity": 1.5}),
        ("min_similarity", {"min_similarity": NAN}),
        ("min_similarity", {"min_similarity": "1"}),
        ("min_similarity", {"min_similarity": True}),
        ("cursor", {"cursor": "?"}),
        ("cursor", {"cursor": 3}),
        ("cursor", {"cursor": "WzEuMCwxXQ"}),
        ("cursor", {"cursor": "[" * 5000}),
        ("model", {"model": ""}),
        ("model", {"model": "x" * 201}),
        ("model", {"model": 5}),
        ("model", {"model": "a\0b"}),
        ("outcome", {"outcome": "great"}),
    ],
)
@in_memory
def test_bad_options_are_named(storage, known, field, options):
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.similar_to([1.0, 0.0, 0.5], **{"model": "m", **options})
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["text", "vector", "recency", "reward", "half_life"])
@pytest.mark.parametrize("value", [-1, NAN, INF, "1", None, True])
def test_weights_are_checked(name, value):
    with pytest.raises(ms.ValidationError) as caught:
        ms.Weights(**{name: value})
    assert caught.value.field == f"weights.{name}"


def test_a_namespace_without_vectors_has_none_to_find(storage, known):
    empty = storage.in_namespace("empty")
    assert list(empty.episodes.similar_to([1.0, 0.0, 0.5], model="m")) == []
    assert list(empty.episodes.search("words", vector=[1.0, 0.0, 0.5], model="m")) == []
    assert list(empty.episodes.similar_to([1.0, 0.0, 0.5])) == []


def test_all_of_a_batch_is_refused_for_one_bad_vector(storage, known, make_episode):
    others = storage.episodes.save_many([make_episode() for _ in range(3)])
    before = dump(storage.engine)
    good = [("episode", other.id, [1.0, 2.0, 3.0]) for other in others]
    for bad, error in (
        (("episode", known.id, [NAN, 1.0, 1.0]), ms.ValidationError),
        (("episode", known.id, [1.0]), ms.ValidationError),
        (("episode", uuid4(), [1.0, 2.0, 3.0]), ms.NotFoundError),
        (("step", known.id, [1.0, 2.0, 3.0]), ms.NotFoundError),
        (("wish", known.id, [1.0, 2.0, 3.0]), ms.ValidationError),
        (("episode", "no id", [1.0, 2.0, 3.0]), ms.ValidationError),
        (("episode", known.id), ms.ValidationError),
    ):
        for at in (0, 2, 3):
            with pytest.raises(error):
                storage.embeddings.put_many([*good[:at], bad, *good[at:]], model="m")
            assert dump(storage.engine) == before
    assert_consistent(storage.engine)


def test_an_owner_that_is_not_there_leaves_no_model_behind(storage):
    with raises(ms.NotFoundError, kind="pattern") as caught:
        storage.embeddings.put("pattern", uuid4(), [1.0], model="new")
    assert "pattern" in str(caught.value)
    assert storage.embeddings.models() == {}
    assert storage.embeddings.index.status() == []


HOSTILE = [
    '"', '""', "'", "';--", 'a" OR "b', "NEAR(a b)", "a NEAR/2 b", "a AND", "NOT", "OR OR", "AND", "(", ")", "((((",
    "*", "a*", "^a", "-a", "+a", "task_description:x", "{a b}:c", "\\", "%", "_", "🎉", "漢字", "かな カナ", "한국어",
    "عربى",
    "\u200d", "\u0301", "\ud800", "\x00", "a\x00b", "\ufeff", "﷽" * 50, "DROP TABLE episodes; --", "a" * 100_000,
    "a " * 50_000, '" ' * 50_000, "", " ", "\n\t", "\u2028", "don't", "x'y\"z", "Ⅻ ﬁ ß İ",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:25])
def test_any_text_is_safe(storage, known, text):
    for search in (
        lambda: storage.episodes.search(text),
        lambda: storage.episodes.search(text, vector=[1.0, 0.0, 0.5], model="m", explain=True),
        lambda: storage.patterns.search(text),
        lambda: storage.episodes.query(text=text),
        lambda: storage.episodes.similar_to([1.0, 0.0, 0.5], model="m", text=text),
    ):
        try:
            search()
        except ms.ValidationError as error:
            assert error.field == "text"  # noqa: PT017
    assert len(storage.episodes.search("quoted")) == 1


@pytest.mark.slow
@settings(max_examples=100)
@given(text=st.text(max_size=40) | st.text(alphabet="\"'*^:(){}+- ANDORTa", max_size=30))
def test_any_text_finds_something_or_nothing(storage, known, text):
    try:
        hits = storage.episodes.search(text)
    except ms.ValidationError as error:
        assert error.field == "text"  # noqa: PT017
    else:
        assert len(hits) <= 1


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"]])
@in_memory
def test_a_query_that_is_not_a_string_is_refused_by_name(storage, known, text: Any):
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.search(text)
    assert caught.value.field == "text"
