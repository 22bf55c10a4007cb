"""The commands `patterns list` and `patterns show`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args
from uuid import UUID

import typer

from memory_storage.models import AnyPattern, PatternFilters, PatternKind
from memory_storage.models.markdown import COMPLETE, playbook_step_markdown
from memory_storage.storage import MemoryStorage

from .app import app
from .completion import complete_pattern
from .database import open_existing
from .filters import Domain, Language, Tag
from .ids import shortened_ids
from .options import AsJson, Database, Namespace
from .output import show_fields, show_table, talk, write_json

PatternId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A pattern's id, or at least its first 4 digits.", autocompletion=complete_pattern
    ),
]

_SHARED = {
    *("id", "kind", "description", "context", "success_rate", "occurrence_count", "evidence", "tags", "metadata"),
    *("effectiveness", "version", "created_at", "updated_at"),
}
"""Fields of every kind of pattern."""

patterns = typer.Typer(
    help="List and show patterns: what was learned from episodes. `learn` stores them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(patterns, name="patterns")


@patterns.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Option(
            help="tool_sequence, decision_point, error_recovery, context_pattern, heuristic or playbook.",
            autocompletion=lambda incomplete: [one for one in get_args(PatternKind) if one.startswith(incomplete)],
        ),
    ] = None,
    domain: Domain = None,
    language: Language = None,
    tag: Tag = None,
    min_success_rate: Annotated[float | None, typer.Option(help="Success rate of at least this, from 0 to 1.")] = None,
    min_occurrences: Annotated[int | None, typer.Option(help="Observed at least this often.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of patterns (100).", show_default=False)] = None,
    cursor: Annotated[str | None, typer.Option(help="Continue after the previous page.")] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List the patterns that match all conditions, the highest success rate first."""
    options: dict[str, Any] = {
        "kind": kind,
        "domain": domain,
        "language": language,
        "tags_all": tag or None,
        "min_success_rate": min_success_rate,
        "min_occurrences": min_occurrences,
    }
    filters: Any = {name: value for name, value in options.items() if value is not None}
    with open_existing(database, namespace) as storage:
        page = storage.patterns.query(**filters, limit=limit, cursor=cursor)
        if not as_json:
            show_patterns(storage, page.items)
            _explain(storage, filters, shown=len(page), next_cursor=page.next_cursor)
            return
    write_json({"items": [one.model_dump(mode="json") for one in page], "next_cursor": page.next_cursor})


@patterns.command()
def show(
    pattern_id: PatternId, database: Database = None, namespace: Namespace = None, as_json: AsJson = False
) -> None:
    """Show a pattern with its evidence and its counters."""
    with open_existing(database, namespace) as storage:
        found = storage.patterns.get(_resolve(storage, pattern_id))
    if as_json:
        write_json(found.model_dump(mode="json"))
        return
    show_fields(_fields(found))


def show_patterns(storage: MemoryStorage, found: Iterable[AnyPattern]) -> None:
    """Show patterns as a table."""
    listed = list(found)
    if not listed:
        return
    ids: Mapping[UUID, str] = shortened_ids(storage.patterns.short_ids, [one.id for one in listed])
    rows = [
        (ids[one.id], one.kind, one.title, f"{one.success_rate:.0%}", one.occurrence_count, one.version)
        for one in listed
    ]
    show_table(["id", "kind", "pattern", "success", "episodes", "version"], rows, whole=["id"])


def _explain(storage: MemoryStorage, filters: PatternFilters, *, shown: int, next_cursor: str | None) -> None:
    if next_cursor:
        talk(f"more follow: --cursor {next_cursor}")
    elif not shown and filters and (count := storage.patterns.count()):
        talk(f"no pattern matches: there are {count:,}; remove a condition to find more")
    elif not shown:
        talk(f"there are no patterns in the namespace {storage.namespace!r}: learn some with `memory-storage learn`")


def _resolve(storage: MemoryStorage, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return storage.patterns.resolve_id(text)


def _fields(pattern: AnyPattern) -> dict[str, object]:
    used = pattern.effectiveness
    own = {name: value for name, value in pattern if name not in _SHARED}
    if pattern.kind == "playbook":
        steps = enumerate(own.pop("steps"), 1)
        own |= {f"step {number}": playbook_step_markdown(step, COMPLETE) for number, step in steps}
        own["sources"] = own.pop("sources") or None
    last = used.last_used_at
    return {
        "id": pattern.id,
        "kind": pattern.kind,
        "pattern": pattern.description or None,
        **{name.replace("_", " "): _cell(value) for name, value in own.items() if value is not None},
        "domain": pattern.context.domain,
        "language": pattern.context.language,
        "success": f"{pattern.success_rate:.0%} of {pattern.occurrence_count:,}",
        "evidence": _cell(pattern.evidence) or None,
        "retrieved": f"{used.times_retrieved:,} times",
        "applied": f"{used.times_applied:,} times, {used.success_when_applied:,} successful",
        "last used": last and last.isoformat(),
        "tags": ", ".join(pattern.tags) or None,
        "metadata": ", ".join(f"{key}={value}" for key, value in pattern.metadata.items()) or None,
        "version": pattern.version,
    }


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
