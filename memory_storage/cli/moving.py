"""The commands that carry memory in and out: import and export."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from memory_storage._files import mode_of, replacing
from memory_storage.errors import ConfigurationError
from memory_storage.importers import Format, ImportReport, export_lines, import_file, import_stream
from memory_storage.storage import MemoryStorage

from . import exits
from .app import app
from .opening import open_existing, open_or_create
from .options import AsJson, Database, Namespace
from .output import progress, say, talk, write_json, write_line

_SHOWN_PROBLEMS = 20
_STDIN = "-"


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or a JSON array; - is stdin.")],
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(help="openai-chat or export. Default: found out from the first record.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Nothing goes in if any record is broken.")] = False,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Import transcripts in the OpenAI chat format, or an export. To do it again changes nothing."""
    _refuse_unreadable(file)
    with open_or_create(database, namespace) as storage, progress("import", _size(file)) as on_progress:
        report = _import(storage, file, format, on_progress, strict=strict)
    _show_report(report, strict=strict, as_json=as_json)
    if report.failed:
        raise typer.Exit(exits.BROKEN_RECORDS)


@app.command()
def export(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new file, for its owner only (0600); complete or not there. Default: stdout."
        ),
    ] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Give everything in the namespace as JSON lines; `import` makes the same of it elsewhere."""
    if output is not None and output.exists():
        raise ConfigurationError(f"{output} is there already: choose another file, or delete it")
    with open_existing(database, namespace) as storage, progress("export", _values_in(storage)) as on_progress:
        if output is None:
            _write(export_lines(storage), write_line, on_progress)
            return
        count = _write_file(output, export_lines(storage), on_progress)
    if as_json:
        write_json({"file": str(output), "values": count})
    else:
        say(f"{output}: {count:,} values")


def _refuse_unreadable(file: str) -> None:
    """ConfigurationError if there is no such file, before a database is made for it."""
    if file != _STDIN and (Path(file).is_dir() or not os.access(file, os.R_OK)):
        raise ConfigurationError(f"{file}: there is no such file, or it may not be read")


def _import(
    storage: MemoryStorage, file: str, format_: str | None, on_progress: Callable[[int], None], *, strict: bool
) -> ImportReport:
    chosen: Format | None = format_  # type: ignore[assignment] # the importer checks it
    if file == _STDIN:
        return import_stream(storage, sys.stdin.buffer, format=chosen, strict=strict, on_progress=on_progress)
    return import_file(storage, file, format=chosen, strict=strict, on_progress=on_progress)


def _show_report(report: ImportReport, *, strict: bool, as_json: bool) -> None:
    for problem in report.failed[:_SHOWN_PROBLEMS]:
        talk(f"line {problem.line}: {problem.message}")
    if len(report.failed) > _SHOWN_PROBLEMS:
        talk(f"... and {len(report.failed) - _SHOWN_PROBLEMS:,} more (--json has all)")
    if report.failed and strict:
        talk("nothing was imported: --strict")
    if as_json:
        failed = [problem._asdict() for problem in report.failed]
        write_json({"imported": report.imported, "unchanged": report.unchanged, "failed": failed})
    else:
        say(f"{report.imported:,} imported, {report.unchanged:,} there already, {len(report.failed):,} broken")


def _size(file: str) -> int | None:
    return None if file == _STDIN else Path(file).stat().st_size or None


def _values_in(storage: MemoryStorage) -> int:
    rows = storage.analytics.summary().rows
    return sum(number for name, number in rows.items() if name != "steps")


def _write(lines: Iterable[str], write: Callable[[bytes], object], on_progress: Callable[[int], None]) -> int:
    """Write the lines; how many there are besides the first and the last."""
    number = 0
    for number, line in enumerate(lines):
        write(line.encode())
        on_progress(number)
    return number - 1


def _write_file(path: Path, lines: Iterable[str], on_progress: Callable[[int], None]) -> int:
    try:
        with replacing(path, mode_of(None)) as file:
            return _write(lines, lambda line: file.write(line + b"\n"), on_progress)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
