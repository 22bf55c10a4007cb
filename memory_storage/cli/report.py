"""The commands that say what works: report, as a page or as tables, and learn, which keeps it as patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memory_storage._formatting import counted
from memory_storage.errors import ConfigurationError
from memory_storage.models import EpisodeFilters

from .app import app
from .database import open_existing
from .options import AsJson, Database, Namespace, moment
from .output import has_wide_output, say, show_table, talk, write_json

TaskType = Annotated[str | None, typer.Option(help="Only these, like debugging or testing.")]
Domain = Annotated[str | None, typer.Option(help="Only those of this domain.")]
Tag = Annotated[list[str] | None, typer.Option(help="Only those with this tag; repeat it for all of several.")]
Since = Annotated[str | None, typer.Option(metavar="MOMENT", help="Started then or later (ISO 8601).")]
Until = Annotated[str | None, typer.Option(metavar="MOMENT", help="Started earlier (ISO 8601).")]
RewardAtLeast = Annotated[
    float | None, typer.Option(help="Success is a reward of at least this. Default: the outcome.", show_default=False)
]


@app.command()
def report(
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs no network.")] = None,
    tz: Annotated[str, typer.Option("--tz", "--zone", help="The IANA time zone of days and weeks.")] = "UTC",
    reward_at_least: RewardAtLeast = None,
    episodes: Annotated[int, typer.Option(help="With --html: show so many step by step, at most 50.")] = 8,
    task_type: TaskType = None,
    domain: Domain = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show what works and what fails: over time, by tool, in sequence; as tables, or as a page with --html."""
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
        found = collect(storage, tz=tz, reward_at_least=reward_at_least, episodes=episodes, **filters)
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


@app.command()
def learn(
    least_episodes: Annotated[int, typer.Option(help="In at least so many episodes.")] = 5,
    min_lift: Annotated[float, typer.Option(help="At least so many times the success rate of all.")] = 1.2,
    most: Annotated[int, typer.Option(help="At most so many of each kind.")] = 50,
    reward_at_least: RewardAtLeast = None,
    task_type: TaskType = None,
    domain: Domain = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Make patterns of the tool sequences and error recoveries that lead to success. Again: brings them up to date."""
    filters = _filters(task_type, domain, tag, since, until)
    with open_existing(database, namespace) as storage:
        found = storage.patterns.learn(
            min_episodes=least_episodes, min_lift=min_lift, max_patterns=most, success_reward=reward_at_least, **filters
        )
    if as_json:
        write_json([pattern.model_dump(mode="json") for pattern in found])
        return
    if not found:
        talk("nothing was learned: too few episodes went well in the same way; try --least-episodes 2 or --min-lift 1")
        return
    rows = [
        (
            one.id if has_wide_output() else str(one.id)[:8],
            one.kind,
            one.description,
            f"{one.success_rate:.0%}",
            one.occurrence_count,
            one.version,
        )
        for one in found
    ]
    show_table(["id", "kind", "pattern", "success", "episodes", "version"], rows, whole=["id"])
    talk(counted(len(found), "pattern"))


def _filters(
    task_type: str | None, domain: str | None, tag: list[str] | None, since: str | None, until: str | None
) -> EpisodeFilters:
    given: dict[str, Any] = {
        "task_type": task_type,
        "domain": domain,
        "tags_all": tag or [],
        "since": moment("since", since),
        "until": moment("until", until),
    }
    chosen: Any = {name: value for name, value in given.items() if value}
    return chosen  # type: ignore[no-any-return]
