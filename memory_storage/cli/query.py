"""The commands `query`, `show` and `stats`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from memory_storage._formatting import counted
from memory_storage.models import Dimension, Episode, Page, Step, StepError, StepOk, StepResult
from memory_storage.storage import MemoryStorage

from .app import app
from .database import open_existing
from .filters import (
    AnyTag,
    Archived,
    ChildOf,
    Domain,
    Everything,
    Language,
    MaxReward,
    Metadata,
    MinReward,
    OutcomeOption,
    Since,
    Tag,
    TaskType,
    Until,
    Words,
    episode_filters,
)
from .ids import EpisodeId, display_ids, resolve_id
from .options import AsJson, Database, Namespace
from .output import say, show_fields, show_table, talk, write_json


@app.command()
def query(
    task_type: TaskType = None,
    domain: Domain = None,
    language: Language = None,
    outcome: OutcomeOption = None,
    tag: Tag = None,
    any_tag: AnyTag = None,
    metadata: Metadata = None,
    min_reward: MinReward = None,
    max_reward: MaxReward = None,
    since: Since = None,
    until: Until = None,
    archived: Archived = False,
    everything: Everything = False,
    text: Words = None,
    child_of: ChildOf = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of episodes (100).", show_default=False)] = None,
    cursor: Annotated[str | None, typer.Option(help="Continue after the previous page.")] = None,
    steps: Annotated[bool, typer.Option("--steps", help="With --json: include the steps.")] = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List the episodes that match all conditions, newest first."""
    filters = episode_filters(
        task_type=task_type,
        domain=domain,
        language=language,
        outcome=outcome,
        tag=tag,
        any_tag=any_tag,
        metadata=metadata,
        min_reward=min_reward,
        max_reward=max_reward,
        since=since,
        until=until,
        archived=archived,
        everything=everything,
        text=text,
    )
    with open_existing(database, namespace) as storage:
        if child_of is not None:
            filters["child_of"] = resolve_id(storage, child_of)
        page = storage.episodes.query(**filters, limit=limit, cursor=cursor, steps=steps)
        if not as_json:
            _show_page(storage, page)
            return
    write_json({"items": [_as_json(episode, steps=steps) for episode in page], "next_cursor": page.next_cursor})


@app.command()
def show(
    episode_id: EpisodeId,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Show the steps.")] = True,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show an episode with its steps."""
    with open_existing(database, namespace) as storage:
        episode = storage.episodes.get(resolve_id(storage, episode_id), steps=steps)
    if as_json:
        write_json(_as_json(episode, steps=steps))
        return
    show_fields(_fields(episode))
    if steps:
        say("" if episode.steps else "\nno steps")
        show_steps(episode.steps)


@app.command()
def stats(
    by: Annotated[
        str | None,
        typer.Option(help="Show success rates by task_type, domain, language, framework, complexity, tool or tag."),
    ] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show the numbers of rows, outcomes and tools in the namespace, or with --by the success rates of groups."""
    if by is not None:
        _show_groups(by, database, namespace, as_json=as_json)
        return
    with open_existing(database, namespace) as storage:
        summary = storage.analytics.summary()
    if as_json:
        write_json(summary)
        return
    show_table(["rows", "number"], list(summary.rows.items()))
    if not any(summary.rows.values()):
        talk(_empty(storage.namespace))
    outcomes = [(name, found.episodes, _number(found.mean_reward)) for name, found in summary.outcomes.items()]
    tools = [(name, found.steps, _number(found.ok_rate)) for name, found in summary.tools.items()]
    for columns, rows in ((["outcome", "episodes", "mean reward"], outcomes), (["tool", "steps", "ok rate"], tools)):
        if rows:
            say("")
            show_table(columns, rows)


def _show_groups(by: str, database: str | None, namespace: str | None, *, as_json: bool) -> None:
    with open_existing(database, namespace) as storage:
        table = storage.analytics.by(cast("Dimension", by))  # the repository checks it
    if as_json:
        write_json(table.to_rows())
        return
    rows = [
        (row.group, row.episodes, _percent(row.success.rate), _percent(row.success.low), _percent(row.success.high))
        for row in table
    ]
    show_table(
        [by, "episodes", "success", "from", "to"],
        rows,
        nothing=f"no episode has a {by}: `memory-storage query` lists all episodes",
    )


def why_no_episode(storage: MemoryStorage) -> str:
    """Return the message for an empty result: the number of stored episodes, and what to do next."""
    stored, archived = storage.episodes.count(archived=None), storage.episodes.count(archived=True)
    if not stored:
        return _empty(storage.namespace)
    kept = f", {archived:,} of them archived (--all)" if archived else ""
    return (
        f"no episode matches: the namespace {storage.namespace!r} has {counted(stored, 'episode')}{kept}; "
        "remove a condition to find more"
    )


def _empty(namespace: str) -> str:
    return (
        f"there are no episodes in the namespace {namespace!r}: import some with `memory-storage import FILE`, "
        "or choose another with --namespace"
    )


def show_steps(steps: Sequence[Step]) -> None:
    """Show the steps as a table."""
    if not steps:
        return
    rows = [(step.step_number, step.tool, step.action, _result(step.result), step.latency_ms) for step in steps]
    show_table(["#", "tool", "action", "result", "ms"], rows, whole=["#", "ms"])


def _show_page(storage: MemoryStorage, page: Page[Episode]) -> None:
    if not page:
        talk(why_no_episode(storage))
        return
    ids = display_ids(storage, [episode.id for episode in page])
    rows = [
        (ids[episode.id], episode.started_at.date(), _ending(episode), _short(episode.task_description, 60))
        for episode in page
    ]
    show_table(["id", "started", "outcome", "task"], rows, whole=["id", "started"])
    if page.next_cursor:
        talk(f"more follow: --cursor {page.next_cursor}")


def _as_json(episode: Episode, *, steps: bool) -> dict[str, Any]:
    return episode.model_dump(mode="json", exclude=None if steps else {"steps"})


def _fields(episode: Episode) -> dict[str, object]:
    outcome, reward = episode.outcome, episode.reward
    parts = outcome.model_dump(exclude={"kind"}, exclude_defaults=True).values() if outcome else ()
    plain = {key: value for key, value in episode.metadata.items() if not isinstance(value, dict | list)}
    others = [key for key in episode.metadata if key not in plain]
    return {
        "id": episode.id,
        "task": episode.task_description,
        "type": episode.task_type,
        "domain": episode.context.domain,
        "language": episode.context.language,
        "started": episode.started_at.isoformat(),
        "completed": episode.completed_at and episode.completed_at.isoformat(),
        "archived": episode.archived_at and episode.archived_at.isoformat(),
        "outcome": f"{outcome.kind}: {'; '.join(map(str, parts))}" if outcome else "open",
        "reward": reward and _number(reward.total),
        "tags": ", ".join(episode.tags) or None,
        "metadata": ", ".join(f"{key}={value}" for key, value in plain.items()) or None,
        "and": f"{', '.join(others)} (in --json)" if others else None,
        "version": episode.version,
    }


def _result(result: StepResult | None) -> str:
    if isinstance(result, StepOk):
        return _short(result.output) or "ok"
    if isinstance(result, StepError):
        return f"error: {_short(result.message)}"
    return result.status if result else "-"


def _ending(episode: Episode) -> str:
    kind = episode.outcome.kind if episode.outcome else "open"
    return f"{kind} {_number(episode.reward.total if episode.reward else None)}".rstrip()


def _short(text: str, length: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
