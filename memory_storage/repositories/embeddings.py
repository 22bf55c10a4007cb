"""The repository of embeddings: vectors by owner and model. Searching among them is retrieval's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from memory_storage.dbapi import RowCountError, Step, portions
from memory_storage.embedders import Embedder, text_of
from memory_storage.errors import ConflictError, NotFoundError, SchemaError, ValidationError
from memory_storage.models import Embedding, EmbeddingModel, IndexPreset, OwnerType
from memory_storage.schema import unpack_vector
from memory_storage.schema.spaces import Space, digest

from . import _embedding_sql as sql
from ._codec import from_micros, refuse_unstorable, to_micros
from ._embedding_work import lacking
from ._session import Repository, Session, as_id, as_list, json_ids, keep_writing
from ._vectors import packed
from .vector_index import Progress, VectorIndex, as_model, preset_of, used_models

T = TypeVar("T")
Item = tuple[OwnerType, UUID | str, Sequence[float]]
_PORTION_BYTES = 4_000_000  # a server takes no value over five megabytes
_TRANSACTION_BYTES = 16_000_000  # what is sent in one piece
_ITERATE_PAGE = 100
_MOST_AT_ONCE = 1_000
_WITH_EACH = 2


class EmbeddingRepository(Repository):
    """The embeddings of one namespace."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.index = VectorIndex(session)
        """The models' indexes: how they are, and what repairs them."""

    def put(
        self,
        owner_type: OwnerType,
        owner_id: UUID | str,
        vector: Sequence[float],
        *,
        model: str,
        preset: IndexPreset = "balanced",
    ) -> None:
        """Store the vector of an owner by a model, in place of the one it had. Stored as 32-bit floats.

        The first vector of a model registers it with its dimension, and the preset of its index.

        Raises:
            NotFoundError: there is no such owner.
            ValidationError: the vector has another dimension than the model, no length, NaN or infinity.
        """
        self.put_many([(owner_type, owner_id, vector)], model=model, preset=preset)

    def put_many(
        self,
        items: Iterable[Item],
        *,
        model: str,
        preset: IndexPreset = "balanced",
        index: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Store the vectors of several owners by one model: all or none of each 16 megabytes (10,000 of dimension 384).

        They can be searched at once. Then they enter the index in portions, if it is in the database, unless `index` is
        False (a bulk load of several calls) or a transaction is open: `storage.embeddings.index.catch_up()` does that
        later. An index in memory catches up when it is searched.

        Raises: see `put`.
        """
        entries = _entries(as_space(model), items, self._now())
        done, found = 0, None
        for part in _parts(entries):
            found = self._registered(part, preset, partial(self._store, part))
            done += len(part)
            if progress:
                progress("stored", done, len(entries))
        is_diskann = self._session.vector_index == "diskann"
        if index and is_diskann and found and len(entries) > 1 and not self._session.is_transaction:
            self.index.go_on(found, progress=progress)

    def embed(
        self,
        embedder: Embedder,
        *,
        owner_type: OwnerType = "episode",
        text_of: Callable[[Any], str] = text_of,
        batch_size: int = 256,
        preset: IndexPreset = "balanced",
        progress: Progress | None = None,
    ) -> int:
        """Embed all episodes, steps or patterns that have no vector by this embedder's model; how many those were.

        By pages of `batch_size`, and each is stored before the next is embedded: if it is interrupted, do it again.
        """
        return self._embed(_owner_type(owner_type), embedder, None, text_of, batch_size, preset, progress)

    def reembed(
        self,
        model: str,
        embedder: Embedder,
        *,
        text_of: Callable[[Any], str] = text_of,
        batch_size: int = 256,
        preset: IndexPreset = "balanced",
        progress: Progress | None = None,
    ) -> int:
        """Give all that have a vector by `model` one by this embedder's model too; how many those were.

        The old vectors stay, and are found, until they are deleted. If it is interrupted, do it again.
        """
        old = as_space(model).model
        owners = sql.TABLES
        return sum(self._embed(one, embedder, old, text_of, batch_size, preset, progress) for one in owners)

    def _embed(
        self,
        owner_type: Any,
        embedder: Embedder,
        old: str | None,
        text_of: Callable[[Any], str],
        batch_size: int,
        preset: IndexPreset,
        progress: Progress | None,
    ) -> int:
        if type(batch_size) is not int or not 1 <= batch_size <= _MOST_AT_ONCE:
            raise ValidationError("batch_size", f"a whole number from 1 to {_MOST_AT_ONCE:,}", batch_size)
        model, done = as_space(embedder.model).model, 0
        for page in lacking(self._session, owner_type, model, old=old, size=batch_size):
            vectors = embedder.embed([text_of(item) for _, item in page])
            if len(vectors) != len(page):
                raise ValidationError("vectors", f"one for each of {len(page)} texts", len(vectors))
            items = [(owner_type, key, vector) for (key, _), vector in zip(page, vectors, strict=True)]
            self.put_many(items, model=model, preset=preset)
            done += len(page)
            if progress:
                progress("embedded", done, done)
        return done

    def get(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding:
        """The vector of an owner by a model.

        Raises:
            NotFoundError: there is none.
        """
        found = self.find(owner_type, owner_id, model=model)
        if found is None:
            raise NotFoundError(f"embedding by {model!r} of {owner_type}", owner_id)
        return found

    def find(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding | None:
        """The vector of an owner by a model, or None."""
        found = self.get_many(owner_type, [owner_id], model=model)
        return next(iter(found.values()), None)

    def get_many(self, owner_type: OwnerType, owner_ids: Iterable[UUID | str], *, model: str) -> dict[UUID, Embedding]:
        """The vectors of those of the owners that have one by this model."""
        space = as_space(model)
        owners = json_ids([as_id(one, "owner_id") for one in as_list(owner_ids, "owner_ids")])
        values = {"owner_type": _owner_type(owner_type), "owners": owners}
        rows = self._read(space, sql.of(space).get.step(**values, **self._key(space)))
        return {found.owner_id: found for found in map(_embedding, rows)}

    def iterate(self) -> Iterator[Embedding]:
        """All of them by model and owner, a page at a time."""
        for model in self.models():
            space, place = Space(model), {"owner_type": "", "owner_id": ""}
            rows: Sequence[Any] = [None] * _ITERATE_PAGE
            while len(rows) == _ITERATE_PAGE:
                step = sql.of(space).page.step(limit=_ITERATE_PAGE, **place, **self._key(space))
                rows = self._read(space, step)
                yield from map(_embedding, rows)
                place = dict(zip(place, rows[-1], strict=False)) if rows else place

    def import_many(self, embeddings: Sequence[Embedding]) -> int:
        """Insert copies with the times they have; leave alone those that are there already.

        Gives the number of new ones. To do it again changes nothing.

        Raises:
            NotFoundError: one of them has no owner here. None of its portion is stored.
            ValidationError: a vector has another dimension than its model.
        """
        checked = [_checked(embedding) for embedding in as_list(embeddings, "embeddings")]
        keys = [_identity(embedding) for embedding in checked]
        if len(set(keys)) != len(keys):
            raise ValidationError("embeddings", "each owner and model once", keys)
        dimensions: dict[str, int] = {}
        for embedding in checked:
            wanted = dimensions.setdefault(embedding.model, embedding.dimension)
            if embedding.dimension != wanted:
                raise ValidationError("vector", _limit(wanted, embedding.model), embedding.dimension)
        return keep_writing(self._import, checked, self._without_known, "importing these embeddings")

    def delete(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> bool:
        """Delete the vector of an owner by a model. Whether it was there."""
        key = {"owner_type": _owner_type(owner_type), "owner_id": as_id(owner_id, "owner_id")}
        return bool(self._session.write([sql.DELETE.step(**key, **self._key(as_space(model)))]))

    def count(self, *, model: str | None = None) -> int:
        """How many there are, or are there by one model."""
        values = {"namespace": self._session.namespace, "model": model}
        statement = sql.COUNT if model is None else sql.COUNT_OF
        return int(self._session.read(statement.step(**values))[0][0])

    def models(self) -> dict[str, int]:
        """The models by which this namespace has vectors, and their dimensions."""
        return used_models(self._session)

    def _store(self, entries: list[_Entry]) -> EmbeddingModel:
        """Store vectors of one model; two for each call that are not in the index yet enter it: so it catches up."""
        groups, space = _groups(entries), entries[0].space
        steps = [step for group in groups for step in self._adding(group, sql.of(space).put)]
        ended = (sql.of(space).index_some, sql.MODEL)
        try:
            limit = _WITH_EACH if self._session.vector_index == "diskann" else 0
            rows = self._session.write([*steps, *(one.step(model=space.model, limit=limit) for one in ended)])
            return as_model(rows[0])
        except RowCountError as error:
            raise self._ownerless(groups[(error.step - 1) // 2]) from error

    def _import(self, embeddings: list[Embedding]) -> int:
        entries = [_entry(embedding, self._now()) for embedding in embeddings]
        for part in _parts(entries):
            groups = _groups(part)
            steps = [step for group in groups for step in self._adding(group, sql.of(group[0].space).copy)]
            self._registered(part, "balanced", partial(self._session.write, steps))
        return len(entries)

    def _adding(self, group: list[_Entry], put: dict[str, Any]) -> list[Step]:
        """The vectors that are not there yet, and whose they are: this one has to change a row for each."""
        space, rows = group[0].space, _rows(group)
        digests = b"".join(digest(entry.vector) for entry in group)
        vectors, size = b"".join(entry.vector for entry in group), len(group[0].vector)
        return [
            sql.of(space).add.step(rows=rows, digests=digests, vectors=vectors, size=size),
            put[group[0].owner_type].step(len(group), rows=rows, digests=digests, **self._key(space)),
        ]

    def _registered(self, entries: list[_Entry], preset: str, write: Callable[[], T]) -> T:
        """Do `write`; if a model is new, register it and do it again."""
        firsts = {entry.space.table: entry for entry in reversed(entries)}
        while True:
            try:
                return write()
            except SchemaError as error:
                new = next((table for table in firsts if table in str(error)), None)
                if new is None:
                    raise
                self._register(firsts.pop(new), preset)
            except ConflictError as error:
                if "CHECK constraint failed: dimension" in str(error):
                    self._refuse_dimension(entries, error)
                raise

    def _register(self, first: _Entry, preset: str) -> None:
        space, dimension = first.space, len(first.vector) // 4
        values = {"model": space.model, "dimension": dimension, "preset": preset, "now": self._now()}
        created = [Step(text) for text in space.create(dimension, preset_of(preset))]
        with suppress(RowCountError):  # another writer was first
            self._session.write([sql.REGISTER.step(1, **values), *created])

    def _refuse_dimension(self, entries: list[_Entry], error: ConflictError) -> None:
        dimensions = {model.name: model.dimension for model in self.index.status()}
        for entry in entries:
            given, wanted = len(entry.vector) // 4, dimensions.get(entry.space.model)
            if wanted is not None and given != wanted:
                raise ValidationError("vector", _limit(wanted, entry.space.model), given) from error

    def _ownerless(self, group: list[_Entry]) -> NotFoundError:
        owner_type = group[0].owner_type
        statement = sql.ABSENT[owner_type]
        rows = self._session.read(statement.step(rows=_rows(group), namespace=self._session.namespace))
        return NotFoundError(owner_type, UUID(rows[0][0] if rows else group[0].owner_id))

    def _without_known(self, embeddings: list[Embedding], *_: object) -> list[Embedding]:
        keys = json.dumps([_identity(embedding) for embedding in embeddings])
        rows = self._session.read(sql.KNOWN.step(namespace=self._session.namespace, keys=keys))
        known = {tuple(row) for row in rows}
        remaining = [embedding for embedding in embeddings if _identity(embedding) not in known]
        for group in _groups([_entry(one, 0) for one in remaining]):
            statement = sql.ABSENT[group[0].owner_type]
            if self._session.read(statement.step(rows=_rows(group), namespace=self._session.namespace)):
                raise self._ownerless(group)
        return remaining

    def _read(self, space: Space, step: Step) -> Sequence[tuple[Any, ...]]:
        try:
            return self._session.read(step)
        except SchemaError as error:
            if space.table not in str(error):
                raise
            return []  # no vector was ever stored by this model

    def _key(self, space: Space) -> dict[str, Any]:
        return {"namespace": self._session.namespace, "model": space.model}

    def _now(self) -> int:
        return to_micros(self._session.now())


@dataclass(frozen=True)
class _Entry:
    """One vector on its way in."""

    space: Space
    owner_type: str
    owner_id: str
    vector: bytes = field(repr=False)
    created_at: int
    updated_at: int


def as_space(model: str) -> Space:
    """The space of a model's vectors; ValidationError if that is no name."""
    if not isinstance(model, str) or not 1 <= len(model) <= 200:
        raise ValidationError("model", "a name of 1 to 200 characters", model)
    refuse_unstorable("model", model)
    return Space(model)


def _entries(space: Space, items: Iterable[Item], now: int) -> list[_Entry]:
    entries = []
    for number, item in enumerate(as_list(items, "items")):
        if not isinstance(item, tuple | list) or len(item) != 3:
            raise ValidationError("items", "must be (owner_type, owner_id, vector)", item)
        owner_type, owner_id, vector = item
        field = "vector" if number == 0 else f"items.{number}.vector"
        owner = _owner_type(owner_type), as_id(owner_id, "owner_id")
        entries.append(_Entry(space, *owner, packed(vector, field), now, now))
        if len(entries[0].vector) != len(entries[-1].vector):
            raise ValidationError(
                field, f"{len(entries[0].vector) // 4:,} numbers, as the first one has", len(entries[-1].vector) // 4
            )
    return entries


def _entry(embedding: Embedding, now: int) -> _Entry:
    times = (to_micros(at) if at else now for at in (embedding.created_at, embedding.updated_at))
    owner = embedding.owner_type, str(embedding.owner_id)
    return _Entry(Space(embedding.model), *owner, packed(embedding.vector), *times)


def _parts(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    return portions(entries, lambda entry: len(entry.vector), most_bytes=_TRANSACTION_BYTES)


def _groups(entries: Iterable[_Entry]) -> list[list[_Entry]]:
    """Those of one model and one type of owner together, as many as one value may hold."""
    kinds: dict[tuple[Space, str], list[_Entry]] = {}
    for entry in entries:
        kinds.setdefault((entry.space, entry.owner_type), []).append(entry)
    return [
        part
        for group in kinds.values()
        for part in portions(group, lambda entry: len(entry.vector), most_bytes=_PORTION_BYTES)
    ]


def _limit(dimension: int, model: str) -> str:
    return f"{dimension:,} numbers, as all vectors of {model!r} have"


def _rows(group: list[_Entry]) -> str:
    return json.dumps([[entry.owner_id, entry.created_at, entry.updated_at] for entry in group])


def _owner_type(owner_type: Any) -> str:
    if not isinstance(owner_type, str) or owner_type not in sql.TABLES:
        raise ValidationError("owner_type", f"one of {', '.join(sql.TABLES)}", owner_type)
    return owner_type


def _embedding(row: Sequence[Any]) -> Embedding:
    owner_type, owner_id, model, vector, created_at, updated_at = row
    return Embedding(
        owner_type=owner_type,
        owner_id=owner_id,
        model=model,
        vector=unpack_vector(vector),
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
    )


def _checked(embedding: Embedding) -> Embedding:
    if type(embedding) is not Embedding:
        raise ValidationError("embeddings", "must be an Embedding", embedding)
    return Embedding(**embedding.__dict__)  # it can be made or changed past its validation


def _identity(embedding: Embedding) -> tuple[str, str, str]:
    return embedding.owner_type, str(embedding.owner_id), embedding.model
