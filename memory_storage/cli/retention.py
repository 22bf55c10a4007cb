"""The commands that remove episodes: `retain` (by a policy), `forget` (erase), `scrub` (overwrite deleted bytes)."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from memory_storage._formatting import counted
from memory_storage.backup import ErasedBackup, checked_backups, forget_in_backups
from memory_storage.errors import ConfigurationError, UnavailableError, ValidationError
from memory_storage.models import ErasureResult, RetentionPlan, RetentionPolicy, RetentionResult
from memory_storage.storage import MemoryStorage

from .app import app
from .completion import complete_episode
from .confirmation import confirm
from .database import open_existing
from .ids import HELP, display_ids, resolve_id
from .options import AsJson, Database, Namespace
from .output import progress, say, show_table, talk, write_json

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_NOTHING_TO_DO = "nothing to do: the policy keeps every episode"
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

Backups = Annotated[
    list[Path] | None,
    typer.Option("--backup", metavar="PATH", help="Also erase from this backup; repeat it."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@app.command()
def retain(
    max_age: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Remove episodes that started longer ago: 90d, 12h, 2w.")
    ] = None,
    min_reward: Annotated[float | None, typer.Option(help="Remove episodes with a lower reward.")] = None,
    max_episodes: Annotated[int | None, typer.Option(help="Remove the oldest until this number is left.")] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Remove the oldest until this size is left: 500MB.")
    ] = None,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Remove only episodes that failed.")] = False,
    keep_tag: Annotated[list[str] | None, typer.Option(help="Keep episodes with this tag; repeat it.")] = None,
    sources: Annotated[
        bool, typer.Option("--keep-sources/--drop-sources", help="Keep episodes that patterns are based on.")
    ] = True,
    archive: Annotated[bool, typer.Option("--archive", help="Archive instead of deleting.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the episodes and the reasons.")] = False,
    yes: Yes = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Remove the episodes that a policy does not keep. Writers are not blocked. Run it again to resume."""
    policy = RetentionPolicy(
        max_age=None if max_age is None else _parse_span(max_age),
        min_reward=min_reward,
        max_episodes=max_episodes,
        max_bytes=None if max_bytes is None else int(_parse_quantity("max_bytes", max_bytes, _SIZES)),
        only_failed=only_failed,
        keep_tagged=keep_tag or [],
        keep_pattern_sources=sources,
        archive=archive,
    )
    with open_existing(database, namespace) as storage:
        plan = storage.retention.plan(policy)
        if dry_run:
            _show_plan(storage, plan, as_json=as_json)
            return
        verb = "archive" if archive else "delete"
        if plan and not yes:
            confirm(f"{verb.capitalize()} {_format_size(len(plan), plan.bytes)}?", verb)
        with progress(verb, len(plan)) as on_progress:
            done = storage.retention.apply(plan, progress=lambda count, _: on_progress(count))
    _show_done(done, f"{verb}d", as_json=as_json)


