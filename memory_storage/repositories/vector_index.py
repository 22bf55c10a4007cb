"""The models' vector indexes: kept up, checked against their tables, and built anew. Searches nothing for a caller.

They are in the database (DiskANN) or in this process (see `memory_index`), as the setting `vector_index` says.

A search is right whatever state an index is in (see `schema.spaces`): this is about speed, and about finding out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

from memory_storage.dbapi import Step
from memory_storage.errors import (
    ConfigurationError,
    CorruptDataError,
    NotFoundError,
    SchemaError,
    ValidationError,
)
from memory_storage.models import EmbeddingModel, IndexHealth, IndexPreset, IndexSource
from memory_storage.schema.spaces import FEW, PRESETS, Preset, Space, with_search
from memory_storage.sources import SOURCES, Cost

from . import _embedding_sql as sql
from ._codec import EPOCH, from_micros
from ._session import Repository, Session
from .memory_index import MemoryIndex

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("stored" or "indexed"), how many are done, and how many there are."""

_VECTOR_INDEXES = Step("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%libsql_vector_idx%'")
# All of it: VACUUM leaves rows there that are out of order, and cannot be found one by one.
_NO_METADATA = Step("DELETE FROM libsql_vector_meta_shadow")
_AT_ONCE = 100  # vectors: a server ends a transaction after five seconds if others wait
_SAMPLE = 32  # vectors that are searched for, to measure recall
_DOUBTFUL = 0.96  # what so few say of an index is off by 0.03, now and then: under this, eight times as many are
_NEAREST = 10


