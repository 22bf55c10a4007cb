"""An embedder without a model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise

from memory_storage.errors import ValidationError

from .protocol import Vector

_WORD = re.compile(r"[^\W_]+")


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
