"""Embedders: they compute the vectors of texts. They are injected; this package loads no model by itself.

An embedder is called outside of transactions, with batches of texts. Its exceptions propagate unchanged.
"""

from .hashing import HashingEmbedder
from .protocol import Embedder, FunctionEmbedder, Vector
from .sentence_transformers import SentenceTransformerEmbedder
from .texts import text_of

__all__ = ["Embedder", "FunctionEmbedder", "HashingEmbedder", "SentenceTransformerEmbedder", "Vector", "text_of"]
