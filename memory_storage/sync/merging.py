"""Three-way merges of a row that was changed here and at the server.

Episodes and patterns merge by field, tags, evidence and sources as sets, metadata and the context by key, and what
`complete` writes as one. Other rows are one field. Where both sides have changed a field in different ways, one of them
stands, and the fields are named: the caller keeps the other side as a conflict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from memory_storage.errors import ValidationError
from memory_storage.models import AnyPattern, Episode, SpatiotemporalEntry, Step
from memory_storage.repositories.patterns.rows import pattern_from_row
from memory_storage.repositories.relationships.rows import relationship_from_row
from memory_storage.schema.words import words_of_pattern
from memory_storage.sql.episode_rows import (
    EPISODE_ROW,
    STEP_ROW,
    decode_steps,
    encode_episode,
    episode_of_row,
    episode_values,
)
from memory_storage.sql.statement import from_micros, to_micros

from .rows import (
    BASES,
    CHECKPOINT,
    EMBEDDING,
    EPISODE,
    KINDS,
    PATTERN,
    PATTERN_COUNTERS,
    PLACE,
    RELATIONSHIP,
    STEP,
    Values,
)

Side = Literal["mine", "theirs"]

_SETS = {"tags", "evidence", "sources"}
_BY_KEY = {"metadata"}
_TOGETHER = (("outcome", "completed_at", "reward"), ("success_rate", "occurrence_count"))
_NOT_CONTENT = {"id", "kind", "version", "created_at", "updated_at", "effectiveness"}
_NOT_COMPARED = {"version", "created_at", "updated_at", "words", "step_number", "vector_seq", *PATTERN_COUNTERS}
_ZERO = (0, 0, 0, 0, 0.0, None)
"""The counters of a pattern, which no base has."""


class Base(NamedTuple):
    """A row as it was in sync, or as it was sent: see `sync_bases`."""

    sent: int
    columns: str
    document: str
    output: str | None


class Merged(NamedTuple):
    """The result of a merge.

    Attributes:
        values: The row that stands.
        fields: The fields that both sides have changed.
        base: The row before both changes, as JSON; None if it is not known.
    """

    values: Values
    fields: list[str]
    base: str | None


def is_same(kind: int, mine: Values, theirs: Values) -> bool:
    """Return whether two rows have the same content: all but versions, times of the store and what the server gives."""
    columns = KINDS[kind].columns
    return all(
        one == other for name, one, other in zip(columns, mine, theirs, strict=True) if name not in _NOT_COMPARED
    )


def merge(kind: int, bases: Sequence[Base], mine: Values, theirs: Values, prefer: Side) -> Merged:
    """Merge a row; of embeddings see `embedding_that_stands`.

    Args:
        kind: Its kind.
        bases: The row when it was in sync, and as it was sent since.
        mine: The row here.
        theirs: The row at the server.
        prefer: Whose field stands where both have changed it.
    """
    if kind in (EPISODE, PATTERN):
        return _merge_fields(kind, bases, mine, theirs, prefer)
    of_bases = [_content_of_base(kind, base) for base in bases]
    content = _content(kind, theirs)
    if any(_is_equal(one, content) for one in of_bases):  # it has not changed there, or that is what was sent
        return Merged(mine, [], None)
    base = json.dumps(of_bases[0], ensure_ascii=False, default=str) if _is_known(bases) else None
    return Merged(mine if prefer == "mine" else theirs, [KINDS[kind].name], base)


def as_json(kind: int, values: Values) -> str:
    """Return a row as the JSON of its model; of a checkpoint as that of its columns."""
    if kind == CHECKPOINT:
        one = dict(zip(KINDS[kind].columns[1:], values[1:], strict=True))
        one["document"] = json.loads(one["document"])
        return json.dumps(one, ensure_ascii=False)
    return as_model(kind, values).model_dump_json()


def as_model(kind: int, values: Values) -> BaseModel:
    """Return the model of a row: an episode without its steps."""
    one = dict(zip(KINDS[kind].columns, values, strict=True))
    if kind == EPISODE:
        return episode_of_row([one[name] for name in EPISODE_ROW], ())
    if kind == STEP:
        return decode_steps([[one[name] for name in STEP_ROW]])[0]
    if kind == PATTERN:
        names = ("id", "document", "version", "created_at", "updated_at", *PATTERN_COUNTERS)
        return pattern_from_row([one[name] for name in names])
    if kind == RELATIONSHIP:
        return relationship_from_row(values[1:])
    return SpatiotemporalEntry.model_validate_json(one["document"]).model_copy(
        update={"created_at": from_micros(one["created_at"])}
    )


def embedding_that_stands(bases: Sequence[Base], mine: Values, theirs: Values) -> Side:
    """Return which of two vectors of an owner stands: that of the newer text, and else the server's."""
    place = KINDS[EMBEDDING].place
    if any(json.loads(base.columns)[0] == theirs[place("updated_at")] for base in bases):
        return "mine"  # it has not changed there, or that is what was sent
    digest, version = place("text_digest"), place("text_version")
    has_texts = mine[digest] is not None and theirs[digest] is not None
    return "mine" if has_texts and (mine[version] or 0) > (theirs[version] or 0) else "theirs"


