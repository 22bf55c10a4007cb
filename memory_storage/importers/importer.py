"""Import of a file into a storage, in batches, with a report."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypedDict, get_args
from uuid import UUID

from typing_extensions import Unpack

from memory_storage._paths import why_unreadable
from memory_storage.dbapi import is_open_here
from memory_storage.errors import ConfigurationError, ConflictError, NotFoundError, ValidationError
from memory_storage.models import AnyPattern, Embedding, Episode, Item, ItemVector, LogRecord, utc_now
from memory_storage.repositories.episodes.heads import read_heads
from memory_storage.session import Repositories
from memory_storage.settings import Limits
from memory_storage.sql.validation import most_bytes
from memory_storage.storage import MemoryStorage

from . import jsonl
from .continuation import AnotherRunError, grown, is_unchanged
from .conversation import NOT_DATED, RunOptions
from .detection import looks_like
from .formats import READERS, TITLES, recognise
from .json_records import Record, read_records
from .jsonl import Kind, Value
from .openai_chat import episode_from
from .run import ImportNote, ImportProblem, NotTaken, Run, canonical_json, digest_of, episode_of

Format = Literal[
    "openai-chat", "export", "anthropic", "openai-responses", "langchain", "claude-code", "codex", "swe-agent",
    "mini-swe-agent", "openhands", "atif", "otel", "sharegpt",
]  # fmt: skip
FORMATS: tuple[str, ...] = get_args(Format)
AUTO = "auto"
"""The format that stands for the one that is recognised in the file; None does too."""

_BATCH = 100
_BATCH_BYTES = 8_000_000
_LEAD = 1_000  # records that are searched for one that shows the format


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The outcome of importing a file.

    Attributes:
        imported: number of new records.
        unchanged: number of records that were stored before and not changed.
        failed: the records that could not be read or stored.
        updated: number of stored sessions that have grown (`id_field`).
        erased: number of records skipped because they were erased; `restore_forgotten` imports them.
        undated: number of records without times.
        notes: what was not understood or was shortened in imported records.
        format: the format that was recognised or given.
        steps: number of steps of the episodes that were read, whether they are new or not.
        errors: number of these steps that are errors or timeouts.
        tokens: number of tokens of these steps.
        not_taken: what the file has that no episode has, by name, with its number.
    """

    imported: int
    unchanged: int
    failed: list[ImportProblem] = field(default_factory=list)
    updated: int = 0
    erased: int = 0
    undated: int = 0
    notes: list[ImportNote] = field(default_factory=list)
    format: str = field(default="", compare=False)
    steps: int = field(default=0, compare=False)
    errors: int = field(default=0, compare=False)
    tokens: int = field(default=0, compare=False)
    not_taken: dict[str, int] = field(default_factory=dict, compare=False)

    def totals(self) -> dict[str, int]:
        """Count the records of each note."""
        return dict(Counter(note.message for note in self.notes))


class ImportOptions(TypedDict, total=False):
    """The keyword arguments of `import_file` and `import_stream`, all optional.

    Args:
        format: a name in `FORMATS`; "auto", the default, recognises the format by the first records.
        strict: import in one transaction, and import nothing if any record is invalid.
        started_at: start of a run without any time; the time of the import by default.
        id_field: the field of a run with the id of its session, `a.b` for a nested one: a session that has grown since
            its last import is updated. By default a run is identified by its content.
        restore_forgotten: import what was erased by `forget`, retention or eviction.
        replace_invalid: replace what cannot be stored by U+FFFD: NUL, lone surrogates, bytes that are not UTF-8.
        on_progress: called with the number of bytes read so far.
    """

    format: Format | Literal["auto"] | None
    strict: bool
    started_at: datetime | None
    id_field: str | None
    restore_forgotten: bool
    replace_invalid: bool
    on_progress: Callable[[int], None] | None


_CHATS = {"openai-chat", "anthropic", "mini-swe-agent"}
"""Formats whose records have `messages` that every one of their readers understands."""

_OWN_IDS = {"claude-code", "codex", "otel", "export"}


class _Item(NamedTuple):
    line: int
    kind: Kind
    value: Value
    size: int
    grows: bool = False
    """Whether its ID is that of a session, so that a later state of it extends the stored one."""