@app.command()
def forget(
    episode_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help=f"{HELP} Without it, the whole --namespace is erased.", autocompletion=complete_episode
        ),
    ] = None,
    scrub: Annotated[
        bool, typer.Option("--scrub/--no-scrub", help="Overwrite the erased bytes in the file now.")
    ] = True,
    backup: Backups = None,
    yes: Yes = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Erase an episode, or a whole --namespace, permanently. Exits with 7 if bytes may be left in the file."""
    if episode_id is None and namespace is None:
        raise ConfigurationError("nothing to forget: give an episode's ID, or --namespace to erase all of it")
    with open_existing(database, namespace) as storage:
        checked_backups(storage, backup or [])  # before anything is erased
        whole_id = None if episode_id is None else resolve_id(storage, episode_id)
        what = _target(storage, whole_id)
        if not yes:
            confirm(f"Erase {what} permanently?", "forget")
        elif episode_id is not None and str(whole_id) != episode_id:
            talk(f"{episode_id} is {what}")
        of: dict[str, Any] = {"namespace": storage.namespace} if whole_id is None else {"episode": whole_id}
        found = storage.forget(**of, scrub=scrub)
        erased = _erase_backups(storage, backup, **of)
    if as_json:
        write_json({**asdict(found), **_backups_as_json(erased)})
    else:
        say(_erasure_summary(found))
    _show_backups(erased, as_json=as_json)
    if scrub:
        _show_scrub(storage, found.why)


@app.command()
def scrub(backup: Backups = None, database: Database = None, as_json: AsJson = False) -> None:
    """Rewrite the file, so that no deleted bytes are left in it. Exits with 7 if this failed."""
    with open_existing(database, None) as storage:
        checked_backups(storage, backup or [])
        done = storage.scrub()
        erased = _erase_backups(storage, backup)
    if as_json:
        write_json({**asdict(done), **_backups_as_json(erased)})
    elif done.complete:
        say("no deleted bytes are left in the file")
    _show_backups(erased, as_json=as_json)
    _show_scrub(storage, done.why)


def _erase_backups(storage: MemoryStorage, backups: list[Path] | None, **of: Any) -> list[ErasedBackup]:
    if not backups:
        return []
    with progress("backups", 100) as on_progress:
        return forget_in_backups(
            storage, backups, **of, progress=lambda _, done, total: on_progress(100 * done // max(total, 1))
        )


def _backups_as_json(erased: list[ErasedBackup]) -> dict[str, Any]:
    return {"backups": [asdict(one) for one in erased]} if erased else {}


def _show_backups(erased: list[ErasedBackup], *, as_json: bool) -> None:
    for one in erased:
        if not as_json and one.complete:
            say(f"{one.path}: erased {counted(one.episodes, 'episode')} and {counted(one.patterns, 'pattern')}")
    if whys := [one.why for one in erased if not one.complete]:
        raise UnavailableError(f"bytes may be left: {'; '.join(whys)}")


def _show_scrub(storage: MemoryStorage, why: str) -> None:
    if why and storage.settings.server:
        talk(why)  # the server owns the file: the client cannot scrub it
    elif why:
        raise UnavailableError(f"bytes may be left: {why}")


def _parse_span(text: str) -> timedelta:
    seconds = _parse_quantity("max_age", text, _SPANS)
    if seconds > timedelta.max.total_seconds():
        raise ValidationError("max_age", "at most 999,999,999 days", text)
    return timedelta(seconds=seconds)


def _parse_quantity(option: str, text: str, units: dict[str, int]) -> float:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].lower() not in units:
        raise ValidationError(option, f"a number and one of {', '.join(filter(None, units))}", text)
    return float(found[1]) * units[found[2].lower()]


def _target(storage: MemoryStorage, episode_id: UUID | None) -> str:
    if episode_id is None:
        count = storage.episodes.count(archived=None)
        return f"the whole namespace {storage.namespace!r} with {counted(count, 'episode')}"
    found = storage.episodes.find(episode_id, steps=False)
    return f"{episode_id} {found.task_description[:60]!r}" if found else f"the remains of {episode_id}"


def _format_size(episodes: int, size: int) -> str:
    return f"{counted(episodes, 'episode')} with {counted(size, 'byte')}"


def _show_plan(storage: MemoryStorage, plan: RetentionPlan, *, as_json: bool) -> None:
    if as_json:
        items = [{"id": one.id, "reason": one.reason, "bytes": one.bytes, "steps": one.steps} for one in plan]
        write_json({"now": plan.now, "bytes": plan.bytes, "items": items})
        return
    if not plan:
        talk(_NOTHING_TO_DO)
        return
    ids = display_ids(storage, [one.id for one in plan])
    rows = [(ids[one.id], one.reason, one.steps, f"{one.bytes:,}") for one in plan]
    show_table(["id", "reason", "steps", "bytes"], rows, whole=["id", "reason", "steps", "bytes"])
    talk(f"{_format_size(len(plan), plan.bytes)} would be removed")


def _show_done(done: RetentionResult, what: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"removed": done.removed, "bytes": done.bytes, "skipped": done.skipped})
        return
    if not done.removed and not done.skipped:
        say(_NOTHING_TO_DO)
        return
    skipped = f"; {len(done.skipped):,} were skipped, because they have changed since" if done.skipped else ""
    say(f"{what} {_format_size(done.removed, done.bytes)}{skipped}")


def _erasure_summary(found: ErasureResult) -> str:
    where = "no bytes of them are left in the file" if found.scrubbed else "removed from every table and index"
    return f"erased {counted(found.episodes, 'episode')} and {counted(found.patterns, 'pattern')}; {where}"