def _content(kind: int, values: Values) -> dict[str, Any]:
    columns = KINDS[kind].columns
    if kind == PLACE:
        return {"document": json.loads(values[KINDS[kind].place("document")])}
    row = dict(zip(columns, values, strict=True))
    if kind in _CONTENT:
        return _content_of(kind, row, row["document"])
    return {name: row[name] for name in ("tool", "status", "latency_ms", "tokens_used", "output", "document")}


def _content_of_base(kind: int, base: Base) -> dict[str, Any]:
    columns = json.loads(base.columns)
    if kind == PLACE:
        return {"document": json.loads(base.document)}
    if kind in _CONTENT:
        return _content_of(kind, dict(zip(BASES[kind], columns, strict=True)), base.document)
    _, tool, status, latency_ms, tokens_used, *_ = columns
    facts = {"tool": tool, "status": status, "latency_ms": latency_ms, "tokens_used": tokens_used}
    return facts | {"output": base.output, "document": base.document}


_CONTENT = {RELATIONSHIP: ("weight",), CHECKPOINT: ("step_number", "label")}
"""What changes of a row, besides its document."""


def _content_of(kind: int, row: Mapping[str, Any], document: str) -> dict[str, Any]:
    content = {name: row[name] for name in _CONTENT[kind]}
    read = json.loads(document)
    return content | (read if kind == RELATIONSHIP else {"document": read})


