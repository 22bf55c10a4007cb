"""What of a store's values is embedded, and by what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import Embeddings, ensure_embeddings, get_text_at_path, tokenize_path

from memory_storage.embedders import Embedder, embedder_named
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.storage import MemoryStorage

_DEFAULT_MODEL = "langgraph"
_MODEL_NAME = re.compile(r"\S.{0,199}")

Vectors = Mapping[str, Sequence[float]]


class _EmbedderEmbeddings(Embeddings):
    """An embedder of this package as LangChain's interface."""

    def __init__(self, embedder: Embedder) -> None:
        self.model, self._embedder = embedder.model, embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [list(vector) for vector in self._embedder.embed(texts)]

    def embed_query(self, text: str) -> list[float]:
        return list(self._embedder.embed_query(text))


@dataclass(frozen=True)
class Index:
    """The configuration of a search by vectors.

    Attributes:
        embeddings: What embeds texts.
        model: The name of its vectors in the storage.
        dims: Their dimension; None: any.
        fields: The paths of what is embedded of a value.
    """

    embeddings: Embeddings
    model: str
    dims: int | None
    fields: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, storage: MemoryStorage) -> Index | None:
        """Return the index of LangGraph's `IndexConfig`.

        Args:
            config: The configuration, or None.
            storage: Its embedder is used if the configuration has none.

        Returns:
            The index, or None.

        Raises:
            ConfigurationError: There is no embedder, or the configuration is invalid.
        """
        if config is None:
            return None
        dims, fields, embed = config.get("dims"), config.get("fields") or ["$"], config.get("embed")
        if dims is not None and (type(dims) is not int or dims < 1):
            raise ConfigurationError(f"index: dims must be a whole number from 1, not {dims!r}")
        if isinstance(fields, str) or not all(isinstance(one, str) for one in fields):
            raise ConfigurationError(f"index: fields must be a list of paths, not {fields!r}")
        embeddings = _embeddings(embed, storage)
        return cls(embeddings, _model_of(embeddings, embed), dims, tuple(fields))

    def texts(self, value: Mapping[str, Any], fields: Sequence[str] | None) -> Iterator[tuple[str, str]]:
        """Yield what of a value is embedded: names of fields and their texts.

        Args:
            value: The value.
            fields: Paths that are embedded instead of those of the configuration, or None.
        """
        paths = self.fields if fields is None else fields
        for number, path in enumerate(paths):
            for element, text in enumerate(get_text_at_path(value, path if path == "$" else tokenize_path(path))):
                yield f"{number}.{element} {path}", text

    def checked(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> dict[str, Sequence[float]]:
        """Return vectors by their texts.

        Args:
            texts: The texts.
            vectors: What the embedder returned for them.

        Returns:
            The vectors.

        Raises:
            ValidationError: There is not one for each text, or one has another dimension than the configuration says.
        """
        if len(vectors) != len(texts):
            raise ValidationError("index.embed", f"one vector for each of {len(texts)} texts", len(vectors))
        for vector in vectors:
            if self.dims is not None and len(vector) != self.dims:
                raise ValidationError("index.embed", f"vectors of {self.dims} dimensions (index.dims)", len(vector))
        return dict(zip(texts, vectors, strict=True))


def _embeddings(embed: Any, storage: MemoryStorage) -> Embeddings:
    if embed is None:
        queue = storage._queue
        if queue is None:
            raise ConfigurationError("index: name what embeds texts as `embed`, or open the storage with an embedder")
        return _EmbedderEmbeddings(queue.embedder)
    if isinstance(embed, str):
        return _EmbedderEmbeddings(embedder_named(embed))
    if isinstance(embed, Embedder) and not isinstance(embed, Embeddings):
        return _EmbedderEmbeddings(embed)
    if not isinstance(embed, Embeddings) and not callable(embed):
        raise ConfigurationError("index: embed must be a function, LangChain Embeddings, an Embedder, or a name")
    return ensure_embeddings(embed)


def _model_of(*candidates: Any) -> str:
    """Return the name of the model, by which vectors of different ones are kept apart."""
    names = [getattr(one, name, None) for one in candidates for name in ("model", "model_name")]
    return next((one for one in names if isinstance(one, str) and _MODEL_NAME.fullmatch(one)), _DEFAULT_MODEL)
