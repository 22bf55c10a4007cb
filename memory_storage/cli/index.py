"""The commands on vector indexes: `index status`, `verify`, `rebuild` and `use`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, cast, get_args

import typer

from memory_storage._formatting import counted
from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models import EmbeddingModel, IndexHealth, IndexPreset, IndexSource
from memory_storage.storage import MemoryStorage

from .app import app
from .database import open_existing
from .options import AsJson, Database
from .output import progress, say, show_table, talk, write_json

_NO_VECTORS = "there are no vectors: create them in Python with storage.embeddings.embed(...)"

index = typer.Typer(
    help="Manage the vector indexes. Searches are correct in every state of an index; only their speed differs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(index, name="index")

Model = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One embedding model. Default: all.")]


@index.command()
def status(database: Database = None, as_json: AsJson = False) -> None:
    """List the models with their numbers of vectors and of indexed vectors."""
    with open_existing(database, None) as storage:
        models = storage.embeddings.index.status()
    if as_json:
        write_json([_as_json(model) for model in models])
        return
    columns = ["model", "dimension", "source", "preset", "vectors", "indexed", "pending", "removed", "index"]
    show_table(columns, [_cells(model) for model in models], nothing=_NO_VECTORS)
    for model in models:
        if model.is_fragmented:
            talk(f"{model.name}: the index is fragmented, which slows searches: run `memory-storage index rebuild`")


@index.command()
def verify(model: Model = None, database: Database = None, as_json: AsJson = False) -> None:
    """Compare the index with its table, and measure its recall. Exits with 9 if it is damaged."""
    with open_existing(database, None) as storage:
        found = [storage.embeddings.index.verify(name, dimension=size) for name, size in _models(storage, model)]
    if as_json:
        write_json(
            [
                {**_as_json(one.model), "nodes": one.nodes, "recall": one.recall, "is_healthy": one.is_healthy}
                for one in found
            ]
        )
    else:
        rows = [(one.model.name, one.model.indexed, one.nodes, one.recall, _verdict(one)) for one in found]
        show_table(["model", "indexed", "in the index", "recall@10", "verdict"], rows, nothing=_NO_VECTORS)
    if not all(one.is_healthy for one in found):
        raise CorruptDataError(
            "the vector index is damaged or has low recall; no vector is lost; run `memory-storage index rebuild`, "
            "with another --preset if its recall is low"
        )


@index.command()
def rebuild(
    model: Model = None,
    preset: Annotated[str | None, typer.Option(help="compact, balanced or accurate. Default: unchanged.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the index. Searches are not blocked. After an interruption, run it again."""
    chosen = cast("IndexPreset | None", preset)  # it is checked
    with open_existing(database, None) as storage:
        counts = {name: _rebuild(storage, name, chosen) for name in _model_names(storage, model)}
        is_exact = storage.vector_index == "exact"
    if as_json:
        write_json(counts)
        return
    if not counts:
        talk(_NO_VECTORS)
    for name, count in counts.items():
        reason = "no index: vector_index is exact" if is_exact else "few vectors, no index needed"
        said = f"{counted(count, 'vector')} in the index" if count else reason
        say(f"{name}: {said}")


@index.command()
def use(
    source: Annotated[
        str,
        typer.Argument(
            metavar="hnsw|diskann|exact",
            help="hnsw is in the process that searches, diskann in the database, exact compares all vectors.",
        ),
    ],
    model: Model = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Switch to another kind of index, and drop the previous one. After an interruption, run it again.

    Without a DiskANN index, the file can be opened by SQLite as well as by libSQL.
    """
    if source == "memory":
        talk("warning: memory is deprecated since 0.1: use hnsw")
        source = "hnsw"
    chosen = cast("IndexSource", source)  # it is checked
    if source not in get_args(IndexSource):
        raise ValidationError("source", f"one of {', '.join(get_args(IndexSource))}", source)
    # SQLite can drop a DiskANN index, also where libSQL is not installed.
    local_engine = None if source == "diskann" else "sqlite"
    with open_existing(database, None, source, local_engine) as storage:
        counts = {name: _use(storage, name, chosen) for name in _model_names(storage, model)}
        if not counts and model is None:
            storage.embeddings.index.switch_to(chosen)
        foreign = storage.embeddings.index.foreign_indexes() if chosen != "diskann" else []
    if as_json:
        write_json(counts)
    if not counts:
        talk(_NO_VECTORS)
    for name, count in counts.items() if not as_json else ():
        added = f"{counted(count, 'vector')} added to the index ({source})"
        say(f"{name}: {'no index, vectors are compared exactly' if chosen == 'exact' else added}")
    for name in foreign:
        talk(f"the file still needs libSQL: its vector index {name} is of another program")
    talk(f"set MEMORY_STORAGE_VECTOR_INDEX={source}, or Settings.vector_index, in every process that uses the database")


def _use(storage: MemoryStorage, model: str, source: IndexSource) -> int:
    total = sum(one.pending for one in storage.embeddings.index.status() if one.name == model) or None
    with progress(f"{source} index {model}", total) as on_progress:
        return storage.embeddings.index.switch_to(
            source, model=model, progress=lambda _what, done, _total: on_progress(done)
        )


def _rebuild(storage: MemoryStorage, model: str, preset: IndexPreset | None) -> int:
    total = sum(one.vectors for one in storage.embeddings.index.status() if one.name == model) or None
    with progress(f"index {model}", total) as on_progress:
        return storage.embeddings.index.rebuild(
            model, preset=preset, progress=lambda _what, done, _total: on_progress(done)
        )


def _models(storage: MemoryStorage, model: str | None) -> Iterable[tuple[str, int | None]]:
    """Return each model with its dimension; an unknown model with None, which the repository rejects."""
    models = storage.embeddings.index.status()
    found = [(one.name, one.dimension) for one in models if model in (None, one.name)]
    return found or ([] if model is None else [(model, None)])


def _model_names(storage: MemoryStorage, model: str | None) -> Iterable[str]:
    return dict.fromkeys(name for name, _ in _models(storage, model))


def _cells(model: EmbeddingModel) -> list[object]:
    counters = (model.vectors, model.indexed, model.pending, model.removed)
    return [model.name, model.dimension, model.source, model.preset, *counters, _state(model)]


def _state(model: EmbeddingModel) -> str:
    if not model.needs_index:
        return "not needed"
    if model.source == "exact":
        return "none"
    return "fragmented" if model.is_fragmented else "pending" if model.pending else "complete"


def _verdict(health: IndexHealth) -> str:
    if not health.is_healthy:
        return "low recall" if health.nodes == health.model.indexed else "damaged"
    if health.model.source == "exact":
        return "no index: vector_index is exact"
    if health.model.is_fragmented:
        return "fragmented"
    return "healthy" if health.nodes else "empty: few vectors, no index needed"


def _as_json(model: EmbeddingModel) -> dict[str, Any]:
    facts = {"pending": model.pending, "needs_index": model.needs_index, "is_fragmented": model.is_fragmented}
    return {**asdict(model), **facts}
