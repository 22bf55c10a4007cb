"""The asynchronous storage has what the synchronous one has, with the same arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import memory_storage as ms
from memory_storage import aio
from memory_storage.session import Transaction
from memory_storage.sql.session import Repository
from tests.aio_mirror import stale

PAIRS: list[tuple[type, type]] = [(ms.MemoryStorage, aio.AsyncMemoryStorage), (Transaction, aio.AsyncTransaction)]


def _repositories(kind: type = Repository) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from _repositories(one)


PAIRS += [(one, mirror) for one in _repositories() if (mirror := getattr(aio, f"Async{one.__name__}", None))]


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_generated_modules_are_up_to_date() -> None:
    assert stale() == [], "run `python -m tests.aio_mirror --write`"


def test_every_repository_of_the_storage_is_mirrored() -> None:
    names = {sync.__name__ for sync, _ in PAIRS}
    assert names >= {"EpisodeRepository", "VectorIndex", "EpisodesByLocation", "ConflictRepository", "MemoryStorage"}


@pytest.mark.parametrize(("sync", "mirror"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_mirror_has_all_public_names_and_no_others(sync: type, mirror: type) -> None:
    set_by_init = {"engine", "settings", "namespace", "vector_index"} if sync is ms.MemoryStorage else set()
    set_by_init |= {"index"} if sync is ms.EmbeddingRepository else set()
    renamed = {
        name for name in _public(sync) if type(inspect.getattr_static(sync, name)).__name__ == "RenamedAttribute"
    }
    assert _public(mirror) == (_public(sync) | set_by_init) - renamed


def _methods() -> Iterator[Any]:
    for sync, mirror in PAIRS:
        for name in sorted(_public(sync) & _public(mirror)):
            method = inspect.getattr_static(sync, name)
            if inspect.isfunction(method) or isinstance(method, classmethod):
                yield pytest.param(sync, mirror, name, id=f"{sync.__name__}.{name}")


@pytest.mark.parametrize(("sync", "mirror", "name"), list(_methods()))
def test_a_mirrored_method_takes_the_same_arguments(sync: type, mirror: type, name: str) -> None:
    def parameters(kind: type) -> list[tuple[object, ...]]:
        of = inspect.signature(getattr(kind, name)).parameters.values()
        return [(one.name, one.kind, one.default) for one in of if one.name != "workers"]

    assert parameters(mirror) == parameters(sync)
