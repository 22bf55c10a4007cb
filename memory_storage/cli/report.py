"""The commands `report` and `learn`: what works, as tables or a page, and as stored patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memory_storage._formatting import counted
from memory_storage.errors import ConfigurationError
from memory_storage.models import EpisodeFilters

from .app import app
from .database import open_existing
from .options import AsJson, Database, Namespace, parse_time
from .output import say, show_table, talk, write_json
from .patterns import show_patterns
from .renamed_options import renamed_options

TaskType = Annotated[str | None, typer.Option(help="Only this type, like debugging or testing.")]
Domain = Annotated[str | None, typer.Option(help="Only this domain.")]
Tag = Annotated[list[str] | None, typer.Option(help="Only with this tag; repeat it to require several.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Started at this time or later (ISO 8601).")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Started before this time (ISO 8601).")]
SuccessReward = Annotated[
    float | None,
    typer.Option(help="Count a reward of at least this as success. Default: the outcome.", show_default=False),
]


@app.command(cls=renamed_options({"--zone": "--tz", "--reward-at-least": "--success-reward"}))
def report(
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained HTML page.")] = None,
    tz: Annotated[str, typer.Option(help="The IANA time zone of days and weeks.")] = "UTC",
    success_reward: SuccessReward = None,
    episodes: Annotated[int, typer.Option(help="With --html: number of episodes shown step by step, at most 50.")] = 8,
    task_type: TaskType = None,
    domain: Domain = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show what works and what fails over time, by tool and by sequence, as tables or with --html as a page."""
    try:
        from memory_storage_report import collect, sections, write_page
    except ModuleNotFoundError as error:
        if error.name != "memory_storage_report":
            raise
        raise ConfigurationError(
            "the report is not installed; nothing was read; run: pip install 'memory-storage[report]'"
        ) from error

    filters = _filters(task_type, domain, tag, since, until)
    with open_existing(database, namespace) as storage:
        found = collect(storage, tz=tz, success_reward=success_reward, episodes=episodes, **filters)
    if html is not None:
        written = write_page(found, html)
    if as_json:
        write_json({**found.tables(), "file": None if html is None else str(written)})
    elif html is not None:
        say(f"{written}: {counted(found.all.episodes, 'episode')}")
    else:
        for number, section in enumerate(sections(found)):
            say(f"{chr(10) * bool(number)}{section.title}: {section.summary}")
            if section.rows:
                show_table(section.columns, section.rows)


@app.command(
    cls=renamed_options(
        {"--least-episodes": "--min-episodes", "--most": "--max-patterns", "--reward-at-least": "--success-reward"}
    )
)
def learn(
    min_episodes: Annotated[int, typer.Option(help="Minimum number of episodes of a pattern.")] = 5,
    min_lift: Annotated[float, typer.Option(help="Minimum ratio of its success rate to that of all episodes.")] = 1.2,
    max_patterns: Annotated[int, typer.Option(help="Maximum number of patterns of each kind.")] = 50,
    success_reward: SuccessReward = None,
    task_type: TaskType = None,
    domain: Domain = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Store what leads to success, what resolves errors and what to avoid as patterns. Run it again to update them."""
    filters = _filters(task_type, domain, tag, since, until)
    with open_existing(database, namespace) as storage:
        found = storage.patterns.learn(
            min_episodes=min_episodes,
            min_lift=min_lift,
            max_patterns=max_patterns,
            success_reward=success_reward,
            **filters,
        )
        if not as_json:
            show_patterns(storage, found)
    if as_json:
        write_json([pattern.model_dump(mode="json") for pattern in found])
    elif not found:
        talk("no pattern was learned: too few episodes succeeded in the same way; try --min-episodes 2 or --min-lift 1")
    else:
        talk(counted(len(found), "pattern"))


def _filters(
    task_type: str | None, domain: str | None, tag: list[str] | None, since: str | None, until: str | None
) -> EpisodeFilters:
    given: dict[str, Any] = {
        "task_type": task_type,
        "domain": domain,
        "tags_all": tag or [],
        "since": parse_time("since", since),
        "until": parse_time("until", until),
    }
    chosen: Any = {name: value for name, value in given.items() if value}
    return chosen  # type: ignore[no-any-return]
