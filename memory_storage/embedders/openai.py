"""Embedders that ask a server with OpenAI's interface: OpenAI, Ollama, vLLM, Voyage and others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from memory_storage.dbapi import chunked
from memory_storage.errors import (
    ConfigurationError,
    CredentialError,
    InsecureConnectionError,
    MemoryStorageError,
    UnavailableError,
    ValidationError,
)

from .protocol import Vector

OPENAI = "https://api.openai.com/v1"
_REQUEST_BYTES = 500_000  # of texts in a request
_LONGEST_WAIT = 30.0  # seconds, whatever the server's Retry-After says
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHOWN = 200  # characters of what the server says


class OpenAIEmbedder:
    """Asks a server for vectors, by `POST {base_url}/embeddings` as OpenAI defines it.

    Texts travel in batches. A request is repeated if the connection fails or the server is busy. The API key is sent
    to this server only, and is never shown. Thread-safe.

    Args:
        model: The name of the model at the server.
        base_url: The URL before `/embeddings`, as "http://127.0.0.1:11434/v1" for Ollama. Plain HTTP is accepted for
            loopback only.
        api_key: The key; by default the environment variable OPENAI_API_KEY, for OpenAI's URL only.
        dimensions: Shorter vectors, of models that can do it; default: the model's.
        name: The name under which the vectors are stored; default: the model's, and the dimensions if they are set.
        document_options: Further fields of a request for documents, like {"input_type": "document"} for Voyage.
        query_options: Further fields of a request for a query.
        batch_size: The most texts of a request; default: 128.
        timeout: Seconds for connecting, and for each wait for the response; default: 30.
        retries: How often a request is repeated; default: 3.

    Raises:
        ConfigurationError: The URL cannot work; an InsecureConnectionError if it would send the texts unencrypted.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        base_url: str = OPENAI,
        api_key: str | SecretStr | None = None,
        dimensions: int | None = None,
        name: str | None = None,
        document_options: Mapping[str, Any] | None = None,
        query_options: Mapping[str, Any] | None = None,
        batch_size: int = 128,
        timeout: float = 30.0,
        retries: int = 3,
    ) -> None:
        if api_key is None and base_url == OPENAI:
            api_key = os.environ.get("OPENAI_API_KEY")
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        del api_key  # a traceback may show this frame
        for field, value in (("batch_size", batch_size), ("dimensions", 1 if dimensions is None else dimensions)):
            if type(value) is not int or value < 1:
                raise ValidationError(field, "must be an integer of at least 1", value)
        if not isinstance(model, str) or not model:
            raise ValidationError("model", "must be a string: the name of the model", model)
        self._url = _checked_url(base_url)
        self._fields: dict[str, Any] = {"model": model} | ({"dimensions": dimensions} if dimensions else {})
        self._document_options, self._query_options = dict(document_options or {}), dict(query_options or {})
        self.model = name or (f"{model}-{dimensions}" if dimensions else model)
        self._batch_size = batch_size
        self._http = _http_pool(retries, timeout)

    def __repr__(self) -> str:
        return f"OpenAIEmbedder(model={self.model!r}, url={self._url!r})"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See `Embedder`.

        Raises:
            CredentialError: The server rejects the API key.
            UnavailableError: The server cannot be reached, or is busy, after the retries.
            ValidationError: The server refuses the texts or the model, or responds with something else than vectors.
        """
        batches = chunked(texts, lambda text: 4 * len(text), most_bytes=_REQUEST_BYTES, most=self._batch_size)
        return [vector for batch in batches for vector in self._request(batch, self._document_options)]

    def embed_query(self, text: str) -> Vector:
        """See `Embedder`; it raises what `embed` does."""
        return self._request([text], self._query_options)[0]

    def _request(self, texts: list[str], options: Mapping[str, Any]) -> list[Vector]:
        from urllib3.exceptions import HTTPError

        body = json.dumps({**self._fields, **options, "input": texts, "encoding_format": "float"}).encode()
        try:
            status, data = self._post(body)
        except HTTPError as error:
            problem: MemoryStorageError = UnavailableError(
                f"the embedding server {self._url} cannot be reached: {type(error).__name__}", code="CONNECTION_FAILED"
            )
        else:
            if status == 200:
                return _vectors(data, len(texts))
            problem, data = self._refusal(status, data, len(texts)), b""  # a server may repeat the key
        raise problem  # not in the block above: the frames of the HTTP library hold the key

    def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        response = self._http.request("POST", self._url, body=body, headers=headers)
        return response.status, response.data

    def _refusal(self, status: int, data: bytes, number: int) -> MemoryStorageError:
        said = data[: 4 * _SHOWN].decode(errors="replace")
        if self._key is not None and (secret := self._key.get_secret_value()):
            said = said.replace(secret, "**********")
        said = " ".join(said.split())[:_SHOWN]
        if status in (401, 403):
            return CredentialError(f"api_key: the embedding server {self._url} rejects it (status {status})")
        if status in _BUSY:
            code = f"HTTP_{status}"
            return UnavailableError(f"the embedding server {self._url} is not available (status {status})", code=code)
        return ValidationError("texts", f"the embedding server refuses them with status {status}: {said}", number)


def _http_pool(retries: int, timeout: float) -> Any:
    """Return urllib3's pool of connections. urllib3 is imported here: it would double the import time."""
    import urllib3

    class Retry(urllib3.Retry):
        def get_retry_after(self, response: Any) -> float | None:
            seconds = super().get_retry_after(response)
            return None if seconds is None else min(seconds, _LONGEST_WAIT)

    retry = Retry(
        retries,
        redirect=0,  # the key would be sent elsewhere
        status_forcelist=_BUSY,
        allowed_methods=None,  # a POST too: embedding a text again changes nothing
        backoff_factor=0.5,
        backoff_max=_LONGEST_WAIT,
        backoff_jitter=0.5,
        raise_on_redirect=False,
        raise_on_status=False,
    )
    return urllib3.PoolManager(retries=retry, timeout=timeout, maxsize=8)


def _checked_url(base_url: object) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("base_url: must be a URL like https://api.openai.com/v1")
    if parts.username or parts.password:
        raise ConfigurationError("base_url: must not have credentials; pass api_key")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise InsecureConnectionError(
            f"base_url: the texts would be sent to {parts.hostname} unencrypted; use https, or a server on loopback"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/embeddings"


def _vectors(data: bytes, number: int) -> list[Vector]:
    """Return the vectors of a response, in the order of the texts."""
    try:
        entries = json.loads(data)["data"]
        vectors = {entry["index"]: [float(one) for one in entry["embedding"]] for entry in entries}
        return [vectors[index] for index in range(number)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        limit = f"the embedding server must respond with one for each of {number} texts"
        raise ValidationError("vectors", limit, data[:_SHOWN]) from error
