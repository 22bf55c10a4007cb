"""Suggestions for error messages: the field, choice or variable that a caller most likely meant.

Only errors need it, so `difflib` is imported when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# Field names of other programs, such as the Rust crate, and ours. The first one that the model has is suggested.
_FOREIGN: dict[str, tuple[str, ...]] = {
    "acquire_timeout": ("connect_timeout",),
    "base_delay": ("initial_backoff",),
    "connection_timeout": ("connect_timeout",),
    "date": ("started_at",),
    "description": ("task_description", "verdict", "reason"),
    "end_time": ("completed_at",),
    "enable_pooling": ("pool",),
    "episode_id": ("id", "owner_id"),
    "error": ("error_details", "message"),
    "ended_at": ("completed_at",),
    "finished_at": ("completed_at",),
    "half_open_max_requests": ("half_open_max_calls",),
    "item_id": ("owner_id",),
    "item_type": ("owner_type",),
    "keepalive_interval": ("idle_timeout",),
    "labels": ("tags",),
    "max_delay": ("max_backoff",),
    "max_idle": ("min_idle",),
    "max_retries": ("max_attempts",),
    "max_size": ("max_connections",),
    "message": ("message", "reason", "verdict"),
    "min_connections": ("min_idle",),
    "name": ("tool", "model", "place_name"),
    "parameters_json": ("parameters",),
    "path": ("database",),
    "pattern_id": ("id",),
    "pool_size": ("max_connections",),
    "recovery_timeout": ("timeout",),
    "result": ("outcome",),
    "retry_base_delay": ("initial_backoff",),
    "retry_max_delay": ("max_backoff",),
    "score": ("total", "reward"),
    "start_time": ("started_at",),
    "task": ("task_description",),
    "text": ("task_description", "output", "verdict"),
    "timestamp": ("started_at", "generated_at"),
    "token": ("auth_token",),
    "tool_name": ("tool",),
    "total_reward": ("total",),
    "url": ("database",),
    "value": ("total",),
}
_UNITS = re.compile(r"_(ms|millis|milliseconds|s|sec|secs|seconds|us)$")
DEEP = {"recursion_loop", "recursion_depth_exceeded"}
_MODEL_EXPECTED = {"model_type", "model_attributes_type", "dict_type", "dataclass_type"}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is closest to `name` in spelling, ignoring case; None if none is close."""
    import difflib

    by_spelling = {candidate.lower(): candidate for candidate in names}
    # difflib indexes the whole name. One of twice the length is close to none: its ratio is below the cutoff.
    is_comparable = len(name) <= 2 * max(map(len, by_spelling), default=0)
    spelled = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.7) if is_comparable else []
    return by_spelling[spelled[0]] if spelled else _extended(name.lower(), by_spelling)


def first_problem(problems: list[ErrorDetails]) -> ErrorDetails:
    """Return the problem to report: the first, except that a misnamed field precedes the field it leaves missing."""
    first = problems[0]
    if first["type"] != "missing":
        return first
    parent = first["loc"][:-1]
    return next((one for one in problems if one["type"] == "extra_forbidden" and one["loc"][:-1] == parent), first)


def explanation(problem: ErrorDetails, model: type[BaseModel] | None) -> str:
    """Return a message for a problem that pydantic reports with a value of `model`, with a suggestion."""
    place, kind = problem["loc"], problem["type"]
    if kind == "extra_forbidden":
        owner = _model_at(model, place[:-1])
        return f"no such field{_of_field(str(place[-1]), owner) if owner else ''}"
    if kind in DEEP:
        return "nested too deep, or it contains itself"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    if kind in {"literal_error", "enum", "union_tag_invalid"}:
        choices = problem.get("ctx", {})
        tag = given.get("kind", given.get("status")) if isinstance(given, Mapping) else given
        return message + _of_choice(tag, f"{choices.get('expected')} {choices.get('expected_tags')}")
    if kind in _MODEL_EXPECTED:
        return _of_models(given, list(_models(_annotation_at(model, place)))) or message
    return message


def _of_field(name: str, model: type[BaseModel]) -> str:
    """Return "; did you mean 'x'?" for a field of the model, or of one of its sections."""
    field = _nearest_field(name, model)
    if field:
        info = model.model_fields[field]
        unit = info.description or next(_units(info.annotation), None)
        return f"; did you mean {field!r}{f', in {unit}' if unit else ''}?"
    for section, info in model.model_fields.items():
        for inner in _models(info.annotation):
            if info.default_factory in [inner] and (field := _nearest_field(name, inner, exact=True)):
                return f"; did you mean {section}={inner.__name__}({field}=...)?"
    return ""


def _units(annotation: object) -> Iterator[str]:
    """Yield the units of numbers in an annotation: they are the description there."""
    for inner in get_args(annotation):
        if isinstance(inner, FieldInfo) and inner.description:
            yield inner.description
        yield from _units(inner)


def _nearest_field(name: str, model: type[BaseModel], *, exact: bool = False) -> str | None:
    fields, bare = model.model_fields, _UNITS.sub("", name.lower())
    foreign = [field for field in (bare, *_FOREIGN.get(bare, ())) if field in fields]
    if foreign or exact:
        return foreign[0] if foreign else None
    return nearest(name, fields) or nearest(bare, fields)


def _of_choice(given: object, expected: str) -> str:
    choice = nearest(given, re.findall(r"'([^']+)'", expected)) if isinstance(given, str) else None
    return f"; did you mean {choice!r}?" if choice else ""


def _of_models(given: object, models: list[type[BaseModel]]) -> str:
    """Return which models are expected, written as calls; only the one that the value names, if it names one."""
    calls = {str(_kind_of(model) or model.__name__): _call(model) for model in models}
    meant = nearest(given, calls) if isinstance(given, str) else None
    if meant:
        return f"must be an object: write {calls[meant]}"
    return f"must be {' or '.join(calls.values())}" if calls else ""


def _call(model: type[BaseModel]) -> str:
    required = [f"{name}=..." for name, field in model.model_fields.items() if field.is_required()]
    return f"{model.__name__}({', '.join(required) or '...'})"


def _kind_of(model: type[BaseModel]) -> object:
    for name in ("kind", "status"):
        if name in model.model_fields:
            return model.model_fields[name].default
    return None


def _model_at(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> type[BaseModel] | None:
    found = list(_models(_annotation_at(model, place)))
    return found[0] if len(found) == 1 else None


def _annotation_at(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> object:
    """Return the annotation at a path of fields, items of lists, and kinds of unions."""
    here: object = model
    for part in place:
        models = list(_models(here))
        chosen = [found for found in models if part in (_kind_of(found), found.__name__)]
        fields = [found.model_fields[str(part)] for found in models if part in found.model_fields]
        if chosen and not fields:
            here = chosen[0]
        elif fields:
            here = (fields[0].annotation, *fields[0].metadata)
        elif not isinstance(part, int):
            return None
    return here


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation: those of a union, and of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in annotation if isinstance(annotation, tuple) else get_args(annotation):
        yield from _models(inner)


def _extended(name: str, by_spelling: dict[str, str]) -> str | None:
    """Return the longest name that `name` starts with or is the start of: `timeout_s` for `timeout`."""
    kin = [known for known in by_spelling if len(known) > 3 and (name.startswith(known) or known.startswith(name))]
    return by_spelling[max(kin, key=len)] if kin and len(name) > 3 else None
