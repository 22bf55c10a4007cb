"""The command `delete`: delete one episode."""

from __future__ import annotations

from typing import Annotated

import typer

from memory_storage._formatting import counted
from memory_storage.errors import NotFoundError

from .app import app
from .confirmation import confirm
from .database import open_existing
from .ids import EpisodeId, resolve_id
from .options import AsJson, Database, Namespace
from .output import say, write_json


@app.command()
def delete(
    episode_id: EpisodeId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Delete an episode with its steps, embeddings and places."""
    with open_existing(database, namespace) as storage:
        episode = storage.episodes.get(resolve_id(storage, episode_id), steps=False)
        if not yes:
            steps = counted(storage.steps.count(episode.id), "step")
            question = f"Delete {episode.id} {episode.task_description[:60]!r} with its {steps}?"
            confirm(question, "delete", "nothing was deleted")
        if not storage.episodes.delete(episode.id):
            raise NotFoundError("episode", episode.id)
    if as_json:
        write_json({"deleted": episode.id})
    else:
        say(f"deleted {episode.id}")
