"""What stands between models and rows: JSON documents, the chunks in which they are sent, and exact numbers in columns.

A document is stored only if it is read back equal to its model.

SQLite parses about 2 of 100,000 decimals in JSON as a float adjacent to the nearest one; a bound float is stored as it
is. Rows are written with the numbers of their documents, many in one statement; numbers that may have been misparsed
are then compared with bound ones, in the same transaction, and corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_json

from memory_storage.dbapi import BatchStep, chunked
from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models import Episode, Step, StepError, StepOk
from memory_storage.models import number_steps as number_each
from memory_storage.models.model import as_validation_error
from memory_storage.schema.spelling import is_spelled_otherwise
from memory_storage.schema.words import with_words, words_of_episode, words_of_step

from .validation import join_field, parts_of, refuse_unstorable, size, unstorable_error

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

OnCorrupt = Callable[[CorruptDataError], object] | None
"""Called with the error of each row that cannot be decoded and is left out; None raises the error."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# sqld rejects values above 5,000,000 bytes; a row also has other columns than its document.
CHUNK_BYTES = 4_000_000

EXACT_IN_JSON = 1_000
"""Numbers up to this magnitude with at most three decimals are parsed exactly; the tests try each of them."""

_MOST_ROWS = 50  # rows of a statement; on a server, a tenth of the time of one statement for each row

NumberRow = tuple[tuple[str, ...], tuple[float | None, ...]]
"""The key of a row within its namespace, and its numbers."""

_MICROSECOND = timedelta(microseconds=1)
_MAX_DEPTH = 100  # pydantic's parser accepts 200; what fails at fewer levels than this fails for another reason
_STEPS = TypeAdapter(list[Step], config=ConfigDict(defer_build=True))
_ARGUMENT_NAMES = {"SpatiotemporalEntry": "entry"}  # names of arguments that are not those of the model


def to_micros(moment: datetime) -> int:
    """Return exact microseconds since the epoch; ValidationError for a naive datetime, as a clock may return."""
    # Not timestamp(): a float has no digits for the microseconds of distant years.
    try:
        return (moment - EPOCH) // _MICROSECOND
    except TypeError as error:
        raise ValidationError("now", "the clock must give aware moments", moment) from error


