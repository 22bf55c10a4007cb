"""From a file into a storage, in batches, with a report. What a record means is the formats' affair."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from memory_storage.dbapi import is_open_here
from memory_storage.errors import ConfigurationError, ConflictError, NotFoundError, ValidationError
from memory_storage.storage import MemoryStorage
from memory_storage.transaction import Repositories

from . import jsonl
from .jsonl import Kind, Value
from .openai_chat import episode_from
from .records import Record, read_records

Format = Literal["openai-chat", "export"]
FORMATS: tuple[str, ...] = get_args(Format)

_BATCH = 100
_BATCH_BYTES = 8_000_000


class ImportProblem(NamedTuple):
    """What is wrong with the record that begins at `line`."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How many were new, how many were there already and stayed as they were, and which could not be read or stored."""

    imported: int
    unchanged: int
    failed: list[ImportProblem] = field(default_factory=list)


class _Item(NamedTuple):
    line: int
    kind: Kind
    value: Value
    size: int


class _Refused(Exception):  # noqa: N818 - it only undoes the transaction, and is caught here
    pass


def import_file(
    storage: MemoryStorage,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,  # noqa: A002 - the command line's word
    strict: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import the records of a file; see `import_stream`.

    Raises:
        ConfigurationError: the file cannot be opened, or it is a database that this process has open.
    """
    if is_open_here(path):  # to close it after reading would drop the locks of this process on it
        raise ConfigurationError(f"{os.fspath(path)}: this is a database that is open here: export it, and import that")
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - only an error of opening it is about the path
    except OSError as error:
        raise ConfigurationError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    with stream:
        return import_stream(storage, stream, format=format, strict=strict, on_progress=on_progress)


def import_stream(
    storage: MemoryStorage,
    stream: BinaryIO,
    *,
    format: Format | None = None,  # noqa: A002 - as above
    strict: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import records. What is there already (by its id) stays as it is, so that doing it again changes nothing.

    Without a `format` the first record decides: the header of an export, or a run in the OpenAI chat format.
    A broken record is reported, and the others go in, about 100 in a transaction. With `strict` all is one transaction,
    and nothing goes in if anything is broken. `on_progress` is told how many bytes have been read.

    Raises:
        ValidationError: the file as a whole is not of this format. Nothing was stored.
    """
    records = read_records(stream, line_bytes=8 * storage.settings.limits.document_bytes)
    found = _read(_observed(records, on_progress or _nobody), format)
    return _strictly(storage, found) if strict else _Intake(storage).take(found)


def _strictly(storage: MemoryStorage, found: Iterable[_Item | ImportProblem]) -> ImportReport:
    try:
        with storage.transaction() as tx:
            report = _Intake(tx).take(found)
            if report.failed:
                raise _Refused
    except _Refused:
        return ImportReport(0, 0, report.failed)
    return report


class _Intake:
    """Collects values into batches and writes them."""

    def __init__(self, target: Repositories) -> None:
        self._write: dict[Kind, Callable[[list[Any]], int]] = {
            "episode": target.episodes.import_many,
            "pattern": target.patterns.import_many,
            "embedding": target.embeddings.import_many,
            "place": target.spatiotemporal.import_many,
        }
        self._batch: dict[object, _Item] = {}
        self._imported = self._unchanged = 0
        self._failed: list[ImportProblem] = []

    def take(self, found: Iterable[_Item | ImportProblem]) -> ImportReport:
        for one in found:
            if isinstance(one, ImportProblem):
                self._failed.append(one)
            else:
                self._add(one)
        self._flush()
        return ImportReport(self._imported, self._unchanged, sorted(self._failed))

    def _add(self, item: _Item) -> None:
        identity = _identity(item.value)
        if identity in self._batch or any(other.kind != item.kind for other in self._batch.values()):
            self._flush()
        self._batch[identity] = item
        if len(self._batch) >= _BATCH or sum(other.size for other in self._batch.values()) >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._put(list(self._batch.values()))
        self._batch.clear()

    def _put(self, batch: list[_Item]) -> None:
        """Write a batch; if one of it is refused, its halves, down to the one: the others go in."""
        if not batch:
            return
        try:
            new = self._write[batch[0].kind]([item.value for item in batch])
        except (ValidationError, ConflictError, NotFoundError) as error:
            if len(batch) == 1:
                self._failed.append(ImportProblem(batch[0].line, str(error)))
                return
            middle = len(batch) // 2
            self._put(batch[:middle])
            self._put(batch[middle:])
        else:
            self._imported += new
            self._unchanged += len(batch) - new


def _identity(value: Value) -> object:
    return getattr(value, "id", None) or (value.owner_type, value.owner_id, value.model)  # type: ignore[union-attr]


def _read(records: Iterator[Record], format: Format | None) -> Iterator[_Item | ImportProblem]:  # noqa: A002 - as above
    first = next(records, None)
    if format is None:
        format = "export" if first and first.content.get("kind") == "header" else "openai-chat"  # noqa: A001 - as above
    if format not in FORMATS:
        raise ValidationError("format", f"one of {', '.join(FORMATS)}", format)
    return _READERS[format](chain([first] if first else [], records))


def _runs(records: Iterable[Record]) -> Iterator[_Item | ImportProblem]:
    for record in records:
        if record.content.get("kind") == "header":
            raise ValidationError("file", "a transcript; this is an export: use --format export", record.content)
        yield _item(record, lambda content: ("episode", episode_from(content)))


def _exported(records: Iterable[Record]) -> Iterator[_Item | ImportProblem]:
    lines = iter(records)
    header = next(lines, None)
    jsonl.check_header(header.content if header else {})
    line = 1
    for count, record in enumerate(lines):
        line = record.line
        if record.content.get("kind") == "end":
            if record.content.get("count") != count:
                yield ImportProblem(line, f"the end counts {record.content.get('count')} values; there are {count}")
            return
        yield _item(record, jsonl.value_from)
    yield ImportProblem(line + 1, "the export has no end line: it was cut off")


def _item(record: Record, read: Callable[[dict[str, Any]], tuple[Kind, Value]]) -> _Item | ImportProblem:
    if record.problem:
        return ImportProblem(record.line, record.problem)
    try:
        return _Item(record.line, *read(record.content), record.size)
    except ValidationError as error:
        return ImportProblem(record.line, str(error))
    except RecursionError:
        return ImportProblem(record.line, "it is nested too deep")


_READERS: dict[str, Callable[[Iterable[Record]], Iterator[_Item | ImportProblem]]] = {
    "openai-chat": _runs,
    "export": _exported,
}


def _observed(records: Iterable[Record], on_progress: Callable[[int], None]) -> Iterator[Record]:
    done = 0
    for record in records:
        yield record
        done += record.size
        on_progress(done)


def _nobody(done: int) -> None:
    """Nobody is told."""
