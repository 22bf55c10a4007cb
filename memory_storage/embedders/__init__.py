"""Embedders: they compute the vectors of texts. They are injected; this package loads no model by itself.

An embedder is called outside of transactions, with batches of texts. Its exceptions propagate unchanged.
"""

from .cached import CachedEmbedder
from .hashing import HashingEmbedder
from .names import embedder_named
from .openai import OpenAIEmbedder
from .protocol import Embedder, FunctionEmbedder
from .sentence_transformers import SentenceTransformerEmbedder
from .texts import text_of
from .wordllama import WordLlamaEmbedder

__all__ = [
    "CachedEmbedder",
    "Embedder",
    "FunctionEmbedder",
    "HashingEmbedder",
    "OpenAIEmbedder",
    "SentenceTransformerEmbedder",
    "WordLlamaEmbedder",
    "embedder_named",
    "text_of",
]