class VectorIndex(Repository):
    """The vector indexes of a database: one for each model, whatever the namespace."""

    def status(self) -> list[EmbeddingModel]:
        """Each model with its counters: how many vectors it has, are in its index, and were removed from there."""
        return [self._as_seen(found) for found in self._in_database()]

    def costs(self, model: str) -> dict[str, Cost]:
        """The bytes that each source of candidates takes for a vector, on disk and in memory, by its name.

        Raises:
            NotFoundError: there is no such model.
        """
        found = self._get(model)
        return {name: source.cost(found.dimension, found.preset) for name, source in SOURCES.items()}

    def use(self, source: IndexSource, *, model: str | None = None, progress: Progress | None = None) -> int:
        """Go over to an index in the database ("diskann") or in this process ("memory"), of one model or of all.

        The one that is left is emptied. How many vectors have entered the other. If it is interrupted, do it again.
        The setting `vector_index` has to say the same, or the one that it says is built again.

        Raises:
            ConfigurationError: the setting says otherwise.
            NotFoundError: there is no such model.
            ValidationError: there is no such source.
        """
        if source not in get_args(IndexSource):
            raise ValidationError("source", f"one of {', '.join(get_args(IndexSource))}", source)
        if source != self._session.vector_index:
            raise ConfigurationError(
                f"vector_index: it is {self._session.vector_index}: set it to {source} (MEMORY_STORAGE_VECTOR_INDEX)"
            )
        found = [one for one in self._in_database() if model in (None, one.name)]
        if model is not None and not found:
            raise NotFoundError("embedding model", model)
        return sum(self._use(one, progress) for one in found)

    def verify(self, model: str) -> IndexHealth:
        """Compare a model's index with its table, and measure its recall on a sample of what is in it.

        Reads all of its vectors 32 times, or 288 times if it finds less than it should.

        Raises:
            NotFoundError: there is no such model.
        """
        found = self._as_seen(self._get(model))
        memory = self._memory(model)
        if memory:
            rows, nodes = memory.present()
            return IndexHealth(replace(found, indexed=rows), nodes, memory.recall(_SAMPLE, _NEAREST) if nodes else None)
        try:
            nodes = self._session.read(sql.of(Space(model)).nodes.step())[0][0]
            recall = self._recall(Space(model)) if nodes else None
        except (SchemaError, CorruptDataError):
            return IndexHealth(model=found, nodes=None, recall=None)
        return IndexHealth(model=found, nodes=nodes, recall=recall)

    def rebuild(self, model: str, *, preset: IndexPreset | None = None, progress: Progress | None = None) -> int:
        """Build a model's index anew, with another preset if one is given; how many vectors are in it.

        Searches go on meanwhile, without it. If it is interrupted, `catch_up` finishes it.

        Raises:
            NotFoundError: there is no such model.
            ValidationError: there is no such preset, or the index is in memory, which has none.
        """
        memory = self._memory(model)
        if memory and preset is None:
            return memory.catch_up(anew=True, progress=progress)
        if memory:
            raise ValidationError("preset", "none: it is of diskann, and vector_index is memory", preset)
        chosen = preset_of(self._get(model).preset if preset is None else preset)
        self._empty(model, chosen)
        return self.catch_up(model, progress=progress)

    def catch_up(self, model: str, *, progress: Progress | None = None, background: bool = False) -> int:
        """Put the vectors of a model that are not in its index there, in portions; how many that were.

        An index in memory is kept in its file then. `background` leaves it to a thread, and returns 0: only for memory.

        Up to 2,000 vectors have no index: to compare each of them is faster. An index from which many vectors were
        removed is built anew.

        Raises:
            ConfigurationError: an index in memory would be over its limit.
            NotFoundError: there is no such model.
            ValidationError: `background` is for an index in memory.
        """
        memory = self._memory(model)
        if memory:
            return memory.catch_up(progress=progress, background=background)
        if background:
            raise ValidationError("background", "False: vector_index is not memory", background)
        return self.go_on(self._get(model), progress=progress)

    def go_on(self, found: EmbeddingModel, *, progress: Progress | None = None) -> int:
        """Catch up from a known state."""
        if found.is_worn:
            self._empty(found.name, preset_of(found.preset))
            found = self._get(found.name)
        start, total = found.indexed, found.pending
        while found.pending and found.vectors > FEW and (after := self._more(found)).indexed > found.indexed:
            found = after
            if progress:
                progress("indexed", found.indexed - start, max(total, found.indexed - start))
        if found.indexed > start:
            self._tune(found)
        return found.indexed - start

    def mend(self) -> list[str]:
        """Put an empty index in place of each that is missing or has lost all it had; whose those are.

        Looks at no vector, so a storage does it when it opens a file. Searches compare exactly until `catch_up`.
        """
        lost = [found for found in self._in_database() if not self._is_whole(found)]
        for found in lost:
            self._empty(found.name, preset_of(found.preset))
        return [found.name for found in lost]

    def take_away(self) -> None:
        """Drop all of them: VACUUM would damage them. Searches compare exactly until `put_back` and `catch_up`.

        Those in memory go too, with their files: they have what was removed.
        """
        models = self.status()
        if self._session.memory:
            for one in models:
                self._session.memory.of(Space(one.name)).drop()
        if models:
            self._session.write([Step(text) for one in models for text in Space(one.name).drop_index()])

    def put_back(self) -> None:
        """An empty index for each model, whatever VACUUM has made of one that came to be in between."""
        models = self.status()
        dropped = [Step(text) for one in models for text in Space(one.name).drop_index()]
        made = [Step(Space(one.name).create_index(preset_of(one.preset))) for one in models]
        emptied = [sql.EMPTIED.step(model=one.name, preset=one.preset) for one in models]
        if models:
            self._session.write([*dropped, _NO_METADATA, *made, *emptied])

    def strangers(self) -> list[str]:
        """The vector indexes of the database that are no model's."""
        ours = {Space(one.name).index for one in self.status()}
        return [row[0] for row in self._session.read(_VECTOR_INDEXES) if row[0] not in ours]

    def dimension(self, model: str) -> int:
        """How many numbers each vector of a model has.

        Raises:
            NotFoundError: there is no such model.
        """
        return self._get(model).dimension

    def _in_database(self) -> list[EmbeddingModel]:
        return [as_model(row) for row in self._session.read(sql.MODELS.step())]

    def _memory(self, model: str) -> MemoryIndex | None:
        indexes = self._session.memory
        is_used = indexes is not None and self._session.vector_index == "memory"
        return indexes.of(Space(self._get(model).name)) if indexes and is_used else None

    def _as_seen(self, found: EmbeddingModel) -> EmbeddingModel:
        """With the counters of the index in this process, if that is what searches use."""
        memory = self._memory(found.name)
        if memory is None:
            return found
        entries, mark = memory.entries()
        rows = self._session.read(sql.of(Space(found.name)).behind.step(mark=mark))
        indexed = found.vectors - rows[0][0] if entries else 0
        return replace(found, source="memory", indexed=indexed, removed=entries - indexed)

    def _use(self, found: EmbeddingModel, progress: Progress | None) -> int:
        memory = self._memory(found.name)
        if memory is None:
            added = self.go_on(found, progress=progress)
            if self._session.memory:
                self._session.memory.of(Space(found.name)).drop()
            return added
        added = memory.catch_up(progress=progress)
        if found.indexed:
            self._empty(found.name, preset_of(found.preset))
        return added

    def _more(self, found: EmbeddingModel) -> EmbeddingModel:
        values = {"model": found.name}
        some = sql.of(Space(found.name)).index_some.step(limit=_AT_ONCE, **values)
        rows = self._session.write([some, sql.MODEL.step(**values)])
        return as_model(rows[0])

    def _is_whole(self, found: EmbeddingModel) -> bool:
        space = Space(found.name)
        try:
            return bool(self._session.read(sql.of(space).is_whole.step(index=space.index, indexed=found.indexed))[0][0])
        except SchemaError:  # its shadow is gone
            return False

    def _empty(self, model: str, preset: Preset) -> None:
        emptied = [Step(text) for text in Space(model).empty_index(preset)]
        self._session.write([*emptied, sql.EMPTIED.step(model=model, preset=preset.name)])

    def _tune(self, found: EmbeddingModel) -> None:
        """Have a search keep as many candidates as the number of vectors asks for."""
        index = Space(found.name).index
        wanted = preset_of(found.preset).search_among(found.indexed)
        for (metadata,) in self._session.read(sql.METADATA.step(index=index)):
            changed = with_search(metadata, wanted)
            if changed != metadata:
                self._session.write([sql.SET_METADATA.step(index=index, metadata=changed)])

    def _recall(self, space: Space) -> float | None:
        """Of the nearest ten of some stored vectors, how many the index finds."""
        recall = self._recall_of(space, _SAMPLE)
        return recall if recall is None or recall >= _DOUBTFUL else self._recall_of(space, 8 * _SAMPLE)

    def _recall_of(self, space: Space, count: int) -> float | None:
        statements = sql.of(space)
        sample = [row[0] for row in self._session.read(statements.sample.step(limit=count))]
        values = {"index": space.index, "limit": _NEAREST}
        found = [self._session.read(statements.found.step(seq=seq, **values))[0] for seq in sample]
        possible = sum(row[1] for row in found)
        return sum(row[0] for row in found) / possible if possible else None

    def _get(self, model: str) -> EmbeddingModel:
        rows = self._session.read(sql.MODEL.step(model=model))
        if not rows:
            raise NotFoundError("embedding model", model)
        return as_model(rows[0])


def used_models(session: Session) -> dict[str, int]:
    """The models by which a namespace has vectors, and their dimensions."""
    rows = session.read(sql.USED.step(namespace=session.namespace))
    return {name: dimension for name, dimension in rows}  # noqa: C416 - rows are untyped


def preset_of(name: str) -> Preset:
    """The preset of that name; ValidationError if there is none."""
    if name not in PRESETS:
        raise ValidationError("preset", f"one of {', '.join(PRESETS)}", name)
    return PRESETS[name]


def as_model(row: Sequence[Any]) -> EmbeddingModel:
    """What is known of a model, from its row."""
    *facts, created_at = row
    values: dict[str, Any] = dict(zip(sql.MODEL_FACTS, facts, strict=True))
    return EmbeddingModel(**values, created_at=from_micros(created_at) or EPOCH)
