"""The commands that copy a whole database: `backup` and `restore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from memory_storage._formatting import counted
from memory_storage.backup import BackupReport, back_up
from memory_storage.backup import restore as restore_from

from .app import app
from .database import open_any_revision, settings_for
from .options import AsJson, Database
from .output import progress, say, write_json


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database with all namespaces to a new file, and verify the copy. Writers are not blocked.

    The backup of an encrypted database is encrypted with the same key (MEMORY_STORAGE_ENCRYPTION_KEY).
    """
    with open_any_revision(database) as storage, _bar("backup") as on_progress:
        try:
            report = back_up(storage, file, overwrite=force, progress=on_progress)
        finally:
            storage.engine.dispose()
    _show(report, file, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the existing database; it is kept next to the new one.")
    ] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Restore a local database file from a backup, and verify it."""
    settings = settings_for(database, None)
    with _bar("restore") as on_progress:
        report = restore_from(file, settings, force=force, progress=on_progress)
    _show(report, Path(settings.database), as_json=as_json)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    with progress(label, 100) as on_progress:
        yield lambda _what, done, total: on_progress(100 * done // max(total, 1))


def _show(report: BackupReport, made: Path, *, as_json: bool) -> None:
    if as_json:
        counts = {name: table.rows for name, table in report.tables.items()}
        write_json({"file": str(made), "rows": counts, "set_aside": report.set_aside and str(report.set_aside)})
        return
    what = f"{counted(report.rows, 'row')} of {counted(len(report.tables), 'table')}"
    say(f"{made}: {what}, verified")
    if report.set_aside:
        say(f"the previous database is in {report.set_aside}: delete it when you no longer need it")