def _is_equal(base: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Return whether the content of a base is that of a row, of whose floats an older SQLite writes 15 digits."""
    for name, one in base.items():
        other = content[name]
        is_rounded = isinstance(one, float) and isinstance(other, float)
        if one != other and not (is_rounded and math.isclose(one, other, rel_tol=1e-14)):
            return False
    return True


def _merge_fields(kind: int, bases: Sequence[Base], mine: Values, theirs: Values, prefer: Side) -> Merged:
    key = theirs[KINDS[kind].place("id")]
    models = [_model_of_base(kind, base, key) for base in bases]
    my_model, their_model = as_model(kind, mine), as_model(kind, theirs)
    if any(_fields(their_model) == _fields(one) for one in models):
        return Merged(mine, [], None)
    base = models[0] if _is_known(bases) else None
    values, clashes = _three_way(_fields(base) if base else {}, _fields(my_model), _fields(their_model), prefer)
    archived_at = _archived_at(base, mine, theirs) if kind == EPISODE else None
    if kind == EPISODE:
        values["archived_at"] = from_micros(archived_at)
    merged = their_model.model_copy(update=values)
    base_json = base.model_dump_json() if base else None
    if _fields(merged) == _fields(their_model):
        return Merged(theirs, clashes, base_json)
    return Merged(values_of(kind, merged, mine, theirs), clashes, base_json)


def _is_known(bases: Sequence[Base]) -> bool:
    """Return whether the first base was in sync. What was sent alone may never have been at the server."""
    return bool(bases) and bases[0].sent == 0


def values_of(kind: int, model: BaseModel, mine: Values, theirs: Values) -> Values:
    """Return the row of an episode or a pattern that was merged of two: newer than both.

    Raises:
        ValidationError: The model cannot be stored, or is of another kind.
    """
    place = KINDS[kind].place
    version = max(mine[place("version")], theirs[place("version")]) + 1
    updated_at = max(mine[place("updated_at")], theirs[place("updated_at")])
    if kind == EPISODE and isinstance(model, Episode):
        # Limits are checked by each side: a merge may have more tags than one, but nothing that cannot be read.
        archived_at = None if model.archived_at is None else to_micros(model.archived_at)
        created_at = theirs[place("created_at")]
        return episode_values(encode_episode(model), theirs[0], version, created_at, updated_at, archived_at)
    if kind == PATTERN and not isinstance(model, Episode):
        return _pattern_values(model, theirs, version, updated_at)
    raise ValidationError("sync_conflicts", '"mine", "theirs", or of an episode or pattern a merged one', model)


def _archived_at(base: BaseModel | None, mine: Values, theirs: Values) -> int | None:
    place = KINDS[EPISODE].place("archived_at")
    was_archived = isinstance(base, Episode) and base.archived_at is not None
    found: int | None = mine[place] if (theirs[place] is not None) == was_archived else theirs[place]
    return found


def _pattern_values(merged: Any, theirs: Values, version: int, updated_at: int) -> Values:
    document = merged.model_dump_json(exclude={"version", "created_at", "updated_at", "effectiveness"})
    return KINDS[PATTERN].replaced(
        theirs,
        version=version,
        updated_at=updated_at,
        domain=merged.context.domain,
        language=merged.context.language,
        success_rate=merged.success_rate,
        occurrence_count=merged.occurrence_count,
        document=document,
        words=words_of_pattern(document),
    )


def _model_of_base(kind: int, base: Base, key: str) -> Episode | AnyPattern | Step:
    columns = json.loads(base.columns)
    if kind == EPISODE:
        return episode_of_row((key, base.document, *columns), ())
    return pattern_from_row((key, base.document, *columns[:3], *_ZERO))


def _fields(model: BaseModel) -> dict[str, Any]:
    """Return the content of a model by field. Of an archive mark only whether it is there.

    Steps of an episode are rows of their own; those of a playbook are a field.
    """
    skipped = _NOT_CONTENT | {"steps"} if isinstance(model, Episode) else _NOT_CONTENT
    fields = {name: value for name, value in model.__dict__.items() if name not in skipped}
    if "archived_at" in fields:
        fields["archived_at"] = fields["archived_at"] is not None
    return fields


def _three_way(
    base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any], prefer: Side
) -> tuple[dict[str, Any], list[str]]:
    """Return what the server's fields become, and those that clash."""
    result: dict[str, Any] = {}
    clashes: list[str] = []
    for name, my_value in mine.items():
        if my_value == theirs[name] or (name in base and my_value == base[name]):
            continue
        if name in base and theirs[name] == base[name]:
            result[name] = my_value
        elif name != "archived_at":  # a column, which `_archived_at` merges
            changes, inner = _merge_field(name, base.get(name), my_value, theirs[name], prefer)
            result |= changes
            clashes += inner
    for together in _TOGETHER:
        if any(name in clashes for name in together):
            _keep_together(together, base, mine, theirs, prefer, result, clashes)
    return result, clashes


def _merge_field(name: str, base: Any, mine: Any, theirs: Any, prefer: Side) -> tuple[dict[str, Any], list[str]]:
    """Return what becomes of a field that both sides have changed, and which parts of it clash."""
    if name in _SETS:
        return {name: _merge_sets(base or [], mine, theirs)}, []
    if name in _BY_KEY:
        merged, clashes = _merge_keys(base or {}, mine, theirs, prefer)
        return {name: merged}, [f"{name}.{key}" for key in clashes]
    if name == "summary" and mine and theirs and mine == theirs.model_copy(update={"created_at": mine.created_at}):
        return {}, []  # both sides have summarized the same in the same way, at another time
    if name == "context":
        changes, clashes = _three_way(base.__dict__ if base else {}, mine.__dict__, theirs.__dict__, prefer)
        return {name: theirs.model_copy(update=changes)}, [f"{name}.{key}" for key in clashes]
    return ({name: mine} if prefer == "mine" else {}), [name]


def _keep_together(
    names: Sequence[str],
    base: Mapping[str, Any],
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    prefer: Side,
    result: dict[str, Any],
    clashes: list[str],
) -> None:
    """Have what one call writes stand together, or not at all."""
    for name in names:
        if name not in mine:
            continue
        if prefer == "mine":
            result[name] = mine[name]
        else:
            result.pop(name, None)
        if name not in clashes and mine[name] not in (theirs[name], base.get(name)):
            clashes.append(name)


def _merge_sets(base: Sequence[Any], mine: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
    removed = [one for one in base if one not in mine]
    kept = [one for one in theirs if one not in removed]
    return kept + [one for one in mine if one not in base and one not in kept]


def _merge_keys(
    base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any], prefer: Side
) -> tuple[dict[str, Any], list[str]]:
    result, clashes = dict(theirs), []
    for key in {**base, **mine}:
        one, other, before = mine.get(key, _MISSING), theirs.get(key, _MISSING), base.get(key, _MISSING)
        if one in (before, other):
            continue
        if other != before:
            clashes.append(key)
            if prefer == "theirs":
                continue
        if one is _MISSING:
            result.pop(key, None)
        else:
            result[key] = one
    return result, clashes


_MISSING = object()
