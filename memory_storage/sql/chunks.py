"""Chunks of documents, each bound as one value: a server accepts no value above five megabytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memory_storage.dbapi import chunked
from memory_storage.models import Episode, Step
from memory_storage.schema.spelling import is_spelled_otherwise
from memory_storage.schema.words import with_words, words_of_episode, words_of_step

from .validation import size

# sqld rejects values above 5,000,000 bytes; a row also has other columns than its document.
CHUNK_BYTES = 4_000_000


class Chunk(NamedTuple):
    """A JSON array, and the number of documents in it."""

    documents: int
    text: str


def chunk_documents(documents: Iterable[str]) -> list[Chunk]:
    """Return the documents in chunks, in order; a document larger than a chunk has a chunk of its own."""
    return [Chunk(len(group), _array(group)) for group in _groups(documents)]


def chunk_episodes(prepared: Sequence[tuple[str, Episode]]) -> tuple[list[Chunk], list[Chunk]]:
    """Return the chunks of the episodes' heads and those of their steps.

    Both are the same chunks, unless an episode has to be split: it is too large, or has words that the full-text index
    spells differently.
    """
    # The usual case binds the same JSON for heads and for steps: taking an episode apart would serialise it again.
    together = [document for document, _ in prepared if not is_spelled_otherwise(document)]
    together = [document for document in together if size(document) <= CHUNK_BYTES]
    if len(together) == len(prepared):
        whole = chunk_documents(together)
        return whole, whole
    apart = [pair for pair in prepared if is_spelled_otherwise(pair[0]) or size(pair[0]) > CHUNK_BYTES]
    heads = chunk_documents([*together, *(_with_words(head(episode)) for _, episode in apart)])
    small = [steps for _, episode in apart if size(steps := _steps_of(episode)) <= CHUNK_BYTES]
    large = [episode for _, episode in apart if size(_steps_of(episode)) > CHUNK_BYTES]
    return heads, [*chunk_documents([*together, *small]), *(chunk for one in large for chunk in _of_steps(one))]


def head(episode: Episode) -> str:
    """Return the JSON of an episode without its steps."""
    return episode.model_copy(update={"steps": []}).model_dump_json()


def _of_steps(episode: Episode) -> Iterator[Chunk]:
    for group in _groups(map(_step, episode.steps)):
        yield Chunk(1, f"[{_as_steps(episode, group)}]")


def _steps_of(episode: Episode) -> str:
    return _as_steps(episode, [_step(step) for step in episode.steps])


def _as_steps(episode: Episode, steps: Sequence[str]) -> str:
    return f'{{"id":"{episode.id}","steps":{_array(steps)}}}'


def _step(step: Step) -> str:
    document = step.model_dump_json()
    return with_words(document, words_of_step(document))


def _with_words(document: str) -> str:
    return with_words(document, words_of_episode(document))


def _array(documents: Sequence[str]) -> str:
    return f"[{','.join(documents)}]"


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    return chunked(documents, size, most_bytes=CHUNK_BYTES)
