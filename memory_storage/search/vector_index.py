"""Maintenance of vector indexes: status, verification, sync and rebuild.

The setting `vector_index` selects where they are: in the database (DiskANN), in this process (see `hnsw`), or nowhere
(exact). Searches return correct results whatever the state of an index; only their speed depends on it. A database has
DiskANN indexes only if it is opened with "diskann": SQLite cannot write a file with one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from memory_storage._deprecation import renamed_attributes, warn_renamed
from memory_storage.dbapi import BatchStep
from memory_storage.errors import (
    ConfigurationError,
    CorruptDataError,
    NotFoundError,
    SchemaError,
    UnavailableError,
    ValidationError,
)
from memory_storage.models import EmbeddingModel, IndexHealth, IndexPreset, IndexSource
from memory_storage.monitoring import operation
from memory_storage.schema.vector_tables import (
    DISKANN_INDEXES,
    FORMER_INDEXES,
    PRESETS,
    Preset,
    VectorSpace,
    drop_diskann,
    patch_search_l,
)
from memory_storage.sql.session import Repository
from memory_storage.sql.statement import EPOCH, from_micros
from memory_storage.sql.validation import choice, instance, whole

from . import vector_sql as sql
from .candidates import SOURCES, Cost
from .hnsw.index import HnswIndex
from .session import SearchSession
from .vectors import as_model_name

Progress = Callable[[str, int, int], None]
"""Called with the action ("stored" or "indexed"), the number done, and the total."""

_DISKANN_INDEXES = BatchStep(DISKANN_INDEXES)
# SQLite drops the indexes of revision 0002 in revision 0003, and leaves their shadow tables.
_UNUSED = BatchStep(f"{DISKANN_INDEXES} OR name GLOB 'ix_embeddings_vector_*_shadow'")
_MAINTAINED = (
    "the file is being scrubbed or repaired, which rebuilds its vector indexes; the index was not changed; "
    "try again when the maintenance has ended"
)
_BATCH = 100  # vectors in a transaction; a server aborts one after five seconds if another writer waits
_SAMPLE = 32  # vectors searched for to measure recall
_RECALL_TO_CONFIRM = (
    0.96  # a sample this small can be off by 0.03: below this recall, eight times as many vectors are sampled
)
_NEAREST = 10


class Registered(NamedTuple):
    """A row of `vector_models`: a vector space and its model."""

    space: VectorSpace
    model: EmbeddingModel


@renamed_attributes(
    mend="repair_missing",
    strangers="foreign_indexes",
    take_away="drop_all",
    put_back="recreate_all",
    go_on="resume",
    use="switch_to",
)
class VectorIndex(Repository):
    """The vector indexes of a database: one for each model and dimension, shared by all namespaces."""

    _operations = "vector_index"

    _session: SearchSession

    @operation
    def status(self) -> list[EmbeddingModel]:
        """Return each model with its counters: vectors stored, indexed, and removed from the index.

        A model that is used with several dimensions is listed once for each dimension.
        """
        return [self._with_counters(found) for found in registered(self._session)]

    @operation
    def costs(self, model: str, *, dimension: int | None = None) -> dict[str, Cost]:
        """Return what a vector costs in each kind of index.

        Args:
            model: The name of the model.
            dimension: One of the model's dimensions. Default: that of this namespace, or the only one.

        Returns:
            The bytes for a vector, on disk and in memory, by the name of the source.

        Raises:
            NotFoundError: The model does not exist, or has no such dimension.
            ValidationError: `dimension` is missing, and the model has several, none of them in this namespace.
        """
        found = self._get(model, dimension).model
        return {name: source.cost(found.dimension, found.preset) for name, source in SOURCES.items()}

    @operation
    def switch_to(self, source: IndexSource, *, model: str | None = None, progress: Progress | None = None) -> int:
        """Switch to DiskANN indexes in the database, to in-process HNSW indexes or to exact scans; drop other indexes.

        Without DiskANN indexes the file is a plain SQLite file, which either local engine can open. The setting
        `vector_index` must select the same source. After an interruption, call it again.

        Args:
            source: "diskann", "hnsw" or "exact".
            model: The name of the model. Default: all models.
            progress: Called after each batch.

        Returns:
            The number of vectors added to the new indexes.

        Raises:
            ConfigurationError: the setting selects another source.
            NotFoundError: there is no such model.
            UnavailableError: the file is being scrubbed or repaired.
            ValidationError: there is no such source.
        """
        if source == "memory":  # type: ignore[comparison-overlap]  # a former value
            warn_renamed("switch_to('memory')", "switch_to('hnsw')")
            source = "hnsw"
        choice("source", source, get_args(IndexSource))
        if source != self._session.vector_index:
            raise ConfigurationError(
                f"vector_index: it is {self._session.vector_index}: set it to {source} (MEMORY_STORAGE_VECTOR_INDEX)"
            )
        found = registered(self._session) if model is None else self._named(model)
        if source == "diskann":
            self.repair_missing()
        # A new index is complete before the old one is dropped: an interruption leaves one to search.
        added = sum(self._catch_up(one, progress, is_background=False) for one in found)
        if source != "diskann" and not self._drop_diskann(found):
            raise UnavailableError(_MAINTAINED, code="MAINTENANCE")
        if source != "hnsw" and self._session.memory:
            for one in found:
                self._session.memory.of(one.space).drop()
        return added

    @operation
    def verify(self, model: str, *, dimension: int | None = None) -> IndexHealth:
        """Compare a model's index with its table, and measure its recall on a sample of its vectors.

        Reads all of its vectors 32 times, or 288 times if its recall is low.

        Args:
            model: The name of the model.
            dimension: One of the model's dimensions. Default: that of this namespace, or the only one.

        Returns:
            The number of vectors that the index really has, and its recall of the nearest ten.

        Raises:
            NotFoundError: The model does not exist, or has no such dimension.
            ValidationError: `dimension` is missing, and the model has several, none of them in this namespace.
        """
        registered = self._get(model, dimension)
        space, found = registered.space, self._with_counters(registered)
        memory = self._hnsw_index(space)
        if found.source == "exact":
            return IndexHealth(found, 0, None)
        if memory:
            rows, nodes = memory.present()
            return IndexHealth(replace(found, indexed=rows), nodes, memory.recall(_SAMPLE, _NEAREST) if nodes else None)
        try:
            nodes = self._session.read(sql.of(space).nodes.bind())[0][0]
            recall = self._recall(space) if nodes else None
        except (SchemaError, CorruptDataError):
            return IndexHealth(model=found, nodes=None, recall=None)
        return IndexHealth(model=found, nodes=nodes, recall=recall)

    @operation
    def rebuild(self, model: str, *, preset: IndexPreset | None = None, progress: Progress | None = None) -> int:
        """Rebuild the index of a model, for each of its dimensions.

        Searches continue without the index. After an interruption, `catch_up` finishes the rebuild.

        Args:
            model: The name of the model.
            preset: Another preset of a DiskANN index. Default: the current one.
            progress: Called after each batch.

        Returns:
            The number of vectors in the index; 0 if `vector_index` is exact.

        Raises:
            NotFoundError: there is no such model.
            UnavailableError: the file is being scrubbed or repaired.
            ValidationError: there is no such preset, or `vector_index` is not diskann, which alone has presets.
        """
        return sum(self._rebuild(found, preset, progress) for found in self._named(model))

    def _rebuild(self, found: Registered, preset: IndexPreset | None, progress: Progress | None) -> int:
        memory, source = self._hnsw_index(found.space), self._session.vector_index
        if source != "diskann" and preset is not None:
            raise ValidationError("preset", f"none: presets are of diskann, and vector_index is {source}", preset)
        if source != "diskann":
            return memory.catch_up(rebuild=True, progress=progress) if memory else 0
        if not self._empty(found.space, preset_of(found.model.preset if preset is None else preset)):
            raise UnavailableError(_MAINTAINED, code="MAINTENANCE")
        return self.resume(self._reload(found.space), progress=progress)

    @operation
    def catch_up(self, model: str, *, progress: Progress | None = None, background: bool = False) -> int:
        """Add the pending vectors of a model to its index, in batches, for each of its dimensions.

        An in-process index is saved to its file. Up to 2,000 vectors are not indexed: comparing each of them is faster.
        An index from which many vectors were removed is rebuilt.

        Args:
            model: The name of the model.
            progress: Called after each batch.
            background: Do it in a thread, and return 0 at once; only for an in-process index.

        Returns:
            The number of vectors added.

        Raises:
            ConfigurationError: an in-process index would exceed its limit.
            NotFoundError: there is no such model.
            ValidationError: `background` needs an in-process index.
        """
        return sum(self._catch_up(found, progress, is_background=background) for found in self._named(model))

    def _catch_up(self, found: Registered, progress: Progress | None, *, is_background: bool) -> int:
        memory = self._hnsw_index(found.space)
        if memory:
            return memory.catch_up(progress=progress, background=is_background)
        if is_background:
            raise ValidationError("background", "False: vector_index is not hnsw", is_background)
        return self.resume(found, progress=progress)

    @operation
    def resume(self, registered: Registered, *, progress: Progress | None = None) -> int:
        """Catch up a DiskANN index whose state is known already; see `catch_up`. Without DiskANN nothing is done.

        Args:
            registered: The state of the index in the database.
            progress: Called with the action, the number of vectors done, and the total.

        Returns:
            The number of vectors added to the index.

        Raises:
            ValidationError: `registered` is not the state of an index.
        """
        instance("registered", registered, Registered, "one of those that the repository registers")
        if self._session.vector_index != "diskann":
            return 0
        space, found = registered
        if found.is_fragmented and self._empty(space, preset_of(found.preset)):
            found = self._reload(space).model
        start, total = found.indexed, found.pending
        while found.pending:
            after = self._more(space)
            if after.indexed <= found.indexed:
                # The table is small, or a scrub that was killed has lost the index, and it is created again, empty.
                lost = not self._is_complete(Registered(space, after))
                if not lost or not self._empty(space, preset_of(after.preset)):
                    break
                after = self._reload(space).model
                start, total = after.indexed, after.pending
            found = after
            if progress:
                progress("indexed", found.indexed - start, max(total, found.indexed - start))
        if found.indexed > start:
            self._tune(space, found)
        return found.indexed - start

    @operation
    def repair_missing(self) -> list[str]:
        """Create an empty DiskANN index for each model whose index is missing or has lost its nodes.

        Reads no vector, so a storage calls it when it opens a file. Searches compare exactly until `catch_up`. Does
        nothing while the file is under maintenance, or if `vector_index` is not diskann.

        Returns:
            The names of the models.
        """
        if self._session.vector_index != "diskann":
            return []
        lost = [found for found in registered(self._session) if not self._is_complete(found)]
        return [found.name for space, found in lost if self._empty(space, preset_of(found.preset))]

    @operation
    def drop_unused(self) -> list[str]:
        """Drop the DiskANN indexes that earlier versions created for each model, if all of them are empty.

        A storage calls it when it opens a file, which is a plain SQLite file afterwards. Runs one statement if there is
        none. Does nothing while the file is under maintenance, or if `vector_index` is diskann.

        Returns:
            The names of the indexes that were dropped.
        """
        if self._session.vector_index == "diskann":
            return []
        present = {str(row[0]).removesuffix("_shadow") for row in self._session.read(_UNUSED)}
        found = registered(self._session) if present else []
        unused = present & _own_indexes(found)
        if not unused or any(one.model.indexed for one in found):
            return []
        # No row is marked: reading all vectors to find that out would take too long here.
        return sorted(unused) if self._drop_diskann(found, are_empty=True) else []

    @operation
    def drop_all(self) -> None:
        """Drop all vector indexes before a VACUUM, which would damage them.

        In-process indexes are dropped with their files, which hold removed vectors. Searches compare exactly until
        `recreate_all` and `catch_up`. The caller must hold the maintenance lock.
        """
        found = registered(self._session)
        if self._session.memory:
            for one in found:
                self._session.memory.of(one.space).drop()
            self._session.memory.delete_files()
        if found:
            self._session.write(self._dropping(found))

    @operation
    def recreate_all(self) -> None:
        """Create an empty DiskANN index for each model, if `vector_index` is diskann.

        Any that was created concurrently and damaged by VACUUM is dropped. The caller must hold the maintenance lock.
        """
        found = registered(self._session)
        is_diskann = self._session.vector_index == "diskann"
        created = [BatchStep(one.space.create_index(preset_of(one.model.preset))) for one in found if is_diskann]
        if found:
            self._session.write([*self._dropping(found), *created])

    @operation
    def foreign_indexes(self) -> list[str]:
        """Return the names of vector indexes that belong to no model."""
        ours = {one.space.index for one in registered(self._session)}
        return [row[0] for row in self._session.read(_DISKANN_INDEXES) if row[0] not in ours]

    @operation
    def dimension(self, model: str) -> int:
        """Return the dimension of a model in this namespace; or in any namespace, if this one has no vectors of it.

        Raises:
            NotFoundError: there is no such model.
            ValidationError: this namespace has no vectors of it, and others have several dimensions.
        """
        return self._get(model).model.dimension

    def _named(self, model: str) -> list[Registered]:
        found = [as_registered(row) for row in self._session.read(sql.MODELS_NAMED.bind(model=as_model_name(model)))]
        if not found:
            raise NotFoundError("embedding model", model)
        return found

    def _get(self, model: str, dimension: int | None = None) -> Registered:
        """Return the one of a dimension; by default that of the namespace, or the only one."""
        found = self._named(model)
        if dimension is not None:
            whole("dimension", dimension)
            found = [one for one in found if one.model.dimension == dimension]
        elif len(found) > 1:
            own = self._session.spaces.look_up(self._session, model)
            found = [one for one in found if own is None or one.space == own.space]
        if not found:
            raise NotFoundError(f"embedding model {model!r} of dimension", dimension)
        if len(found) > 1:
            sizes = ", ".join(f"{one.model.dimension:,}" for one in found)
            raise ValidationError("dimension", f"one of {sizes}: {model!r} has several", dimension)
        return found[0]

    def _reload(self, space: VectorSpace) -> Registered:
        rows = self._session.read(sql.MODEL.bind(space=space.token))
        if not rows:
            raise NotFoundError("embedding model", space.model)
        return as_registered(rows[0])

    def _hnsw_index(self, space: VectorSpace) -> HnswIndex | None:
        indexes = self._session.memory
        return indexes.of(space) if indexes and self._session.vector_index == "hnsw" else None

    def _with_counters(self, registered: Registered) -> EmbeddingModel:
        """Return the model with the counters of the index that searches use, if any."""
        space, found = registered
        memory = self._hnsw_index(space)
        if memory is None and self._session.vector_index == "diskann":
            return found
        if memory is None:
            return replace(found, source="exact", indexed=0, removed=0)
        entries, mark = memory.entries()
        rows = self._session.read(sql.of(space).behind.bind(mark=mark))
        indexed = found.vectors - rows[0][0] if entries else 0
        return replace(found, source="hnsw", indexed=indexed, removed=entries - indexed)

    def _drop_diskann(self, found: Sequence[Registered], *, are_empty: bool = False) -> bool:
        """Drop DiskANN indexes; False if the file is under maintenance and nothing was changed."""
        with self._session.indexing() as may_index:
            if may_index:
                self._session.write(self._dropping(found, are_empty=are_empty))
            return may_index

    def _dropping(self, found: Sequence[Registered], *, are_empty: bool = False) -> list[BatchStep]:
        """Return statements that drop the DiskANN indexes of these models, but no other ones."""
        present = {row[0] for row in self._session.read(_DISKANN_INDEXES)}
        dropped = drop_diskann([one.space for one in found], sorted(present - _own_indexes(found)))
        marked = [] if are_empty else [BatchStep(one.space.mark_pending()) for one in found]
        emptied = [sql.EMPTIED.bind(space=one.space.token, preset=one.model.preset) for one in found]
        return [*map(BatchStep, dropped), *marked, *emptied]

    def _more(self, space: VectorSpace) -> EmbeddingModel:
        some = sql.of(space).index_some.bind(limit=_BATCH, space=space.token)
        # The counters come back with the write, in one round trip for each batch.
        rows = self._session.write([some, sql.MODEL.bind(space=space.token)])
        return as_registered(rows[0]).model

    def _is_complete(self, found: Registered) -> bool:
        values = {"index": found.space.index, "indexed": found.model.indexed}
        try:
            return bool(self._session.read(sql.of(found.space).is_whole.bind(**values))[0][0])
        except SchemaError:  # the shadow table is missing
            return False

    def _empty(self, space: VectorSpace, preset: Preset) -> bool:
        """Replace the index by an empty one; False if the file is under maintenance and nothing was changed."""
        emptied = [BatchStep(text) for text in space.empty_index(preset)]
        # VACUUM damages vector indexes, so none is created while another process scrubs the file.
        with self._session.indexing() as may_index:
            if may_index:
                self._session.write([*emptied, sql.EMPTIED.bind(space=space.token, preset=preset.name)])
            return may_index

    def _tune(self, space: VectorSpace, found: EmbeddingModel) -> None:
        """Set the number of candidates that a search keeps to suit the number of vectors."""
        index, wanted = space.index, preset_of(found.preset).search_among(found.indexed)
        # Another process may drop the index and its metadata at any time: then there is nothing to set.
        with suppress(SchemaError):
            for (metadata,) in self._session.read(sql.METADATA.bind(index=index)):
                # The engine sets it when the index is created, empty. Another index would have to insert all vectors.
                changed = patch_search_l(metadata, wanted)
                if changed != metadata:
                    self._session.write([sql.SET_METADATA.bind(index=index, metadata=changed)])

    def _recall(self, space: VectorSpace) -> float | None:
        """Measure recall@10 of the index on a sample of stored vectors."""
        recall = self._recall_of(space, _SAMPLE)
        return recall if recall is None or recall >= _RECALL_TO_CONFIRM else self._recall_of(space, 8 * _SAMPLE)

    def _recall_of(self, space: VectorSpace, count: int) -> float | None:
        statements = sql.of(space)
        sample = [row[0] for row in self._session.read(statements.sample.bind(limit=count))]
        values = {"index": space.index, "limit": _NEAREST}
        found = [self._session.read(statements.found.bind(seq=seq, **values))[0] for seq in sample]
        possible = sum(row[1] for row in found)
        return sum(row[0] for row in found) / possible if possible else None


def _own_indexes(found: Sequence[Registered]) -> set[str]:
    return {one.space.index for one in found} | set(FORMER_INDEXES)


def registered(session: SearchSession) -> list[Registered]:
    """Return the vector spaces, with the counters of their DiskANN index."""
    return [as_registered(row) for row in session.read(sql.MODELS.bind())]


def preset_of(name: str) -> Preset:
    """Return the preset of a name; ValidationError if there is none."""
    choice("preset", name, tuple(PRESETS))
    return PRESETS[name]


def as_registered(row: Sequence[Any]) -> Registered:
    """Return the vector space and model of a row."""
    token, *facts, created_at = row
    values: dict[str, Any] = dict(zip(sql.MODEL_FACTS, facts, strict=True))
    model = EmbeddingModel(**values, created_at=from_micros(created_at) or EPOCH)
    return Registered(VectorSpace.of(token, model.name, model.dimension), model)
