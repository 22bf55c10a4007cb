"""The `Embedder` protocol, and an adapter of a function to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from memory_storage.errors import ValidationError

Vector = Sequence[float]


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
