"""The command `search`: by words, by the vector of an episode, or by both."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from memory_storage.errors import ConfigurationError
from memory_storage.models import Episode, Hits, OutcomeKind
from memory_storage.storage import MemoryStorage

from .app import app
from .completion import complete_episode
from .database import open_existing
from .filters import Domain, Everything, OutcomeOption, Tag, TaskType
from .ids import display_ids, resolve_id
from .options import AsJson, Database, Namespace
from .output import show_table, talk, write_json
from .query import why_no_episode


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Contains some of these words.")] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Is similar to this episode (id or its first digits), by its vector.",
            autocompletion=complete_episode,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --like: the embedding model. Default: the only one.")] = None,
    task_type: TaskType = None,
    domain: Domain = None,
    outcome: OutcomeOption = None,
    tag: Tag = None,
    everything: Everything = False,
    k: Annotated[int, typer.Option("-k", help="Maximum number of episodes, from 1 to 1000.")] = 10,
    cursor: Annotated[str | None, typer.Option(help="Continue after the previous page.")] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Find the most relevant episodes: by words, by similarity to an episode, or by both."""
    filters: dict[str, Any] = {
        "task_type": task_type,
        "domain": domain,
        "outcome": cast("OutcomeKind | None", outcome),  # the filter checks it
        "tags_all": tag or [],
        "archived": None if everything else False,
    }
    with open_existing(database, namespace) as storage:
        vector = None if like is None else _vector(storage, like, model)
        hits = _search(storage, text, vector, {"k": k, "cursor": cursor, "steps": False, "explain": True, **filters})
        if not as_json:
            _show(storage, hits)
            return
    write_json({"items": [_as_json(hit) for hit in hits], "next_cursor": hits.next_cursor, "plan": hits.plan})


def _search(
    storage: MemoryStorage, text: str | None, vector: dict[str, Any] | None, options: dict[str, Any]
) -> Hits[Episode]:
    if text is not None:
        return storage.episodes.search(text, **(vector or {}), **options)
    if vector is None:
        raise ConfigurationError("nothing to search for: give a TEXT, or --like ID")
    return storage.episodes.similar_to(**vector, **options)


def _vector(storage: MemoryStorage, episode_id: str, model: str | None) -> dict[str, Any]:
    whole_id, models = resolve_id(storage, episode_id), storage.embeddings.models()
    if model is None and len(models) != 1:
        raise ConfigurationError(f"give --model: {', '.join(models) or 'there are no embeddings yet'}")
    chosen = model or next(iter(models))
    embedding = storage.embeddings.get("episode", whole_id, model=chosen)
    return {"vector": embedding.vector, "model": chosen}


def _as_json(hit: Any) -> dict[str, Any]:
    found = {name: getattr(hit, name) for name in ("score", "similarity", "method", "snippet", "parts")}
    return {**found, "episode": hit.item.model_dump(mode="json", exclude={"steps"})}


def _show(storage: MemoryStorage, hits: Hits[Episode]) -> None:
    if not hits:
        talk(why_no_episode(storage))
        return
    ids = display_ids(storage, [hit.item.id for hit in hits])
    rows = [
        (
            ids[hit.item.id],
            f"{hit.score:.3f}",
            hit.item.outcome.kind if hit.item.outcome else "open",
            " ".join((hit.snippet or hit.item.task_description[:120]).split()),
        )
        for hit in hits
    ]
    show_table(["id", "score", "outcome", "where"], rows, whole=["id", "score"])
    if hits.next_cursor:
        talk(f"more follow: --cursor {hits.next_cursor}")
