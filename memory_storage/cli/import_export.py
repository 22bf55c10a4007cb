"""The commands `import` and `export`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from memory_storage._files import mode_of, replacing
from memory_storage._formatting import counted
from memory_storage._paths import why_unreadable, why_unwritable
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.importers import (
    DirectoryWatch,
    ImportNote,
    ImportOptions,
    ImportProblem,
    ImportReport,
    WatchedFile,
    export_lines,
    import_transcript,
    is_gzip,
    read_transcript,
)
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from . import exit_codes
from .app import app
from .database import open_existing, settings_for
from .options import AsJson, Database, Namespace, parse_time
from .output import progress, say, talk, write_json, write_line

_SHOWN_PROBLEMS = 20
_STDIN = "-"


@app.command("import")
def import_(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="JSON lines, a JSON array or JSON objects, optionally gzipped; - is stdin."
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option(metavar="NAME", help="auto recognises the format by the first records; a wrong name lists all."),
    ] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Import nothing if any record is invalid.")] = False,
    started_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start time of runs that have none. Default: now.", show_default=False),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The field with a run's session id (a.b is field b of a): a session that has grown is updated.",
            show_default=False,
        ),
    ] = None,
    restore_forgotten: Annotated[
        bool, typer.Option("--restore-forgotten", help="Import erased and expired episodes again.")
    ] = False,
    replace_invalid: Annotated[
        bool,
        typer.Option(
            "--replace-invalid", help="Replace what cannot be stored by U+FFFD: NUL, surrogates, invalid UTF-8."
        ),
    ] = False,
    watch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of FILE: import the files of a directory as they appear and grow, until Ctrl-C.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="With --watch: the time between two looks at the directory.")
    ] = 2.0,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Import transcripts or sessions of agents, or an export. Importing the same file again changes nothing."""
    options = ImportOptions(
        format=format,  # type: ignore[typeddict-item] # the importer checks it
        strict=strict,
        started_at=parse_time("--started-at", started_at),
        id_field=id_field,
        restore_forgotten=restore_forgotten,
        replace_invalid=replace_invalid,
    )
    settings = settings_for(database, namespace)  # errors in the options are reported before those of the file
    if (file is None) == (watch is None):
        raise ValidationError("FILE", "one file, or --watch with a directory", file or "")
    if watch is not None or file is None:
        _watch(watch or Path(), options, interval, settings, as_json=as_json)
        return
    with _open(file) as stream:
        is_unknown = file == _STDIN or is_gzip(stream)  # how many bytes there are to read
        report = _import(stream, options, None if is_unknown else Path(file).stat().st_size or None, settings)
    _show_report(report, strict=strict, as_json=as_json)
    if report.failed:
        raise typer.Exit(exit_codes.BROKEN_RECORDS)


