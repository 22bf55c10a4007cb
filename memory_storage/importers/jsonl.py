"""The lossless export format: everything in a namespace as JSON lines.

    {"kind": "header", "format": "memory-storage", "format_version": 1, "namespace": "default"}
    {"kind": "episode", "value": {...}}         with its steps, version and times
    {"kind": "pattern", "value": {...}}         with its counters
    {"kind": "embedding", "value": {...}}       after its owner, like a place
    {"kind": "place", "value": {...}}
    {"kind": "relationship", "value": {...}}    after both of its episodes
    {"kind": "checkpoint", "value": {...}}      after its episode
    {"kind": "item", "value": {...}}            without those that have expired
    {"kind": "item_vector", "value": {...}}     after its item
    {"kind": "record", "value": {...}}          of a log
    {"kind": "end", "count": 4}                 the number of values; a file without it is truncated

The values are the JSON of the models. A change that an older package cannot read increases the version: an export with
relationships or checkpoints has version 3, one with items or records version 2, any other one version 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import pydantic
from typing_extensions import Unpack

from memory_storage.errors import ValidationError
from memory_storage.models import (
    PATTERN,
    AnyPattern,
    Checkpoint,
    Embedding,
    Episode,
    EpisodeFilters,
    Item,
    ItemVector,
    LogRecord,
    Relationship,
    SpatiotemporalEntry,
)
from memory_storage.models.model import as_validation_error
from memory_storage.session import Repositories
from memory_storage.storage import MemoryStorage

FORMAT = "memory-storage"
FORMAT_VERSION = 3
"""The highest that this package reads and writes."""

Kind = Literal[
    "episode", "pattern", "embedding", "place", "relationship", "checkpoint", "item", "item_vector", "record"
]
Value = (
    Episode | AnyPattern | Embedding | SpatiotemporalEntry | Relationship | Checkpoint | Item | ItemVector | LogRecord
)

_ADAPTERS: dict[Kind, pydantic.TypeAdapter[Any]] = {
    "episode": pydantic.TypeAdapter(Episode),
    "pattern": PATTERN,
    "embedding": pydantic.TypeAdapter(Embedding),
    "place": pydantic.TypeAdapter(SpatiotemporalEntry),
    "relationship": pydantic.TypeAdapter(Relationship),
    "checkpoint": pydantic.TypeAdapter(Checkpoint),
    "item": pydantic.TypeAdapter(Item),
    "item_vector": pydantic.TypeAdapter(ItemVector),
    "record": pydantic.TypeAdapter(LogRecord),
}
_ALL: dict[Kind, Callable[[Repositories], Iterator[Value]]] = {
    "episode": lambda view: view.episodes.iterate(archived=None, direction="oldest_first"),
    "pattern": lambda view: view.patterns.iterate(),
    "embedding": lambda view: view.embeddings.iterate(),
    "place": lambda view: view.spatiotemporal.iterate(),
    "relationship": lambda view: view.relationships.iterate(),
    "checkpoint": lambda view: view.checkpoints.iterate(),
    "item": lambda view: view.items.iterate(),
    "item_vector": lambda view: view.items.iterate_vectors(),
    "record": lambda view: view.logs.iterate(),
}


def export_lines(storage: MemoryStorage, **filters: Unpack[EpisodeFilters]) -> Iterator[str]:
    """Yield the lines of an export, without line ends, from one snapshot of the namespace.

    The snapshot is kept alive until the last line, however slowly the caller reads.

    Args:
        storage: the storage.
        **filters: the filters of `episodes.query`. With any of them, only the episodes that pass are exported, without
            patterns, embeddings, places, relationships and checkpoints.

    Returns:
        An iterator of lines.

    Raises:
        ValidationError: a filter is invalid.
    """
    count = 0
    chosen = dict(_ALL)
    if filters:
        chosen = {"episode": lambda view: view.episodes.iterate(direction="oldest_first", **filters)}
    with storage.snapshot() as view:
        header = {"format": FORMAT, "format_version": 1, "namespace": storage.namespace}
        if not filters:
            header["format_version"] = _version_of(view)
        yield json.dumps({"kind": "header", **header}, ensure_ascii=False)
        for kind, values in chosen.items():
            for value in values(view):
                count += 1
                parts = _parts(kind, value)
                del value  # it may be large: release it and its line before the next one is read
                yield "".join(parts)
    yield json.dumps({"kind": "end", "count": count})


def _version_of(view: Repositories) -> int:
    """Return the least version that has all that a namespace holds."""
    if view.relationships.count() or view.checkpoints.count():
        return 3
    return 2 if view.items.count() or view.logs.count() else 1


def _parts(kind: Kind, value: Value) -> Iterator[str]:
    """Yield the parts of the value's line.

    The steps of an episode are yielded one by one and released, because each may be large.
    """
    yield f'{{"kind": "{kind}", "value": '
    if not isinstance(value, Episode):
        yield value.model_dump_json() + "}"
        return
    steps = list(value.steps)[::-1]
    # The last occurrence is the field itself: only times follow it.
    bare = value.model_copy(update={"steps": []}).model_dump_json()
    del value
    before, mark, after = bare.rpartition('"steps":[]')
    del bare
    yield before + mark[:-1]
    del before
    separator = ""
    while steps:
        yield separator + steps.pop().model_dump_json()
        separator = ","
    yield f"]{after}}}"


def check_header(content: Mapping[str, Any]) -> None:
    """Raise ValidationError unless this is the first line of an export that this version can read."""
    if content.get("kind") != "header" or content.get("format") != FORMAT:
        raise ValidationError("file", "an export begins with a header line; try --format openai-chat", sorted(content))
    if content.get("format_version") not in range(1, FORMAT_VERSION + 1):
        limit = f"a version up to {FORMAT_VERSION} is what this package can read; upgrade it"
        raise ValidationError("format_version", limit, content.get("format_version"))


def value_from(content: Mapping[str, Any]) -> tuple[Kind, Value]:
    """Return the kind and the model of a line; raise ValidationError if it is invalid."""
    kind = content.get("kind")
    if kind not in _ADAPTERS or content.keys() != {"kind", "value"}:
        raise ValidationError("kind", f"one of {', '.join(_ADAPTERS)}, with a `value`", kind)
    try:
        return kind, _ADAPTERS[kind].validate_python(content["value"])
    except pydantic.ValidationError as error:
        raise as_validation_error(error) from error