class _KnownCounts(NamedTuple):
    """Numbers of records of a batch that were not new: updated, erased before, and conflicting with the stored run."""

    updated: int = 0
    erased: int = 0
    others: int = 0


class _StrictAbort(Exception):  # noqa: N818 - it only rolls back the transaction, and is caught here
    pass


@dataclass(frozen=True)
class Transcript:
    """A file whose format is known from its beginning; the rest is read while it is imported.

    If `is_empty`, it has no record that could be imported, and `problems` returns the reasons.
    """

    format: Format
    records: Iterator[Record]
    is_empty: bool

    def problems(self) -> ImportReport:
        """Return the report of a file that has nothing to import."""
        items = _items(self.format, self.records, RunOptions(), utc_now())
        return ImportReport(0, 0, [item for item in items if isinstance(item, ImportProblem)])


def read_transcript(stream: BinaryIO, options: ImportOptions | None = None) -> Transcript:
    """Read the beginning of a file, as far as needed to detect its format.

    Raises:
        ValidationError: the format is unknown, or not the given one. The message names the likely format.
    """
    options = options or ImportOptions()
    check_options(options)
    records = read_records(
        stream,
        replace_invalid=options.get("replace_invalid", False),
        is_header=lambda record: _format_of(record) == "export",
    )
    given = options.get("format")
    wanted: Format | None = None if given is None or given == "auto" else given
    lead, format_ = _recognise_lead(records)
    is_empty = format_ is None and len(lead) < _LEAD
    _check_format(wanted, format_, lead)
    return Transcript(wanted or format_ or "openai-chat", itertools.chain(lead, records), is_empty)


def _recognise_lead(records: Iterator[Record]) -> tuple[list[Record], Format | None]:
    """Read until a record shows the format; a chat message shows it only if no later one in its array shows another."""
    lead: list[Record] = []
    fallback: Format | None = None
    while len(lead) < _LEAD and (record := next(records, None)):
        lead.append(record)
        found = _format_of(record)
        if found is not None and (found != "openai-chat" or not _is_message(record)):
            return lead, found
        fallback = fallback or found
    return lead, fallback


def import_file(storage: MemoryStorage, path: str | os.PathLike[str], **options: Unpack[ImportOptions]) -> ImportReport:
    """Import the records of a file; see `import_stream`.

    Raises:
        ConfigurationError: the file cannot be opened, or it is a database that this process has open.
    """
    if is_open_here(path):  # closing it after reading would drop the locks of this process on it
        raise ConfigurationError(
            f"{os.fspath(path)}: this process has it open as a database; export it and import the export"
        )
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - only errors of opening it concern the path
    except OSError as error:
        raise ConfigurationError(why_unreadable(path, error)) from error
    with stream:
        return import_stream(storage, stream, **options)


def import_stream(storage: MemoryStorage, stream: BinaryIO, **options: Unpack[ImportOptions]) -> ImportReport:
    """Import records. Records that are stored already (by id) are not changed, so importing is idempotent.

    An invalid record is reported and the others are imported, about 100 per transaction.

    Args:
        storage: the target.
        stream: JSON lines, a JSON array, or JSON objects one after the other; UTF-8, optionally gzipped.
        **options: the fields of `ImportOptions`.

    Raises:
        ValidationError: the format of the file or an option is invalid. Nothing was stored.
    """
    return import_transcript(storage, read_transcript(stream, options), options)


def import_transcript(storage: MemoryStorage, transcript: Transcript, options: ImportOptions) -> ImportReport:
    """Import a transcript that `read_transcript` returned."""
    records = _track_progress(transcript.records, options.get("on_progress") or _ignore)
    run_options = RunOptions(_limits_of(storage), options.get("id_field"), options.get("replace_invalid", False))
    started_at = _aware(options.get("started_at")) or utc_now()
    items = _items(transcript.format, records, run_options, started_at)
    if not options.get("strict"):
        return _BatchImporter(storage, options, transcript.format).run(items)
    try:
        with storage.transaction() as tx:
            report = _BatchImporter(tx, options, transcript.format).run(items)
            if report.failed:
                raise _StrictAbort
    except _StrictAbort:
        return ImportReport(0, 0, report.failed, format=report.format)
    return report


