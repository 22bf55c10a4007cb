"""Episode ids on the command line: a prefix suffices where it is unique."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated
from uuid import UUID

import typer

from memory_storage.storage import MemoryStorage

from .completion import complete_episode
from .output import has_wide_output

HELP = "An episode's id, or at least its first 4 digits."
EpisodeId = Annotated[str, typer.Argument(metavar="ID", help=HELP, autocompletion=complete_episode)]

_BATCH_SIZE = 1_000


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
    ids = list(episode_ids)
    if has_wide_output():
        return {one: str(one) for one in ids}
    shown: dict[UUID, str] = {}
    for start in range(0, len(ids), _BATCH_SIZE):
        shown |= storage.episodes.short_ids(ids[start : start + _BATCH_SIZE])
    return shown
