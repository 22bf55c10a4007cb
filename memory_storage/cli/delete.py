"""The command that deletes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from memory_storage._wording import counted
from memory_storage.errors import NotFoundError
from memory_storage.models import Episode

from . import exit_codes
from .app import app
from .database import open_existing
from .ids import EpisodeId, as_whole_id
from .options import AsJson, Database, Namespace
from .output import say, talk, write_json


@app.command()
def delete(
    episode_id: EpisodeId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Delete an episode with its steps, embeddings and places."""
    with open_existing(database, namespace) as storage:
        episode = storage.episodes.get(as_whole_id(storage, episode_id), steps=False)
        if not yes:
            _ask(episode, storage.steps.count(episode.id))
        if not storage.episodes.delete(episode.id):
            raise NotFoundError("episode", episode.id)
    if as_json:
        write_json({"deleted": episode.id})
    else:
        say(f"deleted {episode.id}")


def _ask(episode: Episode, steps: int) -> None:
    if not sys.stdin.isatty():
        talk("error: there is no terminal to ask at; nothing was deleted; give --yes to delete")
        raise typer.Exit(exit_codes.USAGE)
    # Not typer.confirm(): it writes to stdout, which is for data.
    talk(f"Delete {episode.id} {episode.task_description[:60]!r} with its {counted(steps, 'step')}? [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk("nothing was deleted")
        raise typer.Exit(exit_codes.OTHER)