def _items(
    format_: Format, records: Iterable[Record], options: RunOptions, started_at: datetime
) -> Iterator[_Item | ImportProblem | ImportNote | NotTaken]:
    """Return what the records of a format are converted to."""
    if format_ == "export":
        return _export_items(records)
    if format_ in READERS:
        return _converted_runs(READERS[format_].runs(records), options, started_at)
    return _runs(records, options, started_at, format_)


def _limits_of(storage: MemoryStorage) -> Limits:
    """Return the limits of a run: on a server, a document may be smaller."""
    limits = storage.settings.limits
    return limits.model_copy(update={"document_bytes": most_bytes(limits, storage._session.max_value_bytes)})


def check_options(options: ImportOptions) -> None:
    """Raise ValidationError if an option is unknown, or its value is invalid whatever the file is."""
    for name in options.keys() - ImportOptions.__annotations__.keys():
        raise ValidationError(name, f"an option of an import: {', '.join(ImportOptions.__annotations__)}", name)
    if options.get("format") not in (None, AUTO, *FORMATS):
        raise ValidationError("format", f"one of {AUTO}, {', '.join(FORMATS)}", options.get("format"))
    if options.get("format") in _OWN_IDS and options.get("id_field"):
        raise ValidationError(
            "id_field", "a format whose records are runs: this one has its own IDs", options["id_field"]
        )


def _aware(time: datetime | None) -> datetime | None:
    if time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
        raise ValidationError("started_at", "an aware datetime", time)
    return time


def _format_of(record: Record) -> Format | None:
    content = record.content
    if content.get("kind") == "header":
        return "export"
    if (found := recognise(content)) is not None:
        return found  # type: ignore[return-value] # the readers have the names of formats
    return "openai-chat" if "messages" in content or "traj" in content or _is_message(record) else None


def _check_format(wanted: Format | None, found: Format | None, lead: list[Record]) -> None:
    readable = [record.content for record in lead if not record.problem]
    if wanted == "export" and found != "export":
        jsonl.check_header(readable[0] if readable else {})
    if wanted not in (None, "export") and found == "export":
        raise ValidationError("file", "a transcript; this is an export: use --format export", readable[-1])
    if wanted is not None and found is not None and wanted != found and not {wanted, found} <= _CHATS:
        raise ValidationError("file", f"{wanted}; this is {found}: use --format {found}, or auto", sorted(readable[-1]))
    if readable and found is None:
        _refuse_unknown(readable[0], is_given=wanted is not None)


def _refuse_unknown(content: dict[str, Any], *, is_given: bool) -> None:
    """Raise ValidationError for a record that is of no format, unless its format was given and it is of no other."""
    likely = looks_like(content)
    looks = f"; this looks like {likely}, which cannot be imported yet" if likely else ""
    if likely or not is_given:
        raise ValidationError(
            "file", f"{', '.join(TITLES.values())}, or an export of this package{looks}", sorted(content)
        )


