"""The commands `sync` and `conflicts`: reconcile a file with its server, and resolve what could not be merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from memory_storage._formatting import counted
from memory_storage.errors import ConfigurationError
from memory_storage.models import SyncReport, SyncStatus
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from .app import app
from .database import open_existing, settings_for
from .ids import shortened_ids, unique_prefixes
from .options import AsJson, Database, Namespace
from .output import progress, say, show_fields, show_table, write_json

ConflictId = Annotated[str, typer.Argument(metavar="ID", help="A conflict's id, as `conflicts list` shows it.")]

conflicts = typer.Typer(
    help="Show and resolve conflicts: what was changed here and at the server. The server's version stands until then.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(conflicts, name="conflicts")


@app.command()
def sync(
    database: Database = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="The server. Default: MEMORY_STORAGE_SYNC_URL. Its token is in TURSO_AUTH_TOKEN.",
            show_default=False,
        ),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Upgrade the schema of the server first, if it is older or empty.")
    ] = False,
    rejoin: Annotated[
        bool, typer.Option("--rejoin", help="Merge with a server that is another one than before, or was restored.")
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", min=0.0, help="Try again for so long while the server is away."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Say how far the file is, and do not sync.")] = False,
    as_json: AsJson = False,
) -> None:
    """Push what is new in a file to its server, and pull what is new there. The file is created if there is none."""
    settings = _settings(database, url)
    with MemoryStorage.open(settings) as storage:
        if status:
            _show_status(storage.sync_status(), as_json=as_json)
            return
        with progress("Syncing", None) as advance:
            report = storage.sync(wait=wait, migrate=migrate, rejoin=rejoin, progress=lambda _, done, __: advance(done))
        left = storage.sync_status()
        conflicts = left.conflicts if left else 0
    if as_json:
        write_json(asdict(report))
        return
    show_fields(dict(_fields(report)))
    if conflicts:
        say(f"{counted(conflicts, 'conflict')}: see `memory-storage conflicts list`")


@conflicts.command("list")
def list_(database: Database = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """List the conflicts, the oldest first."""
    with open_existing(database, namespace) as storage:
        found = list(storage.conflicts.iterate())
    if as_json:
        write_json([asdict(one) for one in found])
        return
    ids = shortened_ids(unique_prefixes, [one.id for one in found])
    rows = [
        (
            ids[one.id],
            one.kind,
            one.object_id,
            ", ".join(one.fields),
            one.their_writer,
            f"{one.detected_at:%Y-%m-%d %H:%M}",
        )
        for one in found
    ]
    columns = ["id", "kind", "row", "fields", "theirs by", "since"]
    show_table(columns, rows, whole=["id"], nothing="there are no conflicts")


@conflicts.command()
def show(conflict: ConflictId, database: Database = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Show a conflict: the fields before both changes, here, and at the server."""
    with open_existing(database, namespace) as storage:
        found = storage.conflicts.get(_resolve(storage, conflict))
    if as_json:
        write_json(asdict(found))
        return
    rows = [
        (name, *(value if value is None or isinstance(value, str) else repr(value) for value in values))
        for name, values in found.difference().items()
    ]
    sides = ("mine", found.my_writer), ("theirs", found.their_writer)
    show_table(["field", "base", *(f"{side} ({writer})" if writer else side for side, writer in sides)], rows)


@conflicts.command()
def resolve(
    conflict: ConflictId,
    take: Annotated[
        Literal["mine", "theirs"], typer.Option("--take", help="The version that stands: this file's, or the server's.")
    ],
    database: Database = None,
    namespace: Namespace = None,
) -> None:
    """Resolve a conflict by one of the versions. The next sync pushes it."""
    with open_existing(database, namespace) as storage:
        key = _resolve(storage, conflict)
        if take == "mine":
            storage.conflicts.take_mine(key)
        else:
            storage.conflicts.take_theirs(key)
    say(f"resolved: {take} stands")


def _settings(database: str | None, url: str | None) -> Settings:
    settings = settings_for(database, None)
    return settings if url is None else Settings(**{**dict(settings), "sync_url": url})


def _resolve(storage: MemoryStorage, text: str) -> str:
    """Return the id of the only conflict that begins with a text."""
    found = [str(one.id) for one in storage.conflicts.iterate() if str(one.id).startswith(text.lower())]
    return found[0] if len(found) == 1 else text


def _fields(report: SyncReport) -> Iterator[tuple[str, object]]:
    yield "pushed", counted(report.pushed, "change")
    yield "pulled", counted(report.pulled, "change")
    if report.merged:
        yield "merged", counted(report.merged, "row")
    if report.conflicts:
        yield "conflicts", counted(report.conflicts, "row")
    if report.deleted:
        yield "deleted", counted(report.deleted, "row")
    if report.erased:
        yield "erased", counted(report.erased, "row")
    if report.waiting:
        yield "waiting", counted(report.waiting, "change")
    yield (
        "traffic",
        (
            f"{counted(report.bytes_sent, 'byte')} sent, {report.bytes_received:,} received, "
            f"in {counted(report.round_trips, 'round trip')}"
        ),
    )
    yield "duration", f"{report.seconds:.2f} s"
    yield "complete", "yes" if report.is_complete else "no: sync again"


def _show_status(status: SyncStatus | None, *, as_json: bool) -> None:
    if status is None:
        raise ConfigurationError("sync_url: name the server by --url, or MEMORY_STORAGE_SYNC_URL")
    if as_json:
        write_json(asdict(status))
        return
    show_fields(
        {
            "waiting": counted(status.waiting, "change"),
            "conflicts": status.conflicts,
            "latest sync": status.synced_at or "never",
            "first sync": "over" if status.is_complete else "not over",
        }
    )
