"""Embedders by name, for settings, the environment and the command line."""

from __future__ import annotations

from collections.abc import Callable

from memory_storage.errors import ConfigurationError

from .hashing import HashingEmbedder
from .openai import OpenAIEmbedder
from .protocol import Embedder
from .sentence_transformers import SentenceTransformerEmbedder
from .wordllama import WordLlamaEmbedder

_OLLAMA = "http://127.0.0.1:11434/v1"

_WITH_MODEL: dict[str, Callable[[str], Embedder]] = {
    "openai": OpenAIEmbedder,
    "ollama": lambda model: OpenAIEmbedder(model, base_url=_OLLAMA),
    "sentence-transformers": SentenceTransformerEmbedder,
}
_ALONE: dict[str, Callable[[], Embedder]] = {
    "hashing": HashingEmbedder,
    "openai": OpenAIEmbedder,
    "sentence-transformers": SentenceTransformerEmbedder,
    "wordllama": WordLlamaEmbedder,
}


def embedder_named(name: str) -> Embedder:
    """Return the embedder of a name.

    Args:
        name: "hashing", "wordllama", "sentence-transformers" or "openai"; or one of the last two, or "ollama", with a
            model: "sentence-transformers:all-MiniLM-L6-v2", "openai:text-embedding-3-large", "ollama:nomic-embed-text".

    Returns:
        The embedder.

    Raises:
        ConfigurationError: There is none of this name, or its extra is not installed.
    """
    kind, _, model = name.partition(":")
    if model and kind in _WITH_MODEL:
        return _WITH_MODEL[kind](model)
    if not model and kind in _ALONE:
        return _ALONE[kind]()
    names = ", ".join([*_ALONE, *(f"{one}:MODEL" for one in _WITH_MODEL)])
    raise ConfigurationError(f"embedder: must be one of {names}, or an Embedder; got {name!r}")
