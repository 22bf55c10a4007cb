"""The commands `archive` and `unarchive`.

The second is not named `restore`, which restores a database from a backup.
"""

from __future__ import annotations

from typing import Annotated

import typer

from memory_storage._formatting import counted
from memory_storage.models import Episode
from memory_storage.storage import MemoryStorage

from .app import app
from .completion import complete_episode
from .database import open_existing
from .ids import HELP, resolve_id
from .options import AsJson, Database, Namespace
from .output import say, write_json

EpisodeIds = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help=f"{HELP} Several are changed together.", autocompletion=complete_episode),
]


@app.command()
def archive(
    episode_ids: EpisodeIds, database: Database = None, namespace: Namespace = None, as_json: AsJson = False
) -> None:
    """Exclude episodes from queries, searches and exports, except those with --all or --archived."""
    with open_existing(database, namespace) as storage:
        episodes = _change(storage, episode_ids, archive=True)
    _show(episodes, "archived", as_json=as_json)


@app.command()
def unarchive(
    episode_ids: EpisodeIds, database: Database = None, namespace: Namespace = None, as_json: AsJson = False
) -> None:
    """Include archived episodes in queries again."""
    with open_existing(database, namespace) as storage:
        episodes = _change(storage, episode_ids, archive=False)
    _show(episodes, "unarchived", as_json=as_json)


def _change(storage: MemoryStorage, texts: list[str], *, archive: bool) -> list[Episode]:
    """Change all of the episodes or, if one is not found, none."""
    whole_ids = dict.fromkeys(resolve_id(storage, text) for text in texts)
    with storage.transaction() as tx:
        return [(tx.episodes.archive if archive else tx.episodes.restore)(one) for one in whole_ids]


def _show(episodes: list[Episode], what: str, *, as_json: bool) -> None:
    if as_json:
        write_json({what: [episode.id for episode in episodes]})
    elif len(episodes) == 1:
        say(f"{what} {episodes[0].id}")
    else:
        say(f"{what} {counted(len(episodes), 'episode')}")