def from_micros(micros: int | None) -> datetime | None:
    """Return an aware datetime in UTC."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def encode(kind: type[M], model: M, field: str = "") -> tuple[str, M]:
    """Return a model's JSON, and the model as it will be read back.

    Args:
        kind: The class that the model must have.
        model: The model.
        field: The path that an error gives it.

    Raises:
        ValidationError: the model is of another class, cannot be written as JSON, or would not be read back equal:
            `model_construct` and `model_copy` bypass validation, and JSON has no NaN.
    """
    if type(model) is not kind:
        name = _ARGUMENT_NAMES.get(kind.__name__, kind.__name__.lower())
        raise ValidationError(field or name, f"must be {'an' if name[0] in 'aeiou' else 'a'} {kind.__name__}", model)
    # Reading the JSON back takes about as long as writing it. It is the only check that catches every way in which a
    # document can differ from its model: NaN, a field that `model_copy` set to another type, a lone surrogate.
    try:
        document = model.model_dump_json(warnings=False)  # what it would warn of is refused below
        read = kind.model_validate_json(document)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _encoding_error(field, model, error) from error
    if read != model:
        raise _round_trip_error(field, model, read)
    # NUL ends a text for SQLite's functions. In JSON it is escaped, so the text of the document shows whether to look.
    if "\\u0000" in document:
        refuse_unstorable(field, from_json(document))
    return document, read


def number_steps(episode: Episode) -> Episode:
    """Return the episode with all steps numbered: one made by `model_copy` was not validated."""
    steps = getattr(episode, "steps", None)
    if not isinstance(steps, list) or not all(isinstance(step, Step) for step in steps):
        return episode  # not yet decoded, or invalid: encode() refuses it
    if all(step.step_number for step in steps):
        return episode
    return episode.model_copy(update={"steps": number_each(steps)})


def decode(read: Callable[[str], M], document: str, table: str, row_id: str) -> M:
    """Return the model of a stored document; CorruptDataError, with table and id, if it cannot be decoded."""
    try:
        return read(document)
    except ValueError as error:
        raise corrupt_error(table, row_id) from error


def corrupt_error(table: str, row_id: str) -> CorruptDataError:
    """Return the error for a row that cannot be decoded."""
    return CorruptDataError(
        f"{table}: the row of {row_id} cannot be decoded: pass it over with on_corrupt, or run `memory-storage doctor`",
        table=table,
        id=row_id,
    )


def report_corrupt(read: Callable[[], T], on_corrupt: OnCorrupt) -> T | None:
    """Return `read()`, or None after reporting its CorruptDataError to `on_corrupt`."""
    try:
        return read()
    except CorruptDataError as error:
        if on_corrupt is None:
            raise
        on_corrupt(error)
        return None


def check_on_corrupt(on_corrupt: Any) -> None:
    """ValidationError if `on_corrupt` is neither None nor callable."""
    if on_corrupt is not None and not callable(on_corrupt):
        raise ValidationError("on_corrupt", "None, or a function that takes each CorruptDataError", on_corrupt)


def readable_steps(rows: Sequence[Sequence[Any]], on_corrupt: OnCorrupt) -> list[Step]:
    """Return the steps that can be decoded."""
    try:
        return decode_steps(rows)
    except CorruptDataError:  # one by one only now, to leave out only the damaged ones
        found = [report_corrupt(partial(decode_steps, [row]), on_corrupt) for row in rows]
        return [steps[0] for steps in found if steps]


def decode_steps(rows: Sequence[Sequence[Any]]) -> list[Step]:
    """Return the steps of rows (id, document, output). Parsing them together takes half the time of one by one."""
    # One array for one call of the parser; if it fails, rows are parsed one by one to name the damaged one.
    documents = ",".join([row[1] for row in rows])
    try:
        steps = _STEPS.validate_json(f"[{documents}]")
    except ValueError:
        steps = [decode(Step.model_validate_json, document, "steps", step_id) for step_id, document, _ in rows]
    # The output is a column, not part of the document. Steps are frozen, but no caller has these yet.
    for step, row in zip(steps, rows, strict=True):
        if row[2] and step.result is not None:
            step.result.__dict__["output" if step.result.status == "ok" else "message"] = row[2]
    return steps


def without_output(step: Step) -> tuple[Step, str | None]:
    """Return the step as its document stores it, and the output or message, which is a column."""
    if isinstance(step.result, StepOk):
        return step.model_copy(update={"result": StepOk()}), step.result.output
    if isinstance(step.result, StepError):
        return step.model_copy(update={"result": StepError(message="")}), step.result.message
    return step, None


def with_columns(model: M, version: int, created_at: int, updated_at: int, **others: Any) -> M:
    """Set the fields of a freshly decoded model that are columns. The model is not shared yet, so it may be changed."""
    model.__dict__.update(
        version=version, created_at=from_micros(created_at), updated_at=from_micros(updated_at), **others
    )
    return model


class Chunk(NamedTuple):
    """A JSON array, and the number of documents in it."""

    documents: int
    text: str


def chunk_documents(documents: Iterable[str]) -> list[Chunk]:
    """Return the documents in chunks, in order; a document larger than a chunk has a chunk of its own."""
    return [Chunk(len(group), _array(group)) for group in _groups(documents)]


def chunk_episodes(prepared: Sequence[tuple[str, Episode]]) -> tuple[list[Chunk], list[Chunk]]:
    """Return the chunks of the episodes' heads and those of their steps.

    Both are the same chunks, unless an episode has to be split: it is too large, or has words that the full-text index
    spells differently.
    """
    # The usual case binds the same JSON for heads and for steps: taking an episode apart would serialise it again.
    together = [document for document, _ in prepared if not _must_split(document)]
    if len(together) == len(prepared):
        whole = chunk_documents(together)
        return whole, whole
    apart = [episode for document, episode in prepared if _must_split(document)]
    heads_apart = map(head, apart)
    heads = chunk_documents([*together, *(with_words(one, words_of_episode(one)) for one in heads_apart)])
    small = [steps for episode in apart if size(steps := _steps_of(episode)) <= CHUNK_BYTES]
    large = [episode for episode in apart if size(_steps_of(episode)) > CHUNK_BYTES]
    return heads, [*chunk_documents([*together, *small]), *(chunk for one in large for chunk in _of_steps(one))]


def head(episode: Episode) -> str:
    """Return the JSON of an episode without its steps."""
    return episode.model_copy(update={"steps": []}).model_dump_json()


def _must_split(document: str) -> bool:
    # Most documents are ASCII, which is spelled as it is and has one byte for each character.
    if document.isascii():
        return len(document) > CHUNK_BYTES
    return is_spelled_otherwise(document) or size(document) > CHUNK_BYTES


def _of_steps(episode: Episode) -> Iterator[Chunk]:
    for group in _groups(map(_step, episode.steps)):
        yield Chunk(1, f"[{_as_steps(episode, group)}]")


def _steps_of(episode: Episode) -> str:
    return _as_steps(episode, [_step(step) for step in episode.steps])


def _as_steps(episode: Episode, steps: Sequence[str]) -> str:
    return f'{{"id":"{episode.id}","steps":{_array(steps)}}}'  # a UUID needs no escaping


def _step(step: Step) -> str:
    document = step.model_dump_json()
    return with_words(document, words_of_step(document))


def _array(documents: Sequence[str]) -> str:
    return f"[{','.join(documents)}]"


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    return chunked(documents, size, most_bytes=CHUNK_BYTES)


@dataclass(frozen=True)
class ExactColumns:
    """Numeric columns of a table, and the columns that identify a row within a namespace."""

    table: str
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ("id",)

    def steps(self, namespace: str, rows: Iterable[NumberRow]) -> list[BatchStep]:
        """Return the statements that correct misparsed numbers. They change no row whose columns are right."""
        inexact = [(*key, *numbers) for key, numbers in rows if not all(map(is_exact_in_json, numbers))]
        parts = [inexact[first : first + _MOST_ROWS] for first in range(0, len(inexact), _MOST_ROWS)]
        return [
            BatchStep(_correction(self, len(part)), (*(value for row in part for value in row), namespace))
            for part in parts
        ]


# Patterns by their kind too: mining leaves a stored one of another kind as it is, also if it has the same id.
REWARDS = ExactColumns("episodes", ("reward",))
SUCCESS_RATES = ExactColumns("patterns", ("success_rate",), ("id", "kind"))
REWARD_DELTAS = ExactColumns("patterns", ("avg_reward_delta",), ("id", "kind"))
POSITIONS = ExactColumns("spatiotemporal_index", ("latitude", "longitude"))


def is_exact_in_json(number: float | None) -> bool:
    """Return whether the engine parses the number exactly from its shortest decimal."""
    return number is None or (abs(number) <= EXACT_IN_JSON and round(number, 3) == number)


@lru_cache(maxsize=4 * _MOST_ROWS)  # each number of rows, of each of the four
def _correction(exact: ExactColumns, rows: int) -> str:
    table, columns, keys = exact.table, exact.columns, exact.keys
    row = f"({', '.join('?' * (len(keys) + len(columns)))})"
    change = ", ".join(f"{column} = given.{column}" for column in columns)
    # IS NOT compares NULL too; rows whose columns are right are not changed, so their triggers do not fire.
    same_key = " AND ".join(f"{table}.{key} = given.{key}" for key in keys)
    stored, bound = (", ".join(f"{name}.{column}" for column in columns) for name in (table, "given"))
    return f"""WITH given ({", ".join(keys + columns)}) AS (VALUES {", ".join([row] * rows)})
