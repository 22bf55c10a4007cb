"""Models to JSON documents and back, and the limits they must keep. What is written here is what will be read."""

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
from memory_storage.models.storable_text import join_field, parts_of, unstorable_error

from .limits import refuse_unstorable

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

OnCorrupt = Callable[[CorruptDataError], object] | None
"""What to call with the error of each row that cannot be decoded, and is left out; None to raise it."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MAX_DEPTH = 100
_STEPS = TypeAdapter(list[Step], config=ConfigDict(defer_build=True))


_ARGUMENT_NAMES = {"SpatiotemporalEntry": "entry"}  # of arguments, where that is not the model's


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch, exact. ValidationError for one that is not aware: a model has none, a clock may."""
    try:
        return (moment - EPOCH) // _MICROSECOND
    except TypeError as error:
        raise ValidationError("now", "the clock must give aware moments", moment) from error


def from_micros(micros: int | None) -> datetime | None:
    """The moment, aware, in UTC."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def encode(kind: type[M], model: M, field: str = "") -> tuple[str, M]:
    """The model's JSON, and the model as it will be read from it.

    ValidationError if the two differ: a model can be made or changed past its validation, and JSON has no NaN.
    """
    if type(model) is not kind:
        name = _ARGUMENT_NAMES.get(kind.__name__, kind.__name__.lower())
        raise ValidationError(field or name, f"must be {'an' if name[0] in 'aeiou' else 'a'} {kind.__name__}", model)
    try:
        document = model.model_dump_json(warnings=False)
        read = kind.model_validate_json(document)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _encoding_error(field, model, error) from error
    if read != model:
        raise _round_trip_error(field, model, read)
    if "\\u0000" in document:
        refuse_unstorable(field, from_json(document))
    return document, read


def number_steps(episode: Episode) -> Episode:
    """The episode with all of its steps numbered: one that was put together by `model_copy` has not been validated."""
    steps = getattr(episode, "steps", None)
    if not isinstance(steps, list) or not all(isinstance(step, Step) for step in steps):
        return episode  # as it was read, or something that encode() will refuse
    if all(step.step_number for step in steps):
        return episode
    return episode.model_copy(update={"steps": number_each(steps)})


def decode(read: Callable[[str], M], document: str, table: str, row_id: str) -> M:
    """The model in a stored document. CorruptDataError names the row that holds something else."""
    try:
        return read(document)
    except ValueError as error:
        raise corrupt_error(table, row_id) from error


def corrupt_error(table: str, row_id: str) -> CorruptDataError:
    """The error for a row that cannot be decoded."""
    return CorruptDataError(
        f"{table}: the row of {row_id} cannot be decoded: pass it over with on_corrupt, or run `memory-storage doctor`",
        table=table,
        id=row_id,
    )


def report_corrupt(read: Callable[[], T], on_corrupt: OnCorrupt) -> T | None:
    """What `read` gives; or None, if it is a row that cannot be decoded and somebody is to be told of it."""
    try:
        return read()
    except CorruptDataError as error:
        if on_corrupt is None:
            raise
        on_corrupt(error)
        return None


def check_on_corrupt(on_corrupt: Any) -> None:
    """ValidationError if it can be told nothing."""
    if on_corrupt is not None and not callable(on_corrupt):
        raise ValidationError("on_corrupt", "None, or what to call with each CorruptDataError", on_corrupt)


def readable_steps(rows: Sequence[Sequence[Any]], on_corrupt: OnCorrupt) -> list[Step]:
    """The steps that can be decoded."""
    try:
        return decode_steps(rows)
    except CorruptDataError:
        found = [report_corrupt(partial(decode_steps, [row]), on_corrupt) for row in rows]
        return [steps[0] for steps in found if steps]


def decode_steps(rows: Sequence[Sequence[Any]]) -> list[Step]:
    """The steps in rows of id, document and output, read together: that costs half of reading them one by one."""
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
    """The step as its document has it, and the text that stands beside it."""
    if isinstance(step.result, StepOk):
        return step.model_copy(update={"result": StepOk()}), step.result.output
    if isinstance(step.result, StepError):
        return step.model_copy(update={"result": StepError(message="")}), step.result.message
    return step, None


def with_columns(model: M, version: int, created_at: int, updated_at: int, **others: Any) -> M:
    """A model that was just decoded, with the fields that are columns. Nobody else has it yet, so it may be changed."""
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
    """Return how deep containers are nested in a value that may hold itself: not recursive, and nothing twice."""
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
