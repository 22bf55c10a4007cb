"""The words of memories and queries, and how memories are ranked by them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from memory_storage.schema.spelling import SEPARATOR, words_in
from memory_storage.search.statement import RRF_K

K = TypeVar("K")

_ACCENTS = re.compile("[\u0300-\u036f]")


def words_of(text: str) -> list[str]:
    """Return the distinct words of a text, without case and accents.

    Of a script without spaces they are each character and each pair of neighboring ones: so a query is found wherever
    it is in a sentence.
    """
    words: dict[str, None] = {}
    for word in words_in(text):
        characters = word.split(SEPARATOR)
        if len(characters) <= 2:  # a longer run is made of the pairs that follow it
            words[_folded("".join(characters))] = None
        if len(characters) > 1:
            words.update(dict.fromkeys(map(_folded, characters)))
    return list(words)


def query_words_of(text: str) -> list[str]:
    """Return the distinct words that a search looks for: of a script without spaces, pairs rather than characters."""
    parts = [word.split(SEPARATOR) for word in words_in(text)]
    return list(dict.fromkeys(_folded("".join(one)) for one in parts if len(one) <= 2))


def ranked_by_words(query: Iterable[str], words_by_key: Mapping[K, Sequence[str]]) -> dict[K, float]:
    """Return the score of each text that has words of the query: rare words count more.

    Args:
        query: The words of the query.
        words_by_key: The words of the texts that have at least one of them.

    Returns:
        The sum of the inverse document frequencies of the words, for each key.
    """
    wanted = set(query)
    matches = {key: wanted.intersection(words) for key, words in words_by_key.items()}
    frequency = Counter(word for words in matches.values() for word in words)
    weight = {word: math.log1p((len(matches) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    return {key: sum(weight[word] for word in sorted(words)) for key, words in matches.items() if words}


def fused(*rankings: Sequence[K]) -> dict[K, float]:
    """Return scores by reciprocal rank fusion of rankings, the best key first in each."""
    scores: dict[K, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (RRF_K + rank)
    return scores


def _folded(word: str) -> str:
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", word.casefold())))
