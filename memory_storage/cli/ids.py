"""Ids as they are typed and shown: a prefix is enough where it identifies an episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated
from uuid import UUID

import typer

from memory_storage.storage import MemoryStorage

from .output import has_wide_output

HELP = "An episode's id, or its first digits: 4 or more."
EpisodeId = Annotated[str, typer.Argument(metavar="ID", help=HELP)]

_PORTION = 1_000


def as_whole_id(storage: MemoryStorage, text: str) -> UUID:
    """Return the id of the episode that is meant. A whole id is not looked up.

    Raises:
        NotFoundError: no id begins so.
        ValidationError: several ids begin so, or it is no id.
    """
    try:
        return UUID(text)
    except ValueError:
        return storage.episodes.resolve_id(text)


def as_shown(storage: MemoryStorage, episode_ids: Iterable[UUID]) -> Mapping[UUID, str]:
    """Return for each id what a table shows: all of it where there is room, else the prefix that identifies it."""
    ids = list(episode_ids)
    if has_wide_output():
        return {one: str(one) for one in ids}
    shown: dict[UUID, str] = {}
    for start in range(0, len(ids), _PORTION):
        shown |= storage.episodes.short_ids(ids[start : start + _PORTION])
    return shown
