"""Embedders: results, refusals, and the text of an item."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.embedders import text_of
from tests.raising import raises

any_text = st.text(st.characters(), max_size=60) | st.sampled_from(
    ["", " ", "\0", "\ud800", "a\udfffb", "👩‍🚀", "漢字", "İstanbul", "e\u0301", "_", "x" * 5_000]
)


def lengths(texts):
    return [[float(len(text)), 1.0] for text in texts]


def test_a_callable_is_handed_so_many_texts_at_a_time():
    seen = []
    embedder = ms.FunctionEmbedder(lambda texts: seen.append(len(texts)) or lengths(texts), model="m", batch_size=3)
    assert embedder.embed(["a" * n for n in range(8)]) == [[float(n), 1.0] for n in range(8)]
    assert seen == [3, 3, 2]
    assert embedder.embed([]) == []
    assert embedder.embed_query("abc") == [3.0, 1.0]
    assert isinstance(embedder, ms.Embedder)


def test_a_query_may_be_embedded_in_another_way():
    embedder = ms.FunctionEmbedder(lengths, model="m", embed_query=lambda text: [0.0, float(len(text))])
    assert (embedder.embed(["abc"]), embedder.embed_query("abc")) == ([[3.0, 1.0]], [0.0, 3.0])


@pytest.mark.parametrize("given_back", [[], [[1.0]], [[1.0]] * 3])
def test_there_is_one_vector_per_text(given_back):
    with raises(ms.ValidationError, field="vectors", match="vectors: one for each of 2 texts"):
        ms.FunctionEmbedder(lambda _: given_back, model="m").embed(["a", "b"])


def test_an_error_of_the_callable_propagates():
    def broken(texts):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ms.FunctionEmbedder(broken, model="m").embed(["a"])


class OldModel:
    """Stands in for a SentenceTransformer: the library cannot be had without a model of some hundred megabytes."""

    def __init__(self):
        self.calls = []
        self.model_card_data = SimpleNamespace(base_model="a/card")

    def encode(self, texts, **options):
        self.calls.append(("encode", options))
        return lengths(texts)


class NewModel(OldModel):
    def encode_query(self, texts, **options):
        self.calls.append(("query", options))
        return [[0.0, 1.0] for _ in texts]


def test_a_sentence_transformer_normalizes_and_shows_no_progress():
    loaded = NewModel()
    embedder = ms.SentenceTransformerEmbedder(loaded)
    assert (embedder.model, embedder.embed(["abc"]), embedder.embed_query("a")) == ("a/card", [[3.0, 1.0]], [0.0, 1.0])
    assert [name for name, _ in loaded.calls] == ["encode", "query"]
    assert all(options["normalize_embeddings"] and not options["show_progress_bar"] for _, options in loaded.calls)
    assert ms.SentenceTransformerEmbedder(OldModel(), name="mine").embed_query("ab") == [2.0, 1.0]


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ms.ConfigurationError, match=r"memory-storage\[sentence-transformers\]"):
        ms.SentenceTransformerEmbedder()


@given(any_text)
def test_a_hashed_text_has_a_vector_of_length_one(text):
    vector = ms.HashingEmbedder(16).embed_query(text)
    assert len(vector) == 16
    assert math.isclose(math.hypot(*vector), 1.0)


def test_hashing_is_the_same_in_every_process():
    code = "import memory_storage as ms; print(ms.HashingEmbedder(8).embed_query('Fix the login'))"
    out = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert out == {f"{ms.HashingEmbedder(8).embed_query('Fix the login')}\n"}


def test_similar_spelling_is_near():
    near, one, far = ms.HashingEmbedder().embed(["fix the login token", "fix the token of a login", "bake some bread"])
    assert sum(a * b for a, b in zip(near, one, strict=True)) > 0.4 > sum(a * b for a, b in zip(near, far, strict=True))


def test_the_text_to_embed_has_the_task_and_its_outcome():
    episode = ms.Episode(
        task_description="Fix it",
        tags=["tag"],
        context=ms.TaskContext(domain="web", language="python"),
        outcome=ms.Failure(reason="no time", error_details="at all"),
        reflection=ms.Reflection(insights=["plan more"]),
    )
    assert text_of(episode) == "Fix it\nweb python tag\nno time\nat all\nplan more"
    step = ms.Step(tool="pytest", action="run", parameters={"path": "ü"}, result=ms.StepOk(output="fine"))
    assert text_of(step) == 'pytest run\n{"path": "ü"}\nfine'
    assert text_of(ms.Heuristic(description="d", condition="if", action="then", tags=["x"])) == "d\nx\nif\nthen"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (ms.HashingEmbedder, "dimension"),
        (lambda size: ms.FunctionEmbedder(lengths, model="m", batch_size=size), "batch_size"),
    ],
)
@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_a_size_that_cannot_be_is_refused(kind, field, size):
    with raises(ms.ValidationError, field=field):
        kind(size)


def test_a_cache_embeds_a_text_once():
    seen = []
    inner = ms.FunctionEmbedder(lambda texts: seen.extend(texts) or lengths(texts), model="m")
    embedder = ms.CachedEmbedder(inner, size=3)
    assert embedder.model == "m"
    assert [list(one) for one in embedder.embed(["a", "bb", "a"])] == [[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]]
    embedder.embed(["bb", "a"])
    assert seen == ["a", "bb"]
    embedder.embed(["c", "d"])  # drops the one that was not used for the longest time
    embedder.embed(["a", "bb"])
    assert seen == ["a", "bb", "c", "d", "bb"]
    embedder.embed_query("bb")
    embedder.embed_query("bb")
    assert seen[-1] == "bb"
    assert len(seen) == 6
    assert isinstance(embedder, ms.Embedder)


@pytest.mark.parametrize(("wrong", "field"), [((len,), "embedder"), ((ms.HashingEmbedder(), 0), "size")])
def test_a_cache_refuses_what_cannot_work(wrong, field):
    embedder, *size = wrong
    with raises(ms.ValidationError, field=field):
        ms.CachedEmbedder(embedder, **({"size": size[0]} if size else {}))


def test_wordllama_compares_meaning_without_a_download():
    embedder = ms.WordLlamaEmbedder()
    document, near, far = embedder.embed(["My flight was cancelled", "the plane trip is called off", "a pie recipe"])
    assert len(document) == 256
    assert math.isclose(math.hypot(*document), 1, rel_tol=1e-5)
    dot = [sum(a * b for a, b in zip(document, other, strict=True)) for other in (near, far)]
    assert dot[0] > 2 * max(dot[1], 0.05)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with raises(ms.ConfigurationError, match=r"pip install 'memory-storage\[wordllama\]'"):
        ms.WordLlamaEmbedder()