@app.command()
def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new file with mode 0600, written atomically. Default: stdout."),
    ] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Write everything in the namespace as JSON lines, for `import` into another database."""
    if output is not None and output.is_dir():
        raise ConfigurationError(why_unwritable(output))
    if output is not None and os.path.lexists(output):
        raise ConfigurationError(f"{output} already exists: choose another file or delete it")
    with open_existing(database, namespace) as storage, progress("export", _values_in(storage)) as on_progress:
        if output is None:
            _write(export_lines(storage), write_line, on_progress)
            return
        count = _write_file(output, export_lines(storage), on_progress)
    if as_json:
        write_json({"file": str(output), "values": count})
    else:
        say(f"{output}: {counted(count, 'value')}")


def _open(file: str) -> AbstractContextManager[BinaryIO]:
    """Open the file, or return stdin for `-`. Raise ConfigurationError if the file cannot be read."""
    if file == _STDIN:
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(why_unreadable(file, error)) from error


def _import(stream: BinaryIO, options: ImportOptions, size: int | None, settings: Settings) -> ImportReport:
    """Import the stream. An empty transcript does not create a database."""
    transcript = read_transcript(stream, options)
    if transcript.is_empty:
        return transcript.problems()
    with MemoryStorage.open(settings) as storage, progress("import", size) as on_progress:
        return import_transcript(storage, transcript, {**options, "on_progress": on_progress})


def _watch(directory: Path, options: ImportOptions, interval: float, settings: Settings, *, as_json: bool) -> None:
    """Import the files of the directory until Ctrl-C, and show each that brought something or could not be read."""

    def show(file: WatchedFile) -> None:
        report = file.report
        if report is None:
            talk(f"{file.path}: {file.error}")
        elif report.imported or report.updated or report.failed:
            _show_problems(report.failed)
            if as_json:
                write_json({"file": str(file.path), **asdict(report), "failed": _as_dicts(report.failed)})
            else:
                say(f"{file.path}: {_summary(report)}")

    with MemoryStorage.open(settings) as storage:
        watch = DirectoryWatch(storage, directory, **options)
        talk(f"watching {directory}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            watch.run(show, interval=interval)


def _show_report(report: ImportReport, *, strict: bool, as_json: bool) -> None:
    _show_problems(report.failed)
    if report.failed and strict:
        talk("nothing was imported, because --strict is set and records are invalid")
    for message, count in report.totals().items():
        talk(f"{counted(count, 'run')}: {message}")
    if report.undated:
        talk(f"{report.undated:,} without times start at the time of the import; set another with --started-at")
    if report.erased:
        talk(
            f"{report.erased:,} were skipped, because they are erased or expired: import them with --restore-forgotten"
        )
    if report.format:
        talk(_contents(report))
    if report.not_taken:
        talk("not taken: " + ", ".join(f"{count:,} {name}" for name, count in report.not_taken.items()))
    if as_json:
        write_json(asdict(report) | {"failed": _as_dicts(report.failed), "notes": _as_dicts(report.notes)})
    else:
        say(_summary(report))


def _show_problems(problems: Sequence[ImportProblem]) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        talk(f"line {problem.line}: {problem.message}")
    if len(problems) > _SHOWN_PROBLEMS:
        talk(f"... and {len(problems) - _SHOWN_PROBLEMS:,} more (--json has all)")


def _as_dicts(items: Sequence[ImportProblem | ImportNote]) -> list[dict[str, object]]:
    return [item._asdict() for item in items]


def _summary(report: ImportReport) -> str:
    updated = f", {report.updated:,} updated" if report.updated else ""
    erased = f", {report.erased:,} skipped: erased" if report.erased else ""
    known = f"{report.unchanged:,} unchanged"
    return f"{report.imported:,} imported{updated}, {known}{erased}, {len(report.failed):,} invalid"


def _contents(report: ImportReport) -> str:
    """Return the format, and what the episodes of the file have."""
    errors = f", {counted(report.errors, 'error')}" if report.errors else ""
    tokens = f", {counted(report.tokens, 'token')}" if report.tokens else ""
    return f"read as {report.format}: {counted(report.steps, 'step')}{errors}{tokens}"


def _values_in(storage: MemoryStorage) -> int:
    rows = storage.analytics.summary().rows
    return sum(number for name, number in rows.items() if name != "steps")


def _write(lines: Iterable[str], write: Callable[[bytes], object], on_progress: Callable[[int], None]) -> int:
    """Write the lines. Returns their number without the header and the footer."""
    number = -1
    for line in lines:
        write(line.encode())
        del line  # it may be large: release it before the next one is read
        number += 1
        on_progress(number)
    return number - 1


def _write_file(path: Path, lines: Iterable[str], on_progress: Callable[[int], None]) -> int:
    try:
        with replacing(path, mode_of(None)) as file:
            return _write(lines, lambda line: file.writelines((line, b"\n")), on_progress)
    except OSError as error:
        raise ConfigurationError(why_unwritable(path, error)) from error