UPDATE {table} SET {change} FROM given
WHERE {table}.namespace = ? AND {same_key} AND ({stored}) IS NOT ({bound})"""


def _encoding_error(field: str, model: BaseModel, error: Exception) -> ValidationError:
    if isinstance(error, pydantic.ValidationError) and error.errors()[0]["type"] != "json_invalid":
        inner = as_validation_error(error, type(model))
        return ValidationError(join_field(field, inner.field), inner.limit, inner.value)
    found = unstorable_error(field, model)
    name = max(type(model).model_fields, key=lambda name: _depth(getattr(model, name, None)))
    if not found and (depth := _depth(getattr(model, name, None))) > _MAX_DEPTH:
        return ValidationError(join_field(field, name), "nested too deep: at most about 200 levels", f"{depth} levels")
    problem = f"cannot be written as JSON ({error})"
    return found or ValidationError(join_field(field, _unserializable_field(model)), problem, type(model).__name__)


def _unserializable_field(model: BaseModel) -> str:
    for name, value in model.__dict__.items():
        try:
            from_json(to_json(value))
        except (PydanticSerializationError, ValueError, RecursionError):
            return name
    return ""


def _depth(value: Any) -> int:
    """Return the nesting depth of containers; iterative, and safe for a value that contains itself."""
    level, depth, seen = [value], 0, set()
    while level:
        inner = [part for one in level for _, part in parts_of(one) if id(part) not in seen]
        seen |= {id(part) for part in inner}
        depth, level = depth + bool(inner), inner
    return depth


def _round_trip_error(field: str, given: BaseModel, read: BaseModel) -> ValidationError:
    for name in type(given).model_fields:
        if getattr(given, name) != getattr(read, name):
            return ValidationError(join_field(field, name), "would not be read back equal", getattr(given, name))
    return ValidationError(field, "would not be read back equal", given)
