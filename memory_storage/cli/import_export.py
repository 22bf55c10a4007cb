"""The commands `import` and `export`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from memory_storage._files import mode_of, replacing
from memory_storage._formatting import counted
from memory_storage._paths import why_unreadable, why_unwritable
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.exporters import FORMATS, ExportFormat, export_episodes
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
from memory_storage.models import EpisodeFilters
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from . import exit_codes
from .app import app
from .database import open_existing, settings_for
from .filters import (
    AnyTag,
    Archived,
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
from .options import AsJson, Database, Namespace, parse_time
from .output import WholeStream, progress, say, talk, write_json, write_line
from .query import why_no_episode

_SHOWN_PROBLEMS = 20
_STDIN = _STDOUT = "-"
_LOSSLESS = "jsonl"


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
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A new file with mode 0600, written atomically. Default, and -: stdout.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The same as FILE.")] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option(
            help="jsonl (lossless), openai-chat, atif, markdown or parquet.",
            autocompletion=lambda incomplete: [name for name in (_LOSSLESS, *FORMATS) if name.startswith(incomplete)],
        ),
    ] = _LOSSLESS,
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
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Write episodes for another program, or everything in the namespace for `import` into another database.

    Without conditions, jsonl has everything: archived episodes, patterns, embeddings and places too. With conditions,
    and in every other format, the export has the episodes that match all of them, the oldest first. What a format has
    no place for is listed on stderr.
    """
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
    path = _output_path(file, output, format)
    with open_existing(database, namespace) as storage:
        if format == _LOSSLESS:
            _export_lines(storage, path, filters, as_json=as_json)
        else:
            _export_episodes(storage, path, cast("ExportFormat", format), filters, as_json=as_json)


def _output_path(file: Path | None, output: Path | None, format_: str) -> Path | None:
    """Return the file to write, or None for stdout.

    Raises:
        ConfigurationError: the file exists or cannot be written, or two are given.
        ValidationError: the format is unknown.
    """
    if format_ not in (_LOSSLESS, *FORMATS):
        raise ValidationError("format", f"one of {', '.join((_LOSSLESS, *FORMATS))}", format_)
    if file is not None and output is not None:
        raise ConfigurationError(f"both {file} and --output {output} are given: leave one of them out")
    path = output if file is None else file
    if path is None or str(path) == _STDOUT:
        if format_ == "parquet" and sys.stdout.isatty():
            raise ConfigurationError("a Parquet file is binary, and stdout is a terminal: name a FILE")
        return None
    if path.is_dir():
        raise ConfigurationError(why_unwritable(path))
    if os.path.lexists(path):
        raise ConfigurationError(f"{path} already exists: choose another file or delete it")
    return path


def _export_lines(storage: MemoryStorage, path: Path | None, filters: EpisodeFilters, *, as_json: bool) -> None:
    total = storage.episodes.count(**filters) if filters else _values_in(storage)
    lines = export_lines(storage, **filters)
    with progress("export", total) as on_progress:
        if path is None:
            count = _write(lines, write_line, on_progress)
        else:
            with _new_file(path) as stream:
                count = _write(lines, lambda line: stream.writelines((line, b"\n")), on_progress)
    if filters:
        talk("only episodes: an export with conditions has no patterns, embeddings and places")
    if path is not None and as_json:
        write_json({"file": str(path), "values": count})
    elif path is not None:
        say(f"{path}: {counted(count, 'value')}")


def _export_episodes(
    storage: MemoryStorage, path: Path | None, format_: ExportFormat, filters: EpisodeFilters, *, as_json: bool
) -> None:
    total = storage.episodes.count(**filters)
    target = nullcontext(cast("BinaryIO", WholeStream(sys.stdout.buffer))) if path is None else _new_file(path)
    with storage.snapshot() as view, progress("export", total) as on_progress, target as stream:
        episodes = view.episodes.iterate(direction="oldest_first", **filters)
        report = export_episodes(episodes, stream, format=format_, on_progress=on_progress)
    for line in report.summary():
        talk(line)
    if not report.episodes:
        talk(why_no_episode(storage))
    if path is not None and as_json:
        write_json({"file": str(path), **asdict(report)})
    elif path is not None:
        say(f"{path}: {counted(report.episodes, 'episode')}")


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    try:
        with replacing(path, mode_of(None)) as stream:
            yield stream
    except OSError as error:
        raise ConfigurationError(why_unwritable(path, error)) from error


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
