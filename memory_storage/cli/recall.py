"""The command `recall`: what to know before a task, as Markdown for a prompt."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memory_storage._formatting import counted

from .app import app
from .database import open_existing
from .filters import Domain, Everything, Language, Tag, TaskType
from .options import AsJson, Database, Namespace
from .output import say, talk, write_json
from .query import why_no_episode


@app.command()
def recall(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What is to be done.")],
    k: Annotated[int, typer.Option("-k", "--k", help="Maximum number of successes, from 1 to 1000.")] = 5,
    budget_tokens: Annotated[int, typer.Option(help="Maximum number of tokens of the text, by an estimate.")] = 2_000,
    task_type: TaskType = None,
    domain: Domain = None,
    language: Language = None,
    tag: Tag = None,
    everything: Everything = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep its ID, for `record complete --recalled`, and print it to stderr.")
    ] = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Print what to know before a task: similar successes with their steps, failures to avoid, and patterns."""
    options: dict[str, Any] = {"task_type": task_type, "domain": domain, "language": language, "tags_all": tag or None}
    filters: Any = {name: value for name, value in options.items() if value is not None}
    if everything:
        filters["archived"] = None
    with open_existing(database, namespace) as storage:
        found = storage.recall(task, k=k, budget_tokens=budget_tokens, keep=keep, **filters)
        if not found and not as_json:
            talk(why_no_episode(storage))
    if as_json:
        write_json(found.to_dict())
        return
    if found:
        say(str(found).rstrip("\n"))
    if keep:
        talk(f"recall {found.id}")
    if found.left_out:
        talk(f"{counted(found.left_out, 'more record')} did not fit: raise --budget-tokens")
