"""The models' vector indexes: kept up, checked against their tables, and built anew. Searches nothing for a caller.

A search is right whatever state an index is in (see `schema.spaces`): this is about speed, and about finding out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memory_storage.dbapi import Step
from memory_storage.errors import CorruptDataError, NotFoundError, SchemaError, ValidationError
from memory_storage.models import EmbeddingModel, IndexHealth, IndexPreset
from memory_storage.schema.spaces import FEW, PRESETS, Preset, Space, with_search

from . import _embedding_sql as sql
from ._codec import EPOCH, from_micros
from ._session import Repository, Session

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("stored" or "indexed"), how many are done, and how many there are."""

_AT_ONCE = 100  # vectors: a server ends a transaction after five seconds if others wait
_SAMPLE = 32  # vectors that are searched for, to measure recall
_NEAREST = 10


class VectorIndex(Repository):
    """The vector indexes of a database: one for each model, whatever the namespace."""

    def status(self) -> list[EmbeddingModel]:
        """Each model with its counters: how many vectors it has, are in its index, and were removed from there."""
        return [as_model(row) for row in self._session.read(sql.MODELS.step())]

    def verify(self, model: str) -> IndexHealth:
        """Compare a model's index with its table, and measure its recall on a sample of what is in it.

        Reads all of its vectors 32 times.

        Raises:
            NotFoundError: there is no such model.
        """
        found = self._get(model)
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
            ValidationError: there is no such preset.
        """
        chosen = preset_of(self._get(model).preset if preset is None else preset)
        self._empty(model, chosen)
        return self.catch_up(model, progress=progress)

    def catch_up(self, model: str, *, progress: Progress | None = None) -> int:
        """Put the vectors of a model that are not in its index there, in portions; how many that were.

        Up to 2,000 vectors have no index: to compare each of them is faster. An index from which many vectors were
        removed is built anew.

        Raises:
            NotFoundError: there is no such model.
        """
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
        lost = [found for found in self.status() if found.indexed and not self._has_nodes(Space(found.name))]
        for found in lost:
            self._empty(found.name, preset_of(found.preset))
        return [found.name for found in lost]

    def dimension(self, model: str) -> int:
        """How many numbers each vector of a model has.

        Raises:
            NotFoundError: there is no such model.
        """
        return self._get(model).dimension

    def _more(self, found: EmbeddingModel) -> EmbeddingModel:
        values = {"model": found.name}
        some = sql.of(Space(found.name)).index_some.step(limit=_AT_ONCE, **values)
        rows = self._session.write([some, sql.MODEL.step(**values)])
        return as_model(rows[0])

    def _has_nodes(self, space: Space) -> bool:
        try:
            return bool(self._session.read(sql.of(space).has_nodes.step(index=space.index))[0][0])
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
        statements = sql.of(space)
        sample = [row[0] for row in self._session.read(statements.sample.step(limit=_SAMPLE))]
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
