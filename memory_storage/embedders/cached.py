"""A cache of vectors in front of another embedder."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from memory_storage.errors import ValidationError

from .protocol import Embedder, Vector


class CachedEmbedder:
    """Remembers the vectors of the latest texts by their digests, so that a repeated text does not call the embedder.

    Vectors are kept as 32-bit floats, in memory: 1.5 KB for one of 384 dimensions. Thread-safe; two threads that need
    the same new text at once may both embed it.

    Args:
        embedder: What embeds texts that are not known.
        size: The number of vectors to keep; the least recently used ones are dropped. Default: 2,000.
    """

    def __init__(self, embedder: Embedder, *, size: int = 2_000) -> None:
        if not isinstance(embedder, Embedder):
            raise ValidationError("embedder", "must be an embedder, like HashingEmbedder()", embedder)
        if type(size) is not int or size < 1:
            raise ValidationError("size", "must be an integer of at least 1", size)
        self._embedder, self._size = embedder, size
        self._vectors: OrderedDict[bytes, array[float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The name of the model of the embedder."""
        return self._embedder.model

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r}, size={self._size})"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See `Embedder`. Only texts that are not in the cache are embedded, each once."""
        keys = [_digest(b"document", text) for text in texts]
        known = self._look_up(keys)
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if unknown:
            vectors = self._embedder.embed(list(unknown.values()))
            if len(vectors) != len(unknown):
                raise ValidationError("vectors", f"one for each of {len(unknown)} texts", len(vectors))
            known |= self._keep(dict(zip(unknown, vectors, strict=True)))
        return [known[key] for key in keys]

    def embed_query(self, text: str) -> Vector:
        """See `Embedder`."""
        key = _digest(b"query", text)
        known = self._look_up([key]) or self._keep({key: self._embedder.embed_query(text)})
        return known[key]

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, array[float]]:
        with self._lock:
            known = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in known:
                self._vectors.move_to_end(key)
        return known

    def _keep(self, vectors: dict[bytes, Vector]) -> dict[bytes, array[float]]:
        packed = {key: array("f", vector) for key, vector in vectors.items()}
        with self._lock:
            self._vectors.update(packed)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
        return packed


def _digest(kind: bytes, text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()
