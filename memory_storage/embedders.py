"""The `Embedder` protocol and adapters. Embedders are injected; this package loads no model by itself.

An embedder is called outside of transactions, with batches of texts. Its exceptions propagate unchanged.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from .errors import ConfigurationError, ValidationError
from .models import AnyPattern, Episode, Step

Vector = Sequence[float]

_WORD = re.compile(r"[^\W_]+")


@runtime_checkable
class Embedder(Protocol):
    """Computes vectors of texts."""

    @property
    def model(self) -> str:
        """The name under which its vectors are stored."""
        ...

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return a vector for each document, in order."""
        ...

    def embed_query(self, text: str) -> Vector:
        """Return the vector of a query."""
        ...


class FunctionEmbedder:
    """Adapts a callable that takes a list of texts and returns a vector for each.

    Args:
        embed: The callable; its vectors are sequences of floats, or the rows of an array.
        model: The name under which the vectors are stored.
        embed_query: For models that embed queries differently; by default `embed` with one text.
        batch_size: The most texts of one call; default: 64.
    """

    def __init__(
        self,
        embed: Callable[[list[str]], Iterable[Vector]],
        *,
        model: str,
        embed_query: Callable[[str], Vector] | None = None,
        batch_size: int = 64,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise ValidationError("batch_size", "must be an integer of at least 1", batch_size)
        if not callable(embed) or not (embed_query is None or callable(embed_query)):
            raise ValidationError("embed", "must be a function from texts to vectors", embed)
        if not isinstance(model, str):
            raise ValidationError("model", "must be a string: the name of the model", model)
        self.model = model
        self._embed, self._embed_query, self._batch_size = embed, embed_query, batch_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r}, batch_size={self._batch_size})"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See `Embedder`. Raise ValidationError unless the callable returns one vector for each text."""
        size = self._batch_size
        return [vector for at in range(0, len(texts), size) for vector in self._batch(list(texts[at : at + size]))]

    def embed_query(self, text: str) -> Vector:
        """See `Embedder`."""
        return self._embed_query(text) if self._embed_query else self.embed([text])[0]

    def _batch(self, texts: list[str]) -> list[Vector]:
        returned = self._embed(texts)
        if not isinstance(returned, Iterable):
            raise ValidationError("vectors", f"one for each of {len(texts)} texts", returned)
        vectors = list(returned)
        if len(vectors) != len(texts):
            raise ValidationError("vectors", f"one for each of {len(texts)} texts", len(vectors))
        return vectors


class SentenceTransformerEmbedder(FunctionEmbedder):
    """Adapts a model of the package sentence-transformers. Vectors are normalized.

    Args:
        model: The name of the model, or a loaded one.
        name: The name under which the vectors are stored; by default that of the model.
        batch_size: The most texts of one call; default: 64.
    """

    def __init__(self, model: Any = "all-MiniLM-L6-v2", *, name: str | None = None, batch_size: int = 64) -> None:
        loaded = _load(model) if isinstance(model, str) else model
        given = model if isinstance(model, str) else None
        document, query = (
            getattr(loaded, f"encode_{kind}", loaded.encode) for kind in ("document", "query")
        )  # these prepend the prompts of the model, if it has any
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        super().__init__(
            lambda texts: document(texts, batch_size=batch_size, **options),
            model=name or given or _card_name(loaded),
            embed_query=lambda text: query([text], **options)[0],
            batch_size=batch_size,
        )


class HashingEmbedder:
    """Hashes words, pairs of words and trigrams into a vector: deterministic, without a model or a download.

    It compares spelling, not meaning: for tests, examples and first trials.

    Args:
        dimension: The length of the vectors; default: 384.
        model: The name under which they are stored; default: "hashing-<dimension>".
    """

    def __init__(self, dimension: int = 384, *, model: str | None = None) -> None:
        if type(dimension) is not int or dimension < 1:
            raise ValidationError("dimension", "must be an integer of at least 1", dimension)
        self.model = model or f"hashing-{dimension}"
        self._dimension = dimension

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._dimension}, model={self.model!r})"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See `Embedder`. The vectors are normalized."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> Vector:
        """See `Embedder`."""
        counts: dict[str, int] = {}
        for feature in _features(text):
            counts[feature] = counts.get(feature, 0) + 1
        vector = [0.0] * self._dimension
        for feature, count in counts.items():
            index, sign = _hashed(feature)
            vector[index % self._dimension] += sign * (1 + math.log(count))
        length = math.hypot(*vector)
        return [number / length for number in vector] if length else [1.0, *vector[1:]]


def text_of(item: Episode | Step | AnyPattern) -> str:
    """Return the text of an item that is embedded by default: task and outcome of an episode, untruncated."""
    if isinstance(item, Episode):
        return "\n".join(_of_episode(item))
    if isinstance(item, Step):
        return "\n".join(_of_step(item))
    skipped = {"id", "version", "context", "evidence", "metadata", "effectiveness", "created_at", "updated_at", "kind"}
    return "\n".join(_texts(value for name, value in item if name not in skipped))


def _of_episode(episode: Episode) -> Iterator[str]:
    context, outcome = episode.context, episode.outcome
    yield episode.task_description
    yield " ".join(_texts((context.domain, context.language, context.framework, episode.tags)))
    for name in ("verdict", "reason", "error_details"):
        yield from _texts((getattr(outcome, name, None),))
    if episode.reflection:
        yield from _texts((episode.reflection.insights,))


def _of_step(step: Step) -> Iterator[str]:
    yield f"{step.tool} {step.action}"
    if step.parameters:
        yield json.dumps(step.parameters, ensure_ascii=False)
    for name in ("output", "message"):
        yield from _texts((getattr(step.result, name, None),))


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _texts(value)


def _features(text: str) -> Iterator[str]:
    words = [word.lower() for word in _WORD.findall(text)]
    yield from words
    yield from (f"{one} {two}" for one, two in pairwise(words))
    for word in words:
        padded = f"<{word}>"
        yield from (padded[at : at + 3] for at in range(len(padded) - 2))


@lru_cache(maxsize=100_000)
def _hashed(feature: str) -> tuple[int, int]:
    number = int.from_bytes(blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return number >> 1, 1 if number & 1 else -1


def _load(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigurationError(
            "sentence-transformers is not installed: pip install 'memory-storage[sentence-transformers]'"
        ) from error
    return SentenceTransformer(name)


def _card_name(loaded: Any) -> str:
    name = getattr(getattr(loaded, "model_card_data", None), "base_model", None)
    if not name:
        raise ValidationError(
            "name", "must be given: the model has no name under which its vectors could be stored", None
        )
    return str(name)
