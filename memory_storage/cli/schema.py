"""The commands on the schema of a database: `init`, `upgrade`, `downgrade`, `current` and `check`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from sqlalchemy import Engine

from memory_storage import migrate
from memory_storage._exception_mapping import map_exceptions
from memory_storage.engine import make_directory, make_engine
from memory_storage.errors import ValidationError
from memory_storage.schema import HEAD
from memory_storage.schema.revisions import REVISIONS
from memory_storage.settings import Settings

from .app import app
from .confirmation import confirm
from .database import open_existing, open_or_create, refuse_missing, settings_for
from .options import AsJson, Database
from .output import progress, say, talk, write_json


@app.command()
def init(database: Database = None, as_json: AsJson = False) -> None:
    """Create the database with its schema, or upgrade the schema of an existing one."""
    with open_or_create(database, None) as storage:
        _report(storage.settings, HEAD, f"{storage.settings.database} is ready", as_json=as_json)


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="The target revision.")] = "head",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Upgrade the schema to the latest or the given revision. Creates the schema in a new or empty file."""
    settings = settings_for(database, None)
    make_directory(settings)
    with _engine(settings) as engine:
        before = migrate.current(engine)
        _reject_downgrade(before, revision)
        with progress("upgrade", 100) as on_progress:
            migrate.upgrade(engine, revision, progress=lambda _, done, all_: on_progress(100 * done // max(all_, 1)))
        after = migrate.current(engine)
    message = f"{settings.database}: " + (
        f"already at {after}" if before == after else f"{before or 'empty'} -> {after}"
    )
    _report(settings, after, message, as_json=as_json)


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The target revision, like 0005; base drops every table.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Downgrade the schema to an earlier revision, for an older version of this package.

    Lists the data that are lost, and asks for confirmation. Make a backup first (`memory-storage backup FILE`): a later
    upgrade recreates the tables, but not the lost data.
    """
    settings = settings_for(database, None)
    refuse_missing(settings)
    with _engine(settings) as engine:
        before = migrate.current(engine)
        undone = _undone_revisions(before, revision)
        if undone and not yes:
            _show_losses(settings, undone)
            confirm(f"Downgrade {settings.database} from {before} to {revision}?", "downgrade")
        migrate.downgrade(engine, revision)
        after = migrate.current(engine)
    message = f"{settings.database}: " + (f"already at {after}" if not undone else f"{before} -> {after or 'empty'}")
    _report(settings, after, message, as_json=as_json)


@app.command()
def current(database: Database = None, as_json: AsJson = False) -> None:
    """Show the revision of the schema."""
    settings = settings_for(database, None)
    refuse_missing(settings)
    with _engine(settings) as engine:
        revision = migrate.current(engine)
    _report(settings, revision, revision or "no schema yet", as_json=as_json)


@app.command()
def check(database: Database = None, as_json: AsJson = False) -> None:
    """Fail unless the schema is at the revision of this version of the package."""
    with open_existing(database, None) as storage:
        _report(storage.settings, HEAD, f"{storage.settings.database}: {HEAD} is the current revision", as_json=as_json)


def _reject_downgrade(current_revision: str | None, revision: str) -> None:
    if current_revision and revision.isdigit() and revision < current_revision:
        raise ValidationError(
            "revision",
            f"not before {current_revision}, the stored revision; use `memory-storage downgrade`",
            revision,
        )


def _undone_revisions(before: str | None, revision: str) -> list[str]:
    if before is None:
        raise ValidationError("revision", "the database has no schema to downgrade", revision)
    if revision == before:
        return []
    return migrate.undone_by_downgrade(before, revision)


def _show_losses(settings: Settings, undone: list[str]) -> None:
    talk(f"a downgrade of {settings.database} loses:")
    for one in undone:
        described = REVISIONS[one]
        talk(f"  {one}: {described.loses}")
        if described.blocker:
            talk(f"        (refused while there are {described.blocker})")
    talk("to keep it, make a backup first: `memory-storage backup FILE`")


def _report(settings: Settings, revision: str | None, message: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"database": settings.database, "revision": revision})
    else:
        say(message)


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    with map_exceptions():
        if settings.path is not None:
            migrate.look(settings.path, settings.key, local_engine=settings.required_engine)
        engine = make_engine(settings)
        try:
            yield engine
        finally:
            engine.dispose()
