"""Models as JSON documents, and back. A document is stored only if it is read back equal to its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_json

from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models import Episode, Step, StepError, StepOk, as_validation_error
from memory_storage.models import number_steps as number_each

from .validation import join_field, parts_of, refuse_unstorable, unstorable_error

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

OnCorrupt = Callable[[CorruptDataError], object] | None
"""Called with the error of each row that cannot be decoded and is left out; None raises the error."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MAX_DEPTH = 100
_STEPS = TypeAdapter(list[Step], config=ConfigDict(defer_build=True))


_ARGUMENT_NAMES = {"SpatiotemporalEntry": "entry"}  # names of arguments that are not those of the model


def to_micros(moment: datetime) -> int:
    """Return exact microseconds since the epoch; ValidationError for a naive datetime, as a clock may return."""
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
        document = model.model_dump_json(warnings=False)
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
    except CorruptDataError:
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


def _encoding_error(field: str, model: BaseModel, error: Exception) -> ValidationError:
    if isinstance(error, pydantic.ValidationError) and error.errors()[0]["type"] != "json_invalid":
        return _prefix_field(field, as_validation_error(error, type(model)))
    found = unstorable_error(field, model)
    name = max(type(model).model_fields, key=lambda name: _depth(getattr(model, name, None)))
    if not found and (depth := _depth(getattr(model, name, None))) > _MAX_DEPTH:
        return ValidationError(join_field(field, name), "nested too deep: at most about 120 levels", f"{depth} levels")
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


def _prefix_field(field: str, error: ValidationError) -> ValidationError:
    return ValidationError(join_field(field, error.field), error.limit, error.value) if field else error