class _BatchImporter:
    """Collects values into batches and writes them."""

    def __init__(self, target: Repositories, options: ImportOptions, format_: str) -> None:
        self._target = target
        self._options = options
        restore = options.get("restore_forgotten", False)
        self._write: dict[Kind, Callable[[list[Any]], int]] = {
            "episode": lambda values: target.episodes.import_many(values, restore_forgotten=restore),
            "pattern": lambda values: target.patterns.import_many(values, restore_forgotten=restore),
            "embedding": target.embeddings.import_many,
            "place": target.spatiotemporal.import_many,
            "relationship": target.relationships.import_many,
            "checkpoint": target.checkpoints.import_many,
            "item": target.items.import_many,
            "item_vector": target.items.import_vectors,
            "record": target.logs.import_many,
        }
        self._batch: dict[object, _Item] = {}
        self._report = ImportReport(0, 0, format=format_)
        self._not_taken: Counter[str] = Counter()

    def run(self, items: Iterable[_Item | ImportProblem | ImportNote | NotTaken]) -> ImportReport:
        for item in items:
            if isinstance(item, ImportProblem):
                self._report.failed.append(item)
            elif isinstance(item, ImportNote):
                self._report.notes.append(item)
            elif isinstance(item, NotTaken):
                self._not_taken.update(item.counts)
            else:
                self._add(item)
        self._flush()
        report = self._report
        notes = [note for note in report.notes if note.message != NOT_DATED]
        return replace(
            report,
            failed=sorted(report.failed),
            notes=notes,
            undated=len(report.notes) - len(notes),
            not_taken={name: count for name, count in self._not_taken.items() if count},
        )

    def _add(self, item: _Item) -> None:
        value = item.value
        if isinstance(value, Episode):
            self._count_steps(value)
        identity = _identity(value)
        if identity in self._batch or any(other.kind != item.kind for other in self._batch.values()):
            self._flush()
        self._batch[identity] = item
        if len(self._batch) >= _BATCH or sum(other.size for other in self._batch.values()) >= _BATCH_BYTES:
            self._flush()

    def _count_steps(self, episode: Episode) -> None:
        errors = sum(step.result is not None and step.result.status != "ok" for step in episode.steps)
        report = self._report
        self._report = replace(
            report,
            steps=report.steps + len(episode.steps),
            errors=report.errors + errors,
            tokens=report.tokens + sum(step.tokens_used or 0 for step in episode.steps),
        )

    def _flush(self) -> None:
        self._write_batch(list(self._batch.values()))
        self._batch.clear()

    def _write_batch(self, batch: list[_Item]) -> None:
        """Write a batch. If it is rejected, bisect it down to the rejected record, so that the others are written."""
        if not batch:
            return
        try:
            imported = self._write[batch[0].kind]([item.value for item in batch])
            known = _KnownCounts() if imported == len(batch) else self._update_known(batch)
        except (ValidationError, ConflictError, NotFoundError) as error:
            if len(batch) == 1:
                self._report.failed.append(ImportProblem(batch[0].line, str(error)))
                return
            middle = len(batch) // 2
            self._write_batch(batch[:middle])
            self._write_batch(batch[middle:])
        else:
            self._count(len(batch), imported, known)

    def _count(self, size: int, imported: int, known: _KnownCounts) -> None:
        report = self._report
        self._report = replace(
            report,
            imported=report.imported + imported,
            unchanged=report.unchanged + size - imported - known.updated - known.erased - known.others,
            updated=report.updated + known.updated,
            erased=report.erased + known.erased,
        )

    def _update_known(self, batch: list[_Item]) -> _KnownCounts:
        """Update sessions that have grown. A run that conflicts with its stored session is reported, not written."""
        find_erased: dict[Kind, Callable[[list[UUID]], set[UUID]]] = {
            "episode": self._target.episodes.erased_among,
            "pattern": self._target.patterns.erased_among,
        }
        if batch[0].kind not in find_erased:
            return _KnownCounts()
        ids = [item.value.id for item in batch if isinstance(item.value, Episode | AnyPattern)]
        erased = find_erased[batch[0].kind](ids)
        updated = others = 0
        identity = self._options.get("id_field") or "session"
        unchanged = self._unchanged_among(batch) | erased
        for item in batch:
            if item.grows and isinstance(item.value, Episode) and item.value.id not in unchanged:
                try:
                    updated += self._grow(item.value)
                except AnotherRunError as error:
                    others += 1
                    self._report.failed.append(ImportProblem(item.line, f"{identity}: {error}"))
        return _KnownCounts(updated, len(erased), others)

    def _unchanged_among(self, batch: list[_Item]) -> set[UUID]:
        """Return the sessions that are stored as they are in the file, by one read without their steps.

        A step that has changed has a message of its own, or its tokens are in the usage of the episode.
        """
        runs = {item.value.id: item.value for item in batch if item.grows and isinstance(item.value, Episode)}
        if not runs or self._options.get("id_field"):  # the ID may be that of another run, which is reported
            return set()
        heads = read_heads(self._target._session, map(str, runs))
        return {head.id for head in heads if is_unchanged(head, runs[head.id])}

    def _grow(self, episode: Episode) -> bool:
        stored = self._target.episodes.find(episode.id)
        longer = stored and grown(stored, episode)
        if longer:
            self._target.episodes.save(longer)
        return longer is not None


def _identity(value: Value) -> object:
    """Return what a value is known by: two of one identity are not written in one batch."""
    match value:
        case Embedding():
            return value.owner_type, value.owner_id, value.model
        case ItemVector():
            return value.path, value.key, value.model, value.field
        case Item():
            return value.path, value.key
        case LogRecord():
            return value.log, value.number
    return value.id


