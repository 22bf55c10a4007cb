"""Documents in portions that travel as one value each: a server takes none over five megabytes. Knows no SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memory_storage.dbapi import portions
from memory_storage.models import Episode

PORTION_BYTES = 4_000_000


class Portion(NamedTuple):
    """A JSON array of so many documents."""

    documents: int
    text: str


def of_documents(documents: Iterable[str]) -> list[Portion]:
    """The documents in their order; one that is larger than a portion is one of its own."""
    return [Portion(len(group), _array(group)) for group in _groups(documents)]


def of_episodes(prepared: Sequence[tuple[str, Episode]]) -> tuple[list[Portion], list[Portion]]:
    """The portions of the episodes' heads, and those of their steps: the same, but for episodes that are too large."""
    small = [document for document, _ in prepared if size(document) <= PORTION_BYTES]
    whole = of_documents(small)
    if len(small) == len(prepared):
        return whole, whole
    large = [episode for document, episode in prepared if size(document) > PORTION_BYTES]
    heads = of_documents(map(head, large))
    steps = [portion for episode in large for portion in _of_steps(episode)]
    return whole + heads, whole + steps


def head(episode: Episode) -> str:
    """The JSON of the episode without its steps."""
    return episode.model_copy(update={"steps": []}).model_dump_json()


def size(text: str) -> int:
    """How many bytes it has."""
    return len(text) if text.isascii() else len(text.encode())


def _of_steps(episode: Episode) -> Iterator[Portion]:
    for group in _groups(step.model_dump_json() for step in episode.steps):
        yield Portion(1, f'[{{"id":"{episode.id}","steps":{_array(group)}}}]')


def _array(documents: Sequence[str]) -> str:
    return f"[{','.join(documents)}]"


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    return portions(documents, size, most_bytes=PORTION_BYTES)
