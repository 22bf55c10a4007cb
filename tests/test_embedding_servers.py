"""Embedders that ask a server: batches, retries, refusals, and what must not be sent or shown."""

from __future__ import annotations

import traceback

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder, OpenAIEmbedder
from tests.embedders_server import DIMENSION, embedding_server
from tests.raising import raises

KEY = "sk-very-secret"


@pytest.fixture
def server():
    with embedding_server() as running:
        yield running


def test_texts_travel_in_batches_and_come_back_in_order(server):
    embedder = OpenAIEmbedder("m", base_url=server.url, api_key=KEY, batch_size=3)
    texts = [f"text {n}" for n in range(7)]
    found = embedder.embed(texts)
    assert [list(map(float, vector)) for vector in found] == HashingEmbedder(DIMENSION).embed(texts)
    assert [len(request["input"]) for request in server.requests] == [3, 3, 1]
    assert server.requests[0]["path"] == "/v1/embeddings"
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert isinstance(embedder, ms.Embedder)
    assert embedder.embed([]) == []


def test_long_texts_are_requested_apart(server):
    OpenAIEmbedder("m", base_url=server.url).embed(["long " * 20_000, "long " * 20_000, "short"])
    assert [len(request["input"]) for request in server.requests] == [1, 2]


def test_a_query_may_have_other_options(server):
    options = {"document_options": {"input_type": "document"}, "query_options": {"input_type": "query"}}
    embedder = OpenAIEmbedder("voyage-3.5", base_url=server.url, dimensions=8, **options)
    embedder.embed(["a"])
    embedder.embed_query("b")
    assert [request["input_type"] for request in server.requests] == ["document", "query"]
    assert {request["dimensions"] for request in server.requests} == {8}
    assert embedder.model == "voyage-3.5-8"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_request_is_repeated_while_the_server_is_busy(server, status):
    server.statuses = [status]
    assert len(OpenAIEmbedder("m", base_url=server.url).embed(["a"])) == 1
    assert len(server.requests) == 2


@pytest.mark.slow
def test_a_server_that_stays_busy_is_unavailable(server):
    server.statuses = [503] * 9
    with raises(ms.UnavailableError, code="HTTP_503"):
        OpenAIEmbedder("m", base_url=server.url, retries=2).embed(["a"])
    assert len(server.requests) == 3


def test_a_server_that_is_away_is_unavailable(server):
    embedder = OpenAIEmbedder("m", base_url="http://127.0.0.1:1/v1", retries=0)
    with raises(ms.UnavailableError, code="CONNECTION_FAILED", match="cannot be reached"):
        embedder.embed(["a"])


@pytest.mark.parametrize(
    ("status", "error"), [(401, ms.CredentialError), (403, ms.CredentialError), (400, ms.ValidationError)]
)
def test_a_refusal_names_the_status_and_never_the_key(server, status, error):
    server.statuses = [status]
    embedder = OpenAIEmbedder("m", base_url=server.url, api_key=KEY)
    with raises(error, match=str(status)) as caught:
        embedder.embed(["a"])
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown
    assert KEY not in repr(embedder)
    assert len(server.requests) == 1


def test_a_failed_connection_does_not_show_the_key():
    with raises(ms.UnavailableError, code="CONNECTION_FAILED") as caught:
        OpenAIEmbedder("m", base_url="http://127.0.0.1:1/v1", api_key=KEY, retries=0).embed(["a"])
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown


def test_a_redirect_is_not_followed(server):
    server.statuses = [307]
    with raises(ms.ValidationError, field="texts", match="307"):
        OpenAIEmbedder("m", base_url=server.url, api_key=KEY).embed(["a"])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": []}', b'{"data": [{"index": 0, "embedding": "x"}]}', b"[" * 100_000]
)
def test_what_is_no_vector_is_refused(server, body):
    server.body = body
    with raises(ms.ValidationError, field="vectors"):
        OpenAIEmbedder("m", base_url=server.url).embed(["a"])


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://embeddings.example/v1", ms.InsecureConnectionError),
        ("embeddings.example", ms.ConfigurationError),
        ("ftp://127.0.0.1/v1", ms.ConfigurationError),
        ("https://user:pass@embeddings.example/v1", ms.ConfigurationError),
        (7, ms.ConfigurationError),
    ],
)
def test_a_url_that_cannot_work_is_refused(url, error):
    with raises(error, match="base_url"):
        OpenAIEmbedder("m", base_url=url)


def test_the_key_of_the_environment_is_for_openai_alone(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAIEmbedder("m", base_url=server.url).embed(["a"])
    assert server.keys == [None]


def test_a_storage_embeds_by_a_server(server, make_episode):
    with ms.MemoryStorage.open(":memory:", embedder=OpenAIEmbedder("m", base_url=server.url)) as storage:
        storage.episodes.save(make_episode(task_description="Fix the login"))
        storage.embeddings.flush()
        assert storage.episodes.similar_to("Fix the login")[0].item.task_description == "Fix the login"
