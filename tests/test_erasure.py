"""Erasure, place by place: where a byte of a record can be, and that a scrub leaves none there."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.nearby import sidecar_names

DIMENSION = 16
SIGNS = [(-1.0) ** (n * n // 3) for n in range(DIMENSION)]
QUANTIZED = [bytes(int(scale * sign) % 256 for sign in SIGNS) for scale in (31, 32)]  # as a graph has it: 127 / 4


def _storage(database: Path, **fields: Any) -> ms.MemoryStorage:
    storage = ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index="memory", **fields))
    storage._ground.memory.few = 50
    return storage


def _fill(storage: ms.MemoryStorage, count: int = 200) -> ms.Episode:
    """Others' vectors, and one whose quantized bytes are known."""
    episodes = storage.episodes.save_many([ms.Episode(task_description="other") for _ in range(count)])
    vectors = [[random.gauss(0, 1) for _ in range(DIMENSION)] for _ in episodes]
    person = storage.episodes.save(ms.Episode(task_description="person"))
    owned = [("episode", one.id, vector) for one, vector in zip(episodes, vectors, strict=True)]
    storage.embeddings.put_many([*owned, ("episode", person.id, SIGNS)], model="m")
    storage.embeddings.index.catch_up("m")
    return person


def _sidecars(database: Path) -> list[Path]:
    return [database.with_name(name) for name in sidecar_names(database)]


def _has_canary(database: Path) -> bool:
    return any(one in path.read_bytes() for path in _sidecars(database) for one in QUANTIZED)


def test_a_graph_with_erased_vectors_is_not_written_at_close(database):
    with _storage(database) as first:
        person = _fill(first)
        second = _storage(database)
        second.embeddings.index.catch_up("m", progress=None)
        second.embeddings.put_many(
            [("episode", one.id, [random.gauss(0, 1) for _ in range(DIMENSION)]) for one in _more(second, 100)],
            model="m",
        )
        second.episodes.similar_to(SIGNS, model="m", k=3)  # it has the vector in memory
        assert _has_canary(database)

        assert first.forget(episode=person.id).scrubbed

        assert not _has_canary(database)
        for path in _sidecars(database):
            path.unlink()  # nothing that could be spared
        second.close()
        assert not _has_canary(database)
    assert not _has_canary(database)


def _more(storage: ms.MemoryStorage, count: int) -> list[ms.Episode]:
    return storage.episodes.save_many([ms.Episode(task_description="more") for _ in range(count)])


def test_a_graph_with_erased_vectors_is_built_again_by_catch_up(database):
    with _storage(database) as first, _storage(database) as second:
        person = _fill(first)
        second.embeddings.index.catch_up("m")
        assert first.forget(episode=person.id).scrubbed
        for path in _sidecars(database):
            path.unlink()
        second.embeddings.index.catch_up("m")
        status = second.embeddings.index.status()[0]
        assert (status.indexed, status.removed) == (200, 0)
        assert second.embeddings.index.verify("m").is_sound


def test_a_graph_with_deleted_vectors_is_kept_until_a_scrub(database):
    with _storage(database) as storage:
        person = _fill(storage)
        storage.episodes.delete(person.id)
        assert _has_canary(database)
        _more_vectors(storage)
    assert _sidecars(database)
    with _storage(database) as storage:
        assert storage.embeddings.index.status()[0].indexed == 300
        assert storage.scrub().complete
        assert not _has_canary(database)


def _more_vectors(storage: ms.MemoryStorage) -> None:
    rows = [("episode", one.id, [random.gauss(0, 1) for _ in range(DIMENSION)]) for one in _more(storage, 100)]
    storage.embeddings.put_many(rows, model="m")
    storage.embeddings.index.catch_up("m")


@pytest.mark.parametrize("source", ["memory", "diskann", "exact"])
def test_sidecars_of_killed_processes_and_other_models_go(database, source):
    with _storage(database) as storage:
        person = _fill(storage)
        sidecar = _sidecars(database)[0]
        content = sidecar.read_bytes()
    left = [
        sidecar.with_name(f"{sidecar.name}.0123abcd.tmp"),
        sidecar.with_name(f"{database.name}.0123456789abcdef.usearch"),
        sidecar.with_name(f"{database.name}.4711.part"),
        sidecar.with_name(f"{database.name}.0123abcd.part-wal"),
        sidecar.with_name(f"{database.name}.4711.part.0123456789abcdef.usearch"),
    ]
    others = [sidecar.with_name(f"other-{sidecar.name}"), sidecar.with_name(f"{database.name}.notes")]
    for path in (*left, *others):
        path.write_bytes(content)
    with ms.MemoryStorage.open(ms.Settings(database=str(database), vector_index=source)) as storage:
        assert storage.forget(episode=person.id).scrubbed
    assert not [path for path in left if path.exists()]
    assert all(path.read_bytes() == content for path in others)
    assert not _has_canary(database)


def test_a_sidecar_from_before_a_scrub_is_not_used(database):
    with _storage(database) as storage:
        person = _fill(storage)
        sidecar = _sidecars(database)[0]
        old = sidecar.read_bytes()
        assert storage.forget(episode=person.id).scrubbed
    sidecar.write_bytes(old)  # from another copy
    with _storage(database) as storage:
        storage.embeddings.index.catch_up("m")
        assert not _has_canary(database)


def test_an_erased_sidecar_is_mapped_by_no_process(database):
    with _storage(database) as first:
        person = _fill(first)
    with _storage(database) as first, _storage(database) as second:
        assert second.embeddings.index.status()[0].indexed == 201
        first.forget(episode=person.id)
        maps = Path("/proc/self/maps").read_text()
        assert not [line for line in maps.splitlines() if ".usearch" in line]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_sidecar_has_the_permissions_of_its_database(database, mode):
    with _storage(database) as storage:
        storage.episodes.count()
        database.chmod(mode)
        _fill(storage)
        assert [stat.S_IMODE(path.stat().st_mode) for path in _sidecars(database)] == [mode]
