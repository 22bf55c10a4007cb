"""What stands between models and rows: JSON documents, the chunks in which they are sent, and exact numbers in columns.

A document is stored only if it is read back equal to its model.

SQLite parses about 2 of 100,000 decimals in JSON as a float adjacent to the nearest one; a bound float is stored as it
is. Rows are written with the numbers of their documents, many in one statement; numbers that may have been misparsed
are then compared with bound ones, in the same transaction, and corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import pydantic
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from memory_storage.dbapi import BatchStep, chunked
from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models.model import as_validation_error

from .statement import from_micros
from .validation import join_field, parts_of, refuse_unstorable, size, unstorable_error

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

OnCorrupt = Callable[[CorruptDataError], object] | None
"""Called with the error of each row that cannot be decoded and is left out; None raises the error."""

# sqld rejects values above 5,000,000 bytes; a row also has other columns than its document.
CHUNK_BYTES = 4_000_000

EXACT_IN_JSON = 1_000
"""Numbers up to this magnitude with at most three decimals are parsed exactly; the tests try each of them."""

_MOST_ROWS = 50  # rows of a statement; on a server, a tenth of the time of one statement for each row

NumberRow = tuple[tuple[str, ...], tuple[float | None, ...]]
"""The key of a row within its namespace, and its numbers."""

_MAX_DEPTH = 100  # pydantic's parser accepts 200; what fails at fewer levels than this fails for another reason
_ARGUMENT_NAMES = {"SpatiotemporalEntry": "entry"}  # names of arguments that are not those of the model


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


def encode_value(field: str, value: Any) -> str:
    """Return a value as JSON.

    Args:
        field: The name that an error gives it.
        value: Any JSON value.

    Raises:
        ValidationError: it cannot be written as JSON, would not be read back equal (a tuple, a key that is no string,
            NaN, infinity), or has a string that the database cannot store.
    """
    try:
        # As strings, NaN and infinity are unequal to what they were; as constants, infinity would be no JSON.
        document = to_json(value, inf_nan_mode="strings").decode()
        read = from_json(document)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        if problem := unstorable_error(field, value):
            raise problem from error
        if (depth := _depth(value)) > _MAX_DEPTH:
            raise ValidationError(field, "nested too deep: at most about 200 levels", f"{depth} levels") from error
        raise ValidationError(field, f"cannot be written as JSON ({error})", type(value).__name__) from error
    if read != value:
        raise ValidationError(field, "a JSON value, which is read back equal", value)
    if "\\u0000" in document:
        refuse_unstorable(field, read)
    return document


def decode_value(document: str | bytes, table: str, row_id: str) -> Any:
    """Return the value of a stored document; CorruptDataError, with table and id, if it cannot be decoded."""
    try:
        return from_json(document, allow_inf_nan=False)
    except ValueError as error:
        raise corrupt_error(table, row_id) from error


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
    groups = chunked(documents, size, most_bytes=CHUNK_BYTES)
    return [Chunk(len(group), f"[{','.join(group)}]") for group in groups]


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
SUCCESS_RATES = ExactColumns("patterns", ("success_rate",), ("id", "kind"))
REWARD_DELTAS = ExactColumns("patterns", ("avg_reward_delta",), ("id", "kind"))
POSITIONS = ExactColumns("spatiotemporal_index", ("latitude", "longitude"))
RELATIONSHIP_WEIGHTS = ExactColumns("relationships", ("weight",), ("from_id", "kind", "to_id"))


def is_exact_in_json(number: float | None) -> bool:
    """Return whether the engine parses the number exactly from its shortest decimal."""
    return number is None or (abs(number) <= EXACT_IN_JSON and round(number, 3) == number)


@lru_cache(maxsize=4 * _MOST_ROWS)  # each number of rows, of each of the five
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
