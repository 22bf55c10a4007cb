"""Episode ids on the command line: a prefix suffices where it is unique."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated
from uuid import UUID

import typer

from memory_storage.sql.id_prefixes import shortest_unique_prefix
from memory_storage.storage import MemoryStorage

from .completion import complete_episode
from .output import has_wide_output

HELP = "An episode's id, or at least its first 4 digits."
EpisodeId = Annotated[str, typer.Argument(metavar="ID", help=HELP, autocompletion=complete_episode)]

_BATCH_SIZE = 1_000
_LEAST = 8  # digits


def resolve_id(storage: MemoryStorage, text: str) -> UUID:
    """Return the episode id that the text stands for; a complete id is not looked up.

    Raises:
        NotFoundError: no id starts with the text.
        ValidationError: several ids start with the text, or it is not the start of an id.
    """
    try:
        return UUID(text)
    except ValueError:
        return storage.episodes.resolve_id(text)


def display_ids(storage: MemoryStorage, episode_ids: Iterable[UUID]) -> Mapping[UUID, str]:
    """Return for each id the text of its table cell: the complete id if there is space, else a unique prefix."""
    return shortened_ids(storage.episodes.short_ids, episode_ids)


def unique_prefixes(ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return for each id its shortest prefix that none of the others has, which is one that its neighbours lack."""
    texts = sorted({str(one) for one in ids})
    neighbours = zip(texts, [None, *texts], [*texts[1:], None], strict=False)
    return {UUID(text): shortest_unique_prefix(text, others, _LEAST) for text, *others in neighbours}


def shortened_ids(short_ids: Callable[[list[UUID]], dict[UUID, str]], ids: Iterable[UUID]) -> Mapping[UUID, str]:
    """Return for each id the text of its table cell, with the `short_ids` of the repository of its rows."""
    listed = list(ids)
    if has_wide_output():
        return {one: str(one) for one in listed}
    shown: dict[UUID, str] = {}
    for start in range(0, len(listed), _BATCH_SIZE):
        shown |= short_ids(listed[start : start + _BATCH_SIZE])
    return shown
