"""Options that filter episodes, shared by the commands that list and export them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memory_storage.models import EpisodeFilters

from .completion import (
    complete_domain,
    complete_episode,
    complete_language,
    complete_outcome,
    complete_tag,
    complete_task_type,
)
from .options import metadata_filter, parse_time

TaskType = Annotated[
    str | None, typer.Option(help="A type like debugging or testing.", autocompletion=complete_task_type)
]
Domain = Annotated[str | None, typer.Option(help="The domain of the context.", autocompletion=complete_domain)]
Language = Annotated[str | None, typer.Option(help="The language of the context.", autocompletion=complete_language)]
OutcomeOption = Annotated[
    str | None,
    typer.Option(help="success, partial_success, failure or abstained.", autocompletion=complete_outcome),
]
Tag = Annotated[
    list[str] | None,
    typer.Option(help="Has this tag; repeat it to require several.", autocompletion=complete_tag),
]
AnyTag = Annotated[
    list[str] | None,
    typer.Option(help="Has at least one of these tags; repeat it.", autocompletion=complete_tag),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="key=value, or with != > >= < <= or ~= (a list has the value), or a filter in JSON; repeat it.",
    ),
]
MinReward = Annotated[float | None, typer.Option(help="Reward of at least this.")]
MaxReward = Annotated[float | None, typer.Option(help="Reward of at most this.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Started at this time or later (ISO 8601).")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Started before this time (ISO 8601).")]
Archived = Annotated[bool, typer.Option("--archived", help="Only archived episodes.")]
Everything = Annotated[bool, typer.Option("--all", help="Include archived episodes.")]
ChildOf = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Children of the episode with this id.", autocompletion=complete_episode),
]
Words = Annotated[str | None, typer.Option(help='Contains these words, "a phrase" or a prefix*.')]


def episode_filters(
    *,
    task_type: str | None,
    domain: str | None,
    language: str | None,
    outcome: str | None,
    tag: list[str] | None,
    any_tag: list[str] | None,
    metadata: list[str] | None,
    min_reward: float | None,
    max_reward: float | None,
    since: str | None,
    until: str | None,
    archived: bool,
    everything: bool,
    text: str | None,
) -> EpisodeFilters:
    """Return the filters that the options give; those that are not given are left out. The repository checks them."""
    options: dict[str, Any] = {
        "task_type": task_type,
        "domain": domain,
        "language": language,
        "outcome": outcome,
        "tags_all": tag or None,
        "tags_any": any_tag or None,
        "metadata": metadata_filter("metadata", metadata or []) or None,
        "min_reward": min_reward,
        "max_reward": max_reward,
        "since": parse_time("since", since),
        "until": parse_time("until", until),
        "text": text,
    }
    given: Any = {name: value for name, value in options.items() if value is not None}
    if everything or archived:
        given["archived"] = None if everything else True
    return given  # type: ignore[no-any-return]