def _runs(
    records: Iterable[Record], options: RunOptions, started_at: datetime, format_: Format
) -> Iterator[_Item | ImportProblem | ImportNote | NotTaken]:
    occurrences: Counter[bytes] = Counter()
    positions = itertools.count()

    def read(content: dict[str, Any]) -> tuple[Kind, Value]:
        canonical = canonical_json(content)
        digest = sha256(canonical.encode()).digest()
        occurrences[digest] += 1
        default = started_at + timedelta(microseconds=next(positions))  # in the order of the file
        occurrence = 1 if options.id_field else occurrences[digest]
        episode = episode_from(
            content, options, started_at=default, occurrence=occurrence, canonical=canonical, source=format_
        )
        return "episode", episode

    for record in _group_messages(records):
        if record.content.get("kind") == "header":
            raise ValidationError("file", "a transcript; this is an export: use --format export", record.content)
        item = _item(record, read)
        yield item._replace(grows=options.id_field is not None) if isinstance(item, _Item) else item
        yield from _notes_of(item)


def _converted_runs(
    runs: Iterable[Run | ImportProblem | NotTaken], options: RunOptions, started_at: datetime
) -> Iterator[_Item | ImportProblem | ImportNote | NotTaken]:
    """Convert the runs of a format into episodes; report those that are invalid."""
    occurrences: Counter[bytes] = Counter()
    positions = itertools.count()
    for run in runs:
        if not isinstance(run, Run):
            yield run
            continue
        default = started_at + timedelta(microseconds=next(positions))  # in the order of the file
        item: _Item | ImportProblem
        try:
            digest = sha256(digest_of(run).encode()).digest()
            occurrences[digest] += 1
            episode = episode_of(run, options, started_at=default, occurrence=occurrences[digest])
            grows = bool(run.key) or options.id_field is not None
            item = _Item(run.line, "episode", episode, run.size, grows)
        except ValidationError as error:
            item = ImportProblem(run.line, str(error))
        except RecursionError:
            item = ImportProblem(run.line, "the record is nested too deeply")
        yield item
        yield from _notes_of(item)
        yield NotTaken(run.not_taken)


def _notes_of(item: _Item | ImportProblem) -> Iterator[ImportNote]:
    if isinstance(item, _Item) and isinstance(item.value, Episode):
        notes = item.value.metadata.get("import_notes")
        yield from (ImportNote(item.line, str(note)) for note in (notes if isinstance(notes, list) else []))


def _group_messages(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records, with consecutive messages combined into one run."""
    group: list[Record] = []
    for record in records:
        if group and not record.problem and not (_is_message(record) and record.array == group[0].array):
            yield _run_of(group)
            group = []
        if _is_message(record):
            group.append(record)
        else:
            yield record
    if group:
        yield _run_of(group)


def _is_message(record: Record) -> bool:
    content = record.content
    is_run = "messages" in content or "traj" in content
    return not is_run and isinstance(content.get("role"), str) and bool(content.keys() & {"content", "tool_calls"})


def _run_of(messages: list[Record]) -> Record:
    content = {"messages": [record.content for record in messages]}
    return Record(messages[0].line, content, "", sum(record.size for record in messages))


def _export_items(records: Iterable[Record]) -> Iterator[_Item | ImportProblem]:
    lines = iter(records)
    header = next(lines, None)
    jsonl.check_header(header.content if header else {})
    line = 1
    for count, record in enumerate(lines):
        line = record.line
        if record.content.get("kind") == "end":
            if record.content.get("count") != count:
                yield ImportProblem(
                    line, f"the end line counts {record.content.get('count')} values, but there are {count}"
                )
            return
        yield _item(record, jsonl.value_from)
    yield ImportProblem(line + 1, "the export has no end line: it is truncated")


def _item(record: Record, read: Callable[[dict[str, Any]], tuple[Kind, Value]]) -> _Item | ImportProblem:
    if record.problem:
        return ImportProblem(record.line, record.problem)
    try:
        return _Item(record.line, *read(record.content), record.size)
    except ValidationError as error:
        likely = looks_like(record.content)
        return ImportProblem(record.line, f"{error}; this looks like {likely}" if likely else str(error))
    except RecursionError:
        return ImportProblem(record.line, "the record is nested too deeply")


def _track_progress(records: Iterable[Record], on_progress: Callable[[int], None]) -> Iterator[Record]:
    done = 0
    for record in records:
        yield record
        done += record.size
        on_progress(done)


def _ignore(done: int) -> None:
    """Report no progress."""
