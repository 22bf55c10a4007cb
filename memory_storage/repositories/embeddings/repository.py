"""The repository of embeddings: vectors by owner and model. The search package searches them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.embedders import Embedder, text_of
from memory_storage.errors import ConfigurationError, NotFoundError, SchemaError, UnavailableError, ValidationError
from memory_storage.models import Embedding, IndexPreset, OwnerType
from memory_storage.monitoring import operation
from memory_storage.schema import unpack_vector
from memory_storage.schema.vector_tables import VectorSpace, digest
from memory_storage.search import vector_sql as sql
from memory_storage.search.session import SearchSession
from memory_storage.search.vector_index import Progress, Registered, VectorIndex, as_registered, preset_of
from memory_storage.search.vectors import (
    Choice,
    as_model_name,
    choose_space,
    packed,
    stored_spaces,
    wrong_dimension,
)
from memory_storage.sql.paging import ITERATE_PAGE, PAGE_BYTES, draining, iterate_pages
from memory_storage.sql.session import SAVE_ATTEMPTS, Repository, Row, ids_as_json, retry_on_row_conflict
from memory_storage.sql.statement import from_micros, to_micros
from memory_storage.sql.validation import as_id, function, to_list
from memory_storage.sql.validation import embedder as as_embedder

from .backfill import BackfillItem, owners_to_embed

Item = tuple[OwnerType, UUID | str, Sequence[float]]
_BATCH_BYTES = 4_000_000  # a server refuses values over 5 MB
_TRANSACTION_BYTES = 16_000_000  # per batch
_MAX_BATCH_SIZE = 1_000
_INDEXED_PER_WRITE = 2

_WriteMode = Literal["put", "copy", "refresh", "replace"]
"""How vectors are stored: "put" replaces existing ones, "copy" keeps them. "replace" and "refresh" are for embedded
texts, and skip owners that no longer exist; "refresh" also keeps the vectors that the caller stored."""


class EmbeddingRepository(Repository):
    """The embeddings of one namespace."""

    _operations = "embeddings"

    _session: SearchSession

    def __init__(self, session: SearchSession) -> None:
        super().__init__(session)
        self.index = VectorIndex(session)
        """The vector indexes of the models: status, verification and repair."""

    @operation
    def put(
        self,
        owner_type: OwnerType,
        owner_id: UUID | str,
        vector: Sequence[float],
        *,
        model: str,
        preset: IndexPreset = "balanced",
    ) -> None:
        """Store the vector of an owner, replacing an existing one. Vectors are stored as 32-bit floats.

        The first stored vector of a model sets the model's dimension in this namespace, until all of its vectors are
        deleted. The first one of a model and dimension in the database sets the preset of the index. `embed` does not
        replace this vector, even if the text of its owner changes.

        Args:
            owner_type: "episode", "step" or "pattern".
            owner_id: The ID of the owner.
            vector: A sequence of floats, of 1 to 65,536 dimensions.
            model: The name of the embedding model.
            preset: The preset of the DiskANN index: "compact", "balanced" or "accurate".

        Raises:
            NotFoundError: The owner does not exist.
            ValidationError: The vector has another dimension than the model, has length zero, or contains NaN or
                infinity.
        """
        self.put_many([(owner_type, owner_id, vector)], model=model, preset=preset)

    @operation
    def put_many(
        self,
        items: Iterable[Item],
        *,
        model: str,
        preset: IndexPreset = "balanced",
        index: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Store the vectors of several owners: all or none of each 16 MB (10,000 vectors of dimension 384).

        They can be searched immediately. If the index is in the database, they enter it in batches afterwards. The
        in-process index catches up when it is searched.

        Args:
            items: Tuples of owner type, owner ID and vector.
            model: The name of the embedding model.
            preset: The preset of the DiskANN index: "compact", "balanced" or "accurate".
            index: Whether they enter the index now. False suits a bulk load of several calls, and an open transaction
                implies it: call `storage.embeddings.index.catch_up()` afterwards.
            progress: Called with the current action, the number of vectors done, and the total.

        Raises:
            NotFoundError: An owner does not exist.
            ValidationError: A vector is invalid; see `put`.
        """
        entries = _new_vectors(as_model_name(model), items, self._now())
        done, registered = 0, None
        for part in _transactions(entries):
            registered = as_registered(self._store(part, "put", preset)[0])
            done += len(part)
            if progress:
                progress("stored", done, len(entries))
        if index and registered and len(entries) > 1:
            self._catch_up(registered, progress)

    def _catch_up(self, registered: Registered, progress: Progress | None) -> None:
        if self._uses_diskann and not self._session.is_transaction:
            self.index.resume(registered, progress=progress)

    @operation
    def embed(
        self,
        embedder: Embedder,
        *,
        owner_type: OwnerType = "episode",
        owner_ids: Iterable[UUID | str] | None = None,
        text_of: Callable[[Any], str] = text_of,
        batch_size: int = 256,
        preset: IndexPreset = "balanced",
        progress: Progress | None = None,
    ) -> int:
        """Embed all episodes, steps or patterns that have no vector of the embedder's model, or have changed since.

        The texts are embedded in pages of `batch_size`, or of 4 MB if they are large, and each page is stored before
        the next is embedded: after an interruption, call it again. An owner is embedded again if its text has changed;
        unchanged owners do not call the embedder. A vector that was stored by `put` is not replaced. Owners that are
        deleted concurrently are skipped.

        Args:
            embedder: What makes the vectors, and the name of their model.
            owner_type: What to embed: "episode", "step" or "pattern".
            owner_ids: Embed only those of them that need it; default: all.
            text_of: Returns the text of an owner. A different function alone embeds nothing again: see `reembed`.
            batch_size: The number of texts in a page, from 1 to 1,000.
            preset: The preset of the index, if these are the first vectors of their model and dimension.
            progress: Called with "embedded", and twice the number of vectors stored so far (the total is unknown).

        Returns:
            The number of vectors that were stored.

        Raises:
            ValidationError: a vector has another dimension than this namespace's vectors by the model, or cannot be
                stored; or the embedder returned more or fewer vectors than texts.
        """
        ids = None if owner_ids is None else [as_id(one, "owner_ids") for one in to_list(owner_ids, "owner_ids")]
        return self._embed(_owner_type(owner_type), embedder, None, text_of, batch_size, preset, progress, ids)

    @operation
    def flush(self) -> int:
        """Embed all episodes and patterns that have no vector of the storage's embedder, or have changed since, now.

        Returns:
            The number of vectors that were stored.

        Raises:
            ConfigurationError: The storage was opened without an embedder.
            ValidationError: It is called in a transaction: what that has saved is embedded after it.
            Exception: What the embedder raises. What is not embedded yet will be later.
        """
        queue = self._session.embedding_queue
        if queue is None:
            raise ConfigurationError("embedder: this storage has none; open it with MemoryStorage.open(..., embedder=)")
        if self._session.is_transaction:
            raise ValidationError("flush", "must be called outside of a transaction", "in a transaction")
        return queue.flush(self._session.namespace)

    @operation
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
        """Embed every owner that has a vector of `model` with another embedder.

        The old vectors stay, and are found, until they are deleted. If the embedder has the name `model` itself, the
        vectors whose text is unknown are replaced: those that were stored by `put`, or before texts were recorded.
        After an interruption, call it again.

        Args:
            model: The model whose owners are embedded.
            embedder: What makes the new vectors, and the name of their model.
            text_of: The text of an owner.
            batch_size: The number of texts in a page, from 1 to 1,000.
            preset: The preset of the index, if these are the first vectors of their model and dimension.
            progress: Called with "embedded", and twice the number of vectors stored so far (the total is unknown).

        Returns:
            The number of vectors that were stored.

        Raises:
            ValidationError: see `embed`.
        """
        old = as_model_name(model)
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
        ids: Sequence[str] | None = None,
    ) -> int:
        if type(batch_size) is not int or not 1 <= batch_size <= _MAX_BATCH_SIZE:
            raise ValidationError("batch_size", f"a whole number from 1 to {_MAX_BATCH_SIZE:,}", batch_size)
        function("text_of", text_of, "lambda episode: episode.task_description")
        if progress is not None:
            function("progress", progress, "lambda what, done, total: print(what, done)")
        model, done = as_model_name(as_embedder("embedder", embedder).model), 0
        mode: _WriteMode = "replace" if old == model else "refresh"

        def checked_text_of(owner: Any) -> str:
            return _text(text_of(owner))

        pages = owners_to_embed(self._session, owner_type, model, checked_text_of, old=old, ids=ids, size=batch_size)
        for page in pages:
            pending = self._changed(owner_type, model, page)
            if not pending:
                continue
            vectors = embedder.embed([text for _, text in pending])
            if len(vectors) != len(pending):
                raise ValidationError("vectors", f"one for each of {len(pending)} texts", len(vectors))
            items = [(owner_type, item.owner_id, vector) for (item, _), vector in zip(pending, vectors, strict=True)]
            entries = [
                replace(entry, text_digest=_digest_of(text), text_version=item.version)
                for entry, (item, text) in zip(_new_vectors(model, items, self._now()), pending, strict=True)
            ]
            done += self._store_embedded(entries, mode, preset)
            if progress:
                progress("embedded", done, done)
        return done

    def _changed(
        self, owner_type: str, model: str, texts: list[tuple[BackfillItem, str]]
    ) -> list[tuple[BackfillItem, str]]:
        """Return the texts that differ from what was embedded; record the version of the others."""
        same = [[item.owner_id, item.digest, item.version] for item, text in texts if item.digest == _digest_of(text)]
        if same:
            values = {"namespace": self._session.namespace, "owner_type": owner_type, "model": model}
            self._session.write([sql.UNCHANGED.bind(rows=json.dumps(same), **values)])
        return [(item, text) for item, text in texts if item.digest != _digest_of(text)]

    def _store_embedded(self, entries: list[_NewVector], mode: _WriteMode, preset: IndexPreset) -> int:
        """Store the vectors of the owners that still exist, and return their number."""
        done, registered = 0, None
        for (part,) in map(_batches, _transactions(entries, most_bytes=_BATCH_BYTES)):
            *model, stored = self._store(part, mode, preset)[0]
            done, registered = done + stored, as_registered(model)
        if registered and len(entries) > 1:
            self._catch_up(registered, None)
        return done

    @operation
    def get(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding:
        """Return the vector of an owner.

        Args:
            owner_type: "episode", "step" or "pattern".
            owner_id: The ID of the owner.
            model: The name of the embedding model.

        Returns:
            The embedding.

        Raises:
            NotFoundError: The owner has no vector of this model.
        """
        embedding = self.find(owner_type, owner_id, model=model)
        if embedding is None:
            raise NotFoundError(f"embedding by {model!r} of {owner_type}", owner_id)
        return embedding

    @operation
    def find(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> Embedding | None:
        """Return the vector of an owner, or None.

        Args:
            owner_type: "episode", "step" or "pattern".
            owner_id: The ID of the owner.
            model: The name of the embedding model.

        Returns:
            The embedding, or None if the owner has no vector of this model.

        Raises:
            ValidationError: An argument is invalid.
        """
        embeddings = self.get_many(owner_type, [owner_id], model=model)
        return next(iter(embeddings.values()), None)

    @operation
    def get_many(self, owner_type: OwnerType, owner_ids: Iterable[UUID | str], *, model: str) -> dict[UUID, Embedding]:
        """Return the vectors of several owners.

        Args:
            owner_type: "episode", "step" or "pattern".
            owner_ids: The IDs of the owners.
            model: The name of the embedding model.

        Returns:
            The vectors by the ID of their owner; owners without a vector of this model are missing.

        Raises:
            ValidationError: An argument is invalid.
        """
        name = as_model_name(model)
        owners = ids_as_json([as_id(one, "owner_id") for one in to_list(owner_ids, "owner_ids")])
        values = {"owner_type": _owner_type(owner_type), "owners": owners}
        space: VectorSpace | None = self._session.spaces.guess(self._session.namespace, name)
        for _ in range(SAVE_ATTEMPTS):
            if space is None:
                return {}
            rows = self._read(space, sql.of(space).get.bind(**values, **self._key(space)))
            stored = next((row[0] for row in rows if row[1] is None), None)
            if rows and stored in (None, space.token):
                embeddings = map(_embedding_from_row, (row for row in rows if row[1] is not None))
                return {embedding.owner_id: embedding for embedding in embeddings}
            own = self._session.spaces.look_up(self._session, name)
            space = own.space if own else None
        raise UnavailableError("other writers keep changing the dimension of this model: repeat it")

    @operation
    def iterate(self) -> Iterator[Embedding]:
        """Iterate over all embeddings by model and owner, in pages of 100 embeddings or 4 MB."""
        for model, dimension, token in self._session.read(sql.USED.bind(namespace=self._session.namespace)):
            yield from self._of_space(VectorSpace.of(token, model, dimension), dimension)

    def _of_space(self, space: VectorSpace, dimension: int) -> Iterator[Embedding]:
        size = max(1, min(ITERATE_PAGE, PAGE_BYTES // (4 * dimension)))

        def read(last: tuple[str, str]) -> tuple[Iterator[Embedding], tuple[str, str] | None]:
            owner_type, owner_id = last
            page = sql.of(space).page.bind(limit=size, owner_type=owner_type, owner_id=owner_id, **self._key(space))
            rows = self._read(space, page)
            next_last = (rows[-1][0], rows[-1][1]) if len(rows) == size else None
            return map(_embedding_from_row, draining(rows)), next_last

        yield from iterate_pages(read, ("", ""))

    @operation
    def import_many(self, embeddings: Sequence[Embedding]) -> int:
        """Insert copies with their times; existing embeddings are not changed. Idempotent.

        Returns:
            The number of new embeddings.

        Raises:
            NotFoundError: the owner of an embedding does not exist here. Nothing of its batch is stored.
            ValidationError: a vector has another dimension than its model.
        """
        checked = [_revalidated(embedding) for embedding in to_list(embeddings, "embeddings")]
        keys = [_identity(embedding) for embedding in checked]
        if len(set(keys)) != len(keys):
            raise ValidationError("embeddings", "each owner and model once", keys)
        dimensions: dict[str, int] = {}
        for embedding in checked:
            dimension = dimensions.setdefault(embedding.model, embedding.dimension)
            if embedding.dimension != dimension:
                raise wrong_dimension(embedding.model, dimension, embedding.dimension)
        return retry_on_row_conflict(self._import, checked, self._remaining_to_import, "importing these embeddings")

    @operation
    def delete(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> bool:
        """Delete the vector of an owner.

        Args:
            owner_type: "episode", "step" or "pattern".
            owner_id: The ID of the owner.
            model: The name of the embedding model.

        Returns:
            Whether it existed.

        Raises:
            ValidationError: An argument is invalid.
        """
        key = {"owner_type": _owner_type(owner_type), "owner_id": as_id(owner_id, "owner_id")}
        values = {"namespace": self._session.namespace, "model": as_model_name(model)}
        return bool(self._session.write([sql.DELETE.bind(**key, **values)]))

    @operation
    def count(self, *, model: str | None = None) -> int:
        """Count the embeddings, of all models or of one."""
        values = {"namespace": self._session.namespace, "model": None if model is None else as_model_name(model)}
        statement = sql.COUNT if model is None else sql.COUNT_OF
        return int(self._session.read(statement.bind(**values))[0][0])

    @operation
    def models(self) -> dict[str, int]:
        """Return the models of which this namespace has vectors, with their dimensions."""
        rows = self._session.read(sql.USED.bind(namespace=self._session.namespace))
        return {name: dimension for name, dimension, _ in rows}

    def _store(self, entries: list[_NewVector], mode: _WriteMode, preset: str) -> Sequence[Row]:
        """Store the vectors atomically, creating missing spaces; return the rows of the last statement.

        The first vector of a model sets its dimension in the namespace: a statement before the vectors checks it under
        the write lock.
        """
        batches, namespace = _batches(entries), self._session.namespace
        dimensions = {entry.model: len(entry.vector) // 4 for entry in entries}
        choices = {model: Choice(self._session.spaces.guess(namespace, model)) for model in dimensions}
        for _ in range(SAVE_ATTEMPTS):
            space_statements = [
                pair
                for name, size in dimensions.items()
                for pair in self._space_statements(choices[name], size, preset)
            ]
            vector_statements = [
                pair
                for batch in batches
                for pair in self._vector_statements(batch, choices[batch[0].model].space, mode)
            ]
            steps = [*space_statements, *vector_statements]
            try:
                rows = self._run(steps, creates=any(choice.is_new for choice in choices.values()))
            except SchemaError as error:
                missing = next((name for name, choice in choices.items() if choice.space.table in str(error)), None)
                if missing is None:
                    raise
                model = missing
            except RowCountError as error:
                cause = steps[error.index - 1][0]
                if isinstance(cause, list):
                    raise self._missing_owner_error(cause) if mode == "put" else error from error
                model = cause
            else:
                for choice in choices.values():
                    self._session.spaces.learn(namespace, choice.space)
                return rows
            choices[model] = choose_space(self._session, model, dimensions[model])
        raise UnavailableError("other writers keep storing their first vectors by these models: repeat it")

    def _run(self, steps: list[_CheckedStatement], *, creates: bool) -> Sequence[Row]:
        """Write the vectors. While the file is under maintenance, a new space gets its index at the end of it."""
        if not (creates and self._uses_diskann):
            return self._session.write([step for _, step in steps])
        with self._session.indexing() as may_index:
            rows = self._session.write([step if may_index else _without_index(step) for _, step in steps])
        if not may_index and not self._session.is_transaction:
            self.index.repair_missing()  # the maintenance may have ended before the space was created
        return rows

    def _space_statements(self, choice: Choice, dimension: int, preset: str) -> list[_CheckedStatement]:
        """Return statements that create a new space, and fail if the namespace has vectors of another dimension."""
        space = choice.space
        values = {"model": space.model, "space": space.token, "dimension": dimension}
        admit = sql.ADMIT.bind(1, namespace=self._session.namespace, **values)
        created: list[BatchStep] = []
        chosen = preset_of(preset)
        if choice.is_new:
            register = sql.REGISTER.bind(1, preset=chosen.name, now=self._now(), **values)
            index = [space.create_index(chosen)] if self._uses_diskann else []
            created = [register, *(BatchStep(text) for text in (*space.create(dimension), *index))]
        return [(space.model, step) for step in (*created, admit)]

    def _vector_statements(
        self, group: list[_NewVector], space: VectorSpace, mode: _WriteMode
    ) -> list[_CheckedStatement]:
        """Return the statements that insert new vectors, assign them to owners, and apply `mode`.

        Each call also adds two pending vectors to a DiskANN index, so that it catches up.
        """
        owner_type, statements, rows = group[0].owner_type, sql.of(space), _rows_as_json(group)
        digests = b"".join(digest(entry.vector) for entry in group)
        vectors, size = b"".join(entry.vector for entry in group), len(group[0].vector)
        values = {"rows": rows, "digests": digests, **self._key(space)}
        is_strict = mode in ("put", "copy")
        steps = [
            statements.add.bind(rows=rows, digests=digests, vectors=vectors, size=size),
            getattr(statements, mode)[owner_type].bind(len(group) if is_strict else None, **values),
        ]
        if not is_strict:
            steps.append(statements.discard.bind(**values))
        if mode != "copy":
            if self._uses_diskann:
                steps.append(statements.index_some.bind(space=space.token, limit=_INDEXED_PER_WRITE))
            last = (
                sql.MODEL.bind(space=space.token)
                if is_strict
                else statements.stored.bind(owner_type=owner_type, **values)
            )
            steps.append(last)
        return [(group, step) for step in steps]

    def _import(self, embeddings: list[Embedding]) -> int:
        entries = [_as_new_vector(embedding, self._now()) for embedding in embeddings]
        for part in _transactions(entries):
            self._store(part, "copy", "balanced")
        return len(entries)

    def _missing_owner_error(self, group: list[_NewVector]) -> NotFoundError:
        owner_type = group[0].owner_type
        statement = sql.ABSENT[owner_type]
        rows = self._session.read(statement.bind(rows=_rows_as_json(group), namespace=self._session.namespace))
        return NotFoundError(owner_type, UUID(rows[0][0] if rows else group[0].owner_id))

    def _remaining_to_import(self, embeddings: list[Embedding], *_: object) -> list[Embedding]:
        keys = json.dumps([_identity(embedding) for embedding in embeddings])
        rows = self._session.read(sql.KNOWN.bind(namespace=self._session.namespace, keys=keys))
        known = {tuple(row) for row in rows}
        remaining = [embedding for embedding in embeddings if _identity(embedding) not in known]
        for group in _batches([_as_new_vector(one, 0) for one in remaining]):
            statement = sql.ABSENT[group[0].owner_type]
            if self._session.read(statement.bind(rows=_rows_as_json(group), namespace=self._session.namespace)):
                raise self._missing_owner_error(group)
        return remaining

    def _read(self, space: VectorSpace, step: BatchStep) -> Sequence[tuple[Any, ...]]:
        try:
            return self._session.read(step)
        except SchemaError as error:
            if space.table not in str(error):
                raise
            return []  # no vector was ever stored by this model

    @property
    def _uses_diskann(self) -> bool:
        return self._session.vector_index == "diskann"

    def _key(self, space: VectorSpace) -> dict[str, Any]:
        return {"namespace": self._session.namespace, "model": space.model, "space": space.token}

    def _now(self) -> int:
        return to_micros(self._session.now())


def ensure_space(session: SearchSession, model: str, dimension: int) -> VectorSpace:
    """Return where vectors of a model and dimension are stored; it is created if there is none.

    Unlike a first vector it does not set the model's dimension in the namespace.
    """
    spaces = stored_spaces(session, model)
    if found := next((one.space for one in spaces if one.dimension == dimension), None):
        return found
    first = VectorSpace(model)
    is_taken = any(one.space == first for one in spaces)
    choice = Choice(VectorSpace(model, dimension) if is_taken else first, is_new=True)
    repository = EmbeddingRepository(session)
    created = repository._space_statements(choice, dimension, "balanced")[:-1]  # the last one admits a vector
    try:
        repository._run(created, creates=True)
    except RowCountError:  # another writer has made it
        return next(one.space for one in stored_spaces(session, model) if one.dimension == dimension)
    return choice.space


@dataclass(frozen=True)
class _NewVector:
    """A vector to be stored."""

    model: str
    owner_type: str
    owner_id: str
    vector: bytes = field(repr=False)
    created_at: int
    updated_at: int
    text_digest: str | None = None
    text_version: int | None = None


_CheckedStatement = tuple[str | list[_NewVector], BatchStep]
"""A statement, and the cause of failure if it changes another number of rows: a model's space, or a group's owners."""


def _digest_of(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValidationError("text_of", "a function that returns a string", text)
    return text


def _without_index(step: BatchStep) -> BatchStep:
    return BatchStep("SELECT 1") if step.sql.startswith("CREATE INDEX") and "libsql_vector_idx" in step.sql else step


def _new_vectors(model: str, items: Iterable[Item], now: int) -> list[_NewVector]:
    entries = []
    for number, item in enumerate(to_list(items, "items")):
        if not isinstance(item, tuple | list) or len(item) != 3:
            raise ValidationError("items", "must be (owner_type, owner_id, vector)", item)
        owner_type, owner_id, vector = item
        field = "vector" if number == 0 else f"items.{number}.vector"
        owner = _owner_type(owner_type), as_id(owner_id, "owner_id")
        entries.append(_NewVector(model, *owner, packed(vector, field), now, now))
        if len(entries[0].vector) != len(entries[-1].vector):
            raise ValidationError(
                field, f"{len(entries[0].vector) // 4:,} numbers, as the first one has", len(entries[-1].vector) // 4
            )
    return entries


def _as_new_vector(embedding: Embedding, now: int) -> _NewVector:
    created_at, updated_at = (to_micros(at) if at else now for at in (embedding.created_at, embedding.updated_at))
    owner = embedding.owner_type, str(embedding.owner_id)
    return _NewVector(embedding.model, *owner, packed(embedding.vector), created_at, updated_at)


def _transactions(entries: list[_NewVector], most_bytes: int = _TRANSACTION_BYTES) -> Iterator[list[_NewVector]]:
    return chunked(entries, lambda entry: len(entry.vector), most_bytes=most_bytes)


def _batches(entries: Iterable[_NewVector]) -> list[list[_NewVector]]:
    """Group vectors by model and owner type, in chunks that fit into one bound value."""
    kinds: dict[tuple[str, str], list[_NewVector]] = {}
    for entry in entries:
        kinds.setdefault((entry.model, entry.owner_type), []).append(entry)
    return [
        part
        for group in kinds.values()
        for part in chunked(group, lambda entry: len(entry.vector), most_bytes=_BATCH_BYTES)
    ]


def _rows_as_json(group: list[_NewVector]) -> str:
    return json.dumps(
        [[one.owner_id, one.created_at, one.updated_at, one.text_digest, one.text_version] for one in group]
    )


def _owner_type(owner_type: Any) -> str:
    if not isinstance(owner_type, str) or owner_type not in sql.TABLES:
        raise ValidationError("owner_type", f"one of {', '.join(sql.TABLES)}", owner_type)
    return owner_type


def _embedding_from_row(row: Sequence[Any]) -> Embedding:
    owner_type, owner_id, model, vector, created_at, updated_at = row
    return Embedding(
        owner_type=owner_type,
        owner_id=owner_id,
        model=model,
        vector=unpack_vector(vector),
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
    )


def _revalidated(embedding: Embedding) -> Embedding:
    if type(embedding) is not Embedding:
        raise ValidationError("embeddings", "must be an Embedding", embedding)
    return Embedding(**embedding.__dict__)  # pydantic allows changes without validation


def _identity(embedding: Embedding) -> tuple[str, str, str]:
    return embedding.owner_type, str(embedding.owner_id), embedding.model
